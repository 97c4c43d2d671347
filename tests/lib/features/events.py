"""Events as lib/features takes them: one user's view of a shoe two days before a Tuesday, unless a test says otherwise."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from lib.features.days import Days, days_of, open_sessions_of

AS_OF = datetime(2026, 3, 10, tzinfo=UTC)  # a Tuesday
SCHEMA = {
    "user_key": pl.String,
    "item_id": pl.String,
    "event_type": pl.String,
    "event_time": pl.Datetime("us", "UTC"),
    "session_id": pl.String,
    "quantity": pl.Int64,
    "price": pl.Decimal(18, 4),
    "is_unconverted": pl.Boolean,
    "has_hour": pl.Boolean,
    "request_id": pl.String,
    "category_tags": pl.List(pl.String),
    "brand_tag": pl.String,
}
TAGS = ("category_tags", "brand_tag")
WEIGHTS = {"view": 0.2, "cart": 0.6, "purchase": 1.0}
EVENT: dict[str, Any] = {
    "user_key": "ann",
    "item_id": "shoe",
    "event_type": "view",
    "event_time": AS_OF - timedelta(days=2),
    "session_id": "s1",
    "quantity": None,
    "price": None,
    "is_unconverted": False,
    "has_hour": True,
    "request_id": None,
    "category_tags": None,
    "brand_tag": None,
}


def events_of(*overrides: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame([EVENT | override for override in overrides], schema=SCHEMA)


def made(
    events: pl.DataFrame,
    *,
    event_weights: Mapping[str, float] = WEIGHTS,
    half_life_days: float = 30.0,
    moments: Sequence[datetime] = (),
) -> Days:
    """The days of these events, as featurize makes them."""
    given: dict[str, Any] = {"event_weights": event_weights, "half_life_days": half_life_days, "moments": moments}
    return days_of(events.drop(TAGS), **given, open_sessions=open_sessions_of(events))


def days(events: pl.DataFrame, **settings: Any) -> Days:
    """The same, with the tags of their items, which here are given with each event: each has rows of its own."""
    whole = made(events, **settings)
    each = [made(one, **settings).user_items.join(one.select(TAGS), how="cross") for one in events.iter_slices(1)]
    none = whole.user_items.clear().with_columns(pl.lit(None, SCHEMA[tag]).alias(tag) for tag in TAGS)
    return whole._replace(user_items=pl.concat([none, *each]))
