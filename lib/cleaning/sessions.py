"""Sessions: a user's events without a long gap."""

import hashlib
from datetime import timedelta

import polars as pl

SESSION_ID_DIGITS = 32


def number_sessions(events: pl.DataFrame, *, gap_minutes: int, last_events: pl.DataFrame | None = None) -> pl.DataFrame:
    """The events of known users, sorted by user, `is_coarse` and time, with `session_id`.

    `last_events`, with the `session_id` that they have, are events that came before and are not among `events`: a session
    goes on from them. They are among the result, as `is_earlier`.

    A gap over `gap_minutes` starts a new session. Where the clock (`clock_seconds`) is not finer than the gap
    (`is_coarse`), a session is one user's events at one moment: a day, or an hour.
    """
    known = events.filter(pl.col("user_key").is_not_null()).with_columns(is_earlier=pl.lit(False))
    if last_events is not None:
        earlier = last_events.rename({"session_id": "earlier_session"}).with_columns(is_earlier=pl.lit(True))
        known = pl.concat([known, earlier], how="diagonal")
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
    numbered = ordered.with_columns(
        session_id=pl.Series(hashes, dtype=pl.String)[number] if hashes else pl.lit(None, pl.String)
    )
    if last_events is None:
        return numbered
    # A session that begins with an earlier event has the name that this has.
    went_on = numbered.filter(pl.Series(is_first) & pl.col("is_earlier"))
    names = went_on.select("session_id", "earlier_session")
    return (
        numbered.drop("earlier_session")
        .join(names, on="session_id", how="left", maintain_order="left")
        .with_columns(session_id=pl.coalesce("earlier_session", "session_id"))
        .drop("earlier_session")
    )


def starts_anew() -> pl.Expr:
    """Whether a row, as number_sessions sorts them, has no earlier event to be compared with."""
    is_coarse = pl.col("is_coarse")
    return ((pl.col("user_key") != pl.col("user_key").shift()) | (is_coarse != is_coarse.shift())).fill_null(True)
