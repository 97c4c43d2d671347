"""User profiles, worked by hand on tiny histories."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from lib.features.profiles import active_hours, interest_tags, user_counts, user_profiles
from lib.tables import contract
from tests.lib.features.events import AS_OF, days, events_of


def profiles_of(events: pl.DataFrame, *, half_life_days: float = 30.0, max_tags: int = 20) -> pl.DataFrame:
    made = days(events, half_life_days=half_life_days)
    return user_profiles(made, as_of=AS_OF, half_life_days=half_life_days, max_tags=max_tags)


def profile_of(events: pl.DataFrame, **settings: Any) -> dict[str, Any]:
    return profiles_of(events, **settings).row(0, named=True)


def tags_of(events: pl.DataFrame, **settings: Any) -> dict[str, float]:
    return {tag["tag"]: tag["weight"] for tag in profile_of(events, **settings)["interest_tags"]}


def test_counts_recency_and_spend_of_a_small_history() -> None:
    events = events_of(
        {"event_type": "impression", "event_time": AS_OF - timedelta(days=4), "request_id": "r1"},
        {"event_type": "impression", "event_time": AS_OF - timedelta(days=4), "request_id": "r2"},
        {"event_type": "view", "event_time": AS_OF - timedelta(days=4), "request_id": "r1", "price": Decimal(8)},
        {"event_type": "cart", "item_id": "hat", "session_id": "s2"},
        {"event_type": "purchase", "item_id": "hat", "session_id": "s2", "quantity": 3, "price": Decimal("2.50")},
        {"event_type": "purchase", "item_id": "bag", "session_id": "s2", "price": Decimal("4.00")},
        {"event_type": "return", "item_id": "bag", "session_id": "s2", "price": Decimal("4.00")},
    )
    row = profile_of(events)
    assert row["first_event_at"] == AS_OF - timedelta(days=4)
    assert row["last_event_at"] == AS_OF - timedelta(days=2)
    assert (row["recency_days"], row["tenure_days"]) == (2.0, 4.0)
    counted = (
        "num_events",
        "num_sessions",
        "num_active_days",
        "num_views",
        "num_carts",
        "num_purchases",
        "num_returns",
    )
    assert [row[name] for name in counted] == [5, 2, 2, 1, 1, 2, 1]
    assert row["num_items"] == 3
    assert row["spend"] == Decimal("11.5000")  # 3 x 2.50 and one piece at 4.00; the return takes nothing away
    assert row["mean_price"] == pytest.approx(3.25)  # of what was bought, not the 8.00 that was viewed
    assert (row["cart_rate"], row["purchase_rate"], row["click_rate"]) == (1.0, 2.0, 0.5)


def test_rates_without_their_denominator_are_null() -> None:
    row = profile_of(events_of({"event_type": "purchase"}))
    assert (row["cart_rate"], row["purchase_rate"], row["click_rate"], row["mean_price"]) == (None, None, None, None)
    assert row["spend"] == Decimal(0)


def test_mean_price_is_that_of_clicks_where_nothing_was_bought() -> None:
    events = events_of({"price": Decimal(2)}, {"price": Decimal(4)}, {"event_type": "impression", "price": Decimal(90)})
    assert profile_of(events)["mean_price"] == 3.0


def test_money_is_null_where_it_would_take_in_a_price_without_a_rate() -> None:
    bought, viewed = {"event_type": "purchase", "price": Decimal(10)}, {"price": Decimal(3)}
    row = profile_of(events_of(bought, {"event_type": "purchase", "is_unconverted": True}, viewed))
    assert (row["spend"], row["mean_price"], row["num_purchases"]) == (None, None, 2)
    row = profile_of(events_of(bought, {"is_unconverted": True}))  # only viewed
    assert (row["spend"], row["mean_price"]) == (Decimal(10), 10.0)
    row = profile_of(events_of(viewed, {"is_unconverted": True}))
    assert (row["spend"], row["mean_price"]) == (Decimal(0), None)


def test_hours_are_of_actions_whose_clock_tells_them() -> None:
    day = datetime(2026, 3, 1, tzinfo=UTC)
    events = events_of({"event_time": day + timedelta(hours=20)}, {"event_time": day, "has_hour": False})
    assert profile_of(events)["favourite_hour"] == 20
    row = profile_of(events_of({"has_hour": False}))
    assert (row["active_hours"], row["favourite_hour"]) == (None, None)


def test_an_item_clicked_twice_for_one_impression_is_one_click_of_it() -> None:
    events = events_of({"event_type": "impression", "request_id": "r"}, {"request_id": "r"}, {"request_id": "r"})
    assert profile_of(events)["click_rate"] == 1.0


def test_active_hours_are_shares_of_clicks_and_ties_take_the_earlier_hour() -> None:
    day = datetime(2026, 3, 1, tzinfo=UTC)
    events = events_of(
        *({"event_time": day + timedelta(hours=hour)} for hour in (20, 20, 9, 9)),
        {"event_time": day + timedelta(hours=3), "event_type": "impression"},
    )
    row = active_hours(days(events), as_of=AS_OF).row(0, named=True)
    assert len(row["active_hours"]) == 24
    assert {hour: share for hour, share in enumerate(row["active_hours"]) if share} == {9: 0.5, 20: 0.5}
    assert row["favourite_hour"] == 9


def test_a_user_who_never_clicked_has_no_hours_and_no_tags() -> None:
    row = profile_of(events_of({"event_type": "impression", "brand_tag": "brand=Acme"}))
    assert row["num_events"] == 0
    assert (row["favourite_hour"], row["active_hours"], row["interest_tags"], row["favourite_category"]) == (None,) * 4


def test_tags_sum_to_one_and_a_purchase_weighs_more_than_a_cart_than_a_view() -> None:
    events = events_of(
        {"event_type": "view", "brand_tag": "brand=A"},
        {"event_type": "cart", "brand_tag": "brand=B"},
        {"event_type": "purchase", "brand_tag": "brand=C"},
        {"event_type": "return", "brand_tag": "brand=D"},
    )
    tags = tags_of(events)
    assert list(tags) == ["brand=C", "brand=B", "brand=A"]
    assert list(tags.values()) == pytest.approx([1.0 / 1.8, 0.6 / 1.8, 0.2 / 1.8])


def test_a_tag_loses_half_its_weight_with_each_half_life() -> None:
    events = events_of(
        {"brand_tag": "brand=new", "event_time": AS_OF - timedelta(days=10)},
        {"brand_tag": "brand=old", "event_time": AS_OF - timedelta(days=20)},
    )
    tags = tags_of(events, half_life_days=10.0)
    assert tags["brand=new"] / tags["brand=old"] == pytest.approx(2.0)


@pytest.mark.parametrize("days_away", [1, 500, 5000])
def test_tags_of_a_user_who_stays_away_keep_their_shares(days_away: int) -> None:
    last = AS_OF - timedelta(days=days_away)
    events = events_of(
        {"brand_tag": "brand=new", "event_time": last},
        {"brand_tag": "brand=old", "event_time": last - timedelta(days=1)},
    )
    tags = tags_of(events, half_life_days=1.0)
    assert tags == pytest.approx({"brand=new": 2 / 3, "brand=old": 1 / 3})


def test_categories_count_at_each_level_and_the_coarse_one_is_the_favourite() -> None:
    shoes = ["category=Shoes", "category=Shoes/Boots"]
    row = profile_of(events_of({"category_tags": shoes, "brand_tag": "brand=Acme"}))
    assert [tag["tag"] for tag in row["interest_tags"]] == ["brand=Acme", *shoes]
    assert [tag["weight"] for tag in row["interest_tags"]] == pytest.approx([1 / 3] * 3)
    assert row["favourite_category"] == "Shoes"


def test_only_the_heaviest_tags_are_kept_and_still_sum_to_one() -> None:
    events = events_of(*({"brand_tag": f"brand={n}"} for n in (1, 1, 1, 2, 2, 3)))
    tags = interest_tags(days(events), as_of=AS_OF, half_life_days=30.0, max_tags=2)
    assert [tag["tag"] for tag in tags["interest_tags"][0]] == ["brand=1", "brand=2"]
    assert [tag["weight"] for tag in tags["interest_tags"][0]] == pytest.approx([0.6, 0.4])


def test_what_happens_at_as_of_or_later_changes_nothing() -> None:
    past = events_of(
        {"brand_tag": "brand=Acme", "request_id": "r"},
        {"event_type": "impression", "request_id": "r"},
        {"user_key": "bob"},
    )
    future = events_of(
        {"event_time": AS_OF, "event_type": "purchase", "price": Decimal(9), "brand_tag": "brand=Zed"},
        {"event_time": AS_OF + timedelta(days=1), "user_key": "new"},
    )
    assert profiles_of(pl.concat([future, past])).equals(profiles_of(past))


def test_the_order_of_rows_does_not_change_a_profile() -> None:
    events = events_of(
        *(
            {"price": Decimal(n) / 7, "brand_tag": f"brand={n % 3}", "event_time": AS_OF - timedelta(hours=n)}
            for n in range(1, 60)
        )
    )
    shuffled = profiles_of(events.sample(fraction=1.0, shuffle=True, seed=7), half_life_days=3.0)
    assert shuffled.equals(profiles_of(events, half_life_days=3.0))


def test_profiles_have_the_columns_and_types_of_the_contract() -> None:
    arrow = profiles_of(events_of({"brand_tag": "brand=A"})).to_arrow()
    schema = contract("gold/user_profiles").schema
    assert arrow.schema.names == schema.names
    cast = arrow.cast(pa.schema([pa.field(field.name, field.type) for field in schema]))
    assert cast.num_rows == 1
    assert all(cast[field.name].null_count == 0 for field in schema if not field.nullable)


def test_counts_of_no_events_are_no_rows() -> None:
    assert user_counts(days(events_of()), as_of=AS_OF).height == 0
