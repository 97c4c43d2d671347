"""The functions that ingest's tasks run: they hash files, and read files once and write their records into a table's files.

Does not import Spark.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
from deltalake.transaction import AddAction

from lib.engines.arrow_tasks import FILE_BYTES, part, rows_of, written_part
from lib.formats.log_files import LogFile, sha256_of
from lib.formats.mapping import LogMapping
from lib.formats.reading import Inspection, Reading, unreadable
from lib.ingestion.staged import FoundFile
from lib.lake.lake import Lake
from lib.lake.writes import conform, remove_files, write_files
from lib.tables import contract
from lib.tables.bronze import DECLARED

FILES = pa.schema(
    [
        *(("location", pa.string()), ("path", pa.string()), ("num_bytes", pa.int64()), ("source", pa.string())),
        *(("modified_at", pa.timestamp("us", tz="UTC")), ("sha256", pa.string())),
    ]
)  # a LogFile, and the SHA-256 of its content where it is known
FOUND = "found"  # the kind of parts that hold a FoundFile; the others are named after the table of a written file


@dataclass(frozen=True)
class IngestWork:
    """What the tasks of one run need to know.

    `columns` are the sources' own columns, as their tables spell them. `watermark` is the stream's, of a batch of messages.
    """

    lake: Lake
    mapping: LogMapping
    batch_id: str
    arrived_at: datetime
    columns: Mapping[str, Sequence[str]]
    watermark: datetime | None = None


def hash_files(files: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Say of each file (rows of FILES) by what it is known: a part with its location and its SHA-256, or its problem."""
    for row in rows_of(files):
        found: dict[str, Any] = {"location": row["location"], "sha256": None, "problem": None}
        try:
            found["sha256"] = sha256_of(_log_file(row))
        except Exception as error:  # whatever a file does to a library, the other files of the log are read
            found["problem"] = unreadable(error).problem
        yield part(FOUND, json.dumps(found).encode())


def stage_files(files: Iterable[pa.RecordBatch], *, work: IngestWork) -> Iterator[pa.RecordBatch]:
    """Read files (rows of FILES) and write their records, or pictures, into files of their source's table.

    Yields a part for each file that was read and for each that was written. Nothing is kept of a file that cannot be
    read to its end.
    """
    tables: dict[str, TableFiles] = {}
    for row in rows_of(files):
        name = row["source"]
        if name not in tables:
            tables[name] = TableFiles(work, name)
        inspection = tables[name].read(_log_file(row), row["sha256"])
        found = FoundFile.of(row["path"], name, row["sha256"], inspection)
        yield part(FOUND, json.dumps(asdict(found)).encode())
    for table in tables.values():
        yield from (written_part(table.contract.name, file) for file in table.closed())


class TableFiles:
    """Files of one source's table, as one task writes them.

    The records of files, or messages, that are not large share a file of the table, once all of theirs are read.
    """

    def __init__(self, work: IngestWork, source: str) -> None:
        self.work, self.source = work, work.mapping.sources[source]
        self.contract = contract(f"bronze/{source}")
        self.spelled = {column.lower(): column for column in work.columns.get(source, ())}
        self.kept: list[pa.RecordBatch] = []
        self.num_kept_bytes = 0
        self.written: list[AddAction] = []

    def read(self, file: LogFile, sha256: str) -> Inspection:
        """Read a file and keep its rows, if nothing is wrong with it."""
        own, taken = list[AddAction](), list[pa.RecordBatch]()
        reading = Reading(file, self.source)
        for batch in reading:
            taken.append(self.conforming(batch, file.path, sha256))
            if _num_bytes(taken) >= FILE_BYTES:
                own += self._write(taken)
                taken = []
        if reading.inspection.problem:
            remove_files(self.work.lake, self.contract.name, own)
        else:
            self.written += own
            self.keep(taken)
        return reading.inspection

    def keep(self, rows: Sequence[pa.RecordBatch]) -> None:
        """Keep rows that `conforming` made, until they are worth a file."""
        self.kept += rows
        self.num_kept_bytes += _num_bytes(rows)
        if self.num_kept_bytes >= FILE_BYTES:
            self.written += self._write(self.kept)
            self.kept, self.num_kept_bytes = [], 0

    def closed(self) -> list[AddAction]:
        """Every file that was written, after the rows that are still kept."""
        files = self.written + self._write(self.kept)
        self.kept, self.num_kept_bytes, self.written = [], 0, []
        return files

    def conforming(self, batch: pa.RecordBatch, place: str, sha256: str) -> pa.RecordBatch:
        """A batch with the table's own spelling of the columns, and with where its records come from and when they came."""
        constants: dict[str, Any] = {"source_file": place, "source_file_sha256": sha256}
        constants |= {"batch_id": self.work.batch_id, "arrived_at": self.work.arrived_at}
        if self.contract.open:
            constants["stream_watermark"] = self.work.watermark
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        if self.contract.open:
            columns = {
                name if name in DECLARED else self.spelled.setdefault(name.lower(), name): column
                for name, column in columns.items()
            }
        for name, value in constants.items():
            columns[name] = pa.repeat(pa.scalar(value, self.contract.schema.field(name).type), len(batch))
        if not self.contract.open:
            columns = {name: columns[name] for name in self.contract.schema.names}
        return pa.RecordBatch.from_pydict(columns)

    def _write(self, batches: Sequence[pa.RecordBatch]) -> list[AddAction]:
        if not sum(map(len, batches)):
            return []
        rows = pa.concat_tables((pa.Table.from_batches([batch]) for batch in batches), promote_options="default")
        table = self.contract
        if table.open:
            table = table.with_source_columns(tuple(name for name in rows.column_names if name not in DECLARED))
        return write_files(self.work.lake, table, [conform(table, rows)])


def _num_bytes(batches: Sequence[pa.RecordBatch]) -> int:
    return sum(batch.nbytes for batch in batches)


def _log_file(row: Mapping[str, Any]) -> LogFile:
    return LogFile(row["location"], row["path"], row["num_bytes"], row["source"], row["modified_at"])
