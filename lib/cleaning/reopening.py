"""What new records open again of what was cleaned before: the days of those users that they touch.

What becomes of a record depends on its user's other records of the day: an equal one has an equal time, a session goes on
while there is no silence, bots are judged by the day. Over midnight only sessions and double clicks reach. So a day of a
user is cleaned again when a new record falls on it; the day after, where the user's session may go on from it; and the day
before, where a double click may lie on midnight. Whatever else a lake holds stays as it is.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple

import polars as pl

PAIR = ("user_key", "event_date")  # a day of a user; or of nobody, whose records of the day are one pair
DAY = timedelta(days=1)
OLD_ROWS: dict[str, Any] = {
    "user_key": pl.String,
    "event_date": pl.Date,
    "event_time": pl.Datetime("us", "UTC"),
    "source": pl.String,
    "source_record": pl.String,  # file and number
    "is_counted": pl.Boolean,  # among the events of its day
}


class Reopened(NamedTuple):
    """What is cleaned again."""

    pairs: pl.DataFrame  # PAIR
    rows: pl.DataFrame  # OLD_ROWS: what was made of the records of these


def reopened(
    touched: pl.DataFrame,
    old_rows: Callable[[pl.DataFrame], pl.DataFrame],
    *,
    session_gap: timedelta,
    double_click: timedelta,
) -> Reopened:
    """The days of users that are cleaned again.

    `touched` are those of new records: PAIR, first_time and last_time of the new. `old_rows` gives what was made before of the records of
    some pairs.
    """
    known = pl.DataFrame(schema=OLD_ROWS)
    seen = pl.DataFrame(schema={"user_key": pl.String, "event_date": pl.Date})
    waiting, done = touched.select(*PAIR, "first_time", "last_time"), seen
    while not waiting.is_empty():
        around = pl.concat([waiting.select("user_key", pl.col("event_date") + days * DAY) for days in (-1, 0, 1)])
        asked = around.unique().join(seen, on=PAIR, how="anti", nulls_equal=True)
        known, seen = pl.concat([known, old_rows(asked)]), pl.concat([seen, asked])
        done = pl.concat([done, waiting.select(PAIR)])
        found = known.group_by(PAIR).agg(first_old=pl.col("event_time").min(), last_old=pl.col("event_time").max())
        further = pl.concat([_days_after(waiting, found, session_gap), _days_before(waiting, found, double_click)])
        waiting = further.unique(PAIR).join(done, on=PAIR, how="anti", nulls_equal=True)
    held = known.select(PAIR).unique()
    pairs = done.unique().join(held, on=PAIR, how="semi", nulls_equal=True)
    return Reopened(pairs, known.join(pairs, on=PAIR, how="semi", nulls_equal=True))


def _days_after(pairs: pl.DataFrame, found: pl.DataFrame, session_gap: timedelta) -> pl.DataFrame:
    """The next days, where a user is seen on both sides of midnight so that a session may go on."""
    known = pairs.filter(pl.col("user_key").is_not_null()).join(found, on=PAIR, how="left")
    last = pl.max_horizontal("last_time", "last_old")
    late = known.filter(last >= midnight() + DAY - session_gap).select("user_key", pl.col("event_date") + DAY)
    held = late.join(found, on=PAIR, how="inner").filter(pl.col("first_old") <= midnight() + session_gap)
    return held.select(*PAIR, first_time="first_old", last_time="last_old")


def _days_before(pairs: pl.DataFrame, found: pl.DataFrame, double_click: timedelta) -> pl.DataFrame:
    """The days before, where a user is seen on both sides of midnight within a double click."""
    known = pairs.filter(pl.col("user_key").is_not_null()).join(found, on=PAIR, how="left")
    first = pl.min_horizontal("first_time", "first_old")
    early = known.filter(first <= midnight() + double_click).select("user_key", pl.col("event_date") - DAY)
    held = early.join(found, on=PAIR, how="inner")
    late = held.filter(pl.col("last_old") >= midnight() + DAY - double_click)
    return late.select(*PAIR, first_time="first_old", last_time="last_old")


def midnight() -> pl.Expr:
    """The begin of a row's day."""
    return pl.col("event_date").cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
