"""The times of a log: 80 % and 90 % of its span, whole days where its clock is the day."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lib.formats.mapping import parse_mapping
from lib.lake.lake import Lake
from lib.lake.writes import commit_files, conform, write_files
from lib.runs.log_times import LogTimes, log_times
from lib.tables import contract
from lib.tables.silver import CLOCKS
from tests.lakes import EVENT, arrow_rows

START = datetime(2024, 1, 1, tzinfo=UTC)
OWN = """
name: shop
timezone: {timezone}
sources:
  lines:
    files: "*.csv"
    names: {{item_id: item, event_time: ts}}
    events: [{{type: purchase}}]
"""


def times_of(folder: Path, *moments: datetime, clocks: dict[str, str], timezone: str = "UTC") -> LogTimes:
    lake, events = Lake(str(folder / "lake")), contract("silver/events")
    rows = [
        EVENT | {"event_id": str(n), "event_time": moment, "event_date": moment.date()}
        for n, moment in enumerate(moments)
    ]
    files = write_files(lake, events, [conform(events, arrow_rows(events, *rows))])
    version = commit_files(lake, events, files, transaction="test", number=1, properties={CLOCKS: json.dumps(clocks)})
    return log_times(lake, parse_mapping(OWN.format(timezone=timezone), "own.yaml"), version)


def days(*numbers: float) -> list[datetime]:
    return [START + timedelta(days=number) for number in numbers]


@pytest.mark.parametrize("clocks", [{}, {"lines": "minute"}, {"lines": "second", "orders": "day"}])
def test_a_log_is_cut_at_shares_of_the_span_of_its_events(tmp_path: Path, clocks: dict[str, str]) -> None:
    times = times_of(tmp_path, *days(0, 50, 100), clocks=clocks)
    assert times == LogTimes(START, *days(80, 90), START + timedelta(days=100, milliseconds=1))


@pytest.mark.parametrize(
    ("last", "cuts"),
    [(44, (36, 40, 45)), (9, (8, 9, 10)), (2, (1, 2, 3)), (4, (3, 4, 5))],
)
def test_a_log_stamped_by_the_day_is_cut_at_whole_days_and_ends_with_its_last(
    tmp_path: Path, last: int, cuts: tuple[int, int, int]
) -> None:
    assert times_of(tmp_path, *days(0, last), clocks={"lines": "day"}) == LogTimes(START, *days(*cuts))


def test_a_log_stamped_by_the_hour_is_cut_at_whole_hours(tmp_path: Path) -> None:
    times = times_of(tmp_path, *days(0, 23 / 24), clocks={"lines": "hour"})
    assert times == LogTimes(START, *days(19 / 24, 21 / 24, 1))


def test_days_are_those_of_the_mappings_zone(tmp_path: Path) -> None:
    first, last = datetime(2024, 3, 2, 23, tzinfo=UTC), datetime(2024, 4, 10, 22, tzinfo=UTC)  # 3 March, 11 April
    times = times_of(tmp_path, first, last, clocks={"lines": "day"}, timezone="Europe/Berlin")
    assert times.test_from == datetime(2024, 4, 7, 22, tzinfo=UTC)  # the 36th of 40 days, in summer time
    assert times.end == datetime(2024, 4, 11, 22, tzinfo=UTC)
