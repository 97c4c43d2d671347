"""What the tasks of als do to interactions before they fit: users brought together into known pairs, items into columns.

A user and an item belong to the shard that their id has by its hash; a shard holds the pairs of its users, and once more
those of its items.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime

import polars as pl
import pyarrow as pa

from lib.engines.arrow_tasks import Broadcast, packed, rows_of, shards_by, table_rows, unpacked
from lib.ranking.known_pairs import INTERACTION
from lib.ranking.validation import BEFORE, wanted_items
from lib.tables import contract

USER_PAIR, ITEM_PAIR, FACTOR = "user", "item", "factor"
WEIGHT, WANTED, KNOWN = "weight", "wanted", "known"
GATHERED: dict[str, dict[str, type[pl.DataType]]] = {
    WEIGHT: {"weight": pl.Float64, "number": pl.UInt32},
    WANTED: {"user_key": pl.String, "item_id": pl.String},
    KNOWN: BEFORE,
}
DIGITS = 3  # of a weight, where the median is counted
PAIRS = pa.schema(
    [("user_key", pa.string()), ("item_id", pa.string()), ("weight", pa.float64()), ("recent", pa.float64())]
)
TAKEN = ("user_key", "item_id", "event_time", "weight")
VECTORS = "gold/vectors"


def weighed_pairs(interactions: pl.DataFrame, *, as_of: datetime, half_life_days: float | None) -> pl.DataFrame:
    """The pairs that were known before `as_of`, sorted by user and item, with the columns of PAIRS.

    `weight` is that of lib/ranking/known_pairs.py; `recent` is the share of it that is left where an interaction counts half
    after `half_life_days`.
    """
    known = interactions.filter(pl.col("event_time") < as_of).sort("user_key", "item_id", "event_time")
    days = (pl.lit(as_of) - pl.col("event_time")).dt.total_microseconds() / 86_400e6
    share = pl.lit(1.0) if half_life_days is None else 0.5 ** (days / half_life_days)
    pairs = known.group_by("user_key", "item_id", maintain_order=True).agg(
        pl.col("weight").sum(), recent=(pl.col("weight") * share).sum()
    )
    recent = (pl.col("recent") / pl.col("weight")).clip(0, 1)
    return pairs.filter(pl.col("weight") > 0).with_columns(recent=recent).select(PAIRS.names)


def pair_up(
    parts: Iterable[pa.RecordBatch], *, as_of: datetime, half_life_days: float | None, num_shards: int
) -> Iterator[pa.RecordBatch]:
    """The known pairs of a shard of users, for it and for the shards of its items, and how many there are by weight."""
    for kind, rows in unpacked(parts).items():
        assert kind == INTERACTION
        pairs = weighed_pairs(rows, as_of=as_of, half_life_days=half_life_days)
        yield from packed(pairs, USER_PAIR, shards_by(pairs["user_key"], num_shards))
        yield from packed(pairs, ITEM_PAIR, shards_by(pairs["item_id"], num_shards))
        yield from packed(pairs.group_by(pl.col("weight").round_sig_figs(DIGITS)).len("number"), WEIGHT)


def median_weight(counts: pl.DataFrame) -> float:
    """The lower median of weights that are counted: `weight`, `number`."""
    by_weight = counts.group_by("weight").agg(pl.col("number").sum()).sort("weight")
    until = by_weight["number"].cum_sum()
    return float(by_weight["weight"][int(until.search_sorted(until[-1] / 2))])


def read_vectors(
    files: Iterable[pa.RecordBatch], *, versions: Collection[str], num_shards: int
) -> Iterator[pa.RecordBatch]:
    """The vectors of versions of als by the shard of their ids."""
    schema = contract(VECTORS).schema
    columns = pa.schema([schema.field(name) for name in ("version", "id", "values")])
    for file in rows_of(files):
        for rows in table_rows(file["location"], columns):
            kind = "user" if "kind=user" in file["location"] else "item"
            of_version = rows.filter(pl.col("version").is_in([*versions])).select(
                pl.lit(kind).alias("kind"), "id", "values"
            )
            yield from packed(of_version, FACTOR, shards_by(of_version["id"], num_shards))


def find_wanted(files: Iterable[pa.RecordBatch], *, start: datetime, end: datetime) -> Iterator[pa.RecordBatch]:
    """What users bought (or what the log counts as relevant) in [start, end): of a task's rows, see `wanted_items`."""
    schema = contract("gold/interactions").schema
    taken = pa.schema([schema.field(name) for name in ("user_key", "item_id", "event_time", "num_relevant")])

    def relevant() -> Iterator[pa.RecordBatch]:
        for file in rows_of(files):
            for rows in table_rows(file["location"], taken):
                is_wanted = pl.col("event_time").is_between(start, end, closed="left") & (pl.col("num_relevant") > 0)
                yield from rows.filter(is_wanted).select("user_key", "item_id").to_arrow().to_batches()

    by_user = pl.DataFrame(wanted_items(relevant()))
    yield from packed(by_user.explode("items").rename({"items": "item_id"}), WANTED)


def find_known(
    files: Iterable[pa.RecordBatch], *, user_keys: Broadcast[Sequence[str]], until: datetime
) -> Iterator[pa.RecordBatch]:
    """What some users did with each item before a moment: of a task's rows, see `with_known`."""
    schema = contract("gold/interactions").schema
    taken = pa.schema([schema.field(name) for name in TAKEN])
    theirs = pl.Series(user_keys.value, dtype=pl.String).implode()
    for file in rows_of(files):
        for rows in table_rows(file["location"], taken):
            known = rows.filter((pl.col("event_time") < until) & pl.col("user_key").is_in(theirs))
            yield from packed(known.group_by("user_key", "item_id").agg(pl.col("weight").sum()), KNOWN)
