"""Records of CSV text: parsed by Arrow where a block is plain, else by Python, line by line.

A record is a line; where a mapping says that values hold newlines, a record may span several. A line with the wrong
number of fields, an open quote or undecodable bytes does not fit: it is kept whole in `malformed`.
"""

import csv
import io
import sys
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv

from lib.formats.rules import Reader

BATCH_RECORDS = 50_000


def csv_header(blocks: Iterator[bytes], reader: Reader) -> tuple[list[str], Iterator[bytes]]:
    """The names of the columns, and the blocks after the header.

    Raises:
        ValueError: the header is not text in the reader's encoding.
    """
    if reader.columns is not None:
        return list(reader.columns), blocks
    for block in blocks:
        lines = block.lstrip(b"\r\n")
        if lines:
            header, _, rest = lines.partition(b"\n")
            return next(csv.reader([header.decode().rstrip("\r")], **_dialect(reader))), chain(
                [rest] if rest else [], blocks
            )
    return [], iter(())


def csv_records(blocks: Iterator[bytes], reader: Reader, num_columns: int) -> Iterator[pa.RecordBatch]:
    """The records of blocks of whole lines: columns `0` to `num_columns - 1` as text, and `malformed`."""
    if reader.newlines_in_values:
        yield from _records_over_lines(blocks, reader, num_columns)
        return
    for block in blocks:
        plain = _plain_block(block, reader, num_columns)
        yield plain if plain is not None else _record_a_line(block, reader, num_columns)


def _plain_block(block: bytes, reader: Reader, num_columns: int) -> pa.RecordBatch | None:
    """A block parsed by Arrow if each line is a record that fits; None if some line may not be.

    Arrow silently lets an open quote run over the following lines. That gives fewer rows than lines or, in the last
    line, a value with a newline.
    """
    if block.count(b"\r") != block.count(b"\r\n") or b"\n\n" in block or b"\n\r\n" in block or block[:1] in b"\r\n":
        return None
    block += b"" if block.endswith(b"\n") else b"\n"
    names = [str(i) for i in range(num_columns)]
    try:
        table = pacsv.read_csv(
            pa.BufferReader(block),
            pacsv.ReadOptions(column_names=names, use_threads=False, block_size=len(block) + 1),
            pacsv.ParseOptions(delimiter=reader.delimiter, quote_char=reader.quote or False),
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


def _record_a_line(block: bytes, reader: Reader, num_columns: int) -> pa.RecordBatch:
    """Parse each line that is not blank as a record, with Python's CSV reader."""
    rows: list[list[str] | None] = []
    lines: list[str] = []
    for line in block.split(b"\n"):
        received = line.removesuffix(b"\r")
        if not received:
            continue
        try:
            text = received.decode()
            row = _fields(text, reader)
        except UnicodeDecodeError:
            text, row = received.decode(errors="backslashreplace"), None
        rows.append(row)
        lines.append(text)
    return _batch(rows, lines, num_columns)


def _fields(line: str, reader: Reader) -> list[str] | None:
    """The fields of one line; None if a quote stays open or the line contains a carriage return."""
    csv.field_size_limit(sys.maxsize)
    try:
        return next(csv.reader([line], strict=True, **_dialect(reader)), [])
    except csv.Error as error:
        if "unexpected end" in str(error) or "new-line" in str(error):
            return None
    return next(csv.reader([line], **_dialect(reader)), [])  # text after a closing quote is read as Arrow does


def _records_over_lines(blocks: Iterator[bytes], reader: Reader, num_columns: int) -> Iterator[pa.RecordBatch]:
    """Records that may span lines, in batches. An open quote makes the rest of the file one malformed record."""
    taken: list[str] = []

    def lines() -> Iterator[str]:
        for block in blocks:
            for line in io.StringIO(block.decode(errors="backslashreplace"), newline=""):
                taken.append(line)
                yield line

    def records() -> Iterator[tuple[list[str] | None, str]]:
        rows = csv.reader(lines(), strict=True, **_dialect(reader))
        while True:
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error:
                row = None
            text = "".join(taken).rstrip("\r\n")
            taken.clear()
            if text:
                yield row, text

    csv.field_size_limit(sys.maxsize)
    fitting = records()
    while batch := list(islice(fitting, BATCH_RECORDS)):
        yield _batch([row for row, _ in batch], [text for _, text in batch], num_columns)


def _batch(rows: list[list[str] | None], lines: list[str], num_columns: int) -> pa.RecordBatch:
    """Turn rows into columns, with empty fields as null; a row that does not fit has its line in `malformed`."""
    fits = [row is not None and len(row) == num_columns for row in rows]
    nothing = [None] * num_columns
    by_column = zip(*(row if fit and row else nothing for row, fit in zip(rows, fits, strict=True)), strict=True)
    columns = [pa.array([value or None for value in values], pa.string()) for values in by_column]
    malformed = pa.array([None if fit else line for line, fit in zip(lines, fits, strict=True)], pa.string())
    columns = columns or [pa.array([], pa.string())] * num_columns
    return pa.record_batch([*columns, malformed], names=[*map(str, range(num_columns)), "malformed"])


def _dialect(reader: Reader) -> dict[str, Any]:
    if not reader.quote:
        return {"delimiter": reader.delimiter, "quoting": csv.QUOTE_NONE}
    return {"delimiter": reader.delimiter, "quotechar": reader.quote}
