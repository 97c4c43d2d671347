"""clean: bronze/<source> of every source, bronze/images -> silver/events, silver/items, silver/descriptions, bronze/rejects.

Parses types and UTC times, gives each record one outcome, finds duplicates, double clicks, sessions and bots, and
replaces user and order ids by keyed pseudonyms. A user's records are brought together; Polars cleans each shard
(lib/cleaning/shard.py), and others write the rows of each day into files, which are committed at the end. The tasks run in
Spark or in processes of one machine (lib/engines/parts.py).

Cleans what is new in bronze since its last run, and the days of users that this opens again (lib/cleaning/reopening.py); the
tables are those of all records at once. Everything is cleaned where settings, mapping or code are others, where the new
records change what concerns the whole log (its clocks, the days that it covers), and where the mapping names a record_key, a
visitor_id that the records have, or an array to explode. Each table is committed in one transaction; accepted and rejected records add up to bronze. Too many
refused records, or another pseudonym key, stop the job before it commits. A rerun, a retry or a kill changes nothing.

With `time.from_date` and `time.to_date` a backfill: the records of these days that were cleaned before are cleaned again, and
silver/events and bronze/rejects of all other days, and all products, stay as they are (docs/decisions/0018).
"""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import date, timedelta
from functools import partial, reduce
from math import ceil
from typing import Any, NamedTuple

import polars as pl
import pyarrow.compute as pc
from deltalake.transaction import AddAction
from pydantic import Field

from lib.cleaning import batches as tasks
from lib.cleaning import increment as of_new
from lib.cleaning.batches import ShardWork, own_columns
from lib.cleaning.erasures import erased_digests
from lib.cleaning.findings import Findings, require_fit_records
from lib.cleaning.forms import remarks
from lib.cleaning.increment import Increment
from lib.cleaning.notices import about_clocks, about_days, about_repeats
from lib.cleaning.pseudonyms import fingerprint, load_key
from lib.cleaning.reopening import DAY, PAIR, Reopened, reopened
from lib.cleaning.thresholds import Thresholds
from lib.cleaning.whole_log import WholeLog, clock_of, days_covered
from lib.engines.arrow_tasks import Broadcast, files_of, gathered
from lib.engines.parts import Parts
from lib.engines.spark import SparkRun, start_run
from lib.formats.columns import find_columns
from lib.formats.rules import Clock
from lib.lake.lake import Lake
from lib.lake.writes import Where, discarded_on_error, remove_files
from lib.runs.errors import SettingError
from lib.runs.freshness import days_of
from lib.settings import DateRange, JobSettings
from lib.tables.bronze import NO_DAY
from lib.tables.silver import CLOCKS, PSEUDONYM_KEY, SESSION_GAP

SHARDS_OF_RECORDS_PER_ITEMS = 8  # records are many, items are few
SAMPLED_TIMES = 100_000  # of a source, from which its clock is found
MOST_REOPENED = 5_000_000  # old records that are cleaned again beside new ones; where they are more, everything is
CLOCK_COUNTS = "cartwheel.clockCounts"  # in a commit to silver/events: how many times of each source lie on which clock
WRITTEN = ("silver/events", "silver/descriptions", "bronze/rejects")


class CleanSettings(Thresholds, JobSettings):
    """Thresholds for double clicks, sessions and bots, and when the job stops."""

    max_reject_frac: float = Field(
        0.05, ge=0, le=1, description="largest share of a source's records that may be malformed or hold a bad value"
    )
    max_stray_frac: float = Field(
        0.05,
        ge=0,
        le=0.2,
        description="largest share of all events, on either side of the log, that are refused as `stray_time` where a "
        "silence longer than 30 days and the log itself sets them apart (a fifth of it where the silence is longer than "
        "3 days and a tenth of the log): clocks are wrong there; 0 refuses none",
    )
    records_per_shard: int = Field(
        500_000,
        ge=1000,
        le=5_000_000,
        description="approximate number of records per task; they must fit in its memory",
    )

    rebuild: bool = Field(
        False, exclude=True, description="clean every record again, instead of the new ones and what they open again"
    )

    def thresholds(self) -> Thresholds:
        """Only the thresholds, to pass to tasks."""
        return Thresholds(**{name: getattr(self, name) for name in Thresholds.model_fields})


