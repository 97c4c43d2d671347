"""The lake: where tables and files are, and which version of a table holds its newest data."""

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
from deltalake import DeltaTable, Schema
from deltalake.exceptions import DeltaError

from lib.lake.commits import newest_first
from lib.lake.places import (
    download,
    filesystem_of,
    is_address,
    names_in,
    newest_in,
    require_answer,
    storage_options,
    upload,
)
from lib.runs.errors import RetryableError, SettingError
from lib.tables import Table, contract

CONTRACT_VERSION = "cartwheel.contractVersion"
INDEXED_COLUMNS = "delta.dataSkippingStatsColumns"  # other writers keep statistics of these alone, too
# What a commit in Delta's history says: its run (under the name that Spark's option has), and how many rows it wrote.
RUN_OF_COMMIT, ROWS_OF_COMMIT = "userMetadata", "numRows"
# Commits that rearrange or describe a table without changing its data: they make nothing stale.
DATALESS_OPERATIONS = frozenset(
    {
        "ADD COLUMN",
        "ADD CONSTRAINT",
        "DROP CONSTRAINT",
        "SET TBLPROPERTIES",
        "UNSET TBLPROPERTIES",
        "OPTIMIZE",
        "VACUUM START",
        "VACUUM END",
    }
)
LAYERS = ("bronze", "silver", "gold", "ops")
UNREADABLE_FEATURES = frozenset({"deletionVectors", "columnMapping"})


