from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest

from lib.cleaning.whole_log import WholeLog, clock_of, coarsest_clocks, days_covered, longest_silence
from lib.formats.times import TIME

FIRST = date(2024, 1, 1)


def days(number: int, each: int, **strays: int) -> dict[date, int]:
    """`each` events on each of `number` days from FIRST on, and others at days given as d2099_01_01=1."""
    body = {FIRST + timedelta(days=place): each for place in range(number)}
    return body | {date(*map(int, name[1:].split("_"))): count for name, count in strays.items()}


def times(*texts: str) -> pl.Series:
    return pl.Series([datetime.fromisoformat(text).astimezone(UTC) for text in texts], dtype=TIME)


def test_each_time_lies_on_the_coarsest_clock_that_shows_it() -> None:
    of = times("2024-01-01T00:00Z", "2024-01-01T10:00Z", "2024-01-01T10:05Z", "2024-01-01T10:05:03Z")
    finer = times("2024-01-01T10:05:03.001Z", "2024-01-01T10:05:03.000001Z", "2024-01-01T10:05:03.5Z")
    assert coarsest_clocks(of.extend(finer), "UTC") == {
        **{"day": 1, "hour": 1, "minute": 1, "second": 1, "millisecond": 2, "microsecond": 1}
    }


def test_a_day_begins_in_the_mappings_zone_or_in_utc() -> None:
    winter_summer_utc = times("2024-01-01T00:00+01:00", "2024-07-01T00:00+02:00", "2024-07-01T00:00Z")
    assert coarsest_clocks(winter_summer_utc, "Europe/Berlin") == {"day": 3}
    assert coarsest_clocks(times("2024-01-01T18:30Z"), "Asia/Kolkata") == {"day": 1}


def test_a_stray_time_does_not_make_a_clock_finer_and_two_in_a_hundred_do() -> None:
    assert clock_of({"day": 99, "second": 1}) == "day"
    assert clock_of({"day": 98, "second": 2}) == "second"
    assert clock_of({"day": 50, "hour": 20, "minute": 30}) == "minute"
    assert clock_of({"microsecond": 1}) == "microsecond"
    assert clock_of({}) is None


@pytest.mark.parametrize(
    ("log", "covered"),
    [
        (days(45, 40, d2099_01_01=1, d1970_01_01=1), (FIRST, date(2024, 2, 14))),
        (days(45, 2, d2099_01_01=2, d2060_05_05=1, d2001_01_01=1), (FIRST, date(2024, 2, 14))),
        (days(45, 40, d1970_01_01=90), (FIRST, date(2024, 2, 14))),  # 5 % of what there is
        (days(45, 40, d1970_01_01=200), (date(1970, 1, 1), date(2024, 2, 14))),  # 10 % are more than some clocks
        (days(45, 40, d2024_02_20=1), (FIRST, date(2024, 2, 14))),  # five silent days after 45
        (days(45, 40, d2024_02_19=1), (FIRST, date(2024, 2, 19))),  # four: less than a tenth
        (days(45, 40, d2024_02_20=30), (FIRST, date(2024, 2, 20))),  # 1.6 % so near are the shop's
        (days(45, 40, d2024_04_30=30), (FIRST, date(2024, 2, 14))),  # 1.6 % beyond 75 silent days are not
        (days(3, 20, d2024_01_12=1), (FIRST, date(2024, 1, 12))),  # of 61 events one is more than 1 %
        (days(1, 1), (FIRST, FIRST)),
        (days(1, 1, d2099_01_01=1), (FIRST, date(2099, 1, 1))),  # two events: who knows which
    ],
)
def test_strays_are_few_events_beyond_a_long_silence(log: dict[date, int], covered: tuple[date, date]) -> None:
    assert days_covered(log, max_stray_frac=0.05) == covered


def test_no_event_is_a_stray_where_none_may_be() -> None:
    assert days_covered(days(45, 40, d2099_01_01=1), max_stray_frac=0) == (FIRST, date(2099, 1, 1))


def test_the_longest_silence_lies_between_two_days() -> None:
    assert longest_silence(days(3, 1, d2024_01_09=1, d2024_01_10=1)) == (date(2024, 1, 3), date(2024, 1, 9))
    assert longest_silence(days(1, 1)) == (FIRST, FIRST)


def test_a_time_is_stray_outside_the_days_that_the_log_covers() -> None:
    log = WholeLog(first_day=FIRST, last_day=date(2024, 1, 2))
    frame = pl.DataFrame(
        {"t": times("2023-12-31T23:59Z", "2024-01-01T00:00Z", "2024-01-02T23:59Z", "2024-01-03T00:00Z")}
    )
    assert frame.select(log.is_stray(pl.col("t"))).to_series().to_list() == [True, False, False, True]
    assert frame.select(WholeLog().is_stray(pl.col("t"))).to_series().any() is False
