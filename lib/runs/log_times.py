"""The times of a log that everything derived depends on: its start, where validation and test begin, and its end."""

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pyarrow.compute as pc

from lib.formats.mapping import LogMapping
from lib.formats.rules import CLOCKS, Clock
from lib.lake.lake import Lake
from lib.tables.silver import CLOCKS as CLOCKS_PROPERTY

WHOLE_STEPS: dict[Clock | None, timedelta] = {"day": timedelta(days=1), "hour": timedelta(hours=1)}
LEAST_STEPS = 3  # one each for train, valid and test


@dataclass(frozen=True)
class LogTimes:
    """The times of a log in UTC.

    Intervals are `[start, end)`: train before valid_from, valid before test_from, then test.
    """

    start: datetime
    valid_from: datetime
    test_from: datetime
    end: datetime

    @property
    def window(self) -> timedelta:
        """Length of a label window: as long as the test window."""
        return self.end - self.test_from

    def at(self, as_of: datetime) -> "LogTimes":
        """These times as of another moment: its test window begins there, and the valid split before it moves along."""
        valid_from = as_of - (self.test_from - self.valid_from)
        return replace(self, valid_from=valid_from, test_from=as_of, end=min(as_of + self.window, self.end))


def log_times(lake: Lake, mapping: LogMapping, version: int) -> LogTimes:
    """The log's times, from its mapping if given there, else from the statistics of silver/events.

    A log whose clock is the day or the hour is cut at whole days or hours, after its last one too.

    Raises:
        ValueError: the times are not in order within the log.
    """
    files = lake.actions("silver/events", version)
    lows, highs = files["min.event_time"], files["max.event_time"]
    start, last = _utc(pc.min(lows).as_py()), _utc(pc.max(highs).as_py())
    clock = _finest_clock(lake, version)
    valid_from, test_from, end = _cut(start, last, clock, ZoneInfo(mapping.timezone), mapping.times.end)
    times = LogTimes(start, mapping.times.valid_from or valid_from, mapping.times.test_from or test_from, end)
    if not start < times.valid_from < times.test_from < end:
        raise ValueError(
            f"the times {times.valid_from} (valid_from) and {times.test_from} (test_from) do not lie in this order within "
            f"the log ({start} to {end}); correct the mapping's times"
        )
    return times


def _finest_clock(lake: Lake, version: int) -> Clock | None:
    """The finest clock of the log's sources; None where clean has stated none."""
    stated: dict[str, Clock] = json.loads(lake.table_property("silver/events", CLOCKS_PROPERTY, version) or "{}")
    return max(stated.values(), key=list(CLOCKS).index, default=None)


def _cut(
    start: datetime, last: datetime, clock: Clock | None, zone: ZoneInfo, stated_end: datetime | None
) -> tuple[datetime, datetime, datetime]:
    """Where validation and test begin, at 80 % and 90 % of the log, and the log's end."""
    if clock in WHOLE_STEPS:
        step = WHOLE_STEPS[clock]
        end = stated_end or _after(last, 1, step, zone)
        steps = round((end - start) / step)
        if steps >= LEAST_STEPS:
            test = min(steps * 9 // 10, steps - 1)
            valid = min(steps * 8 // 10, test - 1)
            return _after(start, valid, step, zone), _after(start, test, step, zone), end
    # Delta's statistics are cut to milliseconds: the last event is within that millisecond.
    end = stated_end or last.replace(microsecond=last.microsecond // 1000 * 1000) + timedelta(milliseconds=1)
    return _whole_second(start + (end - start) * 0.8), _whole_second(start + (end - start) * 0.9), end


def _after(moment: datetime, number: int, step: timedelta, zone: ZoneInfo) -> datetime:
    """The moment so many steps later: whole days by the zone's calendar, hours by the clock in UTC."""
    place = zone if step >= timedelta(days=1) else UTC
    return (moment.astimezone(place) + number * step).astimezone(UTC)


def resolve_as_of(chosen: str, times: LogTimes) -> datetime:
    """The time that the setting `time.as_of` stands for: one of the log's times by name, or an ISO time."""
    moment: datetime = (
        getattr(times, chosen) if chosen in ("valid_from", "test_from", "end") else datetime.fromisoformat(chosen)
    )
    return moment


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _whole_second(moment: datetime) -> datetime:
    return moment.replace(microsecond=0)
