"""clean: bronze/<source> of every source, bronze/images -> silver/events, silver/items, silver/descriptions, bronze/rejects.

Parses types and UTC times, gives each record one outcome, finds duplicates, double clicks, sessions and bots, and
replaces user and order ids by keyed pseudonyms. A user's records are brought together; Polars cleans each shard
(lib/cleaning/shard.py), and others write the rows of each day into files, which are committed at the end. The tasks run in
Spark or in processes of one machine (lib/engines/parts.py).

Cleans what is new in bronze since its last run, and the days of users that this opens again (lib/cleaning/reopening.py); the
tables are those of all records at once. Everything is cleaned where settings, mapping or code are others, where the new
records change what concerns the whole log (its clocks, the days that it covers), and where the mapping names a record_key, a
visitor_id that the records have, or an array to explode. Each table is committed in one transaction; accepted and rejected
records add up to bronze. Too many refused records, or another pseudonym key, stop the job before it commits. A rerun, a retry or
a kill changes nothing. One run at a time writes a lake: another is refused, or, where it was not seen, commits nothing.

With `time.from_date` and `time.to_date` a backfill: the records of these days that were cleaned before are cleaned again, and
silver/events and bronze/rejects of all other days, and all products, stay as they are (docs/decisions/0018).
"""

import json
from math import ceil

from deltalake.transaction import AddAction
from pydantic import Field

from lib.cleaning import batches as tasks
from lib.cleaning.all_records import cleaned_all, tell
from lib.cleaning.backfill import backfill
from lib.cleaning.batches import ShardWork, own_columns
from lib.cleaning.findings import require_fit_records
from lib.cleaning.new_records import CLOCK_COUNTS, New, cleaned_new, whats_new, written
from lib.cleaning.notices import about_clocks
from lib.cleaning.pseudonyms import fingerprint, load_key
from lib.cleaning.thresholds import Thresholds
from lib.engines.arrow_tasks import files_of
from lib.engines.parts import Parts
from lib.engines.spark import SparkRun, start_run
from lib.formats.columns import find_columns
from lib.lake.lake import Lake
from lib.lake.writes import discarded_on_error
from lib.runs.alone import alone
from lib.settings import JobSettings
from lib.tables.bronze import NO_DAY
from lib.tables.silver import CLOCKS, PSEUDONYM_KEY, SESSION_GAP

SHARDS_OF_RECORDS_PER_ITEMS = 8  # records are many, items are few


class CleanSettings(Thresholds, JobSettings):
    """Thresholds, and how the job divides its work."""

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
        records_per_shard=settings.records_per_shard,
        num_item_shards=ceil(num_shards / SHARDS_OF_RECORDS_PER_ITEMS),
    )


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


def main(settings: CleanSettings) -> None:
    """Clean what is new in bronze since the last run and what that opens again, or everything."""
    with alone("clean", Lake(settings.lake.path)), start_run("clean", settings) as run:
        run.hold("silver/events", "silver/items", "silver/descriptions", "bronze/rejects")
        key = load_key(settings.privacy, settings.lake.path)
        require_same_key(run.lake, key)
        shared_key = run.engine.broadcast(key)
        work = work_of(run, settings)
        if run.days:
            backfill(run, work, shared_key, run.days)
            return
        new = None if settings.rebuild else whats_new(run, work, shared_key)
        result = cleaned_new(run, work, shared_key, new) if new else None
        if result is None:
            new, result = None, cleaned_all(run, work, shared_key)
        log, parts, work = result.log, result.parts, result.work
        for line in about_clocks(log.clocks, run.mapping):
            run.log(line)
        tell(run, result.findings, log)
        found = result.findings.with_files(written(run, work, parts, new))
        with discarded_on_error(run.lake, found.files):
            require_fit_records(run.lake, found, run.mapping, max_reject_frac=work.thresholds.max_reject_frac)
            run.require_held()

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
