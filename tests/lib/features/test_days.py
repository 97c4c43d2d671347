"""The rows of days: whatever moments divide them and whatever shares they are made of, what is summed from them is the same."""

import random
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from lib.features.days import DAY, Days, DayShards, days_of, item_days_together, open_sessions_of
from lib.features.item_counts import item_counts, item_users, together
from lib.features.profiles import user_profiles
from lib.features.user_features import user_features
from tests.lib.features.events import AS_OF, TAGS, WEIGHTS, days, events_of, made

KINDS = ("impression", "view", "cart", "favourite", "purchase", "return", "rating")


def some_events(seed: int, number: int = 60) -> pl.DataFrame:
    """Events of three users and of nobody on five days; a session is a user's stretch of hours, over midnight too."""
    draw = random.Random(seed)
    rows = []
    for _ in range(number):
        hours, user = draw.uniform(-120, 0), draw.choice(["ann", "bob", "cid", None])
        price = draw.choice([None, Decimal(draw.randint(1, 999)) / 100])
        rows.append(
            {
                "user_key": user,
                "item_id": draw.choice("xyz"),
                "event_type": draw.choice(KINDS),
                "event_time": AS_OF + timedelta(seconds=round(hours * 3600)),
                "session_id": user and f"{user}{int(hours // 7)}",
                "quantity": draw.choice([None, 1, 3]),
                "price": price,
                "is_unconverted": price is None and draw.random() < 0.05,
                "has_hour": draw.random() < 0.9,
                "request_id": draw.choice([None, "r1", "r2"]),
            }
        )
    return events_of(*rows)


def known_of(made: Days, as_of: datetime) -> list[pl.DataFrame]:
    """All that is summed from days."""
    none = [pl.lit(None, pl.List(pl.String)).alias(TAGS[0]), pl.format("brand={}", "item_id").alias(TAGS[1])]
    tagged = made._replace(user_items=made.user_items.with_columns(none))
    counts = pl.concat([item_counts(made.items, as_of=as_of), item_users(made.user_items, as_of=as_of)])
    return [
        user_profiles(tagged, as_of=as_of, half_life_days=30.0, max_tags=20),
        user_features(tagged, as_of=as_of),
        together(counts).sort("item_id"),
    ]


def assert_same(one: Sequence[pl.DataFrame], other: Sequence[pl.DataFrame]) -> None:
    for frame, again in zip(one, other, strict=True):
        assert_frame_equal(frame, again, rel_tol=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_days_that_moments_divide_tell_what_was_known_at_each(seed: int) -> None:
    events, draw = some_events(seed), random.Random(seed)
    moments = [AS_OF - timedelta(seconds=draw.randint(0, 5 * 86_400)) for _ in range(3)]
    moments += [events["event_time"][seed], AS_OF - DAY]  # the very moment of an event, and a midnight
    divided = made(events, moments=moments)
    for moment in moments:
        past = events.filter(pl.col("event_time") < moment)
        if past["user_key"].drop_nulls().len():
            assert_same(known_of(divided, moment), known_of(made(past), moment))


@pytest.mark.parametrize("seed", range(4))
def test_days_of_each_event_are_the_days_of_all(seed: int) -> None:
    events = some_events(seed)
    assert_same(
        known_of(days(events)._replace(user_items=days(events).user_items.drop(TAGS)), AS_OF),
        known_of(made(events), AS_OF),
    )


def test_items_of_shares_of_users_are_brought_together() -> None:
    events = some_events(1, 300)
    shares = [made(share).items for share in events.partition_by("user_key", include_key=True)]
    whole = item_days_together(made(events).items)
    order = ("item_id", "event_date")
    assert item_days_together(pl.concat(shares)).sort(order).equals(whole.sort(order))
    assert whole.sort(order).equals(made(events).items.select(whole.columns).sort(order))


def test_a_session_over_midnight_counts_on_the_day_on_which_it_begins() -> None:
    night = events_of(
        {"event_time": AS_OF - timedelta(minutes=5)},
        {"event_time": AS_OF + timedelta(minutes=5)},
        {"event_time": AS_OF + DAY},
    )
    counted = made(night).users.sort("event_date").select("event_date", "num_sessions").rows()
    today = AS_OF.date()
    assert counted == [(today - DAY, 1), (today, 0), (today + DAY, 0)]
    later = night.filter(pl.col("event_time") >= AS_OF).drop(TAGS)
    alone = days_of(later, event_weights=WEIGHTS, half_life_days=30.0, open_sessions=open_sessions_of(night))
    assert alone.users.sort("event_date")["num_sessions"].to_list() == [0, 0]


@given(
    st.dictionaries(st.dates(date(2026, 1, 1), date(2026, 2, 1)), st.integers(1, 5_000), min_size=1), st.integers(1, 9)
)
def test_shards_of_days_are_of_about_equal_size_and_a_user_s_day_is_in_one(
    num_events: dict[date, int], num_shards: int
) -> None:
    shards = DayShards.of(num_events, num_shards=num_shards)
    size = -(-sum(num_events.values()) // num_shards)
    held = dict.fromkeys(range(shards.num_shards), 0.0)
    for day, number in num_events.items():
        for shard in range(shards.first[day], shards.first[day] + shards.number[day]):
            held[shard] += number / shards.number[day]
    assert all(0 < number <= size for number in held.values())
    assert shards.num_shards <= 2 * num_shards + 1
    twice = sorted(num_events) * 2
    dates = pl.Series(twice)
    chosen = shards.of_rows(dates, pl.Series(["ann"]).new_from_index(0, len(twice))).to_list()
    assert chosen[: len(num_events)] == chosen[len(num_events) :]
    for shard, day in zip(chosen, twice, strict=True):
        assert shards.first[day] <= shard < shards.first[day] + shards.number[day]
