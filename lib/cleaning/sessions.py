"""Sessions: a user's events without a long gap."""

import hashlib
from datetime import timedelta

import polars as pl

SESSION_ID_DIGITS = 32


def number_sessions(events: pl.DataFrame, *, gap_minutes: int) -> pl.DataFrame:
    """The events of known users, sorted by user, `is_coarse` and time, with `session_id`.

    A gap over `gap_minutes` starts a new session. Where the clock (`clock_seconds`) is not finer than the gap
    (`is_coarse`), a session is one user's events at one moment: a day, or an hour.
    """
    known = events.filter(pl.col("user_key").is_not_null())
    ordered = known.with_columns(is_coarse=pl.col("clock_seconds") >= gap_minutes * 60).sort(
        "user_key", "is_coarse", "event_time", "event_id"
    )
    silence = pl.col("event_time").diff() > pl.when("is_coarse").then(timedelta(0)).otherwise(
        timedelta(minutes=gap_minutes)
    )
    is_first = ordered.select((starts_anew() | silence).fill_null(True)).to_series()
    firsts = ordered.filter(is_first).select(pl.concat_str("user_key", "event_id", separator=" ")).to_series()
    hashes = [hashlib.sha256(first.encode()).hexdigest()[:SESSION_ID_DIGITS] for first in firsts]
    number = is_first.cum_sum().cast(pl.UInt32) - 1
    return ordered.with_columns(
        session_id=pl.Series(hashes, dtype=pl.String)[number] if hashes else pl.lit(None, pl.String)
    )


def starts_anew() -> pl.Expr:
    """Whether a row, as number_sessions sorts them, has no earlier event to be compared with."""
    is_coarse = pl.col("is_coarse")
    return ((pl.col("user_key") != pl.col("user_key").shift()) | (is_coarse != is_coarse.shift())).fill_null(True)
