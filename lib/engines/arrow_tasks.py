"""Code that runs in tasks, of whatever engine: packing rows for other tasks, writing files, Polars over shards.

Rows go from one task to another in parts: the shard that they belong to, their kind, and as content a frame in Arrow's
format. So a shuffle moves a few blobs and no columns, whose way through the JVM costs more than what is done to them.
"""

import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any, Generic, Protocol, TypeVar

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake.transaction import AddAction

from lib.lake.lake import Lake
from lib.lake.places import filesystem_of
from lib.lake.writes import conform, write_files
from lib.tables import Table

PARTS = pa.schema([("shard", pa.int32()), ("kind", pa.string()), ("content", pa.binary())])
TABLE_FILES = pa.schema([("location", pa.string()), ("num_bytes", pa.int64()), ("kind", pa.string())])
FILE_BYTES = 256 << 20  # of rows in memory, which become one file
ROWS_AT_ONCE = 500_000  # of a file that is read
SHARD = "(shard)"


def packed(rows: pl.DataFrame, kind: str, shards: pl.Series | None = None) -> Iterator[pa.RecordBatch]:
    """Rows as parts, one for each of their `shards`, without these all in one; nothing if there are no rows."""
    if rows.is_empty():
        return
    numbers = pl.zeros(rows.height, pl.Int32, eager=True) if shards is None else shards
    by_shard = rows.with_columns(numbers.alias(SHARD)).partition_by(SHARD, as_dict=True, include_key=False)
    for (shard,), of_shard in by_shard.items():
        content = io.BytesIO()
        of_shard.write_ipc_stream(content, compression="lz4")
        yield part(kind, content.getvalue(), shard)


def shards_by(keys: pl.Series, num_shards: int) -> pl.Series:
    """The shard of each key, the same in every task of a run."""
    return (keys.cast(pl.String).hash() % num_shards).cast(pl.Int32)


def unpacked(parts: Iterable[pa.RecordBatch]) -> dict[str, pl.DataFrame]:
    """The rows of parts by kind, in the order of the kinds' names."""
    frames: dict[str, list[pl.DataFrame]] = {}
    for batch in parts:
        for kind, content in zip(batch.column("kind").to_pylist(), batch.column("content").to_pylist(), strict=True):
            frames.setdefault(kind, []).append(pl.read_ipc_stream(content))
    return {kind: pl.concat(frames[kind], how="diagonal") for kind in sorted(frames)}


def write_rows(batches: Iterable[pa.RecordBatch], *, lake: Lake, table: Table) -> Iterator[pa.RecordBatch]:
    """Write a task's rows into files of the table; they count for nothing until they are committed.

    Yields a part for each file, whose kind is the table's name.

    Raises:
        ValueError: the rows break the contract.
    """
    for rows in _by_size(batches, FILE_BYTES):
        for file in write_files(lake, table, [conform(table, rows)]):
            yield written_part(table.name, file)


def gathered(
    parts: Iterable[tuple[str, bytes]], kind: str, columns_of: Mapping[str, Mapping[str, type[pl.DataType]]]
) -> pl.DataFrame:
    """The rows of the parts of one kind, given by kind and content; `columns_of` says which columns each kind has."""
    columns = columns_of[kind]
    frames = [pl.read_ipc_stream(content).select(*columns) for of_kind, content in parts if of_kind == kind]
    return pl.concat([pl.DataFrame(schema=columns), *frames])


def part(kind: str, content: bytes, shard: int = 0) -> pa.RecordBatch:
    """A part."""
    return pa.RecordBatch.from_pydict({"shard": [shard], "kind": [kind], "content": [content]}, schema=PARTS)


def written_part(table: str, file: AddAction) -> pa.RecordBatch:
    """The part that says that a task wrote a file of a table, after which its kind is named."""
    return part(table, json.dumps(asdict(file)).encode())


def written(content: bytes) -> AddAction:
    """A file that a task wrote, from the content of its part."""
    return AddAction(**json.loads(content))


