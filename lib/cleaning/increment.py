"""The tasks and the choice of records of a run that cleans only what is new, and what that opens again (reopening.py)."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa

from lib.cleaning import batches as of_all
from lib.cleaning.batches import CLOCKS, EVENT_ROWS, LAST_EVENTS, REJECT_ROWS, ShardWork, day_shards, whole_of
from lib.cleaning.fields import event_times
from lib.cleaning.parsing import with_pairs
from lib.cleaning.reopening import DAY, OLD_ROWS, PAIR, midnight
from lib.cleaning.shard import clocks_of
from lib.cleaning.whole_log import WholeLog
from lib.engines.arrow_tasks import packed, rows_of, shards_by, table_rows, unpacked
from lib.tables.bronze import REJECTS
from lib.tables.silver import EVENTS

if TYPE_CHECKING:
    from lib.engines.arrow_tasks import Broadcast

TOUCHED, DATES, OLD, PLACED = "touched", "dates", "old", "placed"
GATHERED: dict[str, dict[str, Any]] = {
    TOUCHED: {
        "user_key": pl.String,
        "event_date": pl.Date,
        "first_time": pl.Datetime("us", "UTC"),
        "last_time": pl.Datetime("us", "UTC"),
    },
    DATES: {"event_date": pl.Date, "num_events": pl.Int64},
    CLOCKS: {**of_all.GATHERED[CLOCKS]},
    OLD: OLD_ROWS,
    PLACED: {"source": pl.String, "source_record": pl.String, "event_date": pl.Date},
}
REOPENED_REASONS = ("duplicate", "double_click", "stray_time")  # what depends on other records; others stay refused


@dataclass(frozen=True)
class Increment:
    """What is cleaned: new records, and those of days that these open again."""

    batches: Mapping[str, frozenset[str]]  # by source: the runs of ingest that brought the new records
    records: pl.DataFrame  # source, source_record: of the days of users that are cleaned again

    def holding(self, source: str) -> dict[str, list[str]]:
        """By what the files are known that may hold records of a source to be cleaned."""
        if self.records.filter(source=source).is_empty():
            return {"batch_id": sorted(self.batches.get(source, ()))}
        return {}

    def choose(self, records: pl.DataFrame, source: str) -> pl.DataFrame:
        """The records of a source that are cleaned."""
        of_source = self.records.filter(source=source).select("source_record")
        is_new = pl.col("batch_id").is_in(list(self.batches.get(source, ())))
        named = records.with_columns(pl.format("{}:{}", "source_file", "record_number").alias("source_record"))
        old = named.filter(~is_new).join(of_source, on="source_record", how="semi")
        return pl.concat([named.filter(is_new), old]).drop("source_record")


def survey(
    files: Iterable[pa.RecordBatch],
    *,
    work: ShardWork,
    key: "Broadcast[bytes]",
    batches: Mapping[str, frozenset[str]],
    last_day: date,
) -> Iterator[pa.RecordBatch]:
    """What must be known of new records before they are cleaned.

    Their dates, their clocks, and the days of users up to `last_day`, or so early on a later one that a double click may
    reach back.
    """
    double_click = timedelta(seconds=work.thresholds.double_click_seconds)
    for file in rows_of(files):
        name = file["kind"]
        source = work.mapping.sources[name]
        for read in table_rows(file["location"], work.schemas[name]):
            new = read.filter(pl.col("batch_id").is_in(list(batches[name])))
            times = event_times(new, name, work.mapping)
            yield from packed(clocks_of(times, name, work.mapping), CLOCKS)
            timed = pl.DataFrame({"user_key": whole_of(new, source, key.value), "event_time": times})
            timed = timed.drop_nulls("event_time").with_columns(event_date=pl.col("event_time").dt.date())
            yield from packed(timed.group_by("event_date").agg(num_events=pl.len().cast(pl.Int64)), DATES)
            pairs = timed.group_by(PAIR).agg(
                first_time=pl.col("event_time").min(), last_time=pl.col("event_time").max()
            )
            is_early = (pl.col("event_date") == last_day + DAY) & (pl.col("first_time") <= midnight() + double_click)
            yield from packed(pairs.filter((pl.col("event_date") <= last_day) | is_early), TOUCHED)


def find_old_rows(
    files: Iterable[pa.RecordBatch], *, pairs: pl.DataFrame, reasons: Collection[str] | None
) -> Iterator[pa.RecordBatch]:
    """What was made before of the records of these days, from files of silver/events and bronze/rejects.

    `pairs` are days of users (PAIR) or of all (event_date). Of refused records those with one of the `reasons`, or all.
    """
    for file in rows_of(files):
        for rows in _old_rows_of(file["location"], file["kind"], reasons):
            yield from packed(rows.join(pairs, on=pairs.columns, how="semi", nulls_equal=True), OLD)


def find_days(parts: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """On which days the cleaned records lie; null is none."""
    found = unpacked(parts)
    if EVENT_ROWS in found:
        yield from packed(found[EVENT_ROWS].select(*_placed(), "event_date").unique(), PLACED)
    if REJECT_ROWS in found:
        placed = found[REJECT_ROWS].select("source", "source_record", event_date=pl.col("event_time").dt.date())
        yield from packed(placed, PLACED)


def _placed() -> list[pl.Expr]:
    """Of an event the source and the record within it."""
    place = pl.col("source_record").str.splitn("/", 2)
    return [place.struct.field("field_0").alias("source"), place.struct.field("field_1").alias("source_record")]


def _old_rows_of(location: str, kind: str, reasons: Collection[str] | None) -> Iterator[pl.DataFrame]:
    if kind == EVENTS.name:
        for rows in table_rows(location, _schema(EVENTS.schema, "user_key", "event_time", "source_record")):
            yield rows.select(
                "user_key",
                "event_time",
                *_placed(),
                event_date=pl.col("event_time").dt.date(),
                is_counted=pl.lit(True),
            ).select(*OLD_ROWS)
        return
    source = _source_of(location)
    for rows in table_rows(location, _schema(REJECTS.schema, "user_key", "event_time", "source_record", "reason")):
        yield (
            rows.filter(True if reasons is None else pl.col("reason").is_in(reasons))
            .with_columns(
                event_date=pl.col("event_time").dt.date(),
                source=pl.lit(source),
                is_counted=pl.col("reason") == "stray_time",
            )
            .select(*OLD_ROWS)
        )


def keep_old_rows(
    files: Iterable[pa.RecordBatch], *, pairs: pl.DataFrame, num_rows: Mapping[str, Mapping[str, int]], work: ShardWork
) -> Iterator[pa.RecordBatch]:
    """Pack what stays of the days that are written anew: the events and rejects of other users.

    `num_rows` says how many there are of each day, by kind.
    """
    size = {
        kind: pl.col("day").replace_strict(by_day, default=1, return_dtype=pl.Int64)
        for kind, by_day in num_rows.items()
    }
    for file in rows_of(files):
        if file["kind"] == EVENTS.name:
            for rows in table_rows(file["location"], EVENTS.schema):
                dated = with_pairs(rows).with_columns(event_date=pl.col("event_time").dt.date())
                kept = dated.join(pairs, on=PAIR, how="anti", nulls_equal=True)
                yield from packed(kept, EVENT_ROWS, day_shards(kept, size[EVENT_ROWS], work))
            continue
        source = _source_of(file["location"])
        for rows in table_rows(file["location"], REJECTS.schema):
            dated = rows.with_columns(
                stage=pl.lit("clean"),
                source=pl.lit(source),
                event_date=pl.col("event_time").dt.date(),
                day=pl.col("event_time").dt.date().cast(pl.String),
            )
            is_reopened = pl.col("reason").is_in(REOPENED_REASONS)
            again = dated.filter(is_reopened).join(pairs, on=PAIR, how="anti", nulls_equal=True)
            kept = pl.concat([dated.filter(~is_reopened), again]).drop("event_date")
            yield from packed(kept, REJECT_ROWS, day_shards(kept, size[REJECT_ROWS], work))


def spread_last_events(
    files: Iterable[pa.RecordBatch],
    *,
    days: frozenset[date],
    pairs: pl.DataFrame,
    log: WholeLog,
    session_gap: timedelta,
    num_shards: int,
) -> Iterator[pa.RecordBatch]:
    """Pack the last events of users on the eves of `days`, from which a session may go on, by shard of users.

    Those of days that are cleaned again are not among them.
    """
    columns = ("user_key", "event_time", "event_id", "session_id", "source_record")
    for file in rows_of(files):
        for rows in table_rows(file["location"], _schema(EVENTS.schema, *columns)):
            eve = rows.filter(pl.col("user_key").is_not_null()).with_columns(
                event_date=pl.col("event_time").dt.date(),
                clock_seconds=log.clock_seconds(pl.col("source_record").str.splitn("/", 2).struct.field("field_0")),
            )
            is_last = (pl.col("event_date") + DAY).is_in(list(days)) & (
                pl.col("event_time") >= midnight() + DAY - session_gap
            )
            late = eve.filter(is_last & (pl.col("clock_seconds") < session_gap.total_seconds()))
            chosen = late.join(pairs, on=PAIR, how="anti").sort("event_time", "event_id")
            last = chosen.unique(PAIR, keep="last", maintain_order=True).drop("source_record", "event_date")
            yield from packed(last, LAST_EVENTS, shards_by(last["user_key"], num_shards))


def _source_of(location: str) -> str:
    """The source of a file of bronze/rejects, which stands in its path."""
    return location.partition("/source=")[2].partition("/")[0]


def _schema(schema: pa.Schema, *names: str) -> pa.Schema:
    return pa.schema([schema.field(name) for name in names])
