"""What is known before a moment: of a user and an item together, of users, and of items, with ages in days.

All of it is summed from rows of gold/interactions, whole users in a shard, in Polars. An event at or after the moment counts
nowhere.
"""

from datetime import datetime
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
HALF_LIVES = (14, 60, 180)  # days, of what was bought
RECENT_DAYS = 28
BROWSING = 0.2  # what an item that was only looked at counts in EASE, beside one that was bought
DAY_MICROSECONDS = 86_400_000_000
READ = ("user_key", "item_id", "event_time", "weight", "num_relevant")
COUNTS = ("num_relevant", "num_orders")
PAIRS = (
    *("user_key", "item_id", "weight", *COUNTS, "first_days", "last_days", "bought_days", "first_bought_days"),
    *(f"bought_{days}" for days in HALF_LIVES),
    *(f"weight_{days}" for days in HALF_LIVES[:2]),
)
ITEM_SUMS = {
    "item_id": pl.String,
    "num_users": pl.Int64,
    "num_buyers": pl.Int64,
    "num_recent_buyers": pl.Int64,
    **{f"bought_{days}": pl.Float64 for days in HALF_LIVES},
    "weight_14": pl.Float64,
    "age_days": pl.Float64,
    "silence_days": pl.Float64,
}


def known_pairs(interactions: pl.DataFrame, *, as_of: datetime) -> pl.DataFrame:
    """One row per user and item that was known before `as_of`, sorted by both; one without positive weight is not known.

    Columns: user_key, item_id, weight, num_relevant (how often bought), num_orders (moments of these), first_days and
    last_days (ages of the first and last event), bought_days and first_bought_days (of the last and first purchase, null
    without one), bought_14, bought_60 and bought_180 (purchases that halve with these ages), weight_14, weight_60 (all events that halve).
    """
    age = (pl.lit(as_of) - pl.col("event_time")).dt.total_microseconds() / DAY_MICROSECONDS
    known = interactions.filter(pl.col("event_time") < as_of).with_columns(age=age).sort("user_key", "item_id", "age")
    is_other = pl.any_horizontal(pl.col("user_key", "item_id").ne_missing(pl.col("user_key", "item_id").shift()))
    starts = known.select(is_other).to_series().arg_true().to_numpy().astype(np.int64)
    sums = pair_sums(starts, *(known[name].to_numpy() for name in ("age", "weight", "num_relevant")))
    columns = [
        known["user_key"][starts],
        known["item_id"][starts],
        *(pl.Series(name, sums[name]) for name in PAIRS[2:]),
    ]
    pairs = pl.DataFrame(columns).with_columns(pl.col("bought_days", "first_bought_days").fill_nan(None))
    return pairs.filter(pl.col("weight") > 0)


def pair_sums(
    starts: NDArray[np.int64], age: Doubles, weight: Doubles, num_relevant: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    """What is known of each pair, by name as in `known_pairs`, (P,); an age of what was never bought is NaN.

    Args:
        starts: (P,), where each pair's events begin.
        age: (E,), days, of the events of one pair after the other, the latest of each first.
        weight: (E,).
        num_relevant: (E,).
    """
    if not len(starts):
        return {name: np.zeros(0, np.int64 if name in COUNTS else np.float64) for name in PAIRS[2:]}
    ends = np.append(starts[1:], len(age)) - 1
    is_bought = num_relevant > 0
    halved = {days: 2.0 ** (-age / days) for days in HALF_LIVES}
    summed = {
        "weight": weight,
        "num_relevant": num_relevant,
        "num_orders": is_bought.astype(np.int64),
        **{f"bought_{days}": num_relevant * halved[days] for days in HALF_LIVES},
        **{f"weight_{days}": weight * halved[days] for days in HALF_LIVES[:2]},
    }
    found: dict[str, NDArray[Any]] = {
        **{name: np.add.reduceat(values, starts) for name, values in summed.items()},
        "first_days": age[ends],
        "last_days": age[starts],
        "bought_days": np.fmin.reduceat(np.where(is_bought, age, np.nan), starts),
        "first_bought_days": np.fmax.reduceat(np.where(is_bought, age, np.nan), starts),
    }
    return found


def counted(num_relevant: NDArray[np.int64]) -> NDArray[np.float32]:
    """What each pair counts in EASE, by how often the item was bought: 1 where it was, BROWSING where not."""
    return np.where(num_relevant > 0, np.float32(1), np.float32(BROWSING))


def known_users(interactions: pl.DataFrame, *, as_of: datetime) -> pl.DataFrame:
    """One row per user with an event before `as_of`, sorted: user_key, num_orders (moments of purchases), silence_days, age_days."""
    age = (pl.lit(as_of) - pl.col("event_time")).dt.total_microseconds() / DAY_MICROSECONDS
    known = interactions.filter(pl.col("event_time") < as_of).with_columns(age=age)
    bought_at = pl.col("event_time").filter(pl.col("num_relevant") > 0)
    users = known.group_by("user_key").agg(
        num_orders=bought_at.n_unique(), silence_days=pl.col("age").min(), age_days=pl.col("age").max()
    )
    return users.sort("user_key")


def item_sums(pairs: pl.DataFrame) -> pl.DataFrame:
    """One row per item of a shard's known pairs, with the columns of ITEM_SUMS; sums of shards are added by `added_items`."""
    recent = pl.col("bought_days") < RECENT_DAYS
    return (
        pairs.group_by("item_id")
        .agg(
            num_users=pl.len().cast(pl.Int64),
            num_buyers=(pl.col("num_relevant") > 0).sum().cast(pl.Int64),
            num_recent_buyers=recent.sum().cast(pl.Int64),
            **{f"bought_{days}": pl.col(f"bought_{days}").sum() for days in HALF_LIVES},
            weight_14=pl.col("weight_14").sum(),
            age_days=pl.col("first_days").max(),
            silence_days=pl.col("last_days").min(),
        )
        .select(*ITEM_SUMS)
    )


def added_items(sums: pl.DataFrame) -> pl.DataFrame:
    """The items of all shards, sorted by id; sums are rounded, so that the order of shards does not matter."""
    counted = ("num_users", "num_buyers", "num_recent_buyers")
    weighed = [name for name in ITEM_SUMS if name.startswith(("bought_", "weight_"))]
    return (
        sums.group_by("item_id")
        .agg(
            pl.col(*counted).sum(),
            pl.col(*weighed).sum().round(6),
            pl.col("age_days").max(),
            pl.col("silence_days").min(),
        )
        .sort("item_id")
        .select(*ITEM_SUMS)
    )
