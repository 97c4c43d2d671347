"""Files as received: finds them, and reads their records as Arrow batches of text.

A record is a line of a CSV or JSON lines file, or a row of a Parquet file. Every value becomes text; an empty one
becomes null.
"""

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.fs as pafs

from lib.formats.columns import stored_names
from lib.formats.csv_lines import csv_header, csv_records
from lib.formats.json_lines import json_records
from lib.formats.log_files import LogFile, filesystem_of, text_blocks
from lib.formats.mapping import LogMapping, Source
from lib.formats.parquet_rows import parquet_records


def find_files(log: str, mapping: LogMapping) -> tuple[list[LogFile], int]:
    """The files of a log (a folder, a file, or the URI of one), sorted by path, and the number of files of no source.

    Hidden files and folders (names that begin with `.` or `_`) are ignored.

    Raises:
        ValueError: there is no such log.
    """
    filesystem, root = filesystem_of(log)
    info = filesystem.get_file_info(root)
    if info.type == pafs.FileType.NotFound:
        raise ValueError(f"there is no log at {log}; set --log.path to its file or folder")
    if info.type == pafs.FileType.File:
        return _single_file(log, info.size, mapping)
    prefix = log.rstrip("/")
    files, num_strangers = [], 0
    for entry in filesystem.get_file_info(pafs.FileSelector(root, recursive=True)):
        path = entry.path.removeprefix(root.rstrip("/") + "/")
        if not entry.is_file or any(part[0] in "._" for part in path.split("/")):
            continue
        match = mapping.source_of(path)
        if match:
            files.append(LogFile(f"{prefix}/{path}", path, entry.size, match.source))
        num_strangers += match is None
    return sorted(files, key=lambda file: file.path), num_strangers


def _single_file(log: str, num_bytes: int, mapping: LogMapping) -> tuple[list[LogFile], int]:
    """A log that is a single file; the log folder is the nearest one above it from which a pattern matches."""
    parts = PurePosixPath(log).parts
    for start in range(len(parts) - 1, -1, -1):
        path = "/".join(parts[start:])
        match = mapping.source_of(path)
        if match:
            return [LogFile(log, path, num_bytes, match.source)], 0
    return [], 1


def read_records(
    file: LogFile, source: Source, names: Sequence[str], columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """The records of a file whose inspection found `names`: `columns` of bronze as text, record_number, malformed.

    A column that the file lacks is null. Records are numbered from 1.
    """
    own = [name.lower() for name in stored_names(names)]  # column names in Spark ignore case
    places = [own.index(column.lower()) if column.lower() in own else None for column in columns]
    first = 1
    for batch in record_batches(file, source, names):
        texts = [pa.nulls(len(batch), pa.string()) if at is None else batch.column(at) for at in places]
        numbers = pa.array(range(first, first + len(batch)), pa.int64())
        first += len(batch)
        yield pa.record_batch([*texts, numbers, batch.column(len(own))], names=[*columns, "record_number", "malformed"])


def record_batches(file: LogFile, source: Source, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """A file's records: its columns as text, named by position, then `malformed`."""
    if source.reader.type == "parquet":
        return parquet_records(file)
    blocks = text_blocks(file, source.reader.encoding)
    if source.reader.type == "json_lines":
        return json_records(blocks, names)
    _, rest = csv_header(blocks, source.reader)
    return csv_records(rest, source.reader, len(names))
