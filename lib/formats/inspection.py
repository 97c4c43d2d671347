"""Inspects a file before it is read: what it is known by, its columns, what makes it unreadable, what to tell of it.

What inspection accepts, reading cannot trip over: both take the same path over the same bytes, and inspection goes to
the end of every file but a CSV file, each of whose lines is a record or malformed whatever it holds.
"""

import hashlib
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lib.formats.columns import ambiguous_column, columns_in_another_case, find_columns, shown, stored_names
from lib.formats.csv_lines import csv_fits, csv_header, escaped_quotes
from lib.formats.json_lines import json_keys
from lib.formats.log_files import LogFile, UnreadableError, is_utf8, open_file, text_blocks
from lib.formats.mapping import Source
from lib.formats.parquet_rows import parquet_names, parquet_records
from lib.formats.pictures import read_pictures
from lib.formats.rules import Reader

CHUNK_BYTES = 1 << 20


class RefusedRow(NamedTuple):
    """A row of a file of pictures that is none, and why."""

    record_number: int
    reason: str


@dataclass(frozen=True)
class Inspection:
    """The result of inspecting a file.

    The SHA-256 of its bytes, its column names as received, what is wrong with it, what to tell of it although it can
    be read, and of a file of pictures the rows that are none.
    """

    sha256: str
    names: tuple[str, ...] = ()
    problem: str | None = None
    notes: tuple[str, ...] = ()
    refused: tuple[RefusedRow, ...] = ()


def inspect_file(file: LogFile, source: Source, known: Collection[str] = ()) -> Inspection:
    """Read a whole file: its SHA-256 and, unless that is `known`, all the rest."""
    sha256 = ""
    try:
        sha256 = _sha256(file)
        return Inspection(sha256) if sha256 in known else _inspected(file, source, sha256)
    except Exception as error:  # whatever a file does to a library, the other files of the log are read
        return Inspection(sha256, problem=problem_of(error))


def problem_of(error: Exception) -> str:
    """What is wrong with a file whose reading raised `error`, in one line."""
    first_line = str(error).partition("\n")[0]
    if isinstance(error, UnreadableError):
        return first_line
    if isinstance(error, FileNotFoundError):
        return "is no longer there"
    if isinstance(error, OSError):
        return f"cannot be opened: {error.strerror or first_line}"
    return f"cannot be read: {type(error).__name__}"  # a library's message may quote a value


def missing_columns(columns: Sequence[str], source: Source) -> list[str]:
    """The columns that the mapping requires and that a file with `columns` lacks."""
    return [name for name in source.needed_columns if not find_columns(columns, name)]


def _inspected(file: LogFile, source: Source, sha256: str) -> Inspection:
    if file.num_bytes == 0:
        raise UnreadableError("is empty")
    names, problem, notes = _LOOKS[source.reader.type](file, source)
    missing = missing_columns(stored_names(names), source)
    if missing:
        return Inspection(sha256, names, f"has no column {missing[0]!r}; it has {shown(names)}")
    problem = ambiguous_column(names, source.mapped_columns) or problem
    if problem:
        return Inspection(sha256, names, problem)
    other = columns_in_another_case(names, source.mapped_columns)
    if other:
        notes = (f"names columns in another case than the mapping: {shown(other)}", *notes)
    refused = _refused_rows(file, source, names) if source.kind == "images" else ()
    if refused:
        notes = (
            *notes,
            f"{len(refused)} rows are no pictures; first: row {refused[0].record_number}, {refused[0].reason}",
        )
    return Inspection(sha256, names, None, notes, refused)


class _Looked(NamedTuple):
    names: tuple[str, ...]
    problem: str | None = None
    notes: tuple[str, ...] = ()


