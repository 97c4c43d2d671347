"""Files as received: finds them, says what is wrong with one, and reads their records as Arrow batches of text.

A record is a line of a CSV or JSON lines file, or a row of a Parquet file. Every value becomes text; an empty one
becomes null.
"""

import codecs
import hashlib
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from gzip import BadGzipFile, GzipFile
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from lib.formats.columns import find_columns, stored_names
from lib.formats.csv_lines import csv_header, csv_records
from lib.formats.ids import item_ids
from lib.formats.json_lines import json_keys, json_records, text_array
from lib.formats.mapping import LogMapping, Source

CHUNK_BYTES = 1 << 20
BLOCK_BYTES = 8 << 20
LONGEST_LINE_BYTES = 256 << 20
PICTURE_COLUMNS = {"bytes": pa.binary(), "uri": pa.string(), "width": pa.int32(), "height": pa.int32()}
PICTURES = ("item_id", *PICTURE_COLUMNS)


class UnreadableError(ValueError):
    """A file that cannot be read; the message says why, in a few words."""


@dataclass(frozen=True)
class LogFile:
    """A file of the log: its location, its path below the log folder, its size, and the source it belongs to."""

    location: str
    path: str
    num_bytes: int
    source: str


@dataclass(frozen=True)
class Inspection:
    """The result of inspecting a file: the SHA-256 of its bytes, its column names as received, and what is wrong."""

    sha256: str
    names: tuple[str, ...] = ()
    problem: str | None = None


def find_files(log: str, mapping: LogMapping) -> tuple[list[LogFile], int]:
    """The files of a log (a folder, a file, or the URI of one), sorted by path, and the number of files of no source.

    Hidden files and folders (names that begin with `.` or `_`) are ignored.

    Raises:
        ValueError: there is no such log.
    """
    filesystem, root = _filesystem(log)
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


def inspect_file(file: LogFile, source: Source, known: Collection[str] = ()) -> Inspection:
    """Read a whole file: its SHA-256 and, unless that is `known`, its columns and what makes it unreadable."""
    try:
        sha256 = _sha256(file)
    except OSError as error:
        return Inspection("", problem=f"cannot be opened: {error.strerror or error}")
    if sha256 in known:
        return Inspection(sha256)
    try:
        names = _parquet_names(file) if source.reader.type == "parquet" else _text_names(file, source)
    except UnreadableError as error:
        return Inspection(sha256, problem=str(error))
    missing = missing_columns(stored_names(names), source)
    if missing:
        return Inspection(sha256, names, f"has no column {missing[0]!r}; it has {', '.join(names)}")
    return Inspection(sha256, names)


def missing_columns(columns: Sequence[str], source: Source) -> list[str]:
    """The columns that the mapping requires and that a file with `columns` lacks."""
    return [name for name in source.needed_columns if not find_columns(columns, name)]


