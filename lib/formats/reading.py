"""Reads a file of a log once, from its beginning to its end: its rows as they come, and at last what was found in it.

A record is a line of a CSV or JSON lines file, or a row of a Parquet file. Every value becomes text; an empty one
becomes null. What was read of a file counts for nothing if something is wrong with it.
"""

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from lib.formats.columns import ambiguous_column, columns_in_another_case, find_columns, shown, stored_names
from lib.formats.csv_lines import csv_header, csv_records, escaped_quotes
from lib.formats.json_lines import JsonLines
from lib.formats.log_files import ChangedError, LogFile, UnreadableError, is_utf8, require_unchanged, text_blocks
from lib.formats.mapping import Source
from lib.formats.parquet_rows import parquet_names, parquet_records
from lib.formats.pictures import read_pictures
from lib.formats.rules import Reader


class RefusedRow(NamedTuple):
    """A row of a file of pictures that is none, and why."""

    record_number: int
    reason: str


@dataclass(frozen=True)
class Inspection:
    """What was found in a file.

    Its column names as received, what is wrong with it and whether that may pass (it was changed, or could not be
    opened), what to tell of it although it can be read, and of a file of pictures the rows that are none.
    """

    names: tuple[str, ...] = ()
    problem: str | None = None
    may_pass: bool = False
    notes: tuple[str, ...] = ()
    refused: tuple[RefusedRow, ...] = ()


class Reading:
    """The rows of a file, read as one goes through them; after the last, `inspection` says what was found.

    Records have the columns of bronze as text, record_number (from 1) and malformed; later batches may have more
    columns, which are null in earlier ones. Pictures are those of `read_pictures`. Whatever a file does to a library, no
    error is raised.
    """

    def __init__(self, file: LogFile, source: Source) -> None:
        self.file, self.source = file, source
        self.inspection = Inspection(problem="was not read to its end")

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        try:
            if self.file.num_bytes == 0:
                raise UnreadableError("is empty")
            read = _pictures if self.source.kind == "images" else _records
            self.inspection = yield from read(self.file, self.source)
            require_unchanged(self.file)
        except Exception as error:
            self.inspection = unreadable(error)


def unreadable(error: Exception) -> Inspection:
    """What was found in a file whose reading raised `error`."""
    return Inspection(problem=_problem_of(error), may_pass=isinstance(error, ChangedError | OSError))


def _problem_of(error: Exception) -> str:
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


def _wrong_columns(names: Sequence[str], source: Source) -> str | None:
    """What is wrong with a file that has these columns."""
    missing = missing_columns(stored_names(names), source)
    if missing:
        return f"has no column {missing[0]!r}; it has {shown(names)}"
    return ambiguous_column(names, source.mapped_columns)


class _Looked(NamedTuple):
    """What a reader of a type of files says at the end."""

    names: tuple[str, ...]
    problem: str | None = None
    notes: tuple[str, ...] = ()


Texts = Generator[pa.RecordBatch, None, _Looked]  # columns of bronze as text, then malformed
Rows = Generator[pa.RecordBatch, None, Inspection]


def _records(file: LogFile, source: Source) -> Rows:
    texts, first = _Told(_TEXTS[source.reader.type](file, source)), 1
    for batch in texts:
        yield batch.append_column("record_number", pa.array(range(first, first + len(batch)), pa.int64()))
        first += len(batch)
    if not texts.looked.problem and first == 1:
        raise UnreadableError("holds no record")
    return _inspection(texts.looked, source)


def _pictures(file: LogFile, source: Source) -> Rows:
    """The rows that are pictures; a file in which none is one is unreadable."""
    texts = _Told(_TEXTS[source.reader.type](file, source))
    refused, num_rows = list[RefusedRow](), 0
    if source.reader.type == "parquet":
        texts.looked = _Looked(names := parquet_names(file), _wrong_columns(names, source))
    if not texts.looked.problem:
        for batch in read_pictures(file, source, None if source.reader.type == "parquet" else texts):
            reasons = batch.column("refusal")
            yield batch.filter(pc.is_null(reasons))
            refused += [RefusedRow(n, why) for n, why in enumerate(reasons.to_pylist(), start=num_rows + 1) if why]
            num_rows += len(batch)
    if not texts.looked.problem and num_rows == len(refused):
        raise UnreadableError(f"holds no picture: {refused[0].reason} in row 1" if refused else "holds no record")
    return _inspection(texts.looked, source, tuple(refused))


def _inspection(looked: _Looked, source: Source, refused: tuple[RefusedRow, ...] = ()) -> Inspection:
    if looked.problem:
        return Inspection(looked.names, looked.problem)
    notes = looked.notes
    if other := columns_in_another_case(looked.names, source.mapped_columns):
        notes = (f"names columns in another case than the mapping: {shown(other)}", *notes)
    if refused:
        first = f"row {refused[0].record_number}, {refused[0].reason}"
        notes = (*notes, f"{len(refused)} rows are no pictures; first: {first}")
    return Inspection(looked.names, None, notes=notes, refused=refused)


class _Told:
    """Goes through the batches of a reader and keeps what it says at the end."""

    def __init__(self, texts: Texts) -> None:
        self.texts = texts
        self.looked = _Looked(())

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        self.looked = yield from self.texts


def _csv(file: LogFile, source: Source) -> Texts:
    reader = source.reader
    text = _Text(file, reader)
    try:
        names, rest = csv_header(text.blocks, reader)
    except UnreadableError:
        deque(text.blocks, maxlen=0)
        if text.has_nul:
            raise _binary(text, reader) from None
        raise
    problem, stored = _wrong_columns(names, source), [*stored_names(names), "malformed"]
    num_records = num_fitting = 0
    for batch in csv_records(rest, reader, len(names)):
        num_records += len(batch)
        num_fitting += batch.column("malformed").null_count
        if not problem:
            yield batch.rename_columns(stored)
    if text.has_nul and (not num_records or 2 * num_fitting < num_records):
        raise _binary(text, reader)
    if not num_records:
        raise UnreadableError("holds a header and no record" if names else "holds nothing but blank lines")
    expected = f"the {len(names)} columns of {'its header' if reader.columns is None else 'reader.columns'}"
    problem = problem or (None if num_fitting else f"holds no line that fits {expected}")
    return _Looked(tuple(names), problem, text.notes())


def _json(file: LogFile, source: Source) -> Texts:
    text, lines = _Text(file, source.reader), JsonLines()
    for block in text.blocks:
        batch = lines.read(block)
        yield batch.rename_columns([*stored_names(lines.keys), "malformed"])
    if text.has_nul and 2 * lines.num_objects < lines.num_lines:
        raise _binary(text, source.reader)
    if lines.num_objects == 0:
        raise UnreadableError("holds no line that is a JSON object")
    constants = [f"{lines.num_constants} values NaN or Infinity, which are no JSON, are read as unknown"]
    notes = (*text.notes(), *(constants if lines.num_constants else ()))
    return _Looked(tuple(lines.keys), _wrong_columns(lines.keys, source), notes)


def _parquet(file: LogFile, source: Source) -> Texts:
    names = parquet_names(file)
    problem = _wrong_columns(names, source)
    if not problem:
        for batch in parquet_records(file):
            yield batch.rename_columns([*stored_names(names), "malformed"])
    return _Looked(names, problem)


_TEXTS = {"csv": _csv, "json_lines": _json, "parquet": _parquet}


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
