"""ingest: the log's new files -> bronze/<source> of each source of the mapping, bronze/images, bronze/rejects.

Stores every record as received, as text; a line that does not fit is kept whole. A file is identified by the SHA-256 of
its content and read once, whatever its name. A file that cannot be read is set aside whole with the reason; the others
are still read, and the exit code is 3. Appends once per run: a rerun, a retry or a kill changes nothing.
"""

import json
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import Field as DeltaField
from deltalake.schema import PrimitiveType
from pydantic import Field

from lib.engines.arrow_tasks import InProcess, write_rows
from lib.engines.spark import SparkRun, files_written, in_parts, in_tasks, spark_schema, start_run
from lib.formats.columns import stored_names
from lib.formats.file_batches import FILES, FOUND, inspect_files, read_files
from lib.formats.files import find_files
from lib.formats.log_files import UnreadableError
from lib.formats.mapping import LogMapping
from lib.lake.lake import Lake
from lib.runs.errors import ExitCode, PrivateValueError
from lib.runs.run import InputFile
from lib.settings import JobSettings
from lib.tables import Table, contract

MOST_LINES = 20  # log lines about files that are set aside
GONE = "is gone or changed since a run that did not finish began to read it"
FoundFile = dict[str, Any]  # a row of lib.formats.file_batches.FOUND


class IngestSettings(JobSettings):
    """When the job stops, and how it is divided into tasks."""

    max_bad_files_frac: float = Field(
        0.5, ge=0, le=1, description="largest share of new files that may be set aside; above it the job stops"
    )
    task_megabytes: int = Field(128, ge=1, le=4096, description="approximate size of the files that one task reads")


def find(run: SparkRun, log: str, read_before: set[str], *, task_bytes: int) -> list[FoundFile]:
    """The files of a log that belong to a source, by path, each with the SHA-256 of its content.

    For a file that is not in `read_before`, also with its column names and what makes it unreadable. A log no larger
    than one task is inspected in this process, so that Spark does not start only to find that nothing is new.

    Raises:
        ValueError: there is no log, or none of its files belongs to a source (but where a run is taken up).
    """
    files, num_strangers = find_files(log, run.mapping)
    if not files and not run.input_files:
        patterns = ", ".join(pattern for source in run.mapping.sources.values() for pattern in source.files)
        raise ValueError(
            f"none of the {num_strangers} files of {log} matches a pattern of {run.mapping.name}: {patterns}"
        )
    rows = pa.Table.from_pylist([asdict(file) for file in files], schema=FILES)
    if sum(file.num_bytes for file in files) <= task_bytes:
        looked_through = pa.Table.from_batches(
            inspect_files(rows.to_batches(), mapping=run.mapping, known=InProcess(read_before)), schema=FOUND
        )
    else:
        known = run.spark.sparkContext.broadcast(read_before)
        look = partial(inspect_files, mapping=run.mapping, known=known)
        tasks = in_tasks(run.spark, rows, task_bytes=task_bytes)
        looked_through = tasks.mapInArrow(look, schema=spark_schema(FOUND)).toArrow()
    found: list[FoundFile] = looked_through.sort_by("path").to_pylist()
    run.log("inspected", files=len(found), without_source=num_strangers)
    noted = [file for file in found if file["notes"] and file["problem"] is None]
    for file in noted[:MOST_LINES]:
        run.log(f"{file['path']}: {'; '.join(file['notes'])}")
    if len(noted) > MOST_LINES:
        run.log(f"likewise {len(noted) - MOST_LINES} more files")
    return found


def told_apart(found: Sequence[FoundFile], *, read_before: set[str]) -> tuple[list[FoundFile], list[FoundFile]]:
    """The new files that can be read, and those that cannot; of files with equal content only the first."""
    different: dict[str, FoundFile] = {}
    for file in found:
        different.setdefault(file["sha256"] or file["path"], file)
    new = [file for sha256, file in different.items() if sha256 not in read_before]
    return [file for file in new if file["problem"] is None], [file for file in new if file["problem"] is not None]


def lost_files(run: SparkRun, good: Sequence[FoundFile]) -> list[InputFile]:
    """The files that a run which is taken up began to read and can read no more.

    Of a source that it had committed none is lost, whatever became of it since.
    """
    here = {file["sha256"] for file in good}
    return [file for file in run.input_files if file.sha256 not in here and f"bronze/{file.source}" not in run.outputs]


def tell_of_unread_files(run: SparkRun, found: Sequence[FoundFile]) -> None:
    """Say which files are gone that the run before this one had begun to read, but not committed."""
    here = {file["path"] for file in found} | {file["sha256"] for file in found}
    gone = [file.path for file in run.abandoned_files() if not {file.path, file.sha256} & here]
    if gone:
        more = f" and {len(gone) - MOST_LINES} more" if len(gone) > MOST_LINES else ""
        run.log(f"gone before they were read, as the last run failed: {', '.join(gone[:MOST_LINES])}{more}")


