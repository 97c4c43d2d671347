from datetime import date, timedelta

from lib.cleaning.notices import about_clocks, about_days, about_repeats
from lib.formats.mapping import LogMapping, parse_mapping

OWN = """
name: shop
sources:
  clicks:
    files: "*.csv"
    names: {item_id: item, event_time: ts}
    events: [{type: view}]
"""
JANUARY = {date(2024, 1, 1) + timedelta(days=n): 10 for n in range(31)}
FIRST, LAST = date(2024, 1, 1), date(2024, 1, 31)


def mapping(more: str = "") -> LogMapping:
    return parse_mapping(f"{OWN}    {more}\n", "own.yaml")


def repeats(clock: str = "second", more: str = "", number: int = 3) -> list[str]:
    outcomes = {"accepted": 90, "duplicate": number}
    counts = [{"source": "clicks", "outcome": outcome, "num_records": n} for outcome, n in outcomes.items()]
    return list(about_repeats(counts, mapping(more), {"clicks": clock}))


def test_a_coarse_clock_is_said_with_what_is_not_asked_of_it_and_a_fine_one_is_not() -> None:
    assert list(about_clocks({"clicks": "second"}, mapping())) == []
    assert list(about_clocks({"clicks": "day"}, mapping())) == [
        "the clock of clicks is the day, found from its times (the mapping may say `clock:`): there are no double "
        "clicks, bots or hours of day, and a session is a user's day"
    ]
    assert "as the mapping says" in next(about_clocks({"clicks": "hour"}, mapping("clock: hour")))


def test_strays_are_said_with_their_number_and_days() -> None:
    strays = {date(1970, 1, 1): 2, date(2099, 1, 1): 1}
    assert list(about_days(JANUARY | strays, FIRST, LAST)) == [
        "the log lies between 2024-01-01 and 2024-01-31; far outside it are 3 events, from 1970-01-01 to 2099-01-01: "
        "refused as stray_time, since their clocks are wrong (clean.max_stray_frac=0 keeps them)"
    ]
    assert list(about_days(JANUARY, FIRST, LAST)) == []


def test_a_silence_that_fills_most_of_the_log_is_said_where_its_events_are_too_many_to_be_strays() -> None:
    (line,) = about_days(JANUARY | {date(1970, 1, 1): 100}, date(1970, 1, 1), LAST)
    assert line.startswith("no event lies between 1970-01-01 and 2024-01-01, more than half of the log; 100 of 410")


def test_what_came_twice_is_said_with_the_word_that_would_change_it() -> None:
    (line,) = repeats()
    assert line.startswith("3 records of clicks equal another in every column and count once; one that is sent again")
    (line,) = repeats("day")
    assert "`equal_records_are_separate: true`" in line
    assert repeats(more="record_key: ts") == []
    assert repeats(number=0) == []
