"""A run of a job: recorded before it writes, reads pinned versions, commits each output once, resumes after a kill."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from lib.formats.mapping import LogMapping, load_mapping
from lib.lake.lake import Lake, require_writable
from lib.lake.writes import commit_files, conform, require_keys, transaction_id, write_files
from lib.pipeline import JOBS, Job
from lib.runs import history, lineage, model_registry
from lib.runs.errors import note, recordable, recordable_traceback
from lib.runs.freshness import code_version, days_asked, days_of, pin_inputs, pinned, settings_hash
from lib.runs.log_times import LogTimes, log_times, resolve_as_of
from lib.runs.logs import job_logger
from lib.settings import DateRange, JobSettings
from lib.tables import contract

FAILED_AGAIN = " (again, when it was taken up)"


class Skipped(Exception):  # noqa: N818 - it is not an error
    """The log does not hold what the job needs; the pipeline goes on."""


@dataclass(frozen=True)
class InputFile:
    """A file of the log: path below the log folder, SHA-256 of its content, and the mapping's source it belongs to."""

    path: str
    sha256: str
    source: str


@dataclass
class Run:
    """One run of one job on one lake; made by `start_run`."""

    job: Job
    settings: JobSettings
    lake: Lake
    run_id: str
    number: int
    inputs: dict[str, int]
    settings_hash: str
    code_version: str
    started_at: datetime
    known_times: LogTimes | None  # None before silver/events exists, and in the jobs that lead to it
    input_files: list[InputFile] = field(default_factory=list)
    outputs: dict[str, int] = field(default_factory=dict)
    is_taken_up: bool = False  # it had not finished, and goes on
    rows_by_table: Counter[str] = field(default_factory=Counter)  # that it wrote
    began: float = field(default_factory=time.monotonic)

    @property
    def rows(self) -> int:
        """Rows that the run has written, to all tables."""
        return self.rows_by_table.total()

    @cached_property
    def mapping(self) -> LogMapping:
        """The mapping of the log."""
        return load_mapping(self.settings.log.format)

    @property
    def times(self) -> LogTimes:
        """The log's times; ends the run as skipped if there are no events to derive them from."""
        if self.known_times is None:
            raise Skipped("there is no silver/events: no record of the log was accepted yet")
        return self.known_times

    @property
    def days(self) -> DateRange | None:
        """The days that the run makes anew; None where it is one of all days."""
        return days_asked(self.job, self.settings)

    @property
    def as_of(self) -> datetime:
        """The time up to which this run's rows use the log (exclusive)."""
        return resolve_as_of(self.settings.time.as_of, self.times)

    def has(self, table: str) -> bool:
        """Whether the run has this input, with rows in it."""
        return table in self.inputs and self.lake.num_rows(table, self.inputs[table]) > 0

    def dataset(self, table: str) -> ds.Dataset:
        """An input table at its pinned version, as an Arrow dataset."""
        return self.lake.dataset(table, self.version_of(table))

    def version_of(self, table: str) -> int:
        """The pinned version of an input; ends the run as skipped if the job requires the input and it has no rows."""
        if table in self.job.reads and not self.has(table):
            raise Skipped(self.why_missing(table))
        assert table in self.inputs, f"{self.job.name} does not declare that it reads {table}, or the table is missing"
        return self.inputs[table]

    def why_missing(self, table: str) -> str:
        """That the lake has no rows of a table, and what its writer said last."""
        writer = next((job for job in JOBS.values() if table in job.writes), None)
        last = history.last_run(self.lake, writer.name) if writer else None
        told = f" ({writer.name}: {last['message']})" if writer and last and last["message"] else ""
        return f"there is no {table}{told}"

    def version_before(self, table: str) -> int | None:
        """The version of a table before this run committed to it; None, for the latest, where it has not yet."""
        committed = self.lake.version_of_run(table, self.run_id)
        return None if committed is None else committed - 1

    def property_of(self, table: str, name: str) -> str:
        """A table property that the writer of an input has set, at the pinned version.

        Raises:
            ValueError: it is not set, because an earlier release wrote the table.
        """
        value = self.lake.table_property(table, name, self.version_of(table))
        if value is None:
            writer = next(job.name for job in JOBS.values() if table in job.writes)
            raise ValueError(f"{table} lacks its property {name}: an earlier release wrote it; run {writer} again")
        return value

    def read_arrow(
        self, table: str, columns: Sequence[str] | None = None, filter: pc.Expression | None = None
    ) -> pa.Table:
        """Rows of an input table at its pinned version."""
        return self.dataset(table).to_table(columns=list(columns) if columns else None, filter=filter)

    def commit_arrow(self, table: str, rows: pa.Table, where: Mapping[str, str] | None = None) -> None:
        """Replace the table's content, or its partitions `where`, by `rows`, in one transaction, once per run."""
        self.keep_files()
        conforming = conform(contract(table), rows)
        require_keys(contract(table), conforming)
        transaction = transaction_id(self.job.name, table, where)
        files = []
        if self.lake.last_committed_run(table, transaction) < self.number:
            files = write_files(self.lake, contract(table), [conforming] if conforming.num_rows else [])
        version = commit_files(
            self.lake,
            contract(table),
            files,
            transaction=transaction,
            number=self.number,
            where=where,
            run_id=self.run_id,
        )
        self.record_output(table, version, rows.num_rows)

    def record_output(self, table: str, version: int, num_rows: int) -> None:
        """Note an output of this run for its row in ops/runs."""
        self.outputs[table] = version
        self.rows_by_table[table] += num_rows
        self.log(f"wrote {table}", rows=num_rows)

    def files(self, kind: str) -> Path:
        """The run's folder for files of a kind; the same if the run is resumed."""
        return self.lake.files(kind, self.run_id)

    def storage(self, kind: str) -> str:
        """Where the lake holds the run's files of a kind: a path or an address, for writers on other machines."""
        return self.lake.uri(f"files/{kind}/{self.run_id}")

    def keep_files(self) -> None:
        """Bring the run's files to where the lake lies, before a row says where they are."""
        if self.lake.is_remote:
            for folder in self.lake.folder.glob(f"files/*/{self.run_id}"):
                self.lake.keep(folder)

    def uri(self, path: Path) -> str:
        """A file's path below the lake, for a uri column."""
        return path.absolute().relative_to(self.lake.folder).as_posix()

    def register_model(
        self,
        model: str,
        folder: Path | str,
        *,
        checkpoint: Path | None = None,
        num_parameters: int,
        status: str = "promoted",
        reason: str | None = None,
        curves: Mapping[str, Sequence[float]] | None = None,
        known: Mapping[str, str] | None = None,
    ) -> None:
        """Record this run's version of a model, with the job's settings, what is `known` beside them, and what was measured after each epoch.

        A promoted one retires the previous one.
        """
        self.keep_files()
        row = {
            "model": model,
            "version": self.run_id,
            "uri": self.uri(folder) if isinstance(folder, Path) else folder,
            "sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest() if checkpoint else None,
            "run_id": self.run_id,
            "inputs": _versions(self.inputs),
            "status": status,
            "reason": reason,
            "as_of": self.as_of if self.known_times is not None else None,
            "num_parameters": num_parameters,
            "created_at": self.started_at,
            "settings": json.dumps(
                self.settings.model_dump(mode="json", include=set(self.settings.own_fields())) | dict(known or {})
            ),
            "curves": json.dumps({name: list(values) for name, values in (curves or {}).items()}),
        }
        model_registry.register_model(self.lake, row)

    def current_model(self, model: str) -> dict[str, Any] | None:
        """The promoted version of a model, a row of ops/models; None if there is none."""
        return model_registry.current_model(self.lake, model)

    def take_files(self, files: Iterable[InputFile]) -> None:
        """Note the files that this run has read, before it commits what they hold."""
        self.input_files = list(files)
        self.save("running")

    def done_before(self) -> list[dict[str, Any]]:
        """The earlier runs of this job, of the same code and settings, that have ended well; the oldest first.

        Those of single days are among them.
        """
        identity = (self.settings_hash, self.code_version)
        return [
            row
            for row in history.runs(self.lake, self.job.name)
            if row["status"] == "done" and (row["settings_hash"], row["code_version"]) == identity
        ]

    def known_files(self) -> set[str]:
        """SHA-256 of every file that an earlier run of this job has read and committed."""
        known: set[str] = set()
        for row in history.runs(self.lake, self.job.name):
            written = {output["table"] for output in row["outputs"]}
            for file in row["input_files"]:
                if row["status"] == "done" or f"bronze/{file['source']}" in written:
                    known.add(file["sha256"])
        return known

    def skip(self, why: str) -> NoReturn:
        """End the run: the log does not hold what the job needs."""
        raise Skipped(why)

    def log(self, what: str, **figures: Any) -> None:
        """One line: what was done, its figures, and the seconds since the run began."""
        seconds = time.monotonic() - self.began
        shown = "".join(f"{name}={_shown(value)}  " for name, value in figures.items())
        extra = {"run_id": self.run_id, "stage": what, "figures": figures | {"seconds": round(seconds, 3)}}
        job_logger(self.job.name).info("%s  %s%.1f s", what, shown, seconds, extra=extra)

    def save(self, status: str, message: str | None = None) -> None:
        """Write the run's row to ops/runs."""
        ended = status != "running"
        row = {
            "run_id": self.run_id,
            "job": self.job.name,
            "number": self.number,
            "settings_hash": self.settings_hash,
            "code_version": self.code_version,
            "as_of": self.as_of if self.known_times is not None else None,
            "inputs": _versions(self.inputs),
            "input_files": [asdict(file) for file in self.input_files],
            "outputs": _versions(self.outputs),
            "rows": self.rows,
            "seconds": round(time.monotonic() - self.began, 3),
            "status": status,
            "message": message,
            "started_at": self.started_at,
            "finished_at": datetime.now(UTC) if ended else None,
            "from_date": self.days.first if self.days else None,
            "to_date": self.days.last if self.days else None,
        }
        history.save_run(self.lake, row)


