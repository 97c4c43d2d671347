"""The lake: where tables lie, which version holds the newest data, and the two functions that write without Spark.

`write_files` writes Parquet files by the contract, anywhere; `commit_files` makes them one Delta transaction, in one place.
"""

import json
import math
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.transaction import AddAction

from lib.tables import Table, contract

CONTRACT_VERSION = "cartwheel.contractVersion"
# Commits that rearrange or describe a table and change no data: they make nothing stale.
DATALESS_OPERATIONS = frozenset(
    {
        "ADD CONSTRAINT",
        "DROP CONSTRAINT",
        "SET TBLPROPERTIES",
        "UNSET TBLPROPERTIES",
        "OPTIMIZE",
        "VACUUM START",
        "VACUUM END",
    }
)
UNREADABLE_FEATURES = frozenset({"deletionVectors", "columnMapping"})
MAX_TEXT_IN_STATISTICS = 64


@dataclass(frozen=True)
class Lake:
    """One shop's tables and files below one folder or object-store URI."""

    path: str

    def uri(self, table: str) -> str:
        """Where the table `<layer>/<name>` lies."""
        return f"{self.path.rstrip('/')}/{table}"

    @cached_property
    def folder(self) -> Path:
        """The lake as a folder: its files lie on a file system that every node mounts."""
        return Path(self.path).expanduser().absolute()

    def files(self, kind: str, run_id: str) -> Path:
        """The folder of one run's files, `<lake>/files/<kind>/<run_id>`, made if absent."""
        folder = self.folder / "files" / kind / run_id
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def exists(self, table: str) -> bool:
        return bool(DeltaTable.is_deltatable(self.uri(table)))

    def open(self, table: str, version: int | None = None) -> DeltaTable:
        """The Delta table at a version (default: the latest).

        Raises:
            ValueError: it was written by another contract version, or uses a feature that readers here return wrongly.
        """
        delta = DeltaTable(self.uri(table), version=version)
        features = set(delta.protocol().reader_features or ()) & UNREADABLE_FEATURES
        if features:
            raise ValueError(
                f"{table} uses {', '.join(sorted(features))}, which Ray and DuckDB read wrongly; rewrite it without"
            )
        written_by = delta.metadata().configuration.get(CONTRACT_VERSION)
        known = str(contract(table).version)
        if written_by != known:
            raise ValueError(
                f"{table} is of contract version {written_by}, this release knows version {known}; "
                "use the release that wrote it, or rebuild the table"
            )
        return delta

    def data_version(self, table: str) -> int | None:
        """The latest version that changed data; None where there is no table."""
        if not self.exists(table):
            return None
        delta = self.open(table)
        for commit in delta.history():
            if commit["operation"] not in DATALESS_OPERATIONS:
                return int(commit["version"])
        return int(delta.version())

    def dataset(self, table: str, version: int | None = None) -> ds.Dataset:
        """The table as an Arrow dataset, with projection and filters pushed down to its files.

        Files of this machine are read by Arrow itself: its threads would else call back into Python, which ends the process with an
        abort where it ends meanwhile.
        """
        delta = self.open(table, version)
        if "://" in self.path:
            return delta.to_pyarrow_dataset()
        folder = str(Path(self.uri(table)).expanduser().absolute())
        return delta.to_pyarrow_dataset(filesystem=pafs.SubTreeFileSystem(folder, pafs.LocalFileSystem()))

    def num_rows(self, table: str, version: int | None = None) -> int:
        return int(self.dataset(table, version).count_rows()) if self.exists(table) else 0

    def sources(self) -> list[str]:
        """The bronze tables of the mapping's sources, by name."""
        bronze = self.folder / "bronze"
        names = sorted(f"bronze/{folder.name}" for folder in bronze.iterdir()) if bronze.is_dir() else []
        return [name for name in names if name not in ("bronze/images", "bronze/rejects") and self.exists(name)]

    def tables(self) -> list[str]:
        """Every table that the lake holds, in the order of its layers."""
        found = []
        for layer in ("bronze", "silver", "gold", "ops"):
            folder = self.folder / layer
            names = sorted(f"{layer}/{entry.name}" for entry in folder.iterdir()) if folder.is_dir() else []
            found += [name for name in names if self.exists(name)]
        return found

    def ensure(self, table: Table, properties: Mapping[str, str] | None = None) -> DeltaTable:
        """Create the table by its contract where it is absent, and any check that a kill left out."""
        uri = self.uri(table.name)
        if not DeltaTable.is_deltatable(uri):
            DeltaTable.create(
                uri,
                table.schema,
                mode="ignore",
                partition_by=list(table.partition_by),
                name=table.name,
                description=table.comment,
                configuration={CONTRACT_VERSION: str(table.version), **(properties or {})},
                raise_if_key_not_exists=False,
            )
        delta = self.open(table.name)
        present = delta.metadata().configuration
        for name, condition in table.checks.items():
            if f"delta.constraints.{name}" not in present:
                delta.alter.add_constraint({name: condition})
        return delta

    def committed(self, table: str, transaction: str) -> int:
        """The number of the last run that committed to the table under this transaction id; 0 where none did."""
        if not self.exists(table):
            return 0
        version = self.open(table).transaction_version(transaction)
        return 0 if version is None else int(version)


def transaction_id(job: str, table: str, where: Mapping[str, str] | None = None) -> str:
    """The Delta transaction id of a job's commits to a table, or to its share of a table (`where`)."""
    share = "".join(f":{column}={value}" for column, value in sorted((where or {}).items()))
    return f"cartwheel:{job}:{table}{share}"


