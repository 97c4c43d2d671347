"""What is known before a moment: of a user and an item together, of users, and of items, with ages in days.

All of it is summed from rows of gold/interactions, whole users in a shard, in Polars. An event at or after the moment counts
nowhere.
"""

from datetime import datetime

import polars as pl

HALF_LIVES = (14, 60, 180)  # days, of what was bought
RECENT_DAYS = 28
BROWSING = 0.2  # what an item that was only looked at counts in EASE, beside one that was bought
DAY_MICROSECONDS = 86_400_000_000
READ = ("user_key", "item_id", "event_time", "weight", "num_relevant")
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
    bought, is_bought = pl.col("num_relevant"), pl.col("num_relevant") > 0
    halved = {days: 2.0 ** (-pl.col("age") / days) for days in HALF_LIVES}
    known = interactions.lazy().filter(pl.col("event_time") < as_of).with_columns(age=age)
    pairs = known.sort("user_key", "item_id", "age").group_by("user_key", "item_id", maintain_order=True).agg(
        pl.col("weight").sum(),
        bought.sum(),
        num_orders=is_bought.sum(),
        first_days=pl.col("age").max(),
        last_days=pl.col("age").min(),
        bought_days=pl.col("age").filter(is_bought).min(),
        first_bought_days=pl.col("age").filter(is_bought).max(),
        **{f"bought_{days}": (bought * halved[days]).sum() for days in HALF_LIVES},
        **{f"weight_{days}": (pl.col("weight") * halved[days]).sum() for days in HALF_LIVES[:2]},
    )
    return pairs.filter(pl.col("weight") > 0).collect()


def counted(pairs: pl.DataFrame) -> pl.Series:
    """What each pair counts in EASE: 1 where the user bought the item, BROWSING where not."""
    return pairs.select(pl.when(pl.col("num_relevant") > 0).then(1.0).otherwise(BROWSING).cast(pl.Float32)).to_series()


def known_users(interactions: pl.DataFrame, *, as_of: datetime) -> pl.DataFrame:
    """One row per user with an event before `as_of`, sorted: user_key, num_orders (moments of purchases), silence_days, age_days."""
    age = (pl.lit(as_of) - pl.col("event_time")).dt.total_microseconds() / DAY_MICROSECONDS
    known = interactions.lazy().filter(pl.col("event_time") < as_of).with_columns(age=age)
    bought_at = pl.col("event_time").filter(pl.col("num_relevant") > 0)
    users = known.group_by("user_key").agg(
        num_orders=bought_at.n_unique(), silence_days=pl.col("age").min(), age_days=pl.col("age").max()
    )
    return users.sort("user_key").collect()


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