@contextmanager
def start_run(job: str, settings: JobSettings, kind: type[Run] = Run) -> Iterator[Any]:
    """Begin a run, or resume an unfinished one, and record how it ends.

    A job that reads a required input that is missing or empty is skipped, with one line. An error is raised to the
    caller. What `recordable` leaves of it is recorded, since more people read ops/runs than bronze; its traceback is
    kept in `<lake>/logs/<run_id>.txt`.
    """
    run = _begin(JOBS[job], settings, kind)
    with lineage.told_of(run), _recorded(run):
        yield run


@contextmanager
def _recorded(run: Run) -> Iterator[None]:
    """Record in ops/runs how the block ends."""
    try:
        yield
    except Skipped as reason:
        run.save("skipped", str(reason))
        run.log(f"skipped: {reason}")
    except BaseException as error:
        note(error, "run", run.run_id)
        with suppress(Exception):  # on a full disk neither succeeds, and the first error is the one to tell
            trace = f"logs/{run.run_id}.txt"
            run.lake.write_text(trace, recordable_traceback(error))
            note(error, "traceback", run.lake.uri(trace))
        with suppress(Exception):
            run.save("failed", recordable(error)[:2000] + (FAILED_AGAIN if run.is_taken_up else ""))
        raise
    else:
        run.save("done")


