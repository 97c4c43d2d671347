"""ingest: the log's new files -> bronze/<source> of each source of the mapping, bronze/images, bronze/rejects; ops/files.

Stores every record as received, as text; a line that does not fit is kept whole. A file is identified by the SHA-256 of
its content and read once, whatever its name; one that has kept its place, size and time is not even opened again. A file
that cannot be read is set aside whole with the reason; the others are still read, and the exit code is 3. Appends once
per run: a rerun, a retry or a kill changes nothing.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial

import pyarrow as pa
from deltalake.transaction import AddAction
from pydantic import Field

from lib.engines.arrow_tasks import written
from lib.engines.parts import Task
from lib.engines.spark import SparkRun, start_run
from lib.formats.files import find_files
from lib.formats.log_files import LogFile
from lib.ingestion import tasks
from lib.ingestion.own_columns import are_spelled_apart, own_columns
from lib.ingestion.refusals import judged_before, not_looked_at, refusals, refusals_of
from lib.ingestion.seen_files import hashes, save_hashes
from lib.ingestion.staged import FoundFile, Staged
from lib.lake.writes import discard, discarded_on_error, missing_files
from lib.runs.errors import ExitCode, PrivateValueError
from lib.runs.run import InputFile
from lib.settings import JobSettings
from lib.tables import contract

MOST_LINES = 20  # log lines about files


class IngestSettings(JobSettings):
    """When the job stops, how it knows files, and how it is divided into tasks."""

    max_bad_files_frac: float = Field(
        0.5, ge=0, le=1, description="largest share of new files that may be set aside; above it the job stops"
    )
    hash_every_file: bool = Field(
        False, description="look at the content also of files that have the place, size and time of one seen before"
    )
    task_megabytes: int = Field(128, ge=1, le=4096, description="approximate size of the files that one task reads")


def by_tasks(
    run: SparkRun, task: Task, files: Sequence[LogFile], sha256: Mapping[str, str], *, task_bytes: int
) -> list[tuple[str, bytes]]:
    """The kind and content of the parts that tasks make of files."""
    rows = pa.Table.from_pylist(
        [vars(file) | {"sha256": sha256.get(file.location)} for file in files], schema=tasks.FILES
    )
    return run.engine.over(rows, task_bytes=task_bytes).then(task).collected() if files else []


def hashed(run: SparkRun, files: Sequence[LogFile], settings: IngestSettings) -> tuple[dict[str, str], dict[str, str]]:
    """The SHA-256 of the files, by location, and the problem of each that cannot be opened."""
    seen = {} if settings.hash_every_file else hashes(run.lake, files)
    unseen = [file for file in files if file.location not in seen]
    began = datetime.now(UTC)
    task_bytes = settings.task_megabytes << 20
    parts = by_tasks(run, tasks.hash_files, unseen, {}, task_bytes=task_bytes)
    rows = [json.loads(content) for _, content in parts]
    sha256 = {row["location"]: row["sha256"] for row in rows if row["sha256"]}
    save_hashes(run.lake, unseen, sha256, began)
    return seen | sha256, {row["location"]: row["problem"] for row in rows if row["problem"]}


def find(run: SparkRun, settings: IngestSettings) -> tuple[list[LogFile], dict[str, str], list[FoundFile]]:
    """The files that are new, by path, the SHA-256 of each, and those that cannot be opened.

    Of files with equal content the first is new. Ends the run as skipped if there are neither.

    Raises:
        ValueError: there is no log, or none of its files belongs to a source.
    """
    log = settings.log.path or run.lake.uri("raw/market")
    files, num_strangers = find_files(log, run.mapping)
    if not files:
        patterns = ", ".join(run.mapping.file_patterns)
        raise ValueError(
            f"none of the {num_strangers} files of {log} matches a pattern of {run.mapping.name}: {patterns}"
        )
    sha256, problems = hashed(run, files, settings)
    read_before = run.known_files() | judged_before(refusals(run.lake), run.mapping)
    new: dict[str, LogFile] = {}
    for file in files:
        if file.location in sha256 and sha256[file.location] not in read_before:
            new.setdefault(sha256[file.location], file)
    closed = [
        FoundFile(file.path, file.source, "", problem=problems[file.location], may_pass=True)
        for file in files
        if file.location in problems
    ]
    run.log("found", files=len(files), new=len(new), without_source=num_strangers)
    if not new and not closed:
        run.skip(f"no new files among {len(files)}")
    return list(new.values()), sha256, closed


def stage(run: SparkRun, settings: IngestSettings) -> Staged:
    """Read the new files, and write their records into files of bronze that are not committed yet."""
    new, sha256, closed = find(run, settings)
    tables = {name: f"bronze/{name}" for name in run.mapping.sources}
    columns = {name: own_columns(run.lake, table) for name, table in tables.items()}
    staged = written_by_tasks(run, new, sha256, columns, settings)
    found = {name: columns_found(staged, name) for name in tables}
    if any(are_spelled_apart(run.lake, table, found[name]) for name, table in tables.items()):
        run.log("new columns differ only in case: the files are read once more")
        discard(run.lake, staged.written)
        spelled = {name: own_columns(run.lake, table, found[name]) for name, table in tables.items()}
        staged = written_by_tasks(run, new, sha256, spelled, settings)
    staged = Staged(staged.good, [*staged.bad, *closed], staged.written)
    tell(run, staged)
    with discarded_on_error(run.lake, staged.written):
        require_good_files(staged, most_bad_frac=settings.max_bad_files_frac)
    staged.keep(run.files("ingest"))
    return staged


def written_by_tasks(
    run: SparkRun,
    new: Sequence[LogFile],
    sha256: Mapping[str, str],
    columns: Mapping[str, Sequence[str]],
    settings: IngestSettings,
) -> Staged:
    """What tasks made of the new files; `columns` are the sources' own columns as their tables spell them."""
    work = tasks.IngestWork(run.lake.absolute(), run.mapping, run.run_id, run.started_at, columns)
    task = partial(tasks.stage_files, work=work)
    task_bytes = settings.task_megabytes << 20
    files, tables = list[FoundFile](), dict[str, list[AddAction]]()
    for kind, content in by_tasks(run, task, new, sha256, task_bytes=task_bytes):
        if kind == tasks.FOUND:
            files.append(FoundFile.of_json(json.loads(content)))
        else:
            tables.setdefault(kind, []).append(written(content))
    files.sort(key=lambda file: file.path)
    return Staged([file for file in files if not file.problem], [file for file in files if file.problem], tables)


