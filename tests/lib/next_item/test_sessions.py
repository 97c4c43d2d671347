"""gold/sessions: visits from events, and which days are made anew."""

import hashlib
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.next_item.sessions import days_that_begin_visits, days_to_read, visits_of

START = datetime(2026, 3, 1, tzinfo=UTC)
VALID_FROM, TEST_FROM = START + timedelta(days=1), START + timedelta(days=2)
TIME = pl.Datetime("us", "UTC")


def events(*rows: tuple[str, str, float, str]) -> pl.DataFrame:
    """Events of a session and item, so many hours after START, from a place in the log."""
    return pl.DataFrame(
        [
            {
                "event_id": f"e{number}",
                "session_id": session,
                "user_key": f"user of {session}",
                "item_id": item,
                "event_type": "view",
                "event_time": START + timedelta(hours=hours),
                "source_record": place,
            }
            for number, (session, item, hours, place) in enumerate(rows)
        ],
        schema_overrides={"event_time": TIME},
    )


def test_a_visit_holds_its_events_in_order_and_those_of_one_moment_as_the_log_has_them() -> None:
    (visit,) = visits_of(
        events(
            ("s", "late", 2, "lines/1.csv:1"),
            ("s", "tenth", 1, "lines/1.csv:10"),
            ("s", "ninth", 1, "lines/1.csv:9"),
            ("s", "earlier file", 1, "lines/0.csv:11"),
        ),
        valid_from=VALID_FROM,
        test_from=TEST_FROM,
    ).to_dicts()
    assert visit["items"] == ["earlier file", "ninth", "tenth", "late"]
    assert visit["event_times"] == [START + timedelta(hours=hours) for hours in (1, 1, 1, 2)]
    assert (visit["started_at"], visit["ended_at"]) == (START + timedelta(hours=1), START + timedelta(hours=2))
    assert (visit["num_events"], visit["user_key"], visit["event_types"]) == (4, "user of s", ["view"] * 4)


def test_a_visit_is_of_the_split_and_the_day_of_its_first_event() -> None:
    visits = visits_of(
        events(("a", "x", 23.9, "l/0:1"), ("a", "y", 24.1, "l/0:2"), ("b", "x", 24, "l/0:3"), ("c", "x", 48, "l/0:4")),
        valid_from=VALID_FROM,
        test_from=TEST_FROM,
    )
    assert visits.select("session_id", "split", "event_date").rows() == [
        ("a", "train", date(2026, 3, 1)),
        ("b", "valid", date(2026, 3, 2)),
        ("c", "test", date(2026, 3, 3)),
    ]


def silver(moments: list[tuple[int, int]], *, gap_hours: int) -> pl.DataFrame:
    """Events of some users at some hours, with the sessions that clean would give them."""
    rows, opened = [], dict[int, tuple[int, str]]()
    for user, hour in sorted(set(moments)):
        before, session = opened.get(user, (-(10**6), ""))
        if hour - before > gap_hours:
            session = hashlib.sha256(f"{user} {hour}".encode()).hexdigest()
        opened[user] = (hour, session)
        rows.append((session, f"{user} {hour}", float(hour), "l/0:1"))
    return events(*rows).with_columns(event_date=pl.col("event_time").dt.date(), event_id=pl.col("item_id"))


def whole(stored: pl.DataFrame) -> pl.DataFrame:
    return visits_of(stored.drop("event_date"), valid_from=VALID_FROM, test_from=TEST_FROM).sort("session_id")


MOMENTS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 24 * 8 - 1)), min_size=1, max_size=40)


@settings(max_examples=200, deadline=None)
@given(MOMENTS, MOMENTS, MOMENTS, st.sampled_from([1, 5, 24]))
def test_making_some_days_anew_gives_what_making_all_days_gives(
    kept: list[tuple[int, int]], gone: list[tuple[int, int]], added: list[tuple[int, int]], gap_hours: int
) -> None:
    old, new = silver(kept + gone, gap_hours=gap_hours), silver(kept + added, gap_hours=gap_hours)
    key = ["event_date", "event_id", "session_id"]
    changed = {*old.join(new, on=key, how="anti")["event_date"], *new.join(old, on=key, how="anti")["event_date"]}
    before = whole(old)
    last = dict(before.group_by("event_date").agg(pl.col("ended_at").max().dt.date()).rows())
    made = days_that_begin_visits(changed, last)
    read = days_to_read(made, last, set(new["event_date"]))
    part = new.filter(pl.col("event_date").is_in(list(read)))
    anew = before.filter(~pl.col("event_date").is_in(list(made)))
    if part.height:
        found = whole(part)
        anew = pl.concat([anew, found.filter(pl.col("event_date").is_in(list(made)))])
    assert anew.sort("session_id").equals(whole(new))


def test_a_day_without_visits_over_midnight_costs_that_day_and_its_neighbours() -> None:
    days = [date(2026, 3, number) for number in range(1, 20)]
    last = {day: day for day in days}
    made = days_that_begin_visits({days[10]}, last)
    assert made == {days[9], days[10]}
    assert days_to_read(made, last, days) == {*days[8:12]}


@pytest.mark.parametrize("changed", [set(), {date(2026, 3, 5)}])
def test_a_table_without_visits_holds_none_that_could_go_on(changed: set[date]) -> None:
    assert days_that_begin_visits(changed, {}) == changed
