"""Reads what is measured of a lake, and of a table again only when its log has a newer entry."""

from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from lib.lake.lake import DATALESS_OPERATIONS, Lake
from lib.lake.places import filesystem_of
from lib.runs import history
from lib.runs.freshness import pinned

RUNS, REJECTS, DRIFT = "ops/runs", "bronze/rejects", "gold/drift"
LAST_COMMITS = 10  # that are looked at first for one that changed data
READERS = 8  # files of rejects that are read at once
# What may be wrong with one table, and hides no other.
TABLE_TROUBLE = (DeltaError, ValueError, OSError)
Refusal = tuple[str, str, str]  # stage, source, reason


@dataclass(frozen=True)
class TableFacts:
    """What is measured of a table at its latest version; times are seconds since 1970."""

    version: int
    rows: int
    bytes: int
    files: int
    committed_at: float | None  # when data were committed last
    newest_event: float | None  # the largest event_time in it


@dataclass(frozen=True)
class JobFacts:
    """What is measured of a job's runs."""

    last: Mapping[str, Any]  # rows of ops/runs: the last run
    ended: Mapping[str, Any] | None  # the last one that has ended
    done: Mapping[str, Any] | None  # and the last one that ended well
    num_by_state: Mapping[str, int]
    input_rows: (
        int | None
    )  # of the tables that the last one read, all rows of them; None where that is not known any more


@dataclass
class LakeReader:
    """What was read of a lake, by table; `read` brings it up to date."""

    lake: Lake
    tables: dict[str, TableFacts] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)  # why, by table
    jobs: dict[str, JobFacts] = field(default_factory=dict)
    refused: Counter[Refusal] = field(default_factory=Counter)
    drift: list[Mapping[str, Any]] = field(default_factory=list)  # rows of gold/drift
    _commits: dict[str, tuple[str, int]] = field(default_factory=dict)  # the newest that was read, by table
    _files: dict[str, Counter[Refusal]] = field(default_factory=dict)  # what each file of rejects holds
    _rows: dict[tuple[str, int], int | None] = field(default_factory=dict)  # of a table at a version

    def read(self) -> None:
        """Read what has changed since the last time.

        Raises:
            ValueError, OSError: the lake cannot be listed.
        """
        newest = self.lake.newest_commits()
        for table in {*self.tables, *self.unreadable} - newest.keys():
            self._forget(table)
        for table, commit in newest.items():
            if self._commits.get(table) != commit:
                self._forget(table)
                try:
                    self._read_table(table)
                except TABLE_TROUBLE as error:
                    self._forget(table)
                    self.unreadable[table] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                else:
                    self._commits[table] = commit

    def _forget(self, table: str) -> None:
        for known in (self.tables, self.unreadable, self._commits):
            known.pop(table, None)
        if table == RUNS:
            self.jobs = {}
        if table == REJECTS:
            self.refused = Counter()
        if table == DRIFT:
            self.drift = []

    def _read_table(self, table: str) -> None:
        delta = self.lake.open(table)
        files = pa.table(delta.get_add_actions(flatten=True))
        self.tables[table] = _facts(delta, files)
        if table == RUNS:
            self.jobs = self._jobs()
        if table == REJECTS:
            self._read_rejects(files)
        if table == DRIFT:
            self.drift = self.lake.dataset(DRIFT).to_table().to_pylist()

    def _jobs(self) -> dict[str, JobFacts]:
        runs: dict[str, list[dict[str, Any]]] = {}
        for row in history.runs(self.lake):
            runs.setdefault(row["job"], []).append(row)
        inputs = {job: pinned(max(rows, key=_number)["inputs"]) for job, rows in runs.items()}
        read = {(table, version) for tables in inputs.values() for table, version in tables.items() if "#" not in table}
        self._rows = {at: self._rows[at] if at in self._rows else self._rows_at(*at) for at in read}
        return {job: self._job(rows, inputs[job]) for job, rows in runs.items()}

    def _job(self, rows: Iterable[dict[str, Any]], inputs: Mapping[str, int]) -> JobFacts:
        ordered = sorted(rows, key=_number)
        num_rows = [self._rows[at] for at in inputs.items() if at in self._rows]
        return JobFacts(
            last=ordered[-1],
            ended=next((row for row in reversed(ordered) if row["finished_at"]), None),
            done=next((row for row in reversed(ordered) if row["status"] == "done"), None),
            num_by_state=Counter(row["status"] for row in ordered),
            input_rows=None if None in num_rows else sum(filter(None, num_rows)),
        )

    def _rows_at(self, table: str, version: int) -> int | None:
        try:
            return pc.sum(self.lake.actions(table, version)["num_records"]).as_py() or 0
        except TABLE_TROUBLE:  # its log or its table was removed since
            return None

    def _read_rejects(self, files: pa.Table) -> None:
        """Count the refused records; a file never changes, so each is read once."""
        held = {row["path"]: row for row in files.to_pylist()}
        self._files = {path: counted for path, counted in self._files.items() if path in held}
        new = [row for path, row in held.items() if path not in self._files]
        with ThreadPoolExecutor(READERS) as readers:
            for row, counted in zip(new, readers.map(self._count, new), strict=True):
                self._files[row["path"]] = counted
        self.refused = sum(self._files.values(), Counter())

    def _count(self, file: Mapping[str, Any]) -> Counter[Refusal]:
        filesystem, root = filesystem_of(self.lake.uri(REJECTS))
        rows = pq.read_table(
            f"{root}/{unquote(file['path'])}", columns=["reason"], filesystem=filesystem, partitioning=None
        )
        place = file["partition.stage"], file["partition.source"]
        counted: Counter[Refusal] = Counter()
        for each in pc.value_counts(rows["reason"]).to_pylist():
            counted[*place, _kind_of(each["values"])] += each["counts"]
        return counted


def _kind_of(reason: str) -> str:
    """A reason without what is wrong with a file, in whose words any value may stand."""
    return "file" if reason.startswith("file:") else reason


def _number(run: Mapping[str, Any]) -> int:
    return int(run["number"])


def _facts(delta: DeltaTable, files: pa.Table) -> TableFacts:
    newest = pc.max(files["max.event_time"]).as_py() if "max.event_time" in files.schema.names else None
    return TableFacts(
        version=delta.version(),
        rows=pc.sum(files["num_records"]).as_py() or 0,
        bytes=pc.sum(files["size_bytes"]).as_py() or 0,
        files=files.num_rows,
        committed_at=_committed_at(delta),
        newest_event=_seconds(newest),
    )


def _committed_at(delta: DeltaTable) -> float | None:
    """When data were committed last; a compaction or a vacuum brings no news."""
    for limit in (LAST_COMMITS, None):
        for commit in delta.history(limit):
            if commit["operation"] not in DATALESS_OPERATIONS:
                return float(commit["timestamp"]) / 1000
    return None


def _seconds(moment: datetime | None) -> float | None:
    if moment is None:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
