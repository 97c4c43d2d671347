"""Cleaning the records of some days again (docs/decisions/0018)."""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from functools import partial

import polars as pl
from deltalake.transaction import AddAction

from lib.cleaning import batches as tasks
from lib.cleaning import increment as of_new
from lib.cleaning.all_records import covered, sized, tell, within
from lib.cleaning.batches import ShardWork
from lib.cleaning.erasures import erased_digests
from lib.cleaning.findings import require_fit_records
from lib.cleaning.new_records import MOST_REOPENED, cleaned_again, events_by_day, old_rows, opened_by, written
from lib.cleaning.reopening import PAIR, Reopened
from lib.cleaning.whole_log import WholeLog
from lib.engines.arrow_tasks import Broadcast, gathered
from lib.engines.parts import Parts, TaskRun
from lib.lake.writes import Where, discarded_on_error, remove_files
from lib.runs.errors import SettingError
from lib.settings import DateRange
from lib.tables.bronze import NO_DAY
from lib.tables.silver import CLOCKS


def backfill(run: TaskRun, work: ShardWork, key: Broadcast[bytes], days: DateRange) -> None:
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
    opened = opened_by(work, times, rows_of)
    cleaned_days = frozenset((*held, *opened.pairs["event_date"]))
    log, work = log_before(run, work), sized(run, work, opened.rows.height)
    result = cleaned_again(run, work, key, log, {}, cleaned_days, opened)
    tell(run, result.findings, log)
    require_same_days(result.parts, opened, days)
    found = result.findings.with_files(written(run, work, result.parts, None))
    with discarded_on_error(run.lake, found.files):
        require_fit_records(run.lake, found, run.mapping, max_reject_frac=work.thresholds.max_reject_frac)
    result.parts.drop()
    partitions = [*map(str, held)]
    of_rejects = {"stage": "clean", "source": sorted(of_events), "day": partitions}
    commit_days(run, "silver/events", found.files, "event_date", {"event_date": partitions})
    commit_days(run, "bronze/rejects", found.files, "day", of_rejects)


def days_held(run: TaskRun, work: ShardWork, days: DateRange) -> list[date]:
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
            f"records of {over_days[0]} reach over days by their record_key, visitor_id or explode, so {days} cannot be "
            "made anew alone; run without dates"
        )
    refused = {*run.lake.rows_by_partition("bronze/rejects", "day")} - {NO_DAY}
    held = sorted(day for day in {*by_day, *map(date.fromisoformat, refused)} if day in days)
    if not held:
        raise SettingError(f"there is no event of {days}; silver/events holds {DateRange(min(by_day), max(by_day))}")
    num_events = sum(by_day.get(day, 0) for day in held)
    if num_events > MOST_REOPENED:
        raise SettingError(f"{days} hold {num_events:,} events (limit {MOST_REOPENED:,}); give fewer days at once")
    return held


def log_before(run: TaskRun, work: ShardWork) -> WholeLog:
    """What the last run of all days knew of the whole log; of the clocks what the mapping states holds."""
    known = json.loads(run.lake.table_property("silver/events", CLOCKS) or "{}")
    stated = {name: source.clock for name, source in run.mapping.of_kind("events").items() if source.clock}
    log = WholeLog(clocks=known | stated, erased=erased_digests(run.lake))
    by_day = events_by_day(run.lake)
    return within(log, by_day, *covered(run, work, by_day))


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


def commit_days(run: TaskRun, table: str, written: Mapping[str, list[AddAction]], day: str, where: Where) -> None:
    """Commit the files of a table that hold the partitions `where`, by their column `day`, and remove those of other days."""
    files = [file for file in written[table] if file.partition_values[day] in where[day]]
    remove_files(run.lake, table, [file for file in written[table] if file not in files])
    run.commit_written(table, files, where=where)
