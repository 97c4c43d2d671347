"""Wrong clocks of devices: a time that one states is moved by what its clock is off, where that shows.

A device stamps an event, and later, by the same clock, the record's sending; the server stamps its arrival. Between sending
and arrival lies a moment, so a greater difference is the clock's: minutes, or whole hours where the zone is wrong. Between
event and sending may lie hours without a network, which say nothing of the clock. (Snowplow's derived timestamp.)
"""

from collections.abc import Callable
from datetime import timedelta

import polars as pl

from lib.formats.mapping import Source
from lib.formats.times import parse_time

SENT, RECEIVED, AHEAD = "(sent)", "(received)", "(ahead)"


def clock_columns(source: Source) -> dict[str, str]:
    """The columns that show a device's clock: ours -> the source's; none where the mapping names none."""
    clock = source.device_clock
    return {SENT: clock.sent, RECEIVED: clock.received} if clock else {}


def clock_texts(source: Source, column: Callable[[str], pl.Expr]) -> list[pl.Expr]:
    """The texts of these columns; `column` gives that of a source column."""
    return [column(name).alias(own) for own, name in clock_columns(source).items()]


def time_ahead(source: Source, timezone: str) -> pl.Expr:
    """How far the clock of each record's device is ahead; null where it is right, as far as it shows.

    The columns of `clock_texts` are needed.
    """
    if source.device_clock is None:
        return pl.lit(None, pl.Duration("us"))
    sent, received = (parse_time(pl.col(name), source.time_format, timezone) for name in (SENT, RECEIVED))
    ahead = sent - received
    return pl.when(ahead.abs() > timedelta(seconds=source.device_clock.tolerance_seconds)).then(ahead)
