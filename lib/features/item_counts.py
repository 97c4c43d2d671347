"""What happened to each item before a moment, counted in shards of whole users and then brought together."""

from datetime import datetime

import polars as pl

from lib.features.profiles import known_events, of_type

SUMMED = (
    *("num_impressions", "num_touches", "num_views", "num_clicks", "num_carts", "num_purchases", "num_returns"),
    *("num_buyers", "num_users"),
)


def item_counts(events: pl.DataFrame, *, as_of: datetime) -> pl.DataFrame:
    """One row per item with an event before `as_of`: its events by type, distinct users, first event and last price.

    `events` are those of whole users, and any of nobody. Columns: item_id, SUMMED, first_seen_at, last_priced_at, last_price.
    """
    is_user = pl.col("user_key").is_not_null()
    pairs = (
        known_events(events, as_of)
        .group_by("item_id", "user_key")
        .agg(
            num_impressions=of_type("impression").sum(),
            num_touches=(~of_type("impression")).sum(),
            num_views=of_type("view").sum(),
            num_clicks=(of_type("view") & pl.col("request_id").is_not_null()).sum(),
            num_carts=of_type("cart").sum(),
            num_purchases=of_type("purchase").sum(),
            num_returns=of_type("return").sum(),
            first_seen_at=pl.col("event_time").min(),
        )
        .with_columns(
            num_buyers=is_user & (pl.col("num_purchases") > 0), num_users=is_user & (pl.col("num_touches") > 0)
        )
    )
    counts = pairs.group_by("item_id").agg(
        *(pl.col(name).sum().cast(pl.Int64) for name in SUMMED), pl.col("first_seen_at").min()
    )
    priced = known_events(events, as_of).filter(pl.col("price").is_not_null())
    last = (
        priced.sort("event_time", "price")
        .group_by("item_id")
        .agg(last_priced_at=pl.col("event_time").last(), last_price=pl.col("price").last())
    )
    return counts.join(last, on="item_id", how="left")


def together(counts: pl.DataFrame) -> pl.DataFrame:
    """One row per item of the counts of several shards: item_id, SUMMED, first_seen_at, last_price."""
    last = counts.filter(pl.col("last_price").is_not_null()).sort("last_priced_at", "last_price")
    prices = last.group_by("item_id").agg(pl.col("last_price").last())
    summed = counts.group_by("item_id").agg(*(pl.col(name).sum() for name in SUMMED), pl.col("first_seen_at").min())
    return summed.join(prices, on="item_id", how="left")


def num_touching_users(events: pl.DataFrame, *, as_of: datetime) -> int:
    """How many known users have an event other than an impression before `as_of`."""
    touches = known_events(events, as_of).filter(~of_type("impression") & pl.col("user_key").is_not_null())
    return touches["user_key"].n_unique()