def require_same_key(lake: Lake, key: bytes) -> None:
    """Check that `key` is the one behind the pseudonyms in the lake.

    Raises:
        ValueError: it is another key; the message gives both fingerprints.
    """
    if lake.exists("silver/events"):
        before = lake.open("silver/events").metadata().configuration.get(PSEUDONYM_KEY)
        if before != fingerprint(key):
            raise ValueError(
                f"the pseudonyms of silver/events were made with another key (its fingerprint is {before}, this one's "
                f"{fingerprint(key)}); use the key that they were made with"
            )


def work_of(run: SparkRun, settings: CleanSettings) -> ShardWork:
    """What the tasks need to know.

    Raises:
        ValueError: the lake holds no records of events, or no record has a column of a record_key.
    """
    tables = {name: f"bronze/{name}" for name in run.mapping.sources if run.has(f"bronze/{name}")}
    if not {*tables} & {*run.mapping.of_kind("events")}:
        raise ValueError(f"the lake holds no records of the format {run.mapping.name}; run ingest with it first")
    schemas = {name: run.dataset(table).schema for name, table in tables.items()}
    for name in tables:
        own = own_columns(schemas[name].names)
        unknown = [column for column in run.mapping.sources[name].record_key if not find_columns(own, column)]
        if unknown:
            raise ValueError(
                f"record_key of {name} names {unknown[0]!r}; the columns of its records are {', '.join(own)}"
            )
    num_records = sum(run.lake.num_rows(table, run.inputs[table]) for table in tables.values())
    num_shards = run.num_shards(num_records, rows_per_shard=settings.records_per_shard)
    return ShardWork(
        lake=run.lake.absolute(),
        mapping=run.mapping,
        thresholds=settings.thresholds(),
        schemas=schemas,
        num_shards=num_shards,
        num_item_shards=ceil(num_shards / SHARDS_OF_RECORDS_PER_ITEMS),
    )


