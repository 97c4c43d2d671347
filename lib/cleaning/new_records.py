"""Cleaning the records that are new in bronze since the last run, and what these open again."""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import date, timedelta
from functools import partial
from typing import NamedTuple

import polars as pl
import pyarrow.compute as pc

from lib.cleaning import batches as tasks
from lib.cleaning import increment as of_new
from lib.cleaning.all_records import Cleaned, cleaned, clocks_by, covered, sharded, sized
from lib.cleaning.batches import ShardWork
from lib.cleaning.erasures import erased_digests
from lib.cleaning.increment import Increment
from lib.cleaning.reopening import DAY, Reopened, reopened
from lib.cleaning.whole_log import WholeLog
from lib.engines.arrow_tasks import Broadcast, gathered
from lib.engines.parts import Parts, TaskRun
from lib.lake.lake import Lake
from lib.runs.freshness import days_of
from lib.tables.silver import CLOCKS

MOST_REOPENED = 5_000_000  # old records that are cleaned again beside new ones; where they are more, everything is
CLOCK_COUNTS = "cartwheel.clockCounts"  # in a commit to silver/events: how many times of each source lie on which clock
WRITTEN = ("silver/events", "silver/descriptions", "bronze/rejects")


class New(NamedTuple):
    """What is new in bronze since the last run, and what it opens again."""

    batches: dict[str, frozenset[str]]  # by source of events: the runs of ingest that brought the new records
    clock_counts: pl.DataFrame  # of all times: source, clock, num_times
    by_day: dict[date, int]  # events of each day before, strays among them
    days: frozenset[date]  # that are written anew
    opened: Reopened
    num_timed: int  # of the new records

    @property
    def partitions(self) -> list[str]:
        """The days as partitions name them."""
        return sorted(map(str, self.days))


def new_batches(run: TaskRun, work: ShardWork) -> tuple[dict[str, frozenset[str]], str] | None:
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
    run: TaskRun, work: ShardWork, key: Broadcast[bytes], batches: Mapping[str, frozenset[str]], last_day: date
) -> dict[str, pl.DataFrame]:
    """What must be known of new records before they are cleaned (lib/cleaning/increment.py)."""
    found: list[tuple[str, bytes]] = []
    for name, of_source in batches.items():
        if of_source:
            files = run.files_of({name: f"bronze/{name}"}, holding={"batch_id": of_source})
            found += files.then(of_new.survey, work=work, key=key, batches=batches, last_day=last_day).collected()
    return {kind: gathered(found, kind, of_new.GATHERED) for kind in (of_new.TOUCHED, of_new.DATES, tasks.CLOCKS)}


def files_of_days(run: TaskRun, days: Collection[date]) -> Parts:
    """The files of silver/events and bronze/rejects that hold these days, as the last run left them."""
    rejects = {"stage": ["clean"], "day": [*map(str, days)]}
    return run.files_of({"silver/events": "silver/events"}, holding={"event_date": days}, before=True).union(
        run.files_of({"bronze/rejects": "bronze/rejects"}, holding=rejects, before=True)
    )