def _look_at_csv(file: LogFile, source: Source) -> _Looked:
    reader = source.reader
    text = _Text(file, reader)
    try:
        names, rest = csv_header(text.blocks, reader)
    except UnreadableError:
        deque(text.blocks, maxlen=0)
        if text.has_nul:
            raise _binary(text, reader) from None
        raise
    fits = csv_fits(rest, reader, len(names))
    first = next(fits, None)
    if first is None:
        if text.has_nul:
            raise _binary(text, reader)
        raise UnreadableError("holds a header and no record" if names else "holds nothing but blank lines")
    is_any = first or any(fits)
    deque(rest, maxlen=0)  # to the end: what is wrong may come late
    if text.has_nul:
        _, again = csv_header(_Text(file, reader).blocks, reader)
        every = list(csv_fits(again, reader, len(names)))
        if 2 * sum(every) < len(every):
            raise _binary(text, reader)
    expected = f"the {len(names)} columns of {'its header' if reader.columns is None else 'reader.columns'}"
    return _Looked(tuple(names), None if is_any else f"holds no line that fits {expected}", text.notes())


def _look_at_json(file: LogFile, source: Source) -> _Looked:
    text = _Text(file, source.reader)
    keys = json_keys(text.blocks)
    if text.has_nul and 2 * keys.num_objects < keys.num_lines:
        raise _binary(text, source.reader)
    if keys.num_objects == 0:
        raise UnreadableError("holds no line that is a JSON object")
    constants = [f"{keys.num_constants} values NaN or Infinity, which are no JSON, are read as unknown"]
    return _Looked(keys.names, None, (*text.notes(), *(constants if keys.num_constants else ())))


def _look_at_parquet(file: LogFile, source: Source) -> _Looked:
    names = parquet_names(file)
    if source.kind != "images" and not sum(len(batch) for batch in parquet_records(file)):
        raise UnreadableError("holds no record")
    return _Looked(names)


_LOOKS = {"csv": _look_at_csv, "json_lines": _look_at_json, "parquet": _look_at_parquet}


def _refused_rows(file: LogFile, source: Source, names: Sequence[str]) -> tuple[RefusedRow, ...]:
    """The rows of a file of pictures that are none, after reading all of them.

    Raises:
        UnreadableError: it holds no row, or none that is a picture.
    """
    refused, num_rows = [], 0
    for batch in read_pictures(file, source, names):
        reasons = batch.column("refusal").to_pylist()
        refused += [RefusedRow(n, reason) for n, reason in enumerate(reasons, start=num_rows + 1) if reason]
        num_rows += len(batch)
    if num_rows == len(refused):
        raise UnreadableError(f"holds no picture: {refused[0].reason} in row 1" if refused else "holds no record")
    return tuple(refused)


class _Text:
    """A text file's blocks, and what has been seen in those that were taken."""

    def __init__(self, file: LogFile, reader: Reader) -> None:
        self.reader = reader
        self.blocks = self._watched(text_blocks(file, reader.encoding))
        self.begins_wide = False
        self.num_nul = self.num_escaped = self.num_no_text = 0

    @property
    def has_nul(self) -> bool:
        return self.num_nul > 0

    def notes(self) -> tuple[str, ...]:
        """What to tell of a file that can be read."""
        notes = {
            "lines with a NUL byte do not fit": self.num_nul,
            f"lines are no {self.reader.encoding} text and do not fit; is reader.encoding right?": self.num_no_text,
            "quoted values hold a backslash and a quote, so their lines do not fit; if the backslash makes the quote a "
            r"part of the value, as Spark writes it, set reader.escape: '\'": self.num_escaped,
        }
        return tuple(f"{number} {note}" for note, number in notes.items() if number)

    def _watched(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        for number, block in enumerate(blocks):
            self.begins_wide |= number == 0 and block[:2].count(b"\0") == 1
            if b"\0" in block:
                self.num_nul += sum(b"\0" in line for line in block.split(b"\n"))
            if self.reader.type == "csv":
                self.num_escaped += escaped_quotes(block, self.reader)
            if not is_utf8(block):
                self.num_no_text += sum(not is_utf8(line) for line in block.split(b"\n"))
            yield block


def _binary(text: _Text, reader: Reader) -> UnreadableError:
    if text.begins_wide:
        return UnreadableError(f"is no {reader.encoding} text, but may be UTF-16; is reader.encoding right?")
    return UnreadableError(f"is binary, not {reader.type} text")


def _sha256(file: LogFile) -> str:
    digest = hashlib.sha256()
    with open_file(file.location) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
