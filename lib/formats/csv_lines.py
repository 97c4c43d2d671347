"""Records of CSV text: parsed by Arrow where a block is plain, else by Python, line by line.

A record is a line; where a mapping says that values hold newlines, a record may span several. A line with the wrong
number of fields, an open quote, a NUL or undecodable bytes does not fit: it is kept whole in `malformed`.
"""

import csv
import re
import sys
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv

from lib.formats.log_files import UnreadableError
from lib.formats.rules import Reader

BATCH_RECORDS = 50_000
MOST_HEADER_LENGTH = 1 << 20
LINE = re.compile(rb"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
Row = tuple[list[str] | None, str]  # the fields of a record, or None if it does not fit; and its text


def csv_header(blocks: Iterator[bytes], reader: Reader) -> tuple[list[str], Iterator[bytes]]:
    """The names of the columns, and the blocks after the header. A quoted name may hold newlines.

    Raises:
        UnreadableError: the header is not text, or a quote stays open in it.
    """
    if reader.columns is not None:
        return list(reader.columns), blocks
    block, end, length = b"", 0, 0
    received: list[str] = []

    def lines() -> Iterator[str]:
        nonlocal block, end, length
        for block in blocks:
            for line in LINE.finditer(block):
                end = line.end()
                received.append(line[0].decode())
                length += len(received[-1])
                if length > MOST_HEADER_LENGTH:
                    raise UnreadableError("has a header that does not end; does a quote stay open in it?")
                yield received[-1]

    csv.field_size_limit(sys.maxsize)
    try:
        for names in csv.reader(lines(), **_dialect(reader)):
            if names:
                if len(received) > 1:
                    list(csv.reader(received, strict=True, **_dialect(reader)))
                return names, chain([block[end:]], blocks)
            received.clear()
            length = 0
    except UnicodeDecodeError:
        raise UnreadableError("has a header that is no text; is reader.encoding right?") from None
    except csv.Error:
        raise UnreadableError("has a header in which a quote stays open") from None
    return [], iter(())


def csv_records(blocks: Iterable[bytes], reader: Reader, num_columns: int) -> Iterator[pa.RecordBatch]:
    """The records of blocks of whole lines: columns `0` to `num_columns - 1` as text, and `malformed`."""
    if reader.newlines_in_values:
        rows = _rows_over_lines(blocks, reader)
        while batch := list(islice(rows, BATCH_RECORDS)):
            yield _batch(batch, num_columns)
        return
    for block in blocks:
        plain = _plain_block(block, reader, num_columns)
        yield plain if plain is not None else _batch(list(_rows_of_lines(block, reader, num_columns)), num_columns)


def csv_fits(blocks: Iterable[bytes], reader: Reader, num_columns: int) -> Iterator[bool]:
    """Whether each record fits, without a look at more of the blocks than is asked for."""
    if reader.newlines_in_values:
        rows = _rows_over_lines(blocks, reader)
    else:
        rows = (row for block in blocks for row in _rows_of_lines(block, reader, num_columns))
    return (fields is not None and len(fields) == num_columns for fields, _ in rows)


def escaped_quotes(block: bytes, reader: Reader) -> int:
    """How often a quoted field holds a backslash and a quote that does not end it, where no escape is known."""
    if reader.escape or not reader.quote or b"\\" not in block:
        return 0
    return len(_escaped_quote(reader).findall(block))


def _plain_block(block: bytes, reader: Reader, num_columns: int) -> pa.RecordBatch | None:
    """A block parsed by Arrow if each line is a record that fits; None if some line may not be.

    Arrow silently lets an open quote run over the following lines. That gives fewer rows than lines or, in the last
    line, a value with a newline.
    """
    if not _may_be_plain(block, reader):
        return None
    block += b"" if block.endswith(b"\n") else b"\n"
    names = [str(i) for i in range(num_columns)]
    try:
        table = pacsv.read_csv(
            pa.BufferReader(_without_lone_escapes(block, reader)),
            pacsv.ReadOptions(column_names=names, use_threads=False, block_size=2 * len(block) + 1),
            pacsv.ParseOptions(
                delimiter=reader.delimiter, quote_char=reader.quote or False, escape_char=reader.escape or False
            ),
            pacsv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, null_values=[""]
            ),
        )
    except pa.ArrowInvalid:
        return None
    if table.num_rows != block.count(b"\n") or any("\n" in (column[-1].as_py() or "") for column in table.columns):
        return None
    batch = table.combine_chunks().to_batches()[0]
    return batch.append_column("malformed", pa.nulls(len(batch), pa.string()))


def _may_be_plain(block: bytes, reader: Reader) -> bool:
    """Whether Arrow reads the block as Python does, if each of its lines is a record that fits.

    What stands behind the end of a quoted field they read differently if it begins with an escape.
    """
    has_other_ends = block.count(b"\r") != block.count(b"\r\n")
    has_blank_lines = b"\n\n" in block or b"\n\r\n" in block or block[:1] in b"\r\n"
    is_ascii = f"{reader.delimiter}{reader.quote}{reader.escape}".isascii()
    if has_other_ends or has_blank_lines or b"\0" in block or not is_ascii or escaped_quotes(block, reader):
        return False
    return not reader.escape or f"{reader.quote}{reader.escape}".encode() not in block