@dataclass(frozen=True)
class Lake:
    """One shop's tables and files below one folder, or below the address of an object store."""

    path: str

    def uri(self, below: str) -> str:
        """Path or address of the table `<layer>/<name>`, or of anything else below the lake."""
        return f"{self.path.rstrip('/')}/{below}" if self.is_remote else str(self.folder / below)

    @property
    def is_remote(self) -> bool:
        """Whether it lies on an object store."""
        return is_address(self.path)

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rstrip("/").rpartition("/")[2] if self.is_remote else self.folder.name

    @cached_property
    def folder(self) -> Path:
        """The lake as a folder, on a file system that every node mounts; of one on a store, the copy of its files here."""
        if not self.is_remote:
            return Path(self.path).expanduser().absolute()
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return caches / "cartwheel" / "stores" / hashlib.sha256(self.path.rstrip("/").encode()).hexdigest()[:16]

    def absolute(self) -> "Lake":
        """The same lake, for a process with another working folder."""
        return self if self.is_remote else Lake(str(self.folder))

    def files(self, kind: str, run_id: str) -> Path:
        """The folder of one run's files, `<lake>/files/<kind>/<run_id>`, created if missing."""
        folder = self.local(f"files/{kind}/{run_id}")
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def local(self, uri: str) -> Path:
        """A file or folder below the lake, as a path on this machine; from a store it is copied first."""
        if self.is_remote:
            download(self.uri(uri), self.folder / uri)
        return self.folder / uri

    def keep(self, path: Path) -> None:
        """Bring a file or folder below `folder` to where the lake lies: nothing is to be done but on a store."""
        if self.is_remote:
            upload(path, self.uri(path.relative_to(self.folder).as_posix()))

    def write_text(self, below: str, text: str) -> None:
        """Write a text file below the lake, in place of any that is there."""
        filesystem, path = filesystem_of(self.uri(below))
        if not self.is_remote:  # a store has no folders
            filesystem.create_dir(path.rpartition("/")[0], recursive=True)
        with filesystem.open_output_stream(path) as stream:
            stream.write(text.encode())

    def clear(self, uri: str) -> None:
        """Remove a folder of files below the lake."""
        shutil.rmtree(self.folder / uri, ignore_errors=True)
        if self.is_remote:
            filesystem, path = filesystem_of(self.uri(uri))
            filesystem.delete_dir_contents(path, missing_dir_ok=True)

    def exists(self, table: str) -> bool:
        return bool(DeltaTable.is_deltatable(self.uri(table), storage_options(self.path)))

    def open(self, table: str, version: int | None = None) -> DeltaTable:
        """The Delta table at a version (default: the latest).

        Raises:
            ValueError: it has another contract version, is of a newer Delta, or uses a feature that Ray and DuckDB read
                wrongly.
        """
        try:
            delta = DeltaTable(self.uri(table), version=version, storage_options=storage_options(self.path))
        except DeltaError as error:
            if "Unsupported minimum" not in str(error):
                raise
            raise ValueError(
                f"{table} was written by a newer Delta than this release reads; use that release"
            ) from None
        features = set(delta.protocol().reader_features or ()) & UNREADABLE_FEATURES
        if features:
            raise ValueError(
                f"{table} uses {', '.join(sorted(features))}, which Ray and DuckDB read wrongly; rewrite it without them"
            )
        written_by = delta.metadata().configuration.get(CONTRACT_VERSION)
        known = str(contract(table).version)
        if written_by != known:
            raise ValueError(
                f"{table} has contract version {written_by}, but this release needs version {known}; "
                "use the release that wrote it, or rebuild the table"
            )
        return delta

    def data_version(self, table: str) -> int | None:
        """The latest version that changed data; None where there is no table."""
        if not self.exists(table):
            return None
        for commit in self._commits(table):
            if commit.get("operation") not in DATALESS_OPERATIONS:
                return int(commit["version"])
        return int(self.open(table).version())

    def kept_version(self, table: str, version: int) -> int:
        """The newest version with the data of `version`: a compaction and a vacuum remove the files of the older ones."""
        later = [*takewhile(lambda commit: commit["version"] > version, self._commits(table))]
        for commit in reversed(later):
            if commit.get("operation") not in DATALESS_OPERATIONS:
                break
            version = int(commit["version"])
        return version

    def dataset(self, table: str, version: int | None = None) -> ds.Dataset:
        """The table as an Arrow dataset, at a version or the latest, with projection and filters pushed down to its files.

        Arrow reads the files itself. Otherwise its threads would call back into Python, which aborts the process if they
        do so while it exits.
        """
        delta = self.open(table, None if version is None else self.kept_version(table, version))
        filesystem, root = filesystem_of(self.uri(table))
        return delta.to_pyarrow_dataset(filesystem=pafs.SubTreeFileSystem(root, filesystem))

    def data_files(
        self, table: str, version: int | None = None, *, holding: Mapping[str, Collection[Any]] | None = None
    ) -> list[tuple[str, int]]:
        """Path or URI and size in bytes of each file of a table, at a version or the latest.

        Of all files, or of those that may hold rows with one of the values `holding` in each of its columns: by the value of a
        partition, or by the smallest and largest of a file.
        """
        files = self.actions(table, None if version is None else self.kept_version(table, version)).to_pylist()
        chosen = [file for file in files if all(_may_hold(file, *asked) for asked in (holding or {}).items())]
        return [(f"{self.uri(table)}/{unquote(file['path'])}", file["size_bytes"]) for file in chosen]

    def actions(self, table: str, version: int | None = None) -> pa.Table:
        """The files of a table at a version or the latest, as Delta's log has them: path, size, partition, statistics."""
        return pa.table(self.open(table, version).get_add_actions(flatten=True))

    def is_whole(self, table: str, version: int) -> bool:
        """Whether the table can be read at a version: neither its log nor its files were removed since."""
        try:
            dataset = self.dataset(table, version)
        except (DeltaError, ValueError):
            return False
        return all(info.is_file for info in dataset.filesystem.get_file_info(dataset.files))

    def num_rows(self, table: str, version: int | None = None) -> int:
        return int(self.dataset(table, version).count_rows()) if self.exists(table) else 0

    def sources(self) -> list[str]:
        """The bronze tables of the mapping's sources, by name."""
        names = [f"bronze/{name}" for name in names_in(self.uri("bronze"))]
        return [name for name in names if name not in ("bronze/images", "bronze/rejects") and self.exists(name)]

    def tables(self) -> list[str]:
        """Every table that the lake holds, in the order of its layers."""
        return [name for name in self._folders() if self.exists(name)]

    def newest_commits(self) -> dict[str, tuple[str, int]]:
        """By table the newest entry of its log, name and time in nanoseconds, for one look a table.

        It is another one whenever the table has another version, or was removed and made again.

        Raises:
            ValueError, OSError: the lake cannot be listed.
        """
        newest = {name: newest_in(self.uri(f"{name}/_delta_log"), ".json") for name in self._folders()}
        return {name: entry for name, entry in newest.items() if entry is not None}

    def _folders(self) -> list[str]:
        """What lies in the layers, in their order."""
        return [f"{layer}/{entry}" for layer in LAYERS for entry in names_in(self.uri(layer))]

    def ensure(self, table: Table, properties: Mapping[str, str] | None = None) -> DeltaTable:
        """Create the table by its contract if it is missing, and add what it lacks: nullable columns, checks, `properties`."""
        assert set(properties or {}) <= set(table.properties), f"{table.name} declares no such property"
        wanted = {**(properties or {}), INDEXED_COLUMNS: ",".join(table.indexed_columns)}
        if not self.exists(table.name):
            DeltaTable.create(
                self.uri(table.name),
                table.schema,
                mode="ignore",
                partition_by=list(table.partition_by),
                name=table.name,
                description=table.comment,
                configuration={CONTRACT_VERSION: str(table.version), **wanted},
                raise_if_key_not_exists=False,
                storage_options=storage_options(self.path),
            )
        delta = self.open(table.name)
        held = {field.name for field in delta.schema().fields}
        added = [field for field in table.schema if field.name not in held and field.nullable]
        if added:  # a nullable column that is new in this release
            delta.alter.add_columns(list(Schema.from_arrow(pa.schema(added)).fields))
            delta = self.open(table.name)
        present = delta.metadata().configuration
        changed = {name: value for name, value in wanted.items() if present.get(name) != value}
        if changed:
            delta.alter.set_table_properties(changed, raise_if_not_exists=False)
        for name, condition in table.checks.items():
            if f"delta.constraints.{name}" not in present:
                delta.alter.add_constraint({name: condition})
        return delta

    def table_property(self, table: str, name: str, version: int | None = None) -> str | None:
        """One of the table's properties at a version (default: the latest); None where it is not set."""
        return self.open(table, version).metadata().configuration.get(name)

    def last_committed_run(self, table: str, transaction: str) -> int:
        """The number of the last run that committed to the table under this transaction id; 0 if none did."""
        if not self.exists(table):
            return 0
        version = self.open(table).transaction_version(transaction)
        return 0 if version is None else int(version)

    def rows_of_commit(self, table: str, version: int) -> int:
        """How many rows a commit wrote; 0 if it does not say."""
        commit = next(commit for commit in self._commits(table) if commit["version"] == version)
        return int(commit.get(ROWS_OF_COMMIT) or (commit.get("operationMetrics") or {}).get("numOutputRows") or 0)

    def newest_run(self, table: str, job: str, *, but: Collection[str] = ()) -> str | None:
        """The run of a job, of all `but` some, that has committed to the table last; None if none has."""
        runs = (str(commit.get(RUN_OF_COMMIT) or "") for commit in self._commits(table))
        return next((run for run in runs if run.rpartition("-")[0] == job and run not in but), None)

    def newest_commit(self, table: str, job: str, *, but: str) -> int | None:
        """The version of the newest commit to the table by any run of a job but one; None if there is none."""
        commits = ((commit, str(commit.get(RUN_OF_COMMIT) or "")) for commit in self._commits(table))
        others = (commit for commit, run in commits if run.rpartition("-")[0] == job and run != but)
        return next((int(commit["version"]) for commit in others), None)

    def runs_between(self, table: str, after: int, until: int) -> list[str]:
        """The runs that have committed data to the table after one version and until another."""
        later = takewhile(lambda commit: commit["version"] > after, self._commits(table))
        commits = [commit for commit in later if commit["version"] <= until and commit.get(RUN_OF_COMMIT)]
        return sorted({str(commit[RUN_OF_COMMIT]) for commit in commits})

    def metadata_of_run(self, table: str, run_id: str, name: str) -> str | None:
        """What the run's newest commit to the table says under a name; None where it says nothing."""
        stated = (
            commit[name] for commit in self._commits(table) if commit.get(RUN_OF_COMMIT) == run_id and name in commit
        )
        found: str | None = next(stated, None)
        return found

    def rows_by_partition(self, table: str, column: str, version: int | None = None) -> dict[Any, int]:
        """How many rows each partition holds, by its value, at a version or the latest."""
        actions = self.actions(table, None if version is None else self.kept_version(table, version))
        files = actions.select([f"partition.{column}", "num_records"])
        counts = files.group_by(f"partition.{column}").aggregate([("num_records", "sum")])
        return dict(zip(counts[f"partition.{column}"].to_pylist(), counts["num_records_sum"].to_pylist(), strict=True))

    def partitions_changed(self, table: str, column: str, before: int, now: int) -> set[Any] | None:
        """The partitions whose files are others at one version than at a version before, by their values.

        None where the log does not tell any more.
        """
        try:
            versions = [self.actions(table, version) for version in (before, now)]
        except (DeltaError, ValueError):
            return None
        names = (f"partition.{column}", "path")
        held = [set(zip(*(files[name].to_pylist() for name in names), strict=True)) for files in versions]
        return {value for value, _ in held[0] ^ held[1]}

    def version_of_run(self, table: str, run_id: str) -> int | None:
        """The version that a run's newest commit to the table made, whatever share of it; None if it made none."""
        return next(
            (int(commit["version"]) for commit in self._commits(table) if commit.get(RUN_OF_COMMIT) == run_id), None
        )

    def _commits(self, table: str) -> Iterator[dict[str, Any]]:
        """The table's history, the newest commit first; empty where there is no table."""
        return newest_first(self.open(table), self.uri(table)) if self.exists(table) else iter(())


def _may_hold(file: Mapping[str, Any], column: str, values: Collection[Any]) -> bool:
    """Whether a file, by its row of add actions, may hold one of the values."""
    if f"partition.{column}" in file:
        return file[f"partition.{column}"] in values
    low, high = file.get(f"min.{column}"), file.get(f"max.{column}")
    return low is None or high is None or any(low <= value <= high for value in values)


def require_writable(lake: Lake) -> None:
    """Create the lake's folder, for its owner only, and try to write to it.

    Raises:
        SettingError, RetryableError: it cannot be written; the message says why.
    """
    probe_name = f".writable-{time.monotonic_ns()}"
    if lake.is_remote:
        require_answer(lake.path, probe_name)
        return
    try:
        if not lake.folder.exists():
            lake.folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # another job may make it at this moment
            (lake.folder / ".gitignore").write_text("*\n")  # a lake in a checkout is never committed with it
        probe = lake.folder / probe_name
        probe.touch()
        probe.unlink()
    except OSError as error:
        may_pass = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EBUSY, errno.ETIMEDOUT)
        kind = RetryableError if may_pass else SettingError
        raise kind(f"the lake {lake.path} cannot be written: {error.strerror}") from None