def conform(table: Table, data: pa.Table) -> pa.Table:
    """`data` with the contract's columns in their order and types.

    Raises:
        ValueError: a column is missing or unknown, a value does not fit its type, a required one is null, a check fails,
            or a key stands twice.
    """
    missing, unknown = (
        set(table.schema.names) - set(data.schema.names),
        set(data.schema.names) - set(table.schema.names),
    )
    if missing or unknown:
        raise ValueError(f"{table.name}: missing columns {sorted(missing)}, unknown columns {sorted(unknown)}")
    for column in table.columns:
        if not column.nullable and data[column.name].null_count:
            raise ValueError(f"{table.name}: {data[column.name].null_count} rows have no {column.name}")
    try:
        rows = data.select(table.schema.names).cast(table.schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise ValueError(f"{table.name}: {error}") from None
    with duckdb.connect() as connection:
        connection.register("rows", rows)
        for name, condition in table.checks.items():
            wrong = connection.execute(f"SELECT count(*) FROM rows WHERE NOT ({condition})").fetchone()
            if wrong and wrong[0]:
                raise ValueError(f"{table.name}: {wrong[0]} rows break the check {name}: {condition}")
        if table.key:
            keys = ", ".join(f'"{column}"' for column in table.key)
            twice = connection.execute(
                f"SELECT {keys} FROM rows GROUP BY {keys} HAVING count(*) > 1 LIMIT 1"
            ).fetchone()
            if twice:
                raise ValueError(f"{table.name}: the key ({keys}) = {twice} stands twice")
    return rows


def write_files(lake: Lake, table: Table, batches: Iterable[pa.Table]) -> list[AddAction]:
    """Write Parquet files with statistics into the table's folder; nothing is part of the table before `commit_files`.

    Each of `batches` conforms to the contract and becomes one file a partition. A writer that is retried leaves files that
    nobody lists, which a vacuum removes.
    """
    filesystem, root = (
        pafs.FileSystem.from_uri(lake.uri(table.name))
        if "://" in lake.path
        else (
            pafs.LocalFileSystem(),
            str(Path(lake.uri(table.name)).absolute()),
        )
    )
    added = []
    for batch in batches:
        for values, rows in _partitions(table, batch):
            folder = "/".join(f"{column}={value}" for column, value in values.items())
            path = "/".join(part for part in (folder, f"part-{uuid.uuid4()}.parquet") if part)
            filesystem.create_dir(f"{root}/{folder}".rstrip("/"), recursive=True)
            pq.write_table(rows, f"{root}/{path}", filesystem=filesystem, compression="zstd")
            size = filesystem.get_file_info(f"{root}/{path}").size
            added.append(AddAction(path, size, values, int(time.time() * 1000), True, json.dumps(_statistics(rows))))
    return added


def commit_files(
    lake: Lake,
    table: Table,
    files: Sequence[AddAction],
    *,
    transaction: str,
    number: int,
    where: Mapping[str, str] | None = None,
) -> int:
    """Replace the table's content, or the partitions `where`, by `files` in one transaction; returns the table's version.

    Does nothing when run `number` of `transaction` has committed already: a rerun changes nothing twice.
    """
    lake.ensure(table)
    if lake.committed(table.name, transaction) < number:
        delta = lake.open(table.name)
        delta.create_write_transaction(
            list(files),
            mode="overwrite",
            schema=table.schema,
            partition_by=list(table.partition_by),
            partition_filters=[(column, "=", value) for column, value in (where or {}).items()] or None,
            commit_properties=CommitProperties(app_transactions=[Transaction(transaction, number)]),
        )
    version = lake.data_version(table.name)
    assert version is not None
    return version


def _partitions(table: Table, batch: pa.Table) -> Iterable[tuple[dict[str, str], pa.Table]]:
    """Split a batch by its partition columns, whose values stand in the path and not in the file."""
    columns = list(table.partition_by)
    if not columns:
        yield {}, batch
        return
    for row in batch.select(columns).group_by(columns).aggregate([]).to_pylist():
        chosen = pc.scalar(True)
        for column, value in row.items():
            chosen = chosen & (pc.field(column) == value)
        yield {column: str(value) for column, value in row.items()}, batch.filter(chosen).drop_columns(columns)


def _statistics(rows: pa.Table) -> dict[str, Any]:
    """Number of rows, and each scalar column's smallest and largest value and nulls, as Delta's log keeps them."""
    smallest: dict[str, Any] = {}
    largest: dict[str, Any] = {}
    nulls: dict[str, int] = {}
    for field in rows.schema:
        if pa.types.is_nested(field.type) or pa.types.is_binary(field.type):
            continue
        column = rows[field.name]
        nulls[field.name] = column.null_count
        if pa.types.is_boolean(field.type) or column.null_count == len(column):
            continue
        bounds = pc.min_max(column).as_py()
        low, high = _json_value(bounds["min"]), _json_value(bounds["max"])
        if low is not None and high is not None:
            smallest[field.name], largest[field.name] = low, high
    return {"numRecords": rows.num_rows, "minValues": smallest, "maxValues": largest, "nullCount": nulls}


def _json_value(value: Any) -> Any:
    """A bound as Delta's statistics write it; None where it is left out (a long text, a NaN)."""
    if isinstance(value, str):
        return value if len(value) <= MAX_TEXT_IN_STATISTICS else None
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int):
        return value
    return float(value) if hasattr(value, "as_tuple") else str(value)