def skipped_without_input(job: Job, settings: JobSettings) -> bool:
    """Whether a table that the job requires is missing or empty.

    If so, records the run as skipped without starting the job.
    """
    lake = Lake(settings.lake.path)
    missing = next((table for table in job.reads if "*" not in table and not lake.num_rows(table)), None)
    if missing is not None:
        with start_run(job.name, settings) as run:
            run.version_of(missing)
    return missing is not None


def _begin(job: Job, settings: JobSettings, kind: type[Run]) -> Run:
    """The run to make now: the job's last one if it did not finish and can be taken up, else a new one."""
    lake = Lake(settings.lake.path)
    require_writable(lake)
    settings_now, code_now, inputs_now = settings_hash(job, settings), code_version(job), pin_inputs(job, lake)
    identity: dict[str, Any] = {
        "job": job,
        "settings": settings,
        "lake": lake,
        "settings_hash": settings_now,
        "code_version": code_now,
    }
    last = history.last_run(lake, job.name)
    if last is not None and last["status"] in ("running", "failed"):
        written, inputs = _committed_outputs(job, lake, last["run_id"], last["number"]), pinned(last["inputs"])
        is_same = (last["settings_hash"], last["code_version"]) == (settings_now, code_now)
        is_same &= days_of(last) == days_asked(job, settings)
        if is_same and _can_go_on(lake, last, inputs_now, has_committed=bool(written)):
            run = kind(
                **identity,
                run_id=last["run_id"],
                number=last["number"],
                inputs=inputs,
                started_at=last["started_at"],
                known_times=_known_times(job, settings, lake, inputs),
                input_files=[InputFile(**file) for file in last["input_files"]],
                outputs=written,
                is_taken_up=True,
            )
            run.log(f"resumes {run.run_id}, which did not finish")
            run.save("running")
            return run
        history.save_run(
            lake, {**last, "status": "abandoned", "outputs": _versions(written), "finished_at": datetime.now(UTC)}
        )
    number = 1 if last is None else last["number"] + 1
    run = kind(
        **identity,
        run_id=_run_id(job, number),
        number=number,
        inputs=inputs_now,
        started_at=datetime.now(UTC),
        known_times=_known_times(job, settings, lake, inputs_now),
    )
    run.save("running")
    return run


