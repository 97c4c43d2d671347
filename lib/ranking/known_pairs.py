"""Known pairs: users and items with interactions before a given moment, for all recommenders and the evaluation."""

from datetime import datetime

import polars as pl
import pyarrow as pa

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
