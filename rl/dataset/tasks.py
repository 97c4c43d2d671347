"""The functions that the tasks of decisions run.

A task reads files of silver/events and tells what the job must know of the whole log: how many impressions there are, of which items,
under which keys of context. Another packs the events by shard of owners, whose events must be together; the last writes the
decisions of a shard (rl/dataset/episodes.py). Does not import Spark.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

import polars as pl
import pyarrow as pa

from lib.engines.arrow_tasks import Broadcast, packed, rows_of, shards_by, table_rows, unpacked, write_rows
from lib.lake.lake import Lake
from lib.tables import contract
from lib.tables.silver import EVENTS
from rl.dataset.context import keys_of
from rl.dataset.episodes import EVENT_COLUMNS, LEFT_OUT, Shop, episodes, left_out
from rl.observation import KINDS

# Kinds of parts, beside those of written files.
FOUND, ITEM, KEY, EVENT, BROKEN = "found", "item", "key", "event", "broken"
GATHERED: Mapping[str, Mapping[str, type[pl.DataType]]] = {
    FOUND: dict.fromkeys(
        ("num_impressions", "num_with_propensity", "num_with_user", "num_without_user", "num_without_request"), pl.Int64
    ),
    ITEM: {"item_id": pl.String},
    KEY: {"key": pl.String, "is_number": pl.Boolean},
    BROKEN: {"rule": pl.String, "num_impressions": pl.Int64},
}
DECISIONS = contract("gold/decisions")
OWNED = pa.schema([pa.field("owner", pa.string()), *(EVENTS.schema.field(name) for name in EVENT_COLUMNS)])
IS_SHOWN = pl.col("event_type") == "impression"


def survey(files: Iterable[pa.RecordBatch], *, until: datetime, num_shards: int) -> Iterator[pa.RecordBatch]:
    """Count the impressions in files of silver/events (rows of TABLE_FILES), and pack their items and keys of context.

    Items are packed by shard, those shown, those that could have been, and those of all reactions.
    """
    columns = ("user_key", "item_id", "request_id", "propensity", "candidates", "context")
    for rows in _events_of_people(files, columns, until):
        shown = rows.filter(IS_SHOWN)
        has_propensity, is_of_user = pl.col("propensity") > 0, pl.col("user_key").is_not_null()
        counts = {
            "num_impressions": pl.len(),
            "num_with_propensity": has_propensity.sum(),
            "num_with_user": (has_propensity & is_of_user).sum(),
            "num_without_user": (~is_of_user).sum(),
            "num_without_request": pl.col("request_id").is_null().sum(),
        }
        yield from packed(shown.select(**counts).cast(pl.Int64), FOUND)
        offered = shown["candidates"].explode(empty_as_null=False, keep_nulls=False)
        items = pl.concat([rows["item_id"], offered.filter(offered.str.contains(r"\S"))]).unique()
        yield from packed(items.to_frame("item_id"), ITEM, shards_by(items, num_shards))
        yield from packed(keys_of(shown["context"].to_arrow()), KEY)


def each_item(parts: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Each item of a shard once."""
    found = unpacked(parts)
    if ITEM in found:
        yield from packed(found[ITEM].unique(), ITEM)


def spread_events(
    files: Iterable[pa.RecordBatch], *, until: datetime, has_users: bool, num_shards: int
) -> Iterator[pa.RecordBatch]:
    """Read files of silver/events and pack what people did by the shard of its `owner`.

    In a log with users the owner is the user; otherwise it is the request, with impressions and the reactions to them.
    """
    columns = [name for name in EVENT_COLUMNS if name not in ("event_type", "event_time")]
    for rows in _events_of_people(files, columns, until):
        if has_users:
            owned = rows.filter(pl.col("user_key").is_not_null()).with_columns(owner="user_key")
        else:
            needed = rows.filter(IS_SHOWN | pl.col("request_id").is_not_null())
            owned = needed.with_columns(owner=pl.coalesce("request_id", "event_id"))
        yield from packed(owned, EVENT, shards_by(owned["owner"], num_shards))


def write_decisions(parts: Iterable[pa.RecordBatch], *, lake: Lake, shop: Broadcast[Shop]) -> Iterator[pa.RecordBatch]:
    """Write the decisions of a shard; tells how many of its impressions are none, by the rule that they break."""
    found = unpacked(parts)
    if EVENT not in found:
        return
    events = found[EVENT].select(OWNED.names).to_arrow().cast(OWNED).to_batches()
    yield from write_rows(episodes(events, shop=shop.value), lake=lake, table=DECISIONS)
    counts = pl.DataFrame(pa.Table.from_batches(left_out(events, shop=shop.value), LEFT_OUT))
    yield from packed(counts, BROKEN)


def _events_of_people(
    files: Iterable[pa.RecordBatch], columns: Iterable[str], until: datetime
) -> Iterator[pl.DataFrame]:
    """The events of the kinds that count, but those of bots, with these columns, `event_type` and `event_time`."""
    read = ("is_bot", "event_type", "event_time", *columns)
    schema = pa.schema([EVENTS.schema.field(name) for name in read])
    is_wanted = ~pl.col("is_bot") & pl.col("event_type").is_in(KINDS) & (pl.col("event_time") < until)
    for file in rows_of(files):
        for rows in table_rows(file["location"], schema):
            yield rows.filter(is_wanted).drop("is_bot")
