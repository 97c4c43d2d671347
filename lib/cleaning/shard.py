"""Cleans a shard of whole users with Polars: outcomes, duplicates, double clicks, sessions, bots.

Rows are sorted once and compared with the row before, without a window per user. The result does not depend on the
order of the rows or on how users and files are split over shards, so a shard can be cleaned again when only its users
have new records.
"""

from collections.abc import Mapping
from typing import NamedTuple

import polars as pl

from lib.cleaning.bots import flag_bots
from lib.cleaning.erasures import are_erased
from lib.cleaning.fields import NUMBER, SUPERSEDED, type_events, type_items
from lib.cleaning.forms import forms_of_ids, forms_of_prices, forms_of_times
from lib.cleaning.outcomes import DESCRIBING, decide_outcomes, rejects_and_counts, repeats
from lib.cleaning.pseudonyms import pseudonyms
from lib.cleaning.sessions import number_sessions
from lib.cleaning.thresholds import Thresholds
from lib.cleaning.whole_log import WholeLog, coarsest_clocks
from lib.formats.mapping import ITEM_FIELDS, LogMapping
from lib.tables.silver import EVENTS

NOTHING_KNOWN = WholeLog()
DESCRIPTION = (*ITEM_FIELDS, "price", "currency")  # what a record may say about its item
LAST_EVENTS = ("user_key", "event_time", "event_id", "session_id", "clock_seconds")  # what a session is continued from


class CleanShard(NamedTuple):
    """The result of cleaning a shard."""

    events: pl.DataFrame | None  # the columns of silver/events; None for a shard of items
    rejects: pl.DataFrame  # the columns of bronze/rejects but stage
    counts: pl.DataFrame  # source, outcome, num_records, num_events
    forms: pl.DataFrame  # source, outcome, form, num_records, first_file, last_file: how values are written
    days: pl.DataFrame  # event_date, num_events: of each day, strays among them
    clocks: pl.DataFrame  # source, clock, num_times: how many times lie on which clock and on none coarser
    items: pl.DataFrame  # item_id, DESCRIPTION, and what orders descriptions: is_catalogue, event_time, described_by


def clean_events(
    records: Mapping[str, pl.DataFrame],
    mapping: LogMapping,
    thresholds: Thresholds,
    key: bytes,
    log: WholeLog = NOTHING_KNOWN,
    last_events: pl.DataFrame | None = None,
) -> CleanShard:
    """Clean the records of event sources, by source: whole days of users, and all equal records of those without a user.

    `log` is what must be known beyond the shard. A record that another one supersedes is marked so (SUPERSEDED). A session
    that began on a day which is not among the records goes on from `last_events` (columns LAST_EVENTS).
    """
    numbered = _numbered(records)
    typed = pl.concat([type_events(frame, source, mapping) for source, frame in numbered.items()])
    superseded = [frame.filter(SUPERSEDED)[NUMBER] for frame in numbered.values() if SUPERSEDED in frame.columns]
    placed = typed.with_columns(
        user_key=pseudonyms(typed["user_id"], key),
        order_id=pseudonyms(typed["order_id"], key, of="order"),
        is_superseded=pl.col("record").is_in(pl.concat(superseded).implode()) if superseded else pl.lit(False),
        clock_seconds=log.clock_seconds(pl.col("source")),
    ).with_columns(is_erased=pl.col("user_key").map_batches(lambda keys: are_erased(keys, log.erased, key), pl.Boolean))
    events = decide_outcomes(placed, log, double_click_seconds=thresholds.double_click_seconds)
    accepted = events.filter(pl.col("outcome") == "accepted")
    known = number_sessions(accepted, gap_minutes=thresholds.session_gap_minutes, last_events=last_events)
    flagged = flag_bots(known, thresholds).filter(~pl.col("is_earlier"))
    silver = pl.concat([flagged, accepted.filter(pl.col("user_key").is_null())], how="diagonal")
    decisions = rejects_and_counts(numbered, events)
    times = typed.select("record", "source", "event_time").unique("record")
    written = (forms_of_ids(typed, ("user_id", "item_id", "order_id")), forms_of_prices(typed), forms_of_times(typed))
    return CleanShard(
        _as_silver(silver),
        decisions.rejects,
        decisions.counts,
        pl.concat([decisions.forms, *written], how="diagonal"),
        _days_of(events),
        pl.concat([clocks_of(times.filter(source=source)["event_time"], source, mapping) for source in numbered]),
        latest_descriptions(
            events.filter(pl.col("outcome").is_in(DESCRIBING)).select(
                "item_id", "event_time", *DESCRIPTION, described_by="event_id", is_catalogue=pl.lit(False)
            )
        ),
    )


def clean_items(records: Mapping[str, pl.DataFrame], mapping: LogMapping) -> CleanShard:
    """Clean the records of item sources, by source: all records of each item."""
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
        is_catalogue=pl.lit(True),
        user_key=pl.lit(None, pl.String),
    )
    decisions = rejects_and_counts(numbered, items)
    return CleanShard(
        None,
        decisions.rejects,
        decisions.counts,
        pl.concat([decisions.forms, forms_of_ids(typed, ("item_id",)), forms_of_prices(typed)], how="diagonal"),
        pl.DataFrame(),
        pl.DataFrame(),
        latest_descriptions(items.filter(pl.col("outcome") == "accepted")),
    )


def _days_of(events: pl.DataFrame) -> pl.DataFrame:
    """How many events there are of each day, strays among them."""
    counted = events.filter(pl.col("outcome").is_in(("accepted", "stray_time")))
    return counted.group_by(event_date=pl.col("event_time").dt.date()).agg(num_events=pl.len().cast(pl.Int64))


def clocks_of(times: pl.Series, source: str, mapping: LogMapping) -> pl.DataFrame:
    """How many of a source's times lie on which clock and on none coarser: source, clock, num_times."""
    counts = coarsest_clocks(times, mapping.timezone)
    return pl.DataFrame(
        {"source": [source] * len(counts), "clock": [*counts], "num_times": [*counts.values()]},
        schema={"source": pl.String, "clock": pl.String, "num_times": pl.Int64},
    )


def latest_descriptions(described: pl.DataFrame) -> pl.DataFrame:
    """For each item its latest row, and the latest row that fills each field of DESCRIPTION; a catalogue's is later."""
    order = ("is_catalogue", "event_time", "described_by")
    ordered = described.select("item_id", *order, *DESCRIPTION).unique(["item_id", *order]).sort(*order)
    rows = ordered.with_row_index("row")
    last = [
        rows.filter(pl.col(field).is_not_null()).select("item_id", "row").unique("item_id", keep="last")["row"]
        for field in ("item_id", *DESCRIPTION)
    ]
    return ordered[pl.concat(last).unique().sort()]


def _as_silver(events: pl.DataFrame) -> pl.DataFrame:
    """Events with the columns of silver/events."""
    return events.with_columns(
        pl.col("event_time").dt.date().alias("event_date"),
        pl.col("position").cast(pl.Int32),
        pl.col("is_bot").fill_null(False),
        pl.format("{}/{}:{}", "source", "source_file", "record_number").alias("source_record"),
    ).select(column.name for column in EVENTS.columns)


def _numbered(records: Mapping[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """The frames with a number for each record of the shard."""
    numbered, first = {}, 0
    for source, frame in records.items():
        numbered[source] = frame.with_row_index(NUMBER, offset=first)
        first += frame.height
    return numbered
