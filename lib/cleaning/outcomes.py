"""Decides the outcome of each record: accepted, or why not."""

from collections.abc import Mapping
from datetime import timedelta
from typing import NamedTuple

import numpy as np
import polars as pl

from lib.cleaning.fields import NUMBER, ORIGIN, raw_json
from lib.cleaning.whole_log import WholeLog
from lib.tables.bronze import ERASED, IGNORED, LATE, NO_DAY, UNSHOWN

# Outcomes of an event. A record with several events has the first of these that any of its events has. In the data,
# bad_value is followed by its column.
OUTCOMES = (
    *("accepted", "malformed", "bad_value", "superseded", "duplicate", "not_a_product", "stray_time", "double_click"),
    *(LATE, IGNORED, ERASED),
)
# What a record says of its product does not depend on what its user did before.
DESCRIBING = ("accepted", "duplicate", "double_click")
REASON, RAW, EVENT_TIME, USER_KEY = "(reason)", "(raw)", "(event_time)", "(user_key)"


def decide_outcomes(events: pl.DataFrame, log: WholeLog, *, double_click_seconds: float) -> pl.DataFrame:
    """Add `outcome`: the first of these that applies.

    erased, malformed, ignored, bad_value:<column>, late, superseded, duplicate, not_a_product, stray_time, double_click, accepted.
    The columns of type_events are needed, `user_key`, `is_erased`, `is_superseded` and `clock_seconds` (of the source's
    clock).
    """
    standing = events.with_columns(event_id=pl.when(~pl.col("is_superseded")).then("event_id"))
    decided = events.with_columns(
        outcome=pl.when(pl.col("is_erased"))
        .then(pl.lit(ERASED))
        .when(pl.col("refusal").is_not_null())
        .then("refusal")
        .when(pl.col("is_superseded"))
        .then(pl.lit("superseded"))
        .when(repeats(standing, "event_id"))
        .then(pl.lit("duplicate"))
        .when(~pl.col("is_product"))
        .then(pl.lit("not_a_product"))
        .when(log.is_stray(pl.col("event_time")))
        .then(pl.lit("stray_time"))
        .otherwise(pl.lit("accepted"))
    )
    return decided.with_columns(
        outcome=pl.when(double_clicks(decided, seconds=double_click_seconds))
        .then(pl.lit("double_click"))
        .otherwise("outcome")
    )


def repeats(rows: pl.DataFrame, id_column: str) -> pl.Series:
    """Whether an earlier row, by source, file and record number, has the same id; a null id is never a repeat."""
    has_twin = pl.col(id_column).is_not_null() & pl.col(id_column).is_duplicated()
    twins = rows.select(pl.row_index("row"), id_column, *ORIGIN).filter(has_twin).sort(*ORIGIN)
    return _are_in(rows, twins.filter(~pl.col(id_column).is_first_distinct())["row"])


def double_clicks(events: pl.DataFrame, *, seconds: float) -> pl.Series:
    """Whether an accepted view is a double click.

    Views of one item by one known user, each at most `seconds` after the one before, are one burst. Of a burst the
    first view stays; where some of its views answer a request, the first to each request stays in its stead. A clock
    that is not finer than `seconds` tells no double clicks.
    """
    is_view = (pl.col("outcome") == "accepted") & (pl.col("event_type") == "view") & pl.col("user_key").is_not_null()
    is_timed = pl.col("clock_seconds") < seconds
    views = events.select(
        *(pl.row_index("row"), "user_key", "item_id", "event_time", "event_id", "request_id"),
        (is_view & is_timed).alias("is_view"),
    )
    ordered = views.filter("is_view").sort("user_key", "item_id", "event_time", "event_id")
    same = (pl.col("user_key") == pl.col("user_key").shift()) & (pl.col("item_id") == pl.col("item_id").shift())
    is_soon = (same & (pl.col("event_time").diff() <= timedelta(seconds=seconds))).fill_null(False)
    placed = ordered.with_columns(
        burst=(~is_soon).cum_sum(), is_in_burst=is_soon | is_soon.shift(-1, fill_value=False)
    ).filter("is_in_burst")
    is_answer = pl.col("request_id").is_not_null()
    is_kept = (
        pl.when(is_answer.any().over("burst"))
        .then(is_answer & pl.struct("burst", "request_id").is_first_distinct())
        .otherwise(pl.col("burst").is_first_distinct())
    )
    return _are_in(events, placed.filter(~is_kept)["row"])


