"""gold/interactions: what a known user did with an item at a moment."""

from collections.abc import Mapping
from datetime import datetime

import polars as pl

from lib.features.days import of_type


def interactions(
    events: pl.DataFrame,
    *,
    valid_from: datetime,
    test_from: datetime,
    event_weights: Mapping[str, float],
    relevant: str,
) -> pl.DataFrame:
    """One row per pair of a known user and an item and moment, in the table's columns. Impressions are left out.

    Moments are kept apart, so that what was known before any `as_of` can be told exactly, also within a day.
    """
    counts = (
        events.filter(pl.col("user_key").is_not_null() & ~of_type("impression"))
        .group_by("user_key", "item_id", "event_time")
        .agg(
            *(of_type(kind).sum().alias(f"num_{kind}") for kind in event_weights),
            count=pl.len().cast(pl.Int64),
            num_relevant=of_type(relevant).sum().cast(pl.Int64),
        )
    )
    # Computed from counts, not summed over events, so that the order of events does not affect the last digit.
    weight = pl.lit(0.0)
    for kind, unit in event_weights.items():
        weight += unit * pl.col(f"num_{kind}")
    return counts.select(
        "user_key",
        "item_id",
        "event_time",
        pl.col("event_time").dt.date().alias("event_date"),
        split_of(valid_from=valid_from, test_from=test_from),
        weight.alias("weight"),
        "count",
        "num_relevant",
    ).sort("event_date", "user_key", "event_time", "item_id")


def split_of(*, valid_from: datetime, test_from: datetime) -> pl.Expr:
    """The split that an event_time falls in."""
    time = pl.col("event_time")
    return (
        pl.when(time < pl.lit(valid_from))
        .then(pl.lit("train"))
        .when(time < pl.lit(test_from))
        .then(pl.lit("valid"))
        .otherwise(pl.lit("test"))
        .alias("split")
    )
