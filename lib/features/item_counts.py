"""What happened to each item before a moment, counted in tasks and then brought together."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import polars as pl

from lib.features.days import before, of_items_together

OF_EVENTS = ("num_impressions", "num_touches", "num_views", "num_clicks", "num_carts", "num_purchases", "num_returns")
OF_USERS = ("num_buyers", "num_users")
SCHEMA: Mapping[str, Any] = {
    "item_id": pl.String,
    **dict.fromkeys((*OF_EVENTS, *OF_USERS), pl.Int64),
    "first_seen_at": pl.Datetime("us", "UTC"),
    "last_priced_at": pl.Datetime("us", "UTC"),
    "last_price": pl.Decimal(18, 4),
}


def item_counts(days: pl.DataFrame, *, as_of: datetime) -> pl.DataFrame:
    """One row per item of some rows of gold/item_days: its events by type, first event and last price before `as_of`."""
    return _whole(before(days, "first_seen_at", as_of).group_by("item_id").agg(of_items_together()))


def item_users(user_items: pl.DataFrame, *, as_of: datetime) -> pl.DataFrame:
    """One row per item of some users' rows of gold/daily: how many of these touched it before `as_of`, and bought it."""
    pairs = before(user_items, "first_at", as_of).group_by("item_id", "user_key").agg(pl.col("num_purchases").sum())
    return _whole(
        pairs.group_by("item_id").agg(
            num_users=pl.len().cast(pl.Int64), num_buyers=(pl.col("num_purchases") > 0).sum().cast(pl.Int64)
        )
    )


def together(counts: pl.DataFrame) -> pl.DataFrame:
    """One row per item of counts of both kinds, of several tasks: the columns of SCHEMA."""
    return counts.group_by("item_id").agg(of_items_together())


def num_touching_users(user_items: pl.DataFrame, *, as_of: datetime) -> int:
    """How many known users have an event other than an impression before `as_of`."""
    return before(user_items, "first_at", as_of)["user_key"].n_unique()


def _whole(counts: pl.DataFrame) -> pl.DataFrame:
    """The counts with all columns of SCHEMA; those of another kind are null."""
    absent = [pl.lit(None, kind).alias(name) for name, kind in SCHEMA.items() if name not in counts.columns]
    return counts.with_columns(pl.col("item_id").cast(pl.String), *absent).select(*SCHEMA)
