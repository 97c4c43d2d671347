"""Every feature of gold/examples, worked by hand on tiny histories."""

import math
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import polars as pl
import pytest

from lib.features.user_features import FEATURES, user_features
from tests.lib.features.events import AS_OF, days, events_of


def features_of(events: pl.DataFrame, as_of: datetime = AS_OF) -> dict[str, Any]:
    return all_features_of(events, as_of).row(0, named=True)


def all_features_of(events: pl.DataFrame, as_of: datetime = AS_OF) -> pl.DataFrame:
    return user_features(days(events, moments=(as_of,)), as_of=as_of)


# Three sessions: 30, 8 and 2 days before as_of.
HISTORY = events_of(
    {"event_type": "impression", "event_time": AS_OF - timedelta(days=30), "request_id": "r1"},
    {"event_type": "impression", "event_time": AS_OF - timedelta(days=30), "request_id": "r2", "item_id": "hat"},
    {"event_time": AS_OF - timedelta(days=30), "request_id": "r1", "category_tags": ["category=Shoes"]},
    {"event_type": "cart", "event_time": AS_OF - timedelta(days=8), "session_id": "s2", "item_id": "hat"},
    {"event_type": "favourite", "event_time": AS_OF - timedelta(days=8), "session_id": "s2", "item_id": "bag"},
    {
        "event_type": "purchase",
        "event_time": AS_OF - timedelta(days=8) + timedelta(hours=1),
        "session_id": "s2",
        "quantity": 2,
        "price": Decimal("3.00"),
        "category_tags": ["category=Shoes", "category=Shoes/Boots"],
    },
    {
        "event_time": AS_OF - timedelta(days=2) + timedelta(hours=6),
        "session_id": "s3",
        "category_tags": ["category=Hats"],
    },
    {"event_type": "impression", "event_time": AS_OF - timedelta(days=1), "session_id": "s3", "request_id": "r3"},
)

WORKED = {
    "log_tenure_days": math.log1p(30),
    "log_recency_days": math.log1p(1),  # the last impression
    "log_days_since_click": math.log1p(1.75),
    "has_clicked": 1.0,
    "log_days_since_purchase": math.log1p(8 - 1 / 24),
    "has_purchased": 1.0,
    "log_num_events": math.log1p(5),
    "log_num_sessions": math.log1p(3),
    "log_num_active_days": math.log1p(4),
    "log_num_views": math.log1p(2),
    "log_num_carts": math.log1p(2),  # a cart and a favourite
    "log_num_purchases": math.log1p(1),
    "log_num_returns": 0.0,
    "log_num_items": math.log1p(3),
    "log_num_categories": math.log1p(2),
    "top_category_share": 2 / 3,
    "log_num_open_carts": math.log1p(1),  # the hat
    "log_spend": math.log1p(6),
    "log_mean_price": math.log1p(3),
    "carts_per_click": 2 / 5,
    "purchases_per_click": 1 / 5,
    "click_rate": 1 / 3,
    "has_impressions": 1.0,
    "log_events_per_session": math.log1p(5 / 3),
    "log_days_per_visit": math.log1p(30 / 4),
    "log_num_clicks_week": math.log1p(1),
    "log_num_clicks_month": math.log1p(4),
    "trend": math.log(2) - math.log1p(4 / (30 / 7 - 1)),
    "weekend_share": 2 / 5,  # the views, on Sunday 8 February and Sunday 8 March; carts and purchase fall on a Monday
    "mean_click_hour_sin": (0 + 0 + 0 + math.sin(2 * math.pi / 24) + 1) / 5,
    "mean_click_hour_cos": (1 + 1 + 1 + math.cos(2 * math.pi / 24) + 0) / 5,
    "last_click_hour_sin": 1.0,  # six in the morning
    "last_click_hour_cos": 0.0,
}


def test_every_feature_is_worked_by_hand_here() -> None:
    assert set(WORKED) == set(FEATURES)


