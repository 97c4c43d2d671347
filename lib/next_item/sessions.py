"""gold/sessions from silver/events: what somebody did in a visit, in order. The functions that the job's tasks run.

A task packs the events of its files by visit; the next brings those of a visit together and packs the visits by the day that they
begin on; the last writes them. Does not import Spark.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime

import polars as pl
import pyarrow as pa

from lib.engines.arrow_tasks import packed, rows_of, shards_by, table_rows, unpacked, write_rows
from lib.features.days import ACTIONS, DAY, DayShards, of_type
from lib.lake.lake import Lake
from lib.tables.gold import SESSIONS
from lib.tables.silver import EVENTS

READ = ("user_key", "item_id", "event_type", "event_time", "session_id", "is_bot", "source_record", "event_id")
EVENT, VISIT = "event", "visit"


@dataclass(frozen=True)
class SessionsWork:
    """What the tasks of one run need to know."""

    lake: Lake
    valid_from: datetime
    test_from: datetime


def days_that_begin_visits(changed: Collection[date], last_days: Mapping[date, date]) -> set[date]:
    """The days on which visits begin that may have events on changed days, or could go on there: these days, and earlier ones.

    Args:
        changed: the days of other events than before.
        last_days: by the day that stored visits begin on, the last day with an event of theirs.
    """
    begin = set(changed)
    begin |= {first for first, last in last_days.items() if any(first < day <= last + DAY for day in changed)}
    # Where an earlier part of a visit was taken away, or added, another day is its first.
    return begin | {
        first + DAY * number for first in begin for number in range(1, (last_days.get(first, first) - first).days + 1)
    }


def days_to_read(begin: Collection[date], last_days: Mapping[date, date], days: Collection[date]) -> set[date]:
    """Those of some days whose events tell which visits begin on the days `begin`, and what is in them."""
    wanted = set[date]()
    for first in begin:
        last = max(last_days.get(first, first), first + DAY)
        wanted |= {first + DAY * number for number in range(-1, (last - first).days + 1)}
    return wanted & set(days)


def spread_events(files: Iterable[pa.RecordBatch], *, num_shards: int) -> Iterator[pa.RecordBatch]:
    """Read files of silver/events (rows of TABLE_FILES) and pack what people did in visits by shard of visits."""
    schema = pa.schema([EVENTS.schema.field(name) for name in READ])
    for file in rows_of(files):
        for rows in table_rows(file["location"], schema):
            done = rows.filter(~pl.col("is_bot") & pl.col("session_id").is_not_null() & of_type(*ACTIONS))
            yield from packed(done.drop("is_bot"), EVENT, shards_by(done["session_id"], num_shards))


def gather_visits(
    parts: Iterable[pa.RecordBatch], *, work: SessionsWork, shards: DayShards
) -> Iterator[pa.RecordBatch]:
    """Bring the events of each visit together, and pack those that begin on the days of `shards` by these."""
    found = unpacked(parts)
    if EVENT not in found:
        return
    visits = visits_of(found[EVENT], valid_from=work.valid_from, test_from=work.test_from)
    visits = visits.filter(pl.col("event_date").is_in(list(shards.first)))
    yield from packed(visits, VISIT, shards.of_rows(visits["event_date"], visits["session_id"]))


def visits_of(events: pl.DataFrame, *, valid_from: datetime, test_from: datetime) -> pl.DataFrame:
    """The rows of gold/sessions, from all events of some visits.

    Events of one moment are in the order of the log: of its files' names, and of the records in them.
    """
    split = (
        pl.when(pl.col("started_at") < pl.lit(valid_from))
        .then(pl.lit("train"))
        .when(pl.col("started_at") < pl.lit(test_from))
        .then(pl.lit("valid"))
        .otherwise(pl.lit("test"))
    )
    file, record = (pl.col("source_record").str.extract(r"^(.*):(\d+)$", group) for group in (1, 2))
    ordered = events.with_columns(file=file, record=record.cast(pl.Int64)).sort(
        "session_id", "event_time", "file", "record", "event_id"
    )
    return (
        ordered.group_by("session_id", maintain_order=True)
        .agg(
            pl.col("user_key").first(),
            started_at=pl.col("event_time").first(),
            ended_at=pl.col("event_time").last(),
            num_events=pl.len().cast(pl.Int64),
            items=pl.col("item_id"),
            event_types=pl.col("event_type"),
            event_times=pl.col("event_time"),
        )
        .with_columns(split=split, event_date=pl.col("started_at").dt.date())
        .select(SESSIONS.schema.names)
    )


def write_visits(parts: Iterable[pa.RecordBatch], *, work: SessionsWork) -> Iterator[pa.RecordBatch]:
    """Write the visits of a shard of days."""
    found = unpacked(parts)
    if VISIT in found:
        ordered = found[VISIT].sort("event_date", "started_at", "session_id")
        yield from write_rows(ordered.to_arrow().to_batches(), lake=work.lake, table=SESSIONS)