class Decisions(NamedTuple):
    """What became of the records of a shard."""

    rejects: pl.DataFrame  # the records without an accepted event, each with its outcome as the reason
    counts: pl.DataFrame  # source, outcome, num_records, num_events
    forms: pl.DataFrame  # of bad values: source, outcome, form, num_records, first_file, last_file


def rejects_and_counts(records: Mapping[str, pl.DataFrame], decided: pl.DataFrame) -> Decisions:
    """The refused records, and how many had which outcome and for values of which form."""
    order = (
        pl.col("outcome")
        .str.extract("^([a-z_]+)")
        .replace_strict(OUTCOMES, range(len(OUTCOMES)), return_dtype=pl.UInt8)
    )
    by_record = decided.select(
        "record", "source", "source_file", "outcome", "form", "event_time", "user_key", order=order
    )
    if not by_record["record"].is_unique().all():
        by_record = by_record.sort("order", "outcome", "form", "event_time").unique("record", keep="first")
    rejected = by_record.filter(pl.col("order") > 0)
    rejects = pl.concat([_rejects(frame, source, rejected) for source, frame in records.items()])
    num_events = decided.group_by("source", "outcome").agg(num_events=pl.len().cast(pl.Int64))
    num_records = by_record.group_by("source", "outcome").agg(num_records=pl.len().cast(pl.Int64))
    counts = num_events.join(num_records, on=["source", "outcome"], how="left").fill_null(0)
    bad = rejected.filter(pl.col("outcome").str.starts_with("bad_value:"))
    forms = bad.group_by("source", "outcome", "form").agg(
        num_records=pl.len().cast(pl.Int64),
        first_file=pl.col("source_file").min(),
        last_file=pl.col("source_file").max(),
    )
    return Decisions(rejects, counts.select("source", "outcome", "num_records", "num_events"), forms)


def _rejects(frame: pl.DataFrame, source: str, rejected: pl.DataFrame) -> pl.DataFrame:
    is_told = ~pl.col("outcome").is_in(UNSHOWN)
    reasons = rejected.filter(pl.col("source") == source).select(
        pl.col("record").alias(NUMBER),
        pl.col("outcome").alias(REASON),
        pl.when(is_told).then("event_time").alias(EVENT_TIME),
        pl.when(is_told).then("user_key").alias(USER_KEY),
    )
    records = frame.join(reasons, on=NUMBER, how="inner")
    is_unwanted = pl.col(REASON).is_in(UNSHOWN)
    unwanted, refused = records.filter(is_unwanted), records.filter(~is_unwanted)
    kept = pl.concat([refused.with_columns(raw_json(refused).alias(RAW)), unwanted], how="diagonal")
    return kept.select(
        pl.lit(source).alias("source"),
        "source_file",
        pl.format("{}:{}", "source_file", "record_number").alias("source_record"),
        pl.col(REASON).alias("reason"),
        pl.col(RAW).alias("raw"),
        pl.col(EVENT_TIME).dt.date().cast(pl.String).fill_null(NO_DAY).alias("day"),
        pl.col(EVENT_TIME).alias("event_time"),
        pl.col(USER_KEY).alias("user_key"),
        "batch_id",
        "arrived_at",
    )


def _are_in(frame: pl.DataFrame, rows: pl.Series) -> pl.Series:
    """A flag for each row of the frame: whether its place is among `rows`."""
    flags = np.zeros(frame.height, dtype=bool)
    flags[rows.to_numpy()] = True
    return pl.Series(flags)
