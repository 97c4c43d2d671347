"""Events as lib/features takes them: one user's view of a shoe two days before a Tuesday, unless a test says otherwise."""

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

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
