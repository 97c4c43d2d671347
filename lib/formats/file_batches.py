"""The functions that ingest's tasks run over Arrow batches: rows about files in, their content out.

Does not import Spark.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from lib.formats.files import read_records
from lib.formats.inspection import inspect_file, problem_of
from lib.formats.log_files import LogFile, UnreadableError, require_unchanged
from lib.formats.mapping import LogMapping, Source
from lib.formats.pictures import read_pictures
from lib.tables.bronze import SOURCE

if TYPE_CHECKING:
    from lib.engines.arrow_tasks import Broadcast

FILES = pa.schema(
    [("location", pa.string()), ("path", pa.string()), ("num_bytes", pa.int64()), ("source", pa.string())]
)  # a LogFile
FOUND = pa.schema(
    [
        *FILES,
        *(("sha256", pa.string()), ("names", pa.list_(pa.string())), ("problem", pa.string())),
        ("notes", pa.list_(pa.string())),
        ("refused", pa.list_(pa.struct([("record_number", pa.int64()), ("reason", pa.string())]))),
    ]
)  # a LogFile and its Inspection
DECLARED = frozenset(column.name for column in SOURCE.columns)


def inspect_files(
    batches: Iterable[pa.RecordBatch], *, mapping: LogMapping, known: "Broadcast[Collection[str]]"
) -> Iterator[pa.RecordBatch]:
    """Inspect files; of those whose SHA-256 is `known`, nothing else is read."""
    for row in rows_of(batches):
        file = _log_file(row)
        found = inspect_file(file, mapping.sources[file.source], known.value)
        inspection: dict[str, Any] = {"sha256": found.sha256, "names": list(found.names), "problem": found.problem}
        inspection |= {"notes": list(found.notes), "refused": [row._asdict() for row in found.refused]}
        yield pa.RecordBatch.from_pylist([row | inspection], schema=FOUND)


def read_files(
    batches: Iterable[pa.RecordBatch], *, mapping: LogMapping, schema: pa.Schema, batch_id: str, arrived_at: datetime
) -> Iterator[pa.RecordBatch]:
    """The records (or pictures) of inspected files, as batches of `schema`: the contract of their source's table."""
    for row in rows_of(batches):
        origin = {"source_file": row["path"], "source_file_sha256": row["sha256"]}
        origin |= {"batch_id": batch_id, "arrived_at": arrived_at}
        file = _log_file(row)
        try:
            for batch in _content(file, mapping.sources[row["source"]], row["names"], schema):
                constants = {
                    name: pa.repeat(pa.scalar(value, schema.field(name).type), len(batch))
                    for name, value in origin.items()
                }
                arrays = [constants[name] if name in constants else batch.column(name) for name in schema.names]
                yield pa.RecordBatch.from_arrays(arrays, schema=schema)
            require_unchanged(file)
        except Exception as error:  # names the file, whatever it was that its content did to a library
            raise UnreadableError(f"{row['path']} {problem_of(error)}") from None


def _content(file: LogFile, source: Source, names: Sequence[str], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The records of a file, or those rows of a file of pictures that are some."""
    if source.kind != "images":
        columns = [name for name in schema.names if name not in DECLARED]
        yield from read_records(file, source, names, columns)
        return
    for batch in read_pictures(file, source, names):
        yield batch.filter(pc.is_null(batch.column("refusal")))


def rows_of(batches: Iterable[pa.RecordBatch]) -> Iterator[dict[str, Any]]:
    """The rows about files that a task is given."""
    for batch in batches:
        yield from batch.to_pylist()


def _log_file(row: dict[str, Any]) -> LogFile:
    return LogFile(row["location"], row["path"], row["num_bytes"], row["source"])
