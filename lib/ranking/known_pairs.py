"""Known pairs: users and items with interactions before a given moment, for all recommenders and the evaluation."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

import polars as pl
import pyarrow as pa

from lib.engines.arrow_tasks import packed, rows_of, shards_by, table_rows
from lib.tables.gold import INTERACTIONS

INTERACTION = "interaction"  # kind of a part
KNOWN_PAIRS = pa.schema(
    [
        ("user_key", pa.string()),
        ("item_id", pa.string()),
        ("weight", pa.float64()),
        ("num_relevant", pa.int64()),
        ("last_time", pa.timestamp("us", tz="UTC")),
    ]
)


def known_pairs(interactions: pl.DataFrame, *, as_of: datetime) -> pl.DataFrame:
    """One row per pair that was known before `as_of`, with the columns of KNOWN_PAIRS, sorted by user and item.

    A pair without positive weight, such as a return of something bought before the log began, is not known.

    Args:
        interactions: rows of gold/interactions, all those of each pair.
        as_of: rows with an `event_time` at or after it are left out.
    """
    known = interactions.filter(pl.col("event_time") < as_of).sort("user_key", "item_id", "event_time")
    pairs = known.group_by("user_key", "item_id", maintain_order=True).agg(
        pl.col("weight").sum(), pl.col("num_relevant").sum(), last_time=pl.col("event_time").max()
    )
    return pairs.filter(pl.col("weight") > 0).select(KNOWN_PAIRS.names)


def which_are_known(interactions: pl.DataFrame, *, as_of: datetime) -> pl.DataFrame:
    """`user_key` and `item_id` alone of the pairs of `known_pairs`, in no order, where no weight is so negative that rounding decides."""
    known = interactions.filter(pl.col("event_time") < as_of)
    weights = known.group_by("user_key", "item_id").agg(pl.col("weight").sum())
    return weights.filter(pl.col("weight") > 0).select("user_key", "item_id")


def interaction_schema(columns: Sequence[str]) -> pa.Schema:
    """Some columns of gold/interactions."""
    return pa.schema([INTERACTIONS.schema.field(name) for name in columns])


def spread_interactions(
    files: Iterable[pa.RecordBatch],
    *,
    columns: Sequence[str],
    until: datetime | None,
    num_shards: int,
    categorical: Sequence[str] = (),
) -> Iterator[pa.RecordBatch]:
    """Read files of gold/interactions (rows of TABLE_FILES), and pack what was known before `until` by shard of whole users.

    Args:
        files: of the table.
        columns: that are read, `user_key`, `event_time` and `weight` among them.
        until: rows with an `event_time` at or after it are left out; None: none is.
        num_shards: of users.
        categorical: columns of texts that become categories.

    Raises:
        ValueError: a weight is no finite number.
    """
    for file in rows_of(files):
        for rows in table_rows(file["location"], interaction_schema(columns), categorical=categorical):
            known = rows if until is None else rows.filter(pl.col("event_time") < until)
            num_wrong = known.select((~pl.col("weight").is_finite()).sum()).item()
            if num_wrong:
                raise ValueError(
                    f"gold/interactions: {num_wrong} rows have a weight that is no finite number; run featurize again"
                )
            yield from packed(known, INTERACTION, shards_by(known["user_key"], num_shards))