def require_good_files(good: list[FoundFile], bad: list[FoundFile], *, most_bad_frac: float) -> None:
    """Check that enough new files can be read.

    Raises:
        PrivateValueError: none can be read, or too few; gives the number, the limit, and what is wrong with the first,
            which may quote its header, and without a header line that is a record.
    """
    num_new = len(good) + len(bad)
    if not good or len(bad) > most_bad_frac * num_new:
        limit = f" (limit {most_bad_frac:.0%})" if good else ""
        message, problem = (
            f"{len(bad)} of {num_new} new files cannot be read{limit}: {bad[0]['path']} ",
            bad[0]["problem"],
        )
        raise PrivateValueError(message + problem, recorded=message + problem.partition("; it has ")[0])


def append(run: SparkRun, source: str, files: Sequence[FoundFile], *, task_bytes: int) -> list[FoundFile]:
    """Append the records of one source's files to its table, but for files that cannot be read after all: returns them.

    Such a file was damaged, or replaced, since its inspection.
    """
    broken: list[FoundFile] = []
    while len(broken) < len(files):
        kept = [file for file in files if file["sha256"] not in {other["sha256"] for other in broken}]
        try:
            append_all(run, source, kept, task_bytes=task_bytes)
            break
        except Exception as error:  # Spark's, with the error of one task in its text
            now_bad = [found for file in kept if file["path"] in str(error) for found in read_again(run, file)]
            if not now_bad:
                raise
            for bad in now_bad:
                run.log(f"set aside {bad['path']}: it {bad['problem']}")
            broken += now_bad
            run.take_files([file for file in run.input_files if file.sha256 not in {bad["sha256"] for bad in broken}])
    return broken


def read_again(run: SparkRun, file: FoundFile) -> list[FoundFile]:
    """The file with its problem, if it cannot be read to its end."""
    rows, schema = pa.Table.from_pylist([file], schema=FOUND).to_batches(), contract(f"bronze/{file['source']}").schema
    try:
        deque(read_files(rows, mapping=run.mapping, schema=schema, batch_id="", arrived_at=run.started_at), maxlen=0)
    except UnreadableError as error:
        return [file | {"problem": str(error).removeprefix(f"{file['path']} "), "was_readable": True}]
    return []


def append_all(run: SparkRun, source: str, files: Sequence[FoundFile], *, task_bytes: int) -> None:
    """Append the records of these files to their source's table, after adding the columns that it lacks."""
    table = contract(f"bronze/{source}")
    if table.open:
        table = table.with_source_columns(union_of_columns(run.lake, table, files))
        add_columns(run.lake, table)
    read = partial(read_files, mapping=run.mapping, schema=table.schema, batch_id=run.run_id, arrived_at=run.started_at)
    tasks = in_tasks(run.spark, pa.Table.from_pylist(list(files), schema=FOUND), task_bytes=task_bytes)
    written = files_written(in_parts(tasks, write_rows, lake=run.lake.absolute(), table=table, made_by=read))
    run.commit_written(table.name, written, mode="append", declared=table)


def union_of_columns(lake: Lake, table: Table, files: Iterable[FoundFile]) -> tuple[str, ...]:
    """The source's own columns: those that its table has, then those of new files.

    Names that differ only in case are one column.
    """
    names = lake.open(table.name).schema().to_arrow().names if lake.exists(table.name) else []
    own: dict[str, str] = {}
    for name in [*names, *(name for file in files for name in stored_names(file["names"]))]:
        own.setdefault(name.lower(), name)
    return tuple(name for name in own.values() if name not in table.schema.names)


def add_columns(lake: Lake, table: Table) -> None:
    """Add to an open table the columns that it lacks, as text; they are null in existing records."""
    if lake.exists(table.name):
        delta = lake.open(table.name)
        present = {field.name for field in delta.schema().fields}
        missing = [DeltaField(name, PrimitiveType("string")) for name in table.schema.names if name not in present]
        if missing:
            delta.alter.add_columns(missing)


def refused_files(lake: Lake) -> list[dict[str, Any]]:
    """The rows of bronze/rejects for files that were set aside whole."""
    if not lake.exists("bronze/rejects"):
        return []
    rows: list[dict[str, Any]] = (
        lake.dataset("bronze/rejects").to_table(filter=pc.field("stage") == "ingest").to_pylist()
    )
    return rows


