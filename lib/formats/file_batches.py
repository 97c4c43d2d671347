"""The functions that ingest's tasks run over Arrow batches: rows about files in, their content out.

Does not import Spark.
"""

from collections.abc import Collection, Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lib.formats.files import LogFile, inspect_file, read_pictures, read_records
from lib.formats.mapping import LogMapping
from lib.tables.bronze import SOURCE

if TYPE_CHECKING:
    from lib.engines.arrow_tasks import Broadcast

FILES = pa.schema(
    [("location", pa.string()), ("path", pa.string()), ("num_bytes", pa.int64()), ("source", pa.string())]
)  # a LogFile
FOUND = pa.schema(
    [*FILES, ("sha256", pa.string()), ("names", pa.list_(pa.string())), ("problem", pa.string())]
)  # a LogFile and its Inspection
DECLARED = frozenset(column.name for column in SOURCE.columns)


def inspect_files(
    batches: Iterable[pa.RecordBatch], *, mapping: LogMapping, known: "Broadcast[Collection[str]]"
) -> Iterator[pa.RecordBatch]:
    """Inspect files; of those whose SHA-256 is `known`, nothing else is read."""
    for row in _rows(batches):
        file = _log_file(row)
        found = inspect_file(file, mapping.sources[file.source], known.value)
        inspection = {"sha256": found.sha256, "names": list(found.names), "problem": found.problem}
        yield pa.RecordBatch.from_pylist([row | inspection], schema=FOUND)


def read_files(
    batches: Iterable[pa.RecordBatch], *, mapping: LogMapping, schema: pa.Schema, batch_id: str, arrived_at: datetime
) -> Iterator[pa.RecordBatch]:
    """The records (or pictures) of inspected files, as batches of `schema`: the contract of their source's table."""
    columns = [name for name in schema.names if name not in DECLARED]
    for row in _rows(batches):
        file, source = _log_file(row), mapping.sources[row["source"]]
        pictures = source.kind == "images"
        found = read_pictures(file, source) if pictures else read_records(file, source, row["names"], columns)
        origin = {"source_file": row["path"], "source_file_sha256": row["sha256"]}
        origin |= {"batch_id": batch_id, "arrived_at": arrived_at}
        for batch in found:
            constants = {
                name: pa.repeat(pa.scalar(value, schema.field(name).type), len(batch)) for name, value in origin.items()
            }
            arrays = [constants[name] if name in constants else batch.column(name) for name in schema.names]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def _rows(batches: Iterable[pa.RecordBatch]) -> Iterator[dict[str, Any]]:
    for batch in batches:
        yield from batch.to_pylist()


def _log_file(row: dict[str, Any]) -> LogFile:
    return LogFile(row["location"], row["path"], row["num_bytes"], row["source"])
