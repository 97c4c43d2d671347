"""Sessions: a user's events without a long gap."""

import hashlib
from datetime import timedelta

import polars as pl

SESSION_ID_DIGITS = 32


def number_sessions(events: pl.DataFrame, *, gap_minutes: int) -> pl.DataFrame:
    """The events of known users, sorted by user and time, with `session_id`.

    A gap over `gap_minutes` starts a new session.
    """
    ordered = events.filter(pl.col("user_key").is_not_null()).sort("user_key", "event_time", "event_id")
    new_user = pl.col("user_key") != pl.col("user_key").shift()
    silence = pl.col("event_time").diff() > timedelta(minutes=gap_minutes)
    is_first = ordered.select((new_user | silence).fill_null(True)).to_series()
    firsts = ordered.filter(is_first).select(pl.concat_str("user_key", "event_id", separator=" ")).to_series()
    hashes = [hashlib.sha256(first.encode()).hexdigest()[:SESSION_ID_DIGITS] for first in firsts]
    number = is_first.cum_sum().cast(pl.UInt32) - 1
    return ordered.with_columns(
        session_id=pl.Series(hashes, dtype=pl.String)[number] if hashes else pl.lit(None, pl.String)
    )