def old_rows(
    run: TaskRun, pairs: pl.DataFrame, *, reasons: Collection[str] | None = of_new.REOPENED_REASONS
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


def opened_by(work: ShardWork, touched: pl.DataFrame, old_rows: Callable[[pl.DataFrame], pl.DataFrame]) -> Reopened:
    """What is opened again by the days of users that are touched."""
    return reopened(
        touched,
        old_rows,
        session_gap=timedelta(minutes=work.thresholds.session_gap_minutes),
        double_click=timedelta(seconds=work.thresholds.double_click_seconds),
    )


def whats_new(run: TaskRun, work: ShardWork, key: Broadcast[bytes]) -> New | None:
    """What is new since the last run; None where everything is to be cleaned."""
    since = new_batches(run, work)
    by_day = events_by_day(run.lake) if since else {}
    if since is None or not by_day:
        return None
    batches, written_by = since
    found = survey(run, work, key, batches, max(by_day))
    counted = json.loads(run.lake.metadata_of_run("silver/events", written_by, CLOCK_COUNTS) or "null")
    assert counted is not None, f"{written_by} has said how many times lie on which clock"
    counts = pl.concat([pl.DataFrame(counted, schema=of_new.GATHERED[tasks.CLOCKS]), found[tasks.CLOCKS]])
    opened = opened_by(work, found[of_new.TOUCHED], partial(old_rows, run))
    if opened.rows.height > MOST_REOPENED:
        run.log("cleans everything: the new records open most of the log again", reopened=opened.rows.height)
        return None
    dates = [*found[of_new.DATES]["event_date"], *opened.pairs["event_date"]]
    summed = counts.group_by("source", "clock").agg(pl.col("num_times").sum()).sort("source", "clock")
    num_timed = int(found[of_new.DATES]["num_events"].sum())
    return New(batches, summed, by_day, frozenset(dates), opened, num_timed)


def cleaned_again(
    run: TaskRun,
    work: ShardWork,
    key: Broadcast[bytes],
    log: WholeLog,
    batches: Mapping[str, frozenset[str]],
    days: frozenset[date],
    opened: Reopened,
) -> Cleaned:
    """The records of new batches and those that are opened again, which lie on `days`, cleaned; sessions go on from their eves."""
    increment = Increment(batches, opened.rows.select("source", "source_record").unique())
    gap = timedelta(minutes=work.thresholds.session_gap_minutes)
    eves = run.files_of({"": "silver/events"}, holding={"event_date": {day - DAY for day in days}}, now=True)
    given = {"days": days, "pairs": opened.pairs, "log": log, "session_gap": gap, "num_shards": work.num_shards}
    events = sharded(run, work, "events", key, increment).union(eves.then(of_new.spread_last_events, **given))
    result = cleaned(run, work, key, log, events)
    events.drop()
    return result


def cleaned_new(run: TaskRun, work: ShardWork, key: Broadcast[bytes], new: New) -> Cleaned | None:
    """The new records and what they open again, cleaned; None where they change what was known of the whole log."""
    before = json.loads(run.lake.table_property("silver/events", CLOCKS) or "{}")
    log = WholeLog(clocks=clocks_by(run, work, new.clock_counts), erased=erased_digests(run.lake))
    if log.clocks != before:
        run.log("cleans everything: with the new records the clock is another")
        return None
    first, last = covered(run, work, new.by_day)
    if min(new.by_day) < first or last < max(new.by_day):
        log = replace(log, first_day=first, last_day=max(last, *new.days) if new.days else last)
    work = sized(run, work, new.num_timed + sum(new.by_day.get(day, 0) for day in new.days))
    result = cleaned_again(run, work, key, log, new.batches, new.days, new.opened)
    by_day = dict(new.by_day)
    for day, number in new.opened.rows.filter("is_counted").group_by("event_date").len().rows():
        by_day[day] -= number
    for day, number in result.findings.events_by_day.items():
        by_day[day] = by_day.get(day, 0) + number
    held = {day for day, number in by_day.items() if number}
    now = covered(run, work, {day: by_day[day] for day in held}) if held else (first, last)
    if any(_is_covered(day, now) != _is_covered(day, (log.first_day, log.last_day)) for day in held):
        run.log("cleans everything: with the new records the log covers other days")
        result.parts.drop()
        return None
    return result


def _is_covered(day: date, days: tuple[date | None, date | None]) -> bool:
    first, last = days
    return (first is None or first <= day) and (last is None or day <= last)


def written(run: TaskRun, work: ShardWork, parts: Parts, new: New | None) -> list[tuple[str, bytes]]:
    """Write the events and rejects of each day: all, or those of the days that new records touch, with what stays of these."""
    rows = parts.of(tasks.EVENT_ROWS, tasks.REJECT_ROWS)
    if new:
        num_rows = {
            tasks.EVENT_ROWS: {str(day): number for day, number in new.by_day.items()},
            tasks.REJECT_ROWS: run.lake.rows_by_partition("bronze/rejects", "day"),
        }
        files = files_of_days(run, new.days)
        rows = rows.union(files.then(of_new.keep_old_rows, pairs=new.opened.pairs, num_rows=num_rows, work=work))
    return rows.to_shards(work.num_shards).then(tasks.write_days, work=work).collected()