@pytest.mark.parametrize("name", list(FEATURES))
def test_a_feature_has_the_value_worked_by_hand(name: str) -> None:
    assert features_of(HISTORY)[name] == pytest.approx(WORKED[name], abs=1e-9)


def test_a_user_who_only_saw_impressions_has_the_documented_values() -> None:
    row = features_of(events_of({"event_type": "impression", "event_time": AS_OF - timedelta(days=3)}))
    assert (row["has_clicked"], row["has_purchased"], row["has_impressions"]) == (0.0, 0.0, 1.0)
    assert row["log_days_since_click"] == row["log_days_since_purchase"] == pytest.approx(math.log1p(3))
    hours = ("mean_click_hour_sin", "mean_click_hour_cos", "last_click_hour_sin", "last_click_hour_cos")
    assert [row[name] for name in (*hours, "weekend_share", "carts_per_click", "purchases_per_click", "trend")] == [
        0.0
    ] * 8


def test_a_log_without_impressions_sessions_prices_or_categories_gives_no_missing_value() -> None:
    row = features_of(events_of({"event_type": "purchase", "session_id": None}))
    assert all(value is not None and math.isfinite(value) for name, value in row.items() if name != "user_key")
    assert (row["has_impressions"], row["click_rate"], row["top_category_share"], row["log_mean_price"]) == (0.0,) * 4


@pytest.mark.parametrize(
    ("later", "open_carts"),
    [
        ({"event_type": "purchase", "event_time": AS_OF - timedelta(days=1)}, 0),
        ({"event_type": "purchase", "event_time": AS_OF - timedelta(days=3)}, 1),
        ({"event_type": "purchase", "event_time": AS_OF + timedelta(days=1)}, 1),
        ({"event_type": "purchase", "event_time": AS_OF - timedelta(days=1), "item_id": "hat"}, 1),
    ],
    ids=["bought since", "bought before", "bought after as_of", "another item bought"],
)
def test_a_cart_is_open_until_its_item_is_bought(later: dict[str, Any], open_carts: int) -> None:
    row = features_of(events_of({"event_type": "cart"}, later))
    assert row["log_num_open_carts"] == pytest.approx(math.log1p(open_carts))


def test_moving_the_future_changes_no_feature() -> None:
    future = events_of(
        *(
            {"event_type": kind, "event_time": AS_OF + timedelta(hours=hours)}
            for kind in ("view", "purchase")
            for hours in (0, 9)
        ),
        {"event_time": AS_OF + timedelta(days=40), "user_key": "new"},
    )
    assert all_features_of(pl.concat([HISTORY, future])).equals(all_features_of(HISTORY))


def test_an_earlier_as_of_sees_the_earlier_history() -> None:
    row = features_of(HISTORY, as_of=AS_OF - timedelta(days=8))
    assert row["log_tenure_days"] == pytest.approx(math.log1p(22))
    assert (row["log_num_carts"], row["has_purchased"], row["log_num_events"]) == (
        0.0,
        0.0,
        pytest.approx(math.log1p(1)),
    )


def test_the_order_of_rows_does_not_change_a_feature() -> None:
    assert all_features_of(HISTORY.sample(fraction=1.0, shuffle=True, seed=7)).equals(all_features_of(HISTORY))


def day(number: int) -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=number)


def test_what_no_clock_or_rate_tells_is_zero() -> None:
    late = {"event_time": AS_OF - timedelta(days=2) + timedelta(hours=6)}
    midnight = {"event_time": AS_OF - timedelta(days=1), "has_hour": False}
    hours = ("mean_click_hour_sin", "mean_click_hour_cos", "last_click_hour_sin", "last_click_hour_cos")
    assert [round(features_of(events_of(late, midnight))[name], 9) for name in hours] == [1, 0, 1, 0]
    row = features_of(events_of(midnight, {"event_type": "purchase", "is_unconverted": True, "has_hour": False}))
    assert [row[name] for name in (*hours, "log_spend", "log_mean_price")] == [0.0] * 6