def _known_times(job: Job, settings: JobSettings, lake: Lake, inputs: Mapping[str, int]) -> LogTimes | None:
    """The log's times from the pinned events; None if there are none, or if the job runs before they exist."""
    version = inputs.get("silver/events")
    if job.before_events or version is None or not lake.num_rows("silver/events", version):
        return None
    return log_times(lake, load_mapping(settings.log.format), version)


def _run_id(job: Job, number: int) -> str:
    return f"{job.name}-{number:06d}"


def _can_go_on(lake: Lake, last: Mapping[str, Any], inputs_now: Mapping[str, int], *, has_committed: bool) -> bool:
    """Whether an unfinished run is taken up with its inputs, rather than another begun with those of now."""
    inputs = pinned(last["inputs"])
    has_newer = inputs != inputs_now
    if not has_committed:
        return not has_newer
    if has_newer and (last["message"] or "").endswith(FAILED_AGAIN):
        return False  # on the same inputs it would fail for ever
    # A vacuum may have removed the files of an old version.
    return all(lake.is_whole(table, version) for table, version in inputs.items() if "#" not in table)


def _committed_outputs(job: Job, lake: Lake, run_id: str, number: int) -> dict[str, int]:
    """The tables to which the job's run has committed, also a share of one, with the version that it made."""
    written = {}
    for table in lake.tables():
        if table in job.writes or ("bronze/*" in job.writes and table.startswith("bronze/")):
            version = lake.version_of_run(table, run_id)
            if version is None and lake.last_committed_run(table, transaction_id(job.name, table)) == number:
                version = lake.data_version(table)  # an earlier release's commit names no run
            if version is not None:
                written[table] = version
    return written


def _versions(versions: Mapping[str, int]) -> list[dict[str, Any]]:
    return [{"table": table, "version": version} for table, version in sorted(versions.items())]


def _shown(value: Any) -> str:
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value, default=str)
