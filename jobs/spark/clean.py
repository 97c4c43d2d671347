"""clean: bronze/<source> of every source, bronze/images -> silver/events, silver/items, bronze/rejects.

Parses types and UTC times, gives each record one outcome, finds duplicates, double clicks, sessions and bots, and
replaces user and order ids by keyed pseudonyms. A user's records are brought together; Polars cleans each shard
(lib/cleaning/shard.py) and writes its rows into files, which are committed at the end. The tasks run in Spark or in
processes of one machine (lib/engines/parts.py). What concerns the whole log is settled around that: each source's clock before, and after it
which events lie far outside the log; where there are any, the shards are cleaned again without them
(lib/cleaning/whole_log.py). Rebuilds its tables in one transaction each; accepted and rejected records add up to
bronze. Too many refused records, or another pseudonym key, stop the job before it writes. A rerun, a retry or a kill changes
nothing.
"""

import json
from dataclasses import replace
from functools import reduce
from math import ceil
from typing import NamedTuple

import polars as pl
from deltalake.transaction import AddAction
from pydantic import Field

from lib.cleaning import batches as tasks
from lib.cleaning.batches import ShardWork, own_columns
from lib.cleaning.erasures import erased_digests
from lib.cleaning.findings import Findings, require_fit_records
from lib.cleaning.forms import remarks
from lib.cleaning.notices import about_clocks, about_days, about_repeats
from lib.cleaning.pseudonyms import fingerprint, load_key
from lib.cleaning.thresholds import Thresholds
from lib.cleaning.whole_log import WholeLog, clock_of, days_covered
from lib.engines.arrow_tasks import Broadcast, gathered
from lib.engines.parts import Parts, files_written
from lib.engines.spark import SparkRun, start_run
from lib.formats.columns import find_columns
from lib.formats.rules import Clock
from lib.lake.lake import Lake
from lib.lake.writes import discard, discarded_on_error
from lib.settings import JobSettings
from lib.tables.silver import CLOCKS, PSEUDONYM_KEY, SESSION_GAP

SHARDS_OF_RECORDS_PER_ITEMS = 8  # records are many, items are few
SAMPLED_TIMES = 100_000  # of a source, from which its clock is found


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
    sources = {name: source for name, source in run.mapping.of_kind("events").items() if name in work.schemas}
    sampled = {name: f"bronze/{name}" for name, source in sources.items() if source.clock is None}
    found: dict[str, Clock | None] = {name: source.clock for name, source in sources.items()}
    if sampled:
        every = {
            name: max(1, run.lake.num_rows(table, run.inputs[table]) // SAMPLED_TIMES)
            for name, table in sampled.items()
        }
        parts = run.files_of(sampled).then(tasks.count_clocks, work=work, every=every)
        counts = gathered(parts.collected(), tasks.CLOCKS, tasks.GATHERED)
        for name in sampled:
            of_source = counts.filter(pl.col("source") == name).group_by("clock").agg(pl.col("num_times").sum())
            found[name] = clock_of(dict(of_source.rows()))
    return {name: clock for name, clock in found.items() if clock is not None}


def sharded(run: SparkRun, work: ShardWork, kind: str) -> Parts:
    """The records of the sources of a kind, in parts that are brought together by shard."""
    parts = []
    for name in run.mapping.of_kind(kind):
        if name not in work.schemas:
            continue
        files = run.files_of({name: f"bronze/{name}"})
        if run.mapping.sources[name].record_key:
            by_key = files.then(tasks.spread_records, work=work, by_record_key=True)
            parts.append(by_key.to_shards(work.num_shards).then(tasks.spread_marked_records, work=work))
        else:
            parts.append(files.then(tasks.spread_records, work=work))
    return reduce(lambda some, others: some.union(others), parts).to_shards(work.num_shards)


class Cleaned(NamedTuple):
    """What was found, and all parts of the shards, kept: descriptions of items are still to be brought together."""

    findings: Findings
    parts: Parts


def cleaned(run: SparkRun, work: ShardWork, key: Broadcast[bytes], log: WholeLog) -> Cleaned:
    """Clean all records; the events and rejects are written into files, which are not committed yet."""
    shards = sharded(run, work, "events")
    parts = shards.then(tasks.clean_event_shard, work=work, key=key, log=log)
    if {*work.schemas} & {*run.mapping.of_kind("items")}:
        parts = parts.union(sharded(run, work, "items").then(tasks.clean_item_shard, work=work))
    parts = parts.keep()
    found = Findings.of(parts.but(tasks.DESCRIPTIONS).collected())
    shards.drop()
    return Cleaned(found, parts)


def cleaned_without_strays(
    run: SparkRun, settings: CleanSettings, work: ShardWork, key: Broadcast[bytes], log: WholeLog
) -> Cleaned:
    """The cleaned records; where some events lie far outside the log, cleaned again without them."""
    result = cleaned(run, work, key, log)
    by_day = result.findings.events_by_day
    if not by_day:
        return result
    stated = [moment.date() for _, moment in run.mapping.times if moment is not None]  # the log's own, strays or not
    covered = days_covered(by_day, max_stray_frac=settings.max_stray_frac)
    first, last = min(*covered, *stated), max(*covered, *stated)
    for line in about_days(by_day, first, last):
        run.log(line)
    if first <= min(by_day) and max(by_day) <= last:
        return result
    discard(run.lake, result.findings.files)
    result.parts.drop()
    return cleaned(run, work, key, replace(log, first_day=first, last_day=last))


def write_items(run: SparkRun, work: ShardWork, parts: Parts) -> list[AddAction]:
    """Bring the descriptions of each item together; returns the files of silver/items."""
    descriptions = parts.of(tasks.DESCRIPTIONS)
    if run.has("bronze/images"):
        pictures = run.files_of({"images": "bronze/images"})
        descriptions = descriptions.union(pictures.then(tasks.spread_pictures, work=work))
    return files_written(descriptions.to_shards(work.num_item_shards).then(tasks.write_items, work=work))


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
    """Rebuild silver, and the rows of this job in bronze/rejects, from all of bronze."""
    with start_run("clean", settings) as run:
        key = load_key(settings.privacy, settings.lake.path)
        require_same_key(run.lake, key)
        shared_key = run.engine.broadcast(key)
        work = work_of(run, settings)
        log = WholeLog(clocks=clocks(run, work), erased=erased_digests(run.lake))
        for line in about_clocks(log.clocks, run.mapping):
            run.log(line)
        found, parts = cleaned_without_strays(run, settings, work, shared_key, log)
        tell(run, found, log)
        with discarded_on_error(run.lake, found.files):
            require_fit_records(run.lake, found, run.mapping, max_reject_frac=settings.max_reject_frac)

        known = {PSEUDONYM_KEY: fingerprint(key), SESSION_GAP: str(settings.session_gap_minutes)}
        known |= {CLOCKS: json.dumps(log.clocks, sort_keys=True)}
        run.commit_written("silver/events", found.files["silver/events"], properties=known)
        run.commit_written("silver/items", write_items(run, work, parts))
        run.commit_written("bronze/rejects", found.files["bronze/rejects"], where={"stage": "clean"})
        parts.drop()


if __name__ == "__main__":
    main(CleanSettings.from_command_line())
