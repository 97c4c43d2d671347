"""The functions that clean's tasks run, on files of bronze and on shards of records.

A task reads files and packs their records by shard; the next unpacks a shard and cleans it; others write the events and
rejects of a day, and what is said of an item, into files, which the job commits. Does not import Spark.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import polars as pl
import pyarrow as pa

from lib.cleaning.corrections import mark_superseded, record_keys
from lib.cleaning.fields import SIGNED_IN, SUPERSEDED, columns_of, event_times, field_texts
from lib.cleaning.parsing import to_arrow, with_pairs
from lib.cleaning.pseudonyms import pseudonyms
from lib.cleaning.shard import DESCRIPTION, CleanShard, clean_events, clean_items, clocks_of, latest_descriptions
from lib.cleaning.sign_ins import has_visitors, sign_in, visitors
from lib.cleaning.thresholds import Thresholds
from lib.cleaning.whole_log import WholeLog
from lib.engines.arrow_tasks import packed, rows_of, table_rows, unpacked, write_rows
from lib.formats.mapping import LogMapping, Source
from lib.lake.lake import Lake
from lib.tables.bronze import DECLARED, REJECTS
from lib.tables.silver import DESCRIPTIONS, EVENTS, ITEMS

if TYPE_CHECKING:
    from lib.engines.arrow_tasks import Broadcast

SHARDS_A_DAY = 2  # the rows of as many shards are written by one task where they are of one day
PLACE = ("source_file_sha256", "record_number")
# Kinds of parts, beside those of written files and those of records, which are named after their table and source.
COUNTS, FORMS, DAYS, CLOCKS, DESCRIBED, PICTURES = "counts", "forms", "days", "clocks", "described", "pictures"
EVENT_ROWS, REJECT_ROWS, LAST_EVENTS = "(events)", "(rejects)", "(last events)"
# The columns of those that the job gathers.
GATHERED: Mapping[str, Mapping[str, type[pl.DataType]]] = {
    COUNTS: {"source": pl.String, "outcome": pl.String, "num_records": pl.Int64, "num_events": pl.Int64},
    FORMS: {
        **{"source": pl.String, "outcome": pl.String, "form": pl.String},
        **{"num_records": pl.Int64, "first_file": pl.String, "last_file": pl.String},
    },
    DAYS: {"event_date": pl.Date, "num_events": pl.Int64},
    CLOCKS: {"source": pl.String, "clock": pl.String, "num_times": pl.Int64},
}


@dataclass(frozen=True)
class ShardWork:
    """What the tasks of one run need to know."""

    lake: Lake
    mapping: LogMapping
    thresholds: Thresholds
    schemas: dict[str, pa.Schema]  # of the table of each source
    num_shards: int
    records_per_shard: int  # about
    num_item_shards: int

    def has_visitors(self, name: str) -> bool:
        """Whether the records of a source name visitors, who may sign in late."""
        return name in self.schemas and has_visitors(self.mapping.sources[name], own_columns(self.schemas[name].names))

    def reaches_over_days(self, name: str) -> bool:
        """Whether what becomes of a record of a source may depend on records of other users or days."""
        source = self.mapping.sources[name]
        return bool(source.explode or source.record_key) or self.has_visitors(name)


def spread_records(
    files: Iterable[pa.RecordBatch],
    *,
    work: ShardWork,
    key: "Broadcast[bytes]",
    by: Literal["user", "visitor", "record_key"] = "user",
    choose: "Callable[[pl.DataFrame, str], pl.DataFrame] | None" = None,
) -> Iterator[pa.RecordBatch]:
    """Read files of bronze (rows of TABLE_FILES) and pack their records by shard: all, or those that `choose` takes of a source.

    All records with the same user are in one shard, those of a catalogue with the same item. Records without are spread
    by their content: equal ones are in one shard, but they do not all gather in one. Or all records of a source with
    the same `record_key`, or with the same visitor, are in one shard.
    """
    for file in rows_of(files):
        name, source = file["kind"], work.mapping.sources[file["kind"]]
        for read in table_rows(file["location"], work.schemas[name]):
            records = read if choose is None else choose(read, name)
            if by == "record_key":
                whole = record_keys(records, source)
            elif by == "visitor":
                whole = visitors(records, source)
            else:
                whole = whole_of(records, source, key.value)
            yield from packed(records, name, shards_of(records, whole, work.num_shards))


def spread_signed_in_records(
    parts: Iterable[pa.RecordBatch], *, work: ShardWork, key: "Broadcast[bytes]"
) -> Iterator[pa.RecordBatch]:
    """Give the records in a shard of whole visitors the users of these, and pack them by the shards of `spread_records`."""
    for name, records in unpacked(parts).items():
        source = work.mapping.sources[name]
        known = sign_in(records, source)
        yield from packed(known, name, shards_of(known, whole_of(known, source, key.value), work.num_shards))


def spread_marked_records(
    parts: Iterable[pa.RecordBatch], *, work: ShardWork, key: "Broadcast[bytes]"
) -> Iterator[pa.RecordBatch]:
    """Mark the superseded records in a shard of whole record keys, and pack them by the shards of `spread_records`."""
    for name, records in unpacked(parts).items():
        marked = mark_superseded(records, name, work.mapping)
        whole = whole_of(marked, work.mapping.sources[name], key.value)
        yield from packed(marked, name, shards_of(marked, whole, work.num_shards))


def clean_event_shard(
    parts: Iterable[pa.RecordBatch], *, work: ShardWork, key: "Broadcast[bytes]", log: WholeLog
) -> Iterator[pa.RecordBatch]:
    """Clean a shard of whole users, or of whole days of users; see `lib.cleaning.shard.clean_events`."""
    records = unpacked(parts)
    last_events = records.pop(LAST_EVENTS, None)
    if records:
        yield from _results(clean_events(records, work.mapping, work.thresholds, key.value, log, last_events), work)


def clean_item_shard(parts: Iterable[pa.RecordBatch], *, work: ShardWork) -> Iterator[pa.RecordBatch]:
    """Clean a shard of whole items; see `lib.cleaning.shard.clean_items`."""
    records = unpacked(parts)
    if records:
        yield from _results(clean_items(records, work.mapping), work)


def spread_pictures(files: Iterable[pa.RecordBatch], *, work: ShardWork) -> Iterator[pa.RecordBatch]:
    """Pack the items that have a picture by the shards of their descriptions."""
    for file in rows_of(files):
        for pictures in table_rows(file["location"], pa.schema([("item_id", pa.string())])):
            items = pictures.unique()
            yield from packed(items, PICTURES, shards_of(items, items["item_id"], work.num_item_shards))


def write_days(parts: Iterable[pa.RecordBatch], *, work: ShardWork) -> Iterator[pa.RecordBatch]:
    """Write the events and rejects of whole days."""
    found = unpacked(parts)
    if EVENT_ROWS in found:
        events = found[EVENT_ROWS].sort("event_date", "user_key", "event_time", "event_id")
        yield from write_rows(to_arrow(events, EVENTS.schema).to_batches(), lake=work.lake, table=EVENTS)
    if REJECT_ROWS in found:
        rejects = found[REJECT_ROWS].sort("day", "source", "source_record")
        yield from write_rows(to_arrow(rejects, REJECTS.schema).to_batches(), lake=work.lake, table=REJECTS)


def spread_described(files: Iterable[pa.RecordBatch], *, work: ShardWork) -> Iterator[pa.RecordBatch]:
    """Pack what silver/descriptions holds by the shards of items."""
    for file in rows_of(files):
        for stored in table_rows(file["location"], DESCRIPTIONS.schema):
            rows = with_pairs(stored)
            yield from packed(rows, DESCRIBED, shards_of(rows, rows["item_id"], work.num_item_shards))


def write_items(parts: Iterable[pa.RecordBatch], *, work: ShardWork) -> Iterator[pa.RecordBatch]:
    """Write the rows of silver/items for the items of a shard, and those of silver/descriptions behind them."""
    found = unpacked(parts)
    if DESCRIBED in found:
        described = latest_descriptions(found[DESCRIBED])
        pictured = found[PICTURES]["item_id"] if PICTURES in found else pl.Series([], dtype=pl.String)
        for table, rows in ((DESCRIPTIONS, described), (ITEMS, latest_items(described, pictured))):
            yield from write_rows(to_arrow(rows, table.schema).to_batches(), lake=work.lake, table=table)


def latest_items(descriptions: pl.DataFrame, pictured: pl.Series) -> pl.DataFrame:
    """One row per item: each property as last described; a catalogue takes precedence over events."""
    last = [pl.col(field).filter(pl.col(_says(field)).is_not_null()).last() for field in DESCRIPTION]
    items = descriptions.sort("is_catalogue", "event_time", "described_by").group_by("item_id").agg(last)
    stored = pl.format("bronze/images#{}", "item_id")
    return items.with_columns(
        image_uri=pl.when(pl.col("item_id").is_in(pictured.implode())).then(stored).otherwise("image_uri")
    )


def count_clocks(
    files: Iterable[pa.RecordBatch], *, work: ShardWork, every: Mapping[str, int]
) -> Iterator[pa.RecordBatch]:
    """How many times of a sample of the records lie on which clock: source, clock, num_times.

    The sample has one record in `every` of the source; which, depends on the records alone.
    """
    for file in rows_of(files):
        name, schema = file["kind"], work.schemas[file["kind"]]
        columns = columns_of("event_time", work.mapping.sources[name], own_columns(schema.names))
        needed = pa.schema(schema.field(column) for column in dict.fromkeys((*columns, *PLACE)))
        for records in table_rows(file["location"], needed):
            sample = records.filter(pl.struct(PLACE).hash() % every[name] == 0)
            yield from packed(clocks_of(event_times(sample, name, work.mapping), name, work.mapping), CLOCKS)


def _says(field: str) -> str:
    """The field that a description must have to say something of `field`: a currency says nothing without a price."""
    return "price" if field == "currency" else field


def whole_of(records: pl.DataFrame, source: Source, key: bytes) -> pl.Series:
    """What keeps records together: the pseudonym of the user, or the item, that the code which types the record finds.

    Null where there is none.
    """
    field = "user_id" if source.kind == "events" else "item_id"
    if not columns_of(field, source, own_columns(records.columns)):
        return pl.repeat(None, records.height, dtype=pl.String, eager=True)
    texts = field_texts(records, field, source)
    return pseudonyms(texts, key) if source.kind == "events" else texts


def shards_of(records: pl.DataFrame, key: pl.Series, num_shards: int) -> pl.Series:
    """The shard of each record: by its key, or by its content where that is null."""
    hashes = key.hash()
    if key.null_count():
        content = records.filter(key.is_null()).select(*own_columns(records.columns), "malformed")
        hashes = hashes.scatter(key.is_null().arg_true(), content.hash_rows())
    return (hashes % num_shards).cast(pl.Int32)


def day_shards(rows: pl.DataFrame, num_rows: pl.Expr, work: ShardWork) -> pl.Series:
    """The shard in which each event or reject is written: with all of its day, or with those of its user where a task cannot hold the day.

    `num_rows` is about how many rows there are of the column `day`. Tasks that judge otherwise only make more files.
    """
    day = pl.col("event_date").cast(pl.String) if "event_date" in rows.columns else pl.col("day")
    whole = pl.coalesce("user_key", "source_record")
    num_shards = (num_rows - 1) // (SHARDS_A_DAY * work.records_per_shard) + 1
    placed = rows.select(day.alias("day"), whole.hash().alias("whole")).with_columns(num_shards.alias("num_shards"))
    shard = pl.col("day").hash() % work.num_shards + pl.col("whole") % pl.col("num_shards").cast(pl.UInt64)
    return placed.select((shard % work.num_shards).cast(pl.Int32)).to_series()


def own_columns(columns: Iterable[str]) -> list[str]:
    """The source's own columns among those of its table."""
    return [column for column in columns if column not in (*DECLARED, SUPERSEDED, SIGNED_IN)]


def _results(shard: CleanShard, work: ShardWork) -> Iterator[pa.RecordBatch]:
    """The parts that a cleaned shard goes on as."""
    of_all = pl.len().over("day") * work.num_shards  # about, for users are dealt by hash
    rejects = shard.rejects.with_columns(stage=pl.lit("clean"))
    yield from packed(rejects, REJECT_ROWS, day_shards(rejects, of_all, work))
    if shard.events is not None:
        yield from packed(shard.events, EVENT_ROWS, day_shards(shard.events, of_all, work))
    yield from packed(shard.counts, COUNTS)
    yield from packed(shard.forms, FORMS)
    yield from packed(shard.clocks, CLOCKS)
    if shard.events is not None:
        yield from packed(shard.days, DAYS)
    yield from packed(shard.items, DESCRIBED, shards_of(shard.items, shard.items["item_id"], work.num_item_shards))
