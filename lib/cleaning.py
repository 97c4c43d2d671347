"""What is local to users: outcomes, duplicates, double clicks, sessions, bots. Polars over a shard of whole users.

One sort, then comparison with the row before; no window a user. Nothing depends on the order of the rows or on how users and
files are split over shards, so that a shard may be cleaned anew when only its users have new records.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

import numpy as np
import polars as pl

from lib.formats.mapping import ITEM_FIELDS, LogMapping
from lib.pseudonyms import pseudonyms
from lib.records import NUMBER, ORIGIN, raw_json, type_events, type_items
from lib.tables.silver import EVENTS

# What becomes of an event; of a record of several, the first of these that one of them has. A bad value names its column.
OUTCOMES = ("accepted", "malformed", "bad_value", "duplicate", "not_a_product", "double_click")
DESCRIPTION = (*ITEM_FIELDS, "price", "currency")  # what a record may say of its item
SESSION_ID_DIGITS = 32
REASON = "(reason)"


@dataclass(frozen=True)
class CleaningRules:
    """The fixed thresholds by which records are told apart; the settings of jobs/spark/clean.py say what each means."""

    double_click_seconds: float
    session_gap_minutes: int
    bot_actions_per_day: int
    bot_actions_per_hour: int
    bot_regular_actions: int
    bot_gap_variation: float


class CleanShard(NamedTuple):
    """What the records of a shard became."""

    events: pl.DataFrame | None  # the columns of silver/events; none of items
    rejects: pl.DataFrame  # the columns of bronze/rejects but stage
    counts: pl.DataFrame  # source, outcome, num_records, num_events
    items: pl.DataFrame  # item_id, DESCRIPTION, and what makes one later than another: event_time, then described_by


def clean_events(
    records: Mapping[str, pl.DataFrame], mapping: LogMapping, rules: CleaningRules, key: bytes
) -> CleanShard:
    """Clean records by their sources of events: whole users, and all equal records of no user."""
    numbered = _numbered(records)
    typed = pl.concat([type_events(frame, source, mapping) for source, frame in numbered.items()])
    events = decide_outcomes(
        typed.with_columns(user_key=pseudonyms(typed["user_id"], key)), double_click_seconds=rules.double_click_seconds
    )
    accepted = events.filter(pl.col("outcome") == "accepted")
    known = number_sessions(accepted, gap_minutes=rules.session_gap_minutes)
    silver = pl.concat([flag_bots(known, rules), accepted.filter(pl.col("user_key").is_null())], how="diagonal")
    return CleanShard(
        _as_silver(silver),
        *_rejects_and_counts(numbered, events),
        _latest(accepted.rename({"event_id": "described_by"})),
    )


def clean_items(records: Mapping[str, pl.DataFrame], mapping: LogMapping) -> CleanShard:
    """Clean records by their sources of items: all records of an item."""
    numbered = _numbered(records)
    typed = pl.concat([type_items(frame, source, mapping) for source, frame in numbered.items()])
    is_fit, is_repeat = pl.col("refusal").is_null(), repeats(typed, "record_id")
    items = typed.with_columns(
        outcome=pl.when(is_fit & is_repeat)
        .then(pl.lit("duplicate"))
        .when(is_fit)
        .then(pl.lit("accepted"))
        .otherwise("refusal"),
        described_by=pl.format("{}:{}", "source_file", pl.col("record_number").cast(pl.String).str.zfill(20)),
    )
    return CleanShard(
        None, *_rejects_and_counts(numbered, items), _latest(items.filter(pl.col("outcome") == "accepted"))
    )


def decide_outcomes(events: pl.DataFrame, *, double_click_seconds: float) -> pl.DataFrame:
    """Add `outcome`: the first of malformed, bad_value:<column>, duplicate, not_a_product, double_click that holds, or accepted."""
    is_bad, is_repeat = pl.col("refusal").is_not_null(), repeats(events, "event_id")
    decided = events.with_columns(
        outcome=pl.when(is_bad)
        .then("refusal")
        .when(is_repeat)
        .then(pl.lit("duplicate"))
        .when(~pl.col("is_product"))
        .then(pl.lit("not_a_product"))
        .otherwise(pl.lit("accepted"))
    )
    return decided.with_columns(
        outcome=pl.when(double_clicks(decided, seconds=double_click_seconds))
        .then(pl.lit("double_click"))
        .otherwise("outcome")
    )


def repeats(rows: pl.DataFrame, id_column: str) -> pl.Series:
    """Whether a row has the id of a row that stands before it by source, file and record number; no id repeats none."""
    has_twin = pl.col(id_column).is_not_null() & pl.col(id_column).is_duplicated()
    twins = rows.select(pl.row_index("row"), id_column, *ORIGIN).filter(has_twin).sort(*ORIGIN)
    return _are_in(rows, twins.filter(~pl.col(id_column).is_first_distinct())["row"])


def double_clicks(events: pl.DataFrame, *, seconds: float) -> pl.Series:
    """Whether an accepted view is by a known user who viewed the same item at most `seconds` before."""
    is_view = (pl.col("outcome") == "accepted") & (pl.col("event_type") == "view") & pl.col("user_key").is_not_null()
    views = events.select(
        pl.row_index("row"), "user_key", "item_id", "event_time", "event_id", is_view.alias("is_view")
    )
    ordered = views.filter("is_view").sort("user_key", "item_id", "event_time", "event_id")
    same = (pl.col("user_key") == pl.col("user_key").shift()) & (pl.col("item_id") == pl.col("item_id").shift())
    is_soon = pl.col("event_time").diff() <= timedelta(seconds=seconds)
    return _are_in(events, ordered.filter(same & is_soon)["row"])


def number_sessions(events: pl.DataFrame, *, gap_minutes: int) -> pl.DataFrame:
    """The events of known users by user and time, with the session each belongs to: one without a gap over `gap_minutes`."""
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


def flag_bots(events: pl.DataFrame, rules: CleaningRules) -> pl.DataFrame:
    """Add is_bot and bot_reason to events by user and time: what one user did on one UTC day against fixed thresholds.

    Events of one moment are one action (an order of many lines is no haste). Actions are regular when the gaps between
    them, within a session, hardly differ: their standard deviation is a small part of their mean.
    """
    new_user = (pl.col("user_key") != pl.col("user_key").shift()).fill_null(True)
    gap = pl.when(~new_user).then(pl.col("event_time").diff().dt.total_microseconds() / 1e6)
    is_short = pl.col("gap").is_between(0, rules.session_gap_minutes * 60, closed="right")
    short_gaps = pl.col("gap").filter(is_short)
    time, day = pl.col("event_time"), pl.col("event_time").dt.date()
    hours = (
        events.select("user_key", event_date=day, hour=time.dt.hour(), gap=gap)
        .group_by("user_key", "event_date", "hour")
        .agg(
            num_actions=(pl.col("gap").is_null() | (pl.col("gap") > 0)).sum(),
            num_gaps=is_short.sum(),
            sum_gaps=short_gaps.sum(),
            sum_squares=(short_gaps**2).sum(),
        )
    )
    totals = pl.col("num_gaps", "sum_gaps", "sum_squares").sum()
    days = hours.group_by("user_key", "event_date").agg(
        totals, in_day=pl.col("num_actions").sum(), in_hour=pl.col("num_actions").max()
    )
    mean = pl.col("sum_gaps") / pl.col("num_gaps")
    variance = pl.col("sum_squares") / pl.col("num_gaps") - mean**2
    is_regular = (pl.col("num_gaps") >= rules.bot_regular_actions) & (variance <= (rules.bot_gap_variation * mean) ** 2)
    bots = days.select(
        "user_key",
        "event_date",
        bot_reason=pl.when(pl.col("in_day") > rules.bot_actions_per_day)
        .then(pl.lit(f"more than {rules.bot_actions_per_day} actions a day"))
        .when(pl.col("in_hour") > rules.bot_actions_per_hour)
        .then(pl.lit(f"more than {rules.bot_actions_per_hour} actions an hour"))
        .when(is_regular)
        .then(pl.lit("regular gaps between actions")),
    ).filter(pl.col("bot_reason").is_not_null())
    dated = events.with_columns(event_date=day)
    flagged = dated.join(bots, on=["user_key", "event_date"], how="left", maintain_order="left")
    return flagged.with_columns(is_bot=pl.col("bot_reason").is_not_null())


def _latest(described: pl.DataFrame) -> pl.DataFrame:
    """Of rows that describe items, those that are the latest of their item with some field of DESCRIPTION, or at all."""
    ordered = described.select("item_id", "event_time", "described_by", *DESCRIPTION).sort("event_time", "described_by")
    rows = ordered.with_row_index("row")
    last = [
        rows.filter(pl.col(field).is_not_null()).select("item_id", "row").unique("item_id", keep="last")["row"]
        for field in ("item_id", *DESCRIPTION)
    ]
    return ordered[pl.concat(last).unique().sort()]


def _rejects_and_counts(
    records: Mapping[str, pl.DataFrame], decided: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The records none of whose rows was accepted, each with its outcome as the reason; and how many had which outcome."""
    order = (
        pl.col("outcome")
        .str.extract("^([a-z_]+)")
        .replace_strict(OUTCOMES, range(len(OUTCOMES)), return_dtype=pl.UInt8)
    )
    by_record = decided.select("record", "source", "outcome", order=order)
    if not by_record["record"].is_unique().all():
        by_record = by_record.sort("order", "outcome").unique("record", keep="first")
    rejected = by_record.filter(pl.col("order") > 0)
    rejects = pl.concat([_rejects(frame, source, rejected) for source, frame in records.items()])
    num_events = decided.group_by("source", "outcome").agg(num_events=pl.len().cast(pl.Int64))
    num_records = by_record.group_by("source", "outcome").agg(num_records=pl.len().cast(pl.Int64))
    counts = num_events.join(num_records, on=["source", "outcome"], how="left").fill_null(0)
    return rejects, counts.select("source", "outcome", "num_records", "num_events")