def _rows_of_lines(block: bytes, reader: Reader, num_columns: int) -> Iterator[Row]:
    """Each line that is not blank as a record, by Python's CSV reader.

    A carriage return alone ends a line where most of what it parts are records that fit.
    """
    for line in block.split(b"\n"):
        received = line.removesuffix(b"\r")
        if not received:
            continue
        row = _row(received, reader)
        pieces = [piece for piece in received.split(b"\r") if piece]
        if len(pieces) > 1 and (row[0] is None or len(row[0]) != num_columns):
            parted = [_row(piece, reader) for piece in pieces]
            if 2 * sum(fields is not None and len(fields) == num_columns for fields, _ in parted) > len(parted):
                yield from parted
                continue
        yield row


def _row(received: bytes, reader: Reader) -> Row:
    """The fields of one line, or None if a quote stays open, and its text."""
    text = _sound_text(received, reader)
    if text is None:
        return None, _any_text(received)
    line = _without_lone_escapes(received, reader).decode() if reader.escape else text
    csv.field_size_limit(sys.maxsize)
    try:
        return next(csv.reader([line], strict=True, **_dialect(reader)), []), text
    except csv.Error as error:
        if "unexpected end" in str(error) or "new-line" in str(error):
            return None, text
    return next(csv.reader([line], **_dialect(reader)), []), text  # text after a closing quote is read as Arrow does


def _rows_over_lines(blocks: Iterable[bytes], reader: Reader) -> Iterator[Row]:
    """Records that may span lines. An open quote makes the rest of the file one malformed record."""
    taken: list[bytes] = []

    def lines() -> Iterator[str]:
        for block in blocks:
            for line in LINE.findall(block):
                taken.append(line)
                yield _without_lone_escapes(line, reader).decode(errors="replace")

    csv.field_size_limit(sys.maxsize)
    rows = csv.reader(lines(), strict=True, **_dialect(reader))
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error:
            row = None
        received = b"".join(taken).rstrip(b"\r\n")
        taken.clear()
        if received:
            text = _sound_text(received, reader)
            yield (None, _any_text(received)) if text is None else (row, text)


def _sound_text(received: bytes, reader: Reader) -> str | None:
    """A record's text; None where it is no text, or its quotes are not those of the mapping."""
    if b"\0" in received or escaped_quotes(received, reader):
        return None
    try:
        return received.decode()
    except UnicodeDecodeError:
        return None


def _any_text(received: bytes) -> str:
    """A record's bytes as text, with an escape for each that is none."""
    return received.decode(errors="backslashreplace").replace("\0", "\\x00")


def _without_lone_escapes(text: bytes, reader: Reader) -> bytes:
    r"""Doubles each escape character that stands before an ordinary one, so that `\N` and `C:\lamps` stay as they are."""
    if not reader.escape or (escape := reader.escape.encode()) not in text:
        return text
    special = [c.encode() for c in (reader.escape, reader.quote, reader.delimiter) if c]
    special += [b"\r\n", b"\r", b"\n"] if reader.newlines_in_values else []
    pattern = re.escape(escape) + b"(" + b"|".join(map(re.escape, special)) + b")?"
    return re.sub(pattern, lambda found: found[0] if found[1] else escape * 2, text)


def _escaped_quote(reader: Reader) -> re.Pattern[bytes]:
    quote, delimiter = re.escape(reader.quote.encode()), re.escape(reader.delimiter.encode())
    return re.compile(
        b"(?m)(?:^|%b)%b(?:(?!%b)[^\r\n])*\\\\%b(?!%b|%b|[\r\n]|\\Z)"
        % (delimiter, quote, quote, quote, delimiter, quote)
    )


def _batch(rows: list[Row], num_columns: int) -> pa.RecordBatch:
    """Turn rows into columns, with empty fields as null; a row that does not fit has its line in `malformed`."""
    fitting = [fields if fields is not None and len(fields) == num_columns else None for fields, _ in rows]
    nothing = [None] * num_columns
    by_column = zip(*(nothing if fields is None else fields for fields in fitting), strict=True)
    columns = [pa.array([value or None for value in values], pa.string()) for values in by_column]
    lines = [text if fields is None else None for (_, text), fields in zip(rows, fitting, strict=True)]
    columns = columns or [pa.array([], pa.string())] * num_columns
    return pa.record_batch([*columns, pa.array(lines, pa.string())], names=[*map(str, range(num_columns)), "malformed"])


def _dialect(reader: Reader) -> dict[str, Any]:
    dialect: dict[str, Any] = {"delimiter": reader.delimiter, "escapechar": reader.escape or None}
    return dialect | ({"quotechar": reader.quote} if reader.quote else {"quoting": csv.QUOTE_NONE})