def read_records(
    file: LogFile, source: Source, names: Sequence[str], columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """The records of a file whose inspection found `names`: `columns` of bronze as text, record_number, malformed.

    A column that the file lacks is null. Records are numbered from 1.
    """
    own = [name.lower() for name in stored_names(names)]  # column names in Spark ignore case
    places = [own.index(column.lower()) if column.lower() in own else None for column in columns]
    first = 1
    for batch in _batches(file, source, names):
        texts = [pa.nulls(len(batch), pa.string()) if at is None else batch.column(at) for at in places]
        numbers = pa.array(range(first, first + len(batch)), pa.int64())
        first += len(batch)
        yield pa.record_batch([*texts, numbers, batch.column(len(own))], names=[*columns, "record_number", "malformed"])


def read_pictures(file: LogFile, source: Source) -> Iterator[pa.RecordBatch]:
    """The pictures of an inspected Parquet file: item_id, bytes, uri, width, height.

    Null where the file lacks a column.
    """
    columns = {field: name.column for field, name in source.names.items()}
    with _open(file.location) as stream:
        for batch in pq.ParquetFile(stream).iter_batches(batch_size=256, columns=list(columns.values())):
            arrays = {field: batch.column(column) for field, column in columns.items()}
            for field, type_ in PICTURE_COLUMNS.items():
                arrays[field] = arrays[field].cast(type_) if field in arrays else pa.nulls(len(batch), type_)
            ids = item_ids(
                _texts(arrays["item_id"]),
                are_whole_numbers=source.are_whole_numbers("item_id"),
                unknown=source.unknown_texts("item_id"),
            )
            yield pa.RecordBatch.from_pydict({**arrays, "item_id": ids}).select(PICTURES)


def _batches(file: LogFile, source: Source, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """A file's records: its columns, named by position, then `malformed`."""
    if source.reader.type == "parquet":
        return _parquet_records(file)
    if source.reader.type == "json_lines":
        return json_records(_blocks(file, source), names)
    _, rest = csv_header(_blocks(file, source), source.reader)
    return csv_records(rest, source.reader, len(names))


def _text_names(file: LogFile, source: Source) -> tuple[str, ...]:
    """The column names of a text file, after reading all of it.

    Raises:
        UnreadableError: it is empty, binary, cut off, or holds no record.
    """
    if file.num_bytes == 0:
        raise UnreadableError("is empty")
    blocks = _blocks(file, source)
    if source.reader.type == "json_lines":
        found = json_keys(blocks)
        if found.num_objects == 0:
            raise UnreadableError("holds no line that is a JSON object")
        return found.names
    try:
        header, blocks = csv_header(blocks, source.reader)
    except UnicodeDecodeError:
        raise UnreadableError("has a header that is no text; is reader.encoding right?") from None
    num_filled = sum(bool(block.strip()) for block in blocks)
    if num_filled == 0:
        raise UnreadableError("holds a header and no record" if header else "holds nothing but blank lines")
    return tuple(header)


def _parquet_names(file: LogFile) -> tuple[str, ...]:
    """The column names of a Parquet file, after reading all of it.

    Raises:
        UnreadableError: it is not a Parquet file, is damaged, or holds no record.
    """
    if file.num_bytes == 0:
        raise UnreadableError("is empty")
    try:
        with _open(file.location) as stream:
            parquet = pq.ParquetFile(stream)
            num_records = sum(len(batch) for batch in parquet.iter_batches())
            names = tuple(parquet.schema_arrow.names)
    except (pa.ArrowException, OSError) as error:
        raise UnreadableError(f"is no Parquet file, or a damaged one: {str(error).splitlines()[0]}") from None
    if num_records == 0:
        raise UnreadableError("holds no record")
    return names


def _parquet_records(file: LogFile) -> Iterator[pa.RecordBatch]:
    with _open(file.location) as stream:
        for batch in pq.ParquetFile(stream).iter_batches(batch_size=50_000):
            arrays = [*map(_texts, batch.columns), pa.nulls(len(batch), pa.string())]
            yield pa.record_batch(arrays, names=[str(place) for place in range(len(arrays))])


def _texts(array: pa.Array) -> pa.Array:
    """Any column as text: times as ISO text, nested values as JSON."""
    if pa.types.is_nested(array.type):
        return text_array(array.to_pylist())
    texts = array.cast(pa.string())
    return pc.if_else(pc.equal(texts, ""), None, texts)


def _blocks(file: LogFile, source: Source) -> Iterator[bytes]:
    """A text file's content, unpacked and in UTF-8, in blocks that end with whole lines.

    Raises:
        UnreadableError: it is binary, has another encoding, or is a gzip file that is cut off or damaged.
    """
    rest = b""
    try:
        for text in _unpacked(file, source.reader.encoding):
            if b"\0" in text:
                raise UnreadableError(f"is binary, not {source.reader.type} text")
            end = text.rfind(b"\n") + 1
            if end:
                yield rest + text[:end]
                rest = text[end:]
            else:
                rest += text
            if len(rest) > LONGEST_LINE_BYTES:
                raise UnreadableError(f"has a line of more than {LONGEST_LINE_BYTES >> 20} MiB")
    except EOFError:
        raise UnreadableError("is a gzip file that was cut off") from None
    except (BadGzipFile, zlib.error):
        raise UnreadableError("is a damaged gzip file") from None
    except UnicodeDecodeError:
        raise UnreadableError(f"is no {source.reader.encoding} text") from None
    if rest:
        yield rest


def _unpacked(file: LogFile, encoding: str) -> Iterator[bytes]:
    """A text file's content in UTF-8, in blocks that end anywhere.

    Bytes that are not UTF-8 are let through: they make a line malformed.
    """
    is_utf8 = codecs.lookup(encoding).name == "utf-8"
    decoder = codecs.getincrementaldecoder(encoding)()
    with _open(file.location) as stream:
        is_gzip = stream.read(2) == b"\x1f\x8b"
        stream.seek(0)
        content = GzipFile(fileobj=stream) if is_gzip else stream
        first = content.read(BLOCK_BYTES)
        if is_utf8:
            yield first.removeprefix(codecs.BOM_UTF8)
        else:
            yield decoder.decode(first).encode()
        while block := content.read(BLOCK_BYTES):
            yield block if is_utf8 else decoder.decode(block).encode()
        yield decoder.decode(b"", final=True).encode()


def _sha256(file: LogFile) -> str:
    digest = hashlib.sha256()
    with _open(file.location) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _filesystem(location: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a path or a URI, and the path in it."""
    if "://" in location:
        filesystem, path = pafs.FileSystem.from_uri(location)
        return filesystem, path
    return pafs.LocalFileSystem(), str(Path(location).absolute())


@contextmanager
def _open(location: str) -> Iterator[pa.NativeFile]:
    filesystem, path = _filesystem(location)
    with filesystem.open_input_file(path) as stream:
        yield stream
