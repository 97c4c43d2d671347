"""Cleaning every record of the lake."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from functools import reduce
from typing import Any, NamedTuple

import polars as pl

from lib.cleaning import batches as tasks
from lib.cleaning.batches import ShardWork
from lib.cleaning.erasures import erased_digests
from lib.cleaning.findings import Findings
from lib.cleaning.forms import remarks
from lib.cleaning.increment import Increment
from lib.cleaning.notices import about_days, about_repeats
from lib.cleaning.whole_log import WholeLog, clock_of, days_covered
from lib.engines.arrow_tasks import Broadcast, gathered
from lib.engines.parts import Parts, TaskRun
from lib.formats.rules import Clock

SAMPLED_TIMES = 100_000  # of a source, from which its clock is found


def clocks(run: TaskRun, work: ShardWork) -> dict[str, Clock]:
    """The clock of each source of events: what the mapping says, else what a sample of its times shows."""
    tables = {name: f"bronze/{name}" for name in unstated_clocks(run, work)}
    every = {
        name: max(1, run.lake.num_rows(table, run.inputs[table]) // SAMPLED_TIMES) for name, table in tables.items()
    }
    parts = run.files_of(tables).then(tasks.count_clocks, work=work, every=every).collected() if tables else []
    return clocks_by(run, work, gathered(parts, tasks.CLOCKS, tasks.GATHERED))


def unstated_clocks(run: TaskRun, work: ShardWork) -> list[str]:
    """The sources of events whose clock the mapping does not say."""
    return [name for name, source in run.mapping.of_kind("events").items() if name in work.schemas and not source.clock]


def clocks_by(run: TaskRun, work: ShardWork, counts: pl.DataFrame) -> dict[str, Clock]:
    """The clock of each source of events, by how many of its times lie on which."""
    found: dict[str, Clock | None] = {name: source.clock for name, source in run.mapping.of_kind("events").items()}
    for name in unstated_clocks(run, work):
        of_source = counts.filter(source=name).group_by("clock").agg(pl.col("num_times").sum())
        found[name] = clock_of(dict(of_source.rows()))
    return {name: clock for name, clock in found.items() if clock is not None and name in work.schemas}


def sharded(
    run: TaskRun, work: ShardWork, kind: str, key: Broadcast[bytes], increment: Increment | None = None
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
    work: ShardWork  # with the number of shards that the parts are in


def sized(run: TaskRun, work: ShardWork, num_events: int) -> ShardWork:
    """The work in as many shards as so many records of events need, beside those of all catalogues."""
    catalogues = (f"bronze/{name}" for name in run.mapping.of_kind("items") if name in work.schemas)
    num_records = num_events + sum(run.lake.num_rows(table, run.inputs[table]) for table in catalogues)
    return replace(work, num_shards=run.num_shards(num_records, rows_per_shard=work.records_per_shard))


def cleaned(run: TaskRun, work: ShardWork, key: Broadcast[bytes], log: WholeLog, events: Parts) -> Cleaned:
    """Clean the records of events, packed by shard, and those of all catalogues."""
    parts = events.to_shards(work.num_shards).then(tasks.clean_event_shard, work=work, key=key, log=log)
    if {*work.schemas} & {*run.mapping.of_kind("items")}:
        items = sharded(run, work, "items", key).to_shards(work.num_shards)
        parts = parts.union(items.then(tasks.clean_item_shard, work=work))
    parts = parts.keep()
    found = Findings.of(parts.but(tasks.DESCRIBED, tasks.EVENT_ROWS, tasks.REJECT_ROWS).collected())
    return Cleaned(found, parts, log, work)


def covered(run: TaskRun, work: ShardWork, by_day: Mapping[date, int]) -> tuple[date, date]:
    """The first and the last day that the log covers; what lies outside is stray."""
    stated = [moment.date() for _, moment in run.mapping.times if moment is not None]  # the log's own, strays or not
    days = days_covered(by_day, max_stray_frac=work.thresholds.max_stray_frac)
    return min(*days, *stated), max(*days, *stated)


def within(log: WholeLog, by_day: Mapping[date, int], first: date, last: date) -> WholeLog:
    """What is known of the log, with the days that it covers where some events lie outside them."""
    are_all_inside = first <= min(by_day) and max(by_day) <= last
    return log if are_all_inside else replace(log, first_day=first, last_day=last)


def cleaned_all(run: TaskRun, work: ShardWork, key: Broadcast[bytes]) -> Cleaned:
    """All records, cleaned; again where it shows that some lie far outside the log, or that a clock is another."""
    log = WholeLog(clocks=clocks(run, work), erased=erased_digests(run.lake))
    events = sharded(run, work, "events", key)
    result = cleaned(run, work, key, log, events)
    by_day = result.findings.events_by_day
    right = replace(log, clocks=clocks_by(run, work, result.findings.clocks))
    if by_day:
        first, last = covered(run, work, by_day)
        for line in about_days(by_day, first, last):
            run.log(line)
        right = within(right, by_day, first, last)
    if right != log:
        result.parts.drop()
        result = cleaned(run, work, key, right, events)
    events.drop()
    return result


def tell(run: TaskRun, found: Findings, log: WholeLog) -> None:
    """Say what became of the records, and what a person should know of their values."""
    for source in sorted({row["source"] for row in found.counts}):
        run.log(
            f"cleaned {source}",
            **{row["outcome"]: row["num_records"] for row in found.counts if row["source"] == source},
        )
    remarked = remarks(found.counts, found.forms, run.mapping)
    for line in (*remarked, *about_repeats(found.counts, run.mapping, log.clocks)):
        run.log(line)