def refusal(run: SparkRun, file: FoundFile) -> dict[str, Any]:
    """The row of bronze/rejects for a file that is set aside; it is inspected again if it or the mapping changes.

    A file that is gone, or that could be read when it was inspected, is inspected again.
    """
    judged_under = None if file["problem"] == GONE or file.get("was_readable") else run.mapping.sha256
    return {
        "stage": "ingest",
        "source": file["source"],
        "source_file": file["path"],
        "source_record": None,
        "reason": f"file:{file['problem']}",
        "raw": json.dumps({"sha256": file["sha256"], "mapping_sha256": judged_under}),
        "batch_id": run.run_id,
        "arrived_at": run.started_at,
    }


def refused_rows(run: SparkRun, file: FoundFile) -> list[dict[str, Any]]:
    """The rows of bronze/rejects for the rows of a file of pictures that are no pictures."""
    whole = refusal(run, file)
    return [
        whole | {"source_record": f"{file['path']}:{row['record_number']}", "reason": row["reason"]}
        for row in file["refused"] or ()
    ]


def refusals_table(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows of bronze/rejects as Arrow."""
    return pa.Table.from_pylist(rows, schema=contract("bronze/rejects").schema)


def judged_before(refused: list[dict[str, Any]], mapping: LogMapping) -> set[str]:
    """SHA-256 of the files that were set aside under this mapping: they would be set aside again."""
    files = (json.loads(row["raw"]) for row in refused)
    return {file["sha256"] for file in files if file["sha256"] and file["mapping_sha256"] == mapping.sha256}


def not_looked_at(refused: list[dict[str, Any]], files: Sequence[FoundFile]) -> list[dict[str, Any]]:
    """The rows of bronze/rejects for files that are not among `files`.

    Of a file that was gone or changed, what now has its path is looked at in its place.
    """
    contents, paths = {file["sha256"] or file["path"] for file in files}, {file["path"] for file in files}

    def is_looked_at(row: dict[str, Any]) -> bool:
        raw = json.loads(row["raw"])
        is_replaced = raw["mapping_sha256"] is None and row["source_file"] in paths
        return is_replaced or (raw["sha256"] or row["source_file"]) in contents

    return [row for row in refused if not is_looked_at(row)]


def read_files_of_run(run: SparkRun, settings: IngestSettings) -> tuple[list[FoundFile], bool]:
    """Append the records of the log's new files to bronze; returns the files set aside, and whether some had to wait.

    A run that is taken up reads what it had begun to read, and nothing newer. Where some of that is gone it sets it
    aside, or starts anew if it has committed nothing.
    """
    refused = refused_files(run.lake)
    pinned = {file.sha256 for file in run.input_files}
    read_before = (run.known_files() | judged_before(refused, run.mapping)) - pinned
    task_bytes = settings.task_megabytes << 20
    log = settings.log.path or str(run.lake.folder / "raw" / "market")
    found = find(run, log, read_before, task_bytes=task_bytes)
    new, bad = told_apart(found, read_before=read_before)
    good = [file for file in new if file["sha256"] in pinned]
    lost = lost_files(run, new)
    if lost and not run.outputs:
        run.start_anew()
    if run.input_files:
        told = {file["path"] for file in bad}
        bad += [{**asdict(file), "problem": GONE} for file in lost if file.path not in told]
        run.take_files([file for file in run.input_files if file not in lost])
    else:
        good = new
        tell_of_unread_files(run, found)
        if not good and not bad:
            run.skip(f"no new files among {len(found)}")
        require_good_files(good, bad, most_bad_frac=settings.max_bad_files_frac)
        run.take_files([InputFile(file["path"], file["sha256"], file["source"]) for file in good])
    for file in bad[:MOST_LINES]:
        run.log(f"set aside {file['path']}: it {file['problem']}")
    for source in run.mapping.sources:
        files = [file for file in good if file["source"] == source]
        if files:
            bad += append(run, source, files, task_bytes=task_bytes)
    still_refused = not_looked_at(refused, [*good, *bad])
    unread = {file["sha256"] for file in bad}
    no_pictures = [row for file in good if file["sha256"] not in unread for row in refused_rows(run, file)]
    if bad or no_pictures or len(still_refused) < len(refused):
        rows = [*still_refused, *no_pictures, *(refusal(run, file) for file in bad)]
        run.commit_arrow("bronze/rejects", refusals_table(rows), where={"stage": "ingest"})
    return bad, len(good) < len(new)


def main(settings: IngestSettings) -> None:
    """Read the log's new files; exit with a code of its own if one was set aside.

    A run that did not finish is taken up; then another reads what came since.
    """
    num_bad, some_wait = 0, True
    while some_wait:
        some_wait = False
        with start_run("ingest", settings) as run:
            bad, some_wait = read_files_of_run(run, settings)
            num_bad += len(bad)
    if num_bad:
        raise SystemExit(ExitCode.FILES_SET_ASIDE)


if __name__ == "__main__":
    main(IngestSettings.from_command_line())