def _rejects(frame: pl.DataFrame, source: str, rejected: pl.DataFrame) -> pl.DataFrame:
    reasons = rejected.filter(pl.col("source") == source).select(
        pl.col("record").alias(NUMBER), pl.col("outcome").alias(REASON)
    )
    records = frame.join(reasons, on=NUMBER, how="inner")
    return records.select(
        pl.lit(source).alias("source"),
        "source_file",
        pl.format("{}:{}", "source_file", "record_number").alias("source_record"),
        pl.col(REASON).alias("reason"),
        raw_json(records),
        "batch_id",
        "arrived_at",
    )


def _as_silver(events: pl.DataFrame) -> pl.DataFrame:
    """Events with the columns of silver/events."""
    return events.with_columns(
        pl.col("event_time").dt.date().alias("event_date"),
        pl.col("position").cast(pl.Int32),
        pl.col("is_bot").fill_null(False),
        pl.format("{}/{}:{}", "source", "source_file", "record_number").alias("source_record"),
    ).select(column.name for column in EVENTS.columns)


def _are_in(frame: pl.DataFrame, rows: pl.Series) -> pl.Series:
    """A flag for each row of the frame: whether its place is among `rows`."""
    flags = np.zeros(frame.height, dtype=bool)
    flags[rows.to_numpy()] = True
    return pl.Series(flags)


def _numbered(records: Mapping[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """The frames with a number for each record of the shard."""
    numbered, first = {}, 0
    for source, frame in records.items():
        numbered[source] = frame.with_row_index(NUMBER, offset=first)
        first += frame.height
    return numbered