def files_of(parts: Iterable[tuple[str, bytes]], table: str) -> list[AddAction]:
    """The files of a table that tasks wrote, among parts given by kind and content."""
    return [written(content) for kind, content in parts if kind == table]


def rows_of(batches: Iterable[pa.RecordBatch]) -> Iterator[dict[str, Any]]:
    """The rows, about files, that a task is given."""
    for batch in batches:
        yield from batch.to_pylist()


def by_shard(parts: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The parts of each batch with their shard."""
    for batch in parts:
        shards = pc.unique(batch["shard"]).to_pylist()
        for shard in shards:
            yield shard, batch if len(shards) == 1 else batch.filter(pc.equal(batch["shard"], shard))


def of_kinds(parts: Iterable[pa.RecordBatch], kinds: frozenset[str], *, are_wanted: bool) -> Iterator[pa.RecordBatch]:
    """The parts of these kinds, or all but these; of no kinds, all."""
    for batch in parts:
        if kinds:
            is_named = pc.is_in(batch["kind"], value_set=pa.array(kinds, pa.string()))
            batch = batch.filter(is_named if are_wanted else pc.invert(is_named))  # noqa: PLW2901
        if batch.num_rows:
            yield batch


def table_rows(location: str, schema: pa.Schema, *, categorical: Sequence[str] = ()) -> Iterator[pl.DataFrame]:
    """The rows of a table's file with the columns of `schema`, those of its partition too; one that both lack is null.

    The texts of `categorical` columns are read as categories, in half the time or less.
    """
    for name in categorical:
        place = schema.get_field_index(name)
        schema = schema.set(place, schema.field(place).with_type(pa.dictionary(pa.int32(), pa.string())))
    filesystem, path = filesystem_of(location)
    place = PurePosixPath(path).parent
    while "=" in place.name:  # a partition's folders stand in the table's one after the other
        place = place.parent
    file_format = ds.ParquetFileFormat(dictionary_columns=[*categorical])
    given = {"schema": schema, "format": file_format, "filesystem": filesystem}
    dataset = ds.dataset(path, partitioning="hive", partition_base_dir=str(place), **given)
    taken: list[pa.RecordBatch] = []
    for batch in dataset.to_batches(use_threads=False):
        taken.append(batch)
        if sum(map(len, taken)) >= ROWS_AT_ONCE:
            yield pl.DataFrame(pa.Table.from_batches(taken))
            taken = []
    if any(map(len, taken)):
        yield pl.DataFrame(pa.Table.from_batches(taken))


def apply_to_shard(
    batches: Iterable[pa.RecordBatch], *, function: Callable[[pl.DataFrame], pl.DataFrame], schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Call `function` with all rows of a shard and yield its result as batches of `schema`, columns selected by name.

    A shard without batches yields nothing. A shard must fit in its worker's memory.
    """
    received = list(batches)
    if not received:
        return
    shard = pl.from_arrow(pa.Table.from_batches(received))
    assert isinstance(shard, pl.DataFrame)
    yield from function(shard).to_arrow().select(schema.names).cast(schema).to_batches()


def _by_size(batches: Iterable[pa.RecordBatch], num_bytes: int) -> Iterator[pa.Table]:
    """The rows of batches in tables of about `num_bytes` each, none of them empty."""
    taken: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        if batch.num_rows:
            taken.append(batch)
            size += batch.nbytes
        if size >= num_bytes:
            yield pa.Table.from_batches(taken)
            taken, size = [], 0
    if taken:
        yield pa.Table.from_batches(taken)


Value = TypeVar("Value")
Value_co = TypeVar("Value_co", covariant=True)


class Broadcast(Protocol[Value_co]):
    """Holds a value that is the same in every task."""

    @property
    def value(self) -> Value_co: ...


@dataclass(frozen=True)
class InProcess(Generic[Value]):
    """A `Broadcast` for tasks that run in this process, without Spark."""

    value: Value