def clocks(run: SparkRun, work: ShardWork) -> dict[str, Clock]:
    """The clock of each source of events: what the mapping says, else what a sample of its times shows."""
    tables = {name: f"bronze/{name}" for name in unstated_clocks(run, work)}
    every = {
        name: max(1, run.lake.num_rows(table, run.inputs[table]) // SAMPLED_TIMES) for name, table in tables.items()
    }
    parts = run.files_of(tables).then(tasks.count_clocks, work=work, every=every).collected() if tables else []
    return clocks_by(run, work, gathered(parts, tasks.CLOCKS, tasks.GATHERED))


def unstated_clocks(run: SparkRun, work: ShardWork) -> list[str]:
    """The sources of events whose clock the mapping does not say."""
    return [name for name, source in run.mapping.of_kind("events").items() if name in work.schemas and not source.clock]


def clocks_by(run: SparkRun, work: ShardWork, counts: pl.DataFrame) -> dict[str, Clock]:
    """The clock of each source of events, by how many of its times lie on which."""
    found: dict[str, Clock | None] = {name: source.clock for name, source in run.mapping.of_kind("events").items()}
    for name in unstated_clocks(run, work):
        of_source = counts.filter(source=name).group_by("clock").agg(pl.col("num_times").sum())
        found[name] = clock_of(dict(of_source.rows()))
    return {name: clock for name, clock in found.items() if clock is not None and name in work.schemas}


def sharded(
    run: SparkRun, work: ShardWork, kind: str, key: Broadcast[bytes], increment: Increment | None = None
) -> Parts:
    """The records of the sources of a kind, all or those of an increment, packed by shard."""
    parts = []
    for name in run.mapping.of_kind(kind):
        if name not in work.schemas:
            continue
        files = run.files_of({name: f"bronze/{name}"}, holding=increment.holding(name) if increment else None)
        given: dict[str, Any] = {"work": work, "key": key, "choose": increment.choose if increment else None}
        if run.mapping.sources[name].record_key:
            by_key = files.then(tasks.spread_records, by="record_key", **given)
            parts.append(by_key.to_shards(work.num_shards).then(tasks.spread_marked_records, work=work, key=key))
        elif work.has_visitors(name):
            by_visitor = files.then(tasks.spread_records, by="visitor", **given)
            parts.append(by_visitor.to_shards(work.num_shards).then(tasks.spread_signed_in_records, work=work, key=key))
        else:
            parts.append(files.then(tasks.spread_records, **given))
    return reduce(lambda some, others: some.union(others), parts)


class Cleaned(NamedTuple):
    """What was found, and all parts of the shards, kept: days and descriptions of items are still to be brought together."""

    findings: Findings
    parts: Parts
    log: WholeLog


def cleaned(run: SparkRun, work: ShardWork, key: Broadcast[bytes], log: WholeLog, events: Parts) -> Cleaned:
    """Clean the records of events, packed by shard, and those of all catalogues."""
    parts = events.to_shards(work.num_shards).then(tasks.clean_event_shard, work=work, key=key, log=log)
    if {*work.schemas} & {*run.mapping.of_kind("items")}:
        items = sharded(run, work, "items", key).to_shards(work.num_shards)
        parts = parts.union(items.then(tasks.clean_item_shard, work=work))
    parts = parts.keep()
    found = Findings.of(parts.but(tasks.DESCRIBED, tasks.EVENT_ROWS, tasks.REJECT_ROWS).collected())
    return Cleaned(found, parts, log)


def covered(run: SparkRun, by_day: Mapping[date, int], settings: CleanSettings) -> tuple[date, date]:
    """The first and the last day that the log covers; what lies outside is stray."""
    stated = [moment.date() for _, moment in run.mapping.times if moment is not None]  # the log's own, strays or not
    days = days_covered(by_day, max_stray_frac=settings.max_stray_frac)
    return min(*days, *stated), max(*days, *stated)


def within(log: WholeLog, by_day: Mapping[date, int], first: date, last: date) -> WholeLog:
    """What is known of the log, with the days that it covers where some events lie outside them."""
    are_all_inside = first <= min(by_day) and max(by_day) <= last
    return log if are_all_inside else replace(log, first_day=first, last_day=last)


def cleaned_all(run: SparkRun, settings: CleanSettings, work: ShardWork, key: Broadcast[bytes]) -> Cleaned:
    """All records, cleaned; again where it shows that some lie far outside the log, or that a clock is another."""
    log = WholeLog(clocks=clocks(run, work), erased=erased_digests(run.lake))
    events = sharded(run, work, "events", key)
    result = cleaned(run, work, key, log, events)
    by_day = result.findings.events_by_day
    right = replace(log, clocks=clocks_by(run, work, result.findings.clocks))
    if by_day:
        first, last = covered(run, by_day, settings)
        for line in about_days(by_day, first, last):
            run.log(line)
        right = within(right, by_day, first, last)
    if right != log:
        result.parts.drop()
        result = cleaned(run, work, key, right, events)
    events.drop()
    return result


class New(NamedTuple):
    """What is new in bronze since the last run, and what it opens again."""

    batches: dict[str, frozenset[str]]  # by source of events: the runs of ingest that brought the new records
    clock_counts: pl.DataFrame  # of all times: source, clock, num_times
    by_day: dict[date, int]  # events of each day before, strays among them
    days: frozenset[date]  # that are written anew
    opened: Reopened

    @property
    def partitions(self) -> list[str]:
        """The days as partitions name them."""
        return sorted(map(str, self.days))


def new_batches(run: SparkRun, work: ShardWork) -> tuple[dict[str, frozenset[str]], str] | None:
    """The batches of each source since the last run of this code with these settings, and the run that wrote silver/events.

    None where everything is to be cleaned: there is no such run, another has written since, or the mapping says of records
    what only all of them show.
    """
    sources = {name: source for name, source in run.mapping.of_kind("events").items() if name in work.schemas}
    rows = run.done_before()
    done = [row for row in rows if days_of(row) is None]
    # Backfills of this code and settings leave the tables as runs of all days make them.
    backfills = [row["run_id"] for row in rows if days_of(row)]
    if (
        not done
        or not run.lake.num_rows("silver/descriptions")
        or any(work.reaches_over_days(name) for name in sources)
    ):
        return None
    wrote = {table: run.lake.newest_run(table, run.job.name, but=backfills) for table in WRITTEN}
    if not {*wrote.values()} <= {row["run_id"] for row in done}:
        return None
    before = {row["table"]: row["version"] for row in done[-1]["inputs"]}
    batches = {}
    for name in sources:
        known, now = before.get(f"bronze/{name}", -1), run.inputs[f"bronze/{name}"]
        if known > now:
            return None
        batches[name] = frozenset(run.lake.runs_between(f"bronze/{name}", known, now))
    return batches, str(wrote["silver/events"])


def survey(
    run: SparkRun, work: ShardWork, key: Broadcast[bytes], batches: Mapping[str, frozenset[str]], last_day: date
) -> dict[str, pl.DataFrame]:
    """What must be known of new records before they are cleaned (lib/cleaning/increment.py)."""
    found: list[tuple[str, bytes]] = []
    for name, of_source in batches.items():
        if of_source:
            files = run.files_of({name: f"bronze/{name}"}, holding={"batch_id": of_source})
            found += files.then(of_new.survey, work=work, key=key, batches=batches, last_day=last_day).collected()
    return {kind: gathered(found, kind, of_new.GATHERED) for kind in (of_new.TOUCHED, of_new.DATES, tasks.CLOCKS)}


def files_of_days(run: SparkRun, days: Collection[date]) -> Parts:
    """The files of silver/events and bronze/rejects that hold these days, as the last run left them."""
    rejects = {"stage": ["clean"], "day": [*map(str, days)]}
    return run.files_of({"silver/events": "silver/events"}, holding={"event_date": days}, before=True).union(
        run.files_of({"bronze/rejects": "bronze/rejects"}, holding=rejects, before=True)
    )


def old_rows(
    run: SparkRun, pairs: pl.DataFrame, *, reasons: Collection[str] | None = of_new.REOPENED_REASONS
) -> pl.DataFrame:
    """What was made before of the records of these days, of users (PAIR) or of all (event_date).

    Of refused records those with one of the `reasons`, or all.
    """
    files = files_of_days(run, pairs["event_date"].unique().to_list())
    found = files.then(of_new.find_old_rows, pairs=pairs, reasons=reasons).collected()
    return gathered(found, of_new.OLD, of_new.GATHERED)


def events_by_day(lake: Lake) -> dict[date, int]:
    """How many events silver holds of each day, and the strays that were refused."""
    by_day = lake.rows_by_partition("silver/events", "event_date")
    is_stray = (pc.field("stage") == "clean") & (pc.field("reason") == "stray_time")
    strays = pl.DataFrame(lake.dataset("bronze/rejects").to_table(columns=["event_time"], filter=is_stray))
    for day, number in strays.group_by(pl.col("event_time").dt.date()).len().rows():
        by_day[day] = by_day.get(day, 0) + number
    return by_day


def opened_by(
    settings: CleanSettings, touched: pl.DataFrame, old_rows: Callable[[pl.DataFrame], pl.DataFrame]
) -> Reopened:
    """What is opened again by the days of users that are touched."""
    return reopened(
        touched,
        old_rows,
        session_gap=timedelta(minutes=settings.session_gap_minutes),
        double_click=timedelta(seconds=settings.double_click_seconds),
    )


def whats_new(run: SparkRun, settings: CleanSettings, work: ShardWork, key: Broadcast[bytes]) -> New | None:
    """What is new since the last run; None where everything is to be cleaned."""
    since = None if settings.rebuild else new_batches(run, work)
    by_day = events_by_day(run.lake) if since else {}
    if since is None or not by_day:
        return None
    batches, written_by = since
    found = survey(run, work, key, batches, max(by_day))
    counted = json.loads(run.lake.metadata_of_run("silver/events", written_by, CLOCK_COUNTS) or "null")
    assert counted is not None, f"{written_by} has said how many times lie on which clock"
    counts = pl.concat([pl.DataFrame(counted, schema=of_new.GATHERED[tasks.CLOCKS]), found[tasks.CLOCKS]])
    opened = opened_by(settings, found[of_new.TOUCHED], partial(old_rows, run))
    if opened.rows.height > MOST_REOPENED:
        run.log("cleans everything: the new records open most of the log again", reopened=opened.rows.height)
        return None
    dates = [*found[of_new.DATES]["event_date"], *opened.pairs["event_date"]]
    summed = counts.group_by("source", "clock").agg(pl.col("num_times").sum()).sort("source", "clock")
    return New(batches, summed, by_day, frozenset(dates), opened)


def cleaned_again(
    run: SparkRun,
    settings: CleanSettings,
    work: ShardWork,
    key: Broadcast[bytes],
    log: WholeLog,
    batches: Mapping[str, frozenset[str]],
    days: frozenset[date],
    opened: Reopened,
) -> Cleaned:
    """The records of new batches and those that are opened again, which lie on `days`, cleaned; sessions go on from their eves."""
    increment = Increment(batches, opened.rows.select("source", "source_record").unique())
    gap = timedelta(minutes=settings.session_gap_minutes)
    eves = run.files_of({"": "silver/events"}, holding={"event_date": {day - DAY for day in days}}, now=True)
    given = {"days": days, "pairs": opened.pairs, "log": log, "session_gap": gap, "num_shards": work.num_shards}
    events = sharded(run, work, "events", key, increment).union(eves.then(of_new.spread_last_events, **given))
    result = cleaned(run, work, key, log, events)
    events.drop()
    return result


def cleaned_new(
    run: SparkRun, settings: CleanSettings, work: ShardWork, key: Broadcast[bytes], new: New
) -> Cleaned | None:
    """The new records and what they open again, cleaned; None where they change what was known of the whole log."""
    before = json.loads(run.lake.table_property("silver/events", CLOCKS) or "{}")
    log = WholeLog(clocks=clocks_by(run, work, new.clock_counts), erased=erased_digests(run.lake))
    if log.clocks != before:
        run.log("cleans everything: with the new records the clock is another")
        return None
    first, last = covered(run, new.by_day, settings)
    if min(new.by_day) < first or last < max(new.by_day):
        log = replace(log, first_day=first, last_day=max(last, *new.days) if new.days else last)
    result = cleaned_again(run, settings, work, key, log, new.batches, new.days, new.opened)
    by_day = dict(new.by_day)
    for day, number in new.opened.rows.filter("is_counted").group_by("event_date").len().rows():
        by_day[day] -= number
    for day, number in result.findings.events_by_day.items():
        by_day[day] = by_day.get(day, 0) + number
    held = {day for day, number in by_day.items() if number}
    now = covered(run, {day: by_day[day] for day in held}, settings) if held else (first, last)
    if any(_is_covered(day, now) != _is_covered(day, (log.first_day, log.last_day)) for day in held):
        run.log("cleans everything: with the new records the log covers other days")
        result.parts.drop()
        return None
    return result


def _is_covered(day: date, days: tuple[date | None, date | None]) -> bool:
    first, last = days
    return (first is None or first <= day) and (last is None or day <= last)


def written(run: SparkRun, work: ShardWork, parts: Parts, new: New | None) -> list[tuple[str, bytes]]:
    """Write the events and rejects of each day: all, or those of the days that new records touch, with what stays of these."""
    rows = parts.of(tasks.EVENT_ROWS, tasks.REJECT_ROWS)
    if new:
        files = files_of_days(run, new.days)
        rows = rows.union(files.then(of_new.keep_old_rows, pairs=new.opened.pairs, num_shards=work.num_shards))
    return rows.to_shards(work.num_shards).then(tasks.write_days, work=work).collected()


def write_items(run: SparkRun, work: ShardWork, parts: Parts, *, is_increment: bool) -> dict[str, list[AddAction]]:
    """Bring the descriptions of each item together; returns the files of silver/items and silver/descriptions."""
    described = parts.of(tasks.DESCRIBED)
    if is_increment:
        before = run.files_of({"before": "silver/descriptions"}, now=True)
        described = described.union(before.then(tasks.spread_described, work=work))
    if run.has("bronze/images"):
        pictures = run.files_of({"images": "bronze/images"})
        described = described.union(pictures.then(tasks.spread_pictures, work=work))
    found = described.to_shards(work.num_item_shards).then(tasks.write_items, work=work).collected()
    return {table: files_of(found, table) for table in ("silver/items", "silver/descriptions")}


def commit_rejects(run: SparkRun, files: list[AddAction], new: New | None) -> None:
    """Commit the rejects: in place of all, or of the touched days of events and of all catalogues.

    Those without a time depend on nothing else: they are added to those before.
    """
    if new is None:
        run.commit_written("bronze/rejects", files, where={"stage": "clean"})
        return
    events, items = (sorted(run.mapping.of_kind(kind)) for kind in ("events", "items"))
    of_items = [file for file in files if file.partition_values["source"] in items]
    timeless = [file for file in files if file not in of_items and file.partition_values["day"] == NO_DAY]
    timed = [file for file in files if file not in (*of_items, *timeless)]
    if new.days:
        run.commit_written("bronze/rejects", timed, where={"stage": "clean", "source": events, "day": new.partitions})
    where = {"stage": "clean", "source": events, "day": NO_DAY}
    run.commit_written("bronze/rejects", timeless, where=where, mode="append")
    if items:
        run.commit_written("bronze/rejects", of_items, where={"stage": "clean", "source": items})


def days_held(run: SparkRun, work: ShardWork, days: DateRange) -> list[date]:
    """Those of a range of days that can be made anew: on which events lie, or refused records.

    Raises:
        SettingError: nothing was cleaned before, the range holds nothing or too much, or records reach over days.
    """
    before = run.version_before("silver/events")
    if not run.lake.num_rows("silver/events", before):
        raise SettingError(f"nothing was cleaned before, so {days} cannot be made anew; run without dates first")
    by_day = run.lake.rows_by_partition("silver/events", "event_date", before)
    over_days = [name for name in run.mapping.of_kind("events") if work.reaches_over_days(name)]
    if over_days:
        raise SettingError(
            f"records of {over_days[0]} reach over days by their record_key, visitor_id or explode, so {days} cannot be made anew "
            "alone; run without dates"
        )
    refused = {*run.lake.rows_by_partition("bronze/rejects", "day")} - {NO_DAY}
    held = sorted(day for day in {*by_day, *map(date.fromisoformat, refused)} if day in days)
    if not held:
        raise SettingError(f"there is no event of {days}; silver/events holds {DateRange(min(by_day), max(by_day))}")
    num_events = sum(by_day.get(day, 0) for day in held)
    if num_events > MOST_REOPENED:
        raise SettingError(f"{days} hold {num_events:,} events (limit {MOST_REOPENED:,}); give fewer days at once")
    return held


def require_same_days(parts: Parts, opened: Reopened, days: DateRange) -> None:
    """Check that the cleaned records lie on the days on which they lay before.

    Raises:
        ValueError: a record lies on another day, or on none, and would be lost or doubled; says how many do.
    """
    rows = parts.of(tasks.EVENT_ROWS, tasks.REJECT_ROWS).then(of_new.find_days).collected()
    placed = gathered(rows, of_new.PLACED, of_new.GATHERED)
    moved = placed.join(opened.rows, on=placed.columns, how="anti", nulls_equal=True)
    if not moved.is_empty():
        raise ValueError(
            f"{moved.height:,} records of {days} lie on other days, or on none, by the present mapping, so these days "
            "cannot be made anew alone; run without dates"
        )


def log_before(run: SparkRun, settings: CleanSettings) -> WholeLog:
    """What the last run of all days knew of the whole log; of the clocks what the mapping states holds."""
    known = json.loads(run.lake.table_property("silver/events", CLOCKS) or "{}")
    stated = {name: source.clock for name, source in run.mapping.of_kind("events").items() if source.clock}
    log = WholeLog(clocks=known | stated, erased=erased_digests(run.lake))
    by_day = events_by_day(run.lake)
    return within(log, by_day, *covered(run, by_day, settings))


def backfill(run: SparkRun, settings: CleanSettings, work: ShardWork, key: Broadcast[bytes], days: DateRange) -> None:
    """Clean the records of some days again, and write these days alone.

    Days around them are cleaned too where a double click or a session may reach over midnight, and are not written.

    Raises:
        SettingError: these days cannot be made anew.
        ValueError: by the present mapping, records lie on other days than before, or too many are refused.
    """
    held = days_held(run, work, days)
    of_events = {name: work.schemas[name] for name in run.mapping.of_kind("events") if name in work.schemas}
    work, rows_of = replace(work, schemas=of_events), partial(old_rows, run, reasons=None)
    touched = rows_of(pl.DataFrame({"event_date": held})).group_by(PAIR)
    times = touched.agg(first_time=pl.col("event_time").min(), last_time=pl.col("event_time").max())
    opened = opened_by(settings, times, rows_of)
    cleaned_days = frozenset((*held, *opened.pairs["event_date"]))
    log = log_before(run, settings)
    result = cleaned_again(run, settings, work, key, log, {}, cleaned_days, opened)
    tell(run, result.findings, log)
    require_same_days(result.parts, opened, days)
    found = result.findings.with_files(written(run, work, result.parts, None))
    with discarded_on_error(run.lake, found.files):
        require_fit_records(run.lake, found, run.mapping, max_reject_frac=settings.max_reject_frac)
    result.parts.drop()
    partitions = [*map(str, held)]
    of_rejects = {"stage": "clean", "source": sorted(of_events), "day": partitions}
    commit_days(run, "silver/events", found.files, "event_date", {"event_date": partitions})
    commit_days(run, "bronze/rejects", found.files, "day", of_rejects)


def commit_days(run: SparkRun, table: str, written: Mapping[str, list[AddAction]], day: str, where: Where) -> None:
    """Commit the files of a table that hold the partitions `where`, by their column `day`, and remove those of other days."""
    files = [file for file in written[table] if file.partition_values[day] in where[day]]
    remove_files(run.lake, table, [file for file in written[table] if file not in files])
    run.commit_written(table, files, where=where)


def tell(run: SparkRun, found: Findings, log: WholeLog) -> None:
    """Say what became of the records, and what a person should know of their values."""
    for source in sorted({row["source"] for row in found.counts}):
        run.log(
            f"cleaned {source}",
            **{row["outcome"]: row["num_records"] for row in found.counts if row["source"] == source},
        )
    remarked = remarks(found.counts, found.forms, run.mapping)
    for line in (*remarked, *about_repeats(found.counts, run.mapping, log.clocks)):
        run.log(line)


def main(settings: CleanSettings) -> None:
    """Clean what is new in bronze since the last run and what that opens again, or everything."""
    with start_run("clean", settings) as run:
        key = load_key(settings.privacy, settings.lake.path)
        require_same_key(run.lake, key)
        shared_key = run.engine.broadcast(key)
        work = work_of(run, settings)
        if run.days:
            backfill(run, settings, work, shared_key, run.days)
            return
        new = whats_new(run, settings, work, shared_key)
        result = cleaned_new(run, settings, work, shared_key, new) if new else None
        if result is None:
            new, result = None, cleaned_all(run, settings, work, shared_key)
        log, parts = result.log, result.parts
        for line in about_clocks(log.clocks, run.mapping):
            run.log(line)
        tell(run, result.findings, log)
        found = result.findings.with_files(written(run, work, parts, new))
        with discarded_on_error(run.lake, found.files):
            require_fit_records(run.lake, found, run.mapping, max_reject_frac=settings.max_reject_frac)

        known = {PSEUDONYM_KEY: fingerprint(key), SESSION_GAP: str(settings.session_gap_minutes)}
        known |= {CLOCKS: json.dumps(log.clocks, sort_keys=True)}
        counts = json.dumps((new.clock_counts if new else found.clocks).to_dicts())
        items = write_items(run, work, parts, is_increment=new is not None)
        if new is None or new.days:
            where = {"event_date": new.partitions} if new else None
            events = found.files["silver/events"]
            run.commit_written("silver/events", events, where=where, properties=known, metadata={CLOCK_COUNTS: counts})
        for table, files in items.items():
            run.commit_written(table, files)
        commit_rejects(run, found.files["bronze/rejects"], new)
        parts.drop()


if __name__ == "__main__":
    main(CleanSettings.from_command_line())