def columns_found(staged: Staged, source: str) -> list[tuple[str, ...]]:
    """The columns of each file of a source that was read."""
    return [file.columns for file in staged.good if file.source == source]


def tell(run: SparkRun, staged: Staged) -> None:
    """Say what was read, what is to be known of it, and what was set aside."""
    run.log("read", files=len(staged.good), set_aside=len(staged.bad))
    noted = [file for file in staged.good if file.notes]
    for file in noted[:MOST_LINES]:
        run.log(f"{file.path}: {'; '.join(file.notes)}")
    if len(noted) > MOST_LINES:
        run.log(f"likewise {len(noted) - MOST_LINES} more files")
    for file in staged.bad[:MOST_LINES]:
        run.log(f"set aside {file.path}: it {file.problem}")


def require_good_files(staged: Staged, *, most_bad_frac: float) -> None:
    """Check that enough new files can be read.

    Raises:
        PrivateValueError: none can be read, or too few; gives the number, the limit, and what is wrong with the first,
            which may quote its header, and without a header line that is a record.
    """
    bad, num_new = staged.bad, len(staged.good) + len(staged.bad)
    if not staged.good or len(bad) > most_bad_frac * num_new:
        limit = f" (limit {most_bad_frac:.0%})" if staged.good else ""
        first = min(bad, key=lambda file: file.path)
        message = f"{len(bad)} of {num_new} new files cannot be read{limit}: {first.path} {first.problem}"
        raise PrivateValueError(message, recorded=message.partition("; it has ")[0])


def kept(run: SparkRun) -> Staged | None:
    """What a run that is taken up has read, but for sources whose files a vacuum has removed: these are read again."""
    staged = Staged.kept(run.files("ingest")) if run.is_taken_up else None
    if staged is None:
        return None
    lost = {
        table
        for table, files in staged.written.items()
        if table not in run.outputs and missing_files(run.lake, table, files)
    }
    good = [file for file in staged.good if f"bronze/{file.source}" not in lost]
    whole = {table: files for table, files in staged.written.items() if table not in lost}
    return Staged(good, staged.bad, whole) if good else None


def commit(run: SparkRun, staged: Staged) -> None:
    """Append what was read to the tables of its sources, and say in bronze/rejects what was set aside."""
    run.take_files(InputFile(file.path, file.sha256, file.source) for file in staged.good)
    for source in run.mapping.sources:
        table = contract(f"bronze/{source}")
        if table.name in staged.written and table.name not in run.outputs:
            if table.open:
                table = table.with_source_columns(own_columns(run.lake, table.name, columns_found(staged, source)))
            run.commit_written(table.name, staged.written[table.name], mode="append", declared=table)
    refused = refusals(run.lake)
    still = not_looked_at(refused, [*staged.good, *staged.bad])
    new = [
        row
        for file in [*staged.good, *staged.bad]
        for row in refusals_of(file, run.mapping, batch_id=run.run_id, arrived_at=run.started_at)
    ]
    if new or len(still) < len(refused):
        rows = pa.Table.from_pylist([*still, *new], schema=contract("bronze/rejects").schema)
        run.commit_arrow("bronze/rejects", rows, where={"stage": "ingest"})


def main(settings: IngestSettings) -> None:
    """Read the log's new files; exit with a code of its own if one was set aside.

    A run that did not finish commits what it had read; then another reads what came since.
    """
    num_bad, is_behind = 0, True
    while is_behind:
        is_behind = False
        with start_run("ingest", settings) as run:
            before = kept(run)
            staged = before or stage(run, settings)
            commit(run, staged)
            num_bad += len(staged.bad)
            is_behind = before is not None
    if num_bad:
        raise SystemExit(ExitCode.FILES_SET_ASIDE)


if __name__ == "__main__":
    main(IngestSettings.from_command_line())
