"""What must be known of the whole log before its shards are cleaned: each source's clock, and the days that it covers.

A clock is the resolution of a source's times; what is finer than the clock is not asked of it. The days that a log
covers leave out what a few wrong clocks put far outside them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from itertools import accumulate, pairwise

import polars as pl

from lib.formats.rules import CLOCKS, Clock

LEAST_ON_CLOCK = 0.99  # of a source's times, whose clock it then is: a stray time does not make a clock finer
# Strays are this part of the share that is allowed, beyond a silence of so many days and of this part of the body.
FAR_AND_NEAR = ((1.0, 30, 1.0), (0.2, 3, 0.1))


@dataclass(frozen=True)
class WholeLog:
    """What the cleaning of a shard knows of the whole log."""

    clocks: Mapping[str, Clock] = field(default_factory=dict)  # by source; a source without one has the finest
    first_day: date | None = None  # UTC; events before it are strays
    last_day: date | None = None  # UTC; events after it are strays
    erased: frozenset[str] = frozenset()  # digests of the people who asked to be forgotten (lib/cleaning/erasures.py)

    def clock_seconds(self, source: pl.Expr) -> pl.Expr:
        """The resolution, in seconds, of the clock of each event's source."""
        seconds = {name: CLOCKS[clock] for name, clock in self.clocks.items()}
        return source.replace_strict(seconds, default=0.0, return_dtype=pl.Float64) if seconds else pl.lit(0.0)

    def is_stray(self, time: pl.Expr) -> pl.Expr:
        """Whether a time lies outside the days that the log covers."""
        day, is_stray = time.dt.date(), pl.lit(False)
        if self.first_day is not None:
            is_stray |= day < self.first_day
        if self.last_day is not None:
            is_stray |= day > self.last_day
        return is_stray


def coarsest_clocks(times: pl.Series, timezone: str) -> dict[Clock, int]:
    """How many of the times, which are in UTC, lie on each clock and on none coarser.

    A day or an hour begins in `timezone` or in UTC.
    """
    moments = pl.DataFrame({"utc": times.drop_nulls()})
    moments = moments.with_columns(local=pl.col("utc").dt.convert_time_zone(timezone).dt.replace_time_zone(None))
    number = pl.lit(len(CLOCKS) - 1)
    for place, seconds in reversed([*enumerate(CLOCKS.values())]):
        microseconds = round(seconds * 1e6)
        is_whole = (pl.col("utc", "local").dt.epoch("us") % microseconds == 0).name.keep()
        number = pl.when(pl.any_horizontal(is_whole)).then(place).otherwise(number)
    found = moments.select(number.alias("clock"))["clock"].value_counts()
    names: list[Clock] = list(CLOCKS)
    return {names[place]: count for place, count in found.rows()}


def clock_of(counts: Mapping[Clock, int]) -> Clock | None:
    """The coarsest clock on which at least 99 % of a source's times lie; None without times."""
    total, on_clock = sum(counts.values()), 0
    for clock in CLOCKS:
        on_clock += counts.get(clock, 0)
        if total and on_clock >= LEAST_ON_CLOCK * total:
            return clock
    return None


def days_covered(events_by_day: Mapping[date, int], *, max_stray_frac: float) -> tuple[date, date]:
    """The first and the last day of the log's body. The days outside it hold strays.

    Strays lie beyond a silence that is longer than 30 days and the body itself, and are at most `max_stray_frac` of all
    events on either side; or beyond one longer than three days and a tenth of the body, and a fifth of that share.
    """
    days = sorted(events_by_day)
    num_events = sum(events_by_day.values())
    for share, least_days, of_body in FAR_AND_NEAR:
        most = max_stray_frac * share * num_events
        first = _place_after(days, events_by_day, most)
        last = len(days) - 1 - _place_after(days[::-1], events_by_day, most)
        silence = timedelta(days=max(least_days, of_body * ((days[last] - days[first]).days + 1)) + 1)
        while first > 0 and days[first] - days[first - 1] <= silence:
            first -= 1
        while last < len(days) - 1 and days[last + 1] - days[last] <= silence:
            last += 1
        days = days[first : last + 1]
    return days[0], days[-1]


def longest_silence(events_by_day: Mapping[date, int]) -> tuple[date, date]:
    """The days with events around the longest silence; the same day twice where there is one day."""
    days = sorted(events_by_day)
    return max(pairwise(days), key=lambda pair: pair[1] - pair[0], default=(days[0], days[0]))


def _place_after(days: Sequence[date], events_by_day: Mapping[date, int], most: float) -> int:
    """The place of the first day by whose end more than `most` events have passed."""
    passed = accumulate(events_by_day[day] for day in days)
    return next(place for place, number in enumerate(passed) if number > most)
