"""The times of a log that everything derived depends on: its start, where validation and test begin, and its end."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from lib.formats.mapping import LogMapping
from lib.lake.lake import Lake


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

    Raises:
        ValueError: the times are not in order within the log.
    """
    files = pa.table(lake.open("silver/events", version).get_add_actions(flatten=True))
    lows, highs = files["min.event_time"], files["max.event_time"]
    start, last = _utc(pc.min(lows).as_py()), _utc(pc.max(highs).as_py())
    # Delta's statistics are cut to milliseconds: the last event is within that millisecond.
    end = mapping.times.end or last.replace(microsecond=last.microsecond // 1000 * 1000) + timedelta(milliseconds=1)
    test_from = mapping.times.test_from or _whole_second(start + (end - start) * 0.9)
    valid_from = mapping.times.valid_from or _whole_second(start + (end - start) * 0.8)
    times = LogTimes(start, valid_from, test_from, end)
    if not start < valid_from < test_from < end:
        raise ValueError(
            f"the times {valid_from} (valid_from) and {test_from} (test_from) do not lie in this order within the log "
            f"({start} to {end}); correct the mapping's times"
        )
    return times


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
