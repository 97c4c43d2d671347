"""The one way in which tables are written: `write_files` writes Parquet files by the contract, in whatever process.

`commit_files` commits them in one Delta transaction, in the driver.
"""

import json
import math
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from typing import Any, Literal

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import AddAction

from lib.lake.lake import ROWS_OF_COMMIT, RUN_OF_COMMIT, Lake
from lib.lake.places import filesystem_of
from lib.tables import Table

MAX_TEXT_IN_STATISTICS = 64
ROW_GROUP_ROWS = 1 << 16  # what a reader of few rows must read at least (docs/decisions/0021)
Where = Mapping[
    str, str | Sequence[str]
]  # partition columns -> the value, or the values, of the partitions that are meant
MAX_ATTEMPTS = 8  # of a merge that conflicts with another writer's commit
MOST_FILES = 32  # of a table that rows are merged into one by one: each merge adds one, which every reader opens


def transaction_id(job: str, table: str, where: Where | None = None) -> str:
    """The Delta transaction id of a job's commits to a table, or to the partitions `where` of it."""
    share = "".join(
        f":{column}={value}" if isinstance(value, str) else f":{column}"
        for column, value in sorted((where or {}).items())
    )
    return f"cartwheel:{job}:{table}{share}"


def conform(table: Table, data: pa.Table) -> pa.Table:
    """`data` with the contract's columns in their order and types.

    Raises:
        ValueError: a column is missing or unknown, a value does not fit its type, a required one is null, or a check
            fails.
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
    rows = data.select(table.schema.names)
    try:
        rows = rows.cast(table.schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # Arrow's own words may quote a value
        raise ValueError(f"{table.name}{_misfit(table, rows)}") from None
    if table.checks:
        with _database(os.getpid()).cursor() as connection:
            connection.register("rows", rows)
            for name, condition in table.checks.items():
                wrong = connection.execute(f"SELECT count(*) FROM rows WHERE NOT ({condition})").fetchone()
                if wrong and wrong[0]:
                    raise ValueError(f"{table.name}: {wrong[0]} rows break the check {name}: {condition}")
    return rows


def _misfit(table: Table, rows: pa.Table) -> str:
    """The first column whose values do not fit the contract's type."""
    for field in table.schema:
        try:
            rows[field.name].cast(field.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return f".{field.name}: a value of type {rows[field.name].type} does not fit {field.type}"
    return ": its values do not fit"


@cache
def _database(process: int) -> duckdb.DuckDBPyConnection:
    """The engine that checks rows, kept for each process, since it takes longer to start than most checks."""
    return duckdb.connect()


def require_keys(table: Table, rows: pa.Table) -> None:
    """Check that no two rows have the same key.

    Raises:
        ValueError: two have.
    """
    if not table.key:
        return
    keys = ", ".join(f'"{column}"' for column in table.key)
    with _database(os.getpid()).cursor() as connection:
        connection.register("rows", rows)
        twice = connection.execute(f"SELECT {keys} FROM rows GROUP BY {keys} HAVING count(*) > 1 LIMIT 1").fetchone()
    if twice:
        raise ValueError(f"{table.name}: more than one row has the key ({keys}) = {twice}")


def write_files(lake: Lake, table: Table, batches: Iterable[pa.Table]) -> list[AddAction]:
    """Write Parquet files with statistics into the table's folder; they become part of it only with `commit_files`.

    Each of `batches` conforms to the contract and becomes one file per partition. A writer that is retried leaves
    unlisted files, which a vacuum removes.
    """
    filesystem, root = filesystem_of(lake.uri(table.name))
    added = []
    for batch in batches:
        for values, rows in _partitions(table, batch):
            folder = "/".join(f"{column}={value}" for column, value in values.items())
            path = "/".join(part for part in (folder, f"part-{uuid.uuid4()}.parquet") if part)
            if not lake.is_remote:  # a store has no folders
                filesystem.create_dir(f"{root}/{folder}".rstrip("/"), recursive=True)
            pq.write_table(
                rows,
                f"{root}/{path}",
                filesystem=filesystem,
                compression="zstd",
                row_group_size=ROW_GROUP_ROWS,
                use_dictionary=_repeating(rows.schema),
            )
            size = filesystem.get_file_info(f"{root}/{path}").size
            added.append(
                AddAction(path, size, values, int(time.time() * 1000), True, json.dumps(_statistics(table, rows)))
            )
    return added


def commit_files(
    lake: Lake,
    table: Table,
    files: Sequence[AddAction],
    *,
    transaction: str,
    number: int,
    where: Where | None = None,
    mode: Literal["overwrite", "append"] = "overwrite",
    properties: Mapping[str, str] | None = None,
    run_id: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> int:
    """Replace the table's content, or the partitions `where`, by `files`, or append them, in one transaction.

    The commit names the run, and says what `metadata` says. If run `number` of `transaction` has already committed, it changes nothing.

    Returns the table's version.

    Raises:
        ValueError: a file does not belong to the partitions `where`.
    """
    partitions = {column: [value] if isinstance(value, str) else [*value] for column, value in (where or {}).items()}
    strays = {
        name for name, values in partitions.items() for file in files if file.partition_values[name] not in values
    }
    if strays:
        raise ValueError(f"{table.name}: rows outside {where} by their {', '.join(sorted(strays))}")
    lake.ensure(table, properties)
    if lake.last_committed_run(table.name, transaction) < number:
        delta = lake.open(table.name)
        delta.create_write_transaction(
            list(files),
            mode=mode,
            schema=table.schema,
            partition_by=list(table.partition_by),
            partition_filters=[(column, "in", values) for column, values in partitions.items()] or None,
            commit_properties=CommitProperties(
                app_transactions=[Transaction(transaction, number)],
                custom_metadata={
                    ROWS_OF_COMMIT: str(num_rows(files)),
                    **({RUN_OF_COMMIT: run_id} if run_id else {}),
                    **(metadata or {}),
                },
            ),
        )
    version = lake.data_version(table.name)
    assert version is not None
    return version


def remove_files(lake: Lake, table: str, files: Sequence[AddAction]) -> None:
    """Remove files that were written and will not be committed; those of the table's newest version stay."""
    filesystem, root = filesystem_of(lake.uri(table))
    committed = {name for name, _ in lake.data_files(table)} if files and lake.exists(table) else set()
    for file in files:
        if f"{lake.uri(table)}/{file.path}" in committed:
            continue
        filesystem.delete_file(f"{root}/{file.path}")


def discard(lake: Lake, written: Mapping[str, Sequence[AddAction]]) -> None:
    """Remove the files, by table, that were written and will not be committed."""
    for table, files in written.items():
        remove_files(lake, table, files)


@contextmanager
def discarded_on_error(lake: Lake, written: Mapping[str, Sequence[AddAction]]) -> Iterator[None]:
    """Remove what was written if the block raises an error."""
    try:
        yield
    except Exception:
        discard(lake, written)
        raise


def missing_files(lake: Lake, table: str, files: Iterable[AddAction]) -> list[AddAction]:
    """Those of a table's files that are not there."""
    filesystem, root = filesystem_of(lake.uri(table))
    return [file for file in files if not filesystem.get_file_info(f"{root}/{file.path}").is_file]


def num_rows(files: Iterable[AddAction]) -> int:
    """How many rows these files hold, by their statistics."""
    return sum(json.loads(file.stats)["numRecords"] for file in files)


def _repeating(schema: pa.Schema) -> list[str]:
    """The columns whose values may be worth a dictionary: fractions and lists hardly repeat, and take less time and room without."""
    return [field.name for field in schema if not (pa.types.is_floating(field.type) or pa.types.is_nested(field.type))]


def _partitions(table: Table, batch: pa.Table) -> Iterable[tuple[dict[str, str], pa.Table]]:
    """Split a batch by its partition columns, whose values go into the path and not into the file."""
    columns = list(table.partition_by)
    if not columns:
        yield {}, batch
        return
    runs = [*_runs(batch, columns)]
    if not all(is_run for _, _, is_run in runs):
        in_order = pc.sort_indices(batch, [(column, "ascending") for column in columns])  # is stable
        runs = [*_runs(batch.take(in_order), columns)]
    for row, rows, _ in runs:
        yield {column: str(value) for column, value in row.items()}, rows.drop_columns(columns)


def _runs(batch: pa.Table, columns: Sequence[str]) -> Iterator[tuple[dict[str, Any], pa.Table, bool]]:
    """Each distinct row of some columns, what lies from its first to its last place, and whether that is of it alone."""
    at = batch.select(columns).append_column("(at)", pa.array(np.arange(batch.num_rows)))
    bounds = [("(at)", "min"), ("(at)", "max"), ("(at)", "count")]
    for row in at.group_by(columns, use_threads=False).aggregate(bounds).to_pylist():
        first, last, number = (row.pop(f"(at)_{name}") for _, name in bounds)
        yield row, batch.slice(first, last - first + 1), last - first + 1 == number


def _statistics(table: Table, rows: pa.Table) -> dict[str, Any]:
    """Number of rows, and the minimum, maximum and number of nulls of each indexed column, as in Delta's log."""
    smallest: dict[str, Any] = {}
    largest: dict[str, Any] = {}
    nulls: dict[str, int] = {}
    for name in table.indexed_columns:
        column = rows[name]
        nulls[name] = column.null_count
        if pa.types.is_boolean(column.type) or column.null_count == len(column):
            continue
        bounds = pc.min_max(column).as_py()
        low, high = _json_value(bounds["min"]), _json_value(bounds["max"])
        if low is not None and high is not None:
            smallest[name], largest[name] = low, high
    return {"numRecords": rows.num_rows, "minValues": smallest, "maxValues": largest, "nullCount": nulls}


def _json_value(value: Any) -> Any:
    """A bound as Delta's statistics write it; None if it is left out (long text, NaN)."""
    if isinstance(value, str):
        return value if len(value) <= MAX_TEXT_IN_STATISTICS else None
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int):
        return value
    return float(value) if hasattr(value, "as_tuple") else str(value)


def delete_rows(lake: Lake, name: str, keys: pa.Table) -> int:
    """Delete the rows of a table that have the values of some row of `keys` in its columns; returns how many."""
    if not keys.num_rows:
        return 0
    same = " AND ".join(f'target."{column}" = source."{column}"' for column in keys.schema.names)
    merge = lake.open(name).merge(keys, same, source_alias="source", target_alias="target")
    return int(merge.when_matched_delete().execute()["num_target_rows_deleted"])


def rows_of(lake: Lake, table: Table, order: str, filter: pc.Expression | None = None) -> list[dict[str, Any]]:
    """The rows of a small table, all or those of a filter, sorted by the column `order`; empty if the lake has no such table."""
    if not lake.exists(table.name):
        return []
    # Filtered only then: Arrow compares no text in files that delta-rs has merged rows into and brought together.
    held = lake.dataset(table.name).to_table()
    rows: list[dict[str, Any]] = (held if filter is None else held.filter(filter)).sort_by(order).to_pylist()
    return rows


def upsert(lake: Lake, table: Table, rows: list[dict[str, Any]]) -> None:
    """Merge rows by the table's key, and bring its files together where they are many.

    Retries on a conflict, since two runs may save at the same time.
    """
    source = pa.Table.from_pylist(rows, schema=table.schema)
    same_key = " AND ".join(f"target.{column} = source.{column}" for column in table.key)
    for attempt in range(MAX_ATTEMPTS):
        delta: DeltaTable = lake.ensure(table)
        merge = delta.merge(source, same_key, source_alias="source", target_alias="target")
        try:
            merge.when_matched_update_all().when_not_matched_insert_all().execute()
        except CommitFailedError:
            if attempt == MAX_ATTEMPTS - 1:
                raise
            time.sleep(0.05 * 2**attempt)
        else:
            break
    if delta.get_add_actions().num_rows > MOST_FILES:
        with suppress(CommitFailedError):  # another writer was faster; the next merge brings the files together
            delta.optimize.compact()
