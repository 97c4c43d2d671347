"""Proposes a mapping, with comments, for a file that no shipped mapping knows."""

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from lib.formats.log_files import BLOCK_BYTES, LogFile, is_utf8, open_file, text_blocks
from lib.formats.mapping import LIST_FIELDS, Source
from lib.formats.rules import Reader
from lib.lake.places import filesystem_of
from lib.trial.guesses import (
    Column,
    fields_of,
    flattened,
    may_be_month_first,
    nobody_in,
    plain,
    time_format_of,
    types_of,
)
from lib.trial.outcome import first_batches

DELIMITERS = (",", ";", "\t", "|")
LOOKED_AT_LINES = 200
ITEM_FIELDS = ("item_id", "title", "category", "brand", "price", "currency", "image_uri")
OF_PAGES = ("pageview", "visit")  # types of events that name no item
NEGATIVE = "^\\s*-"


def proposal(path: str, *, max_rows: int) -> str:
    """The text of a mapping for the file at a path or URI, by its first rows.

    Raises:
        ValueError: the file cannot be read, or no column looks like an item.
    """
    filesystem, place = filesystem_of(path)
    name = place.rpartition("/")[2]
    file = LogFile(path, name, filesystem.get_file_info(place).size, "log")
    reader = reader_of(file)
    columns, array = flattened(first_columns(file, reader, max_rows))
    fields = fields_of(columns)
    if "item_id" not in fields:
        raise ValueError(f"{name}: no column looks like an item; it has {', '.join(c.name for c in columns)}")
    return "\n".join(_lines(name, reader, columns, fields, array)) + "\n"


def reader_of(file: LogFile) -> dict[str, Any]:
    """The reader that the first bytes of a file ask for.

    Raises:
        ValueError: it is empty, or holds one JSON array.
    """
    with open_file(file.location) as stream:
        head = stream.read(4)
    if head == b"PAR1":
        return {"type": "parquet"}
    if not head:
        raise ValueError(f"{file.path} is empty")
    encoding = "utf-16" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8"
    block = next(text_blocks(file, encoding))
    if not is_utf8(block):
        encoding = "cp1252"
        block = next(text_blocks(file, encoding))
    given: dict[str, Any] = {} if encoding == "utf-8" else {"encoding": encoding}
    lines = [line for line in block[:BLOCK_BYTES].decode(errors="replace").splitlines() if line.strip()]
    lines = lines[:LOOKED_AT_LINES]
    if lines and lines[0].lstrip().startswith("["):
        raise ValueError(f"{file.path} is one JSON array; write an object a line, such as by jq -c '.[]'")
    if lines and lines[0].lstrip().startswith("{"):
        return given | {"type": "json_lines"}
    delimiter = _delimiter(lines)
    rows = list(csv.reader(lines, delimiter=delimiter))
    if rows and not _is_header(rows):
        given["columns"] = [f"column_{place}" for place in range(1, len(rows[0]) + 1)]
    return given | ({"delimiter": delimiter} if delimiter != "," else {})


def first_columns(file: LogFile, reader: Mapping[str, Any], max_rows: int) -> list[Column]:
    """The columns of a file's first rows.

    Raises:
        ValueError: it cannot be read.
    """
    any_column = Source(kind="items", files="*", names={"item_id": "*"}, reader=Reader(**reader))
    batches, _ = first_batches(file, any_column, max_rows)
    tables = (pa.Table.from_batches([batch]) for batch in batches)
    rows = pl.DataFrame(pa.concat_tables(tables, promote_options="default").slice(0, max_rows))
    own = [name for name in rows.columns if name not in ("malformed", "record_number")]
    return [Column(name, rows[name].str.strip_chars().drop_nulls(), rows.height) for name in own]


def _delimiter(lines: Sequence[str]) -> str:
    """The delimiter that parts most lines into the same number of fields, more than one."""

    def evenness(delimiter: str) -> tuple[float, int]:
        widths = [len(row) for row in csv.reader(lines, delimiter=delimiter)]
        most = max(set(widths), key=widths.count, default=1)
        return (widths.count(most) / len(widths), most) if most > 1 else (0.0, 0)

    return max(DELIMITERS, key=evenness)


def _is_header(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first row names the columns: its fields are different words, and no numbers."""
    names = [name for name in rows[0] if name.strip()]
    are_words = not any(re.fullmatch(r"[-+\d.,:/\s]+", name) for name in names)
    return are_words and len(set(names)) == len(names) and len(names) >= len(rows[0]) - 1


def _lines(
    name: str, reader: Mapping[str, Any], columns: Sequence[Column], fields: Mapping[str, Column], array: str | None
) -> Iterator[str]:
    """The mapping's lines."""
    is_log = "event_time" in fields
    used = [column for field, column in fields.items() if is_log or field in ITEM_FIELDS]
    word = re.sub(r"[^a-z0-9]+", "_", Path(name).name.split(".")[0].lower()).strip("_")
    yield f"# Proposed for {name} by its first rows. Read each line; what a comment asks is yours to know."
    yield f"name: {word if re.match('[a-z]', word) else f'log_{word}'.rstrip('_')}"
    if "price" in fields and "currency" not in fields:
        yield "# currency: EUR # which one are the prices in?"
    if is_log and not _names_zone(fields["event_time"].values):
        yield "timezone: UTC # the times name no zone: is it this one?"
    yield "sources:"
    yield f"  {'events' if is_log else 'items'}:"
    yield f"    kind: {'events' if is_log else 'items'}"
    yield f"    files: {_scalar('*' + ''.join(Path(name).suffixes).removesuffix('.gz') if '.' in name else name)} # below the log's folder"
    given = dict(reader) | _number_signs(fields)
    if given:
        yield f"    reader: {json.dumps(given, ensure_ascii=False)}"
    if array is not None:
        yield f"    explode: {_scalar(array)} # each element of this array is a record"
    yield "    names:"
    for field, column in fields.items():
        if field != "event_type" and (is_log or field in ITEM_FIELDS):
            yield f"      {field}: {_name(field, column)}{_comment(column)}"
    optional = [
        field
        for field in fields
        if field not in ("item_id", "event_time", "event_type") and (is_log or field in ITEM_FIELDS)
    ]
    if optional:
        yield f"    optional: [{', '.join(optional)}] # files may lack these"
    if unknown := nobody_in(used):
        yield f"    null_values: {json.dumps(unknown, ensure_ascii=False)} # they stand for nothing"
    if is_log:
        yield from _of_times(fields["event_time"])
        yield from _of_types(fields, is_exploded=array is not None)
    unused = [column.name for column in columns if column not in used and column is not fields.get("event_type")]
    if unused:
        yield f"    # not used: {', '.join(unused)}"


def _names_zone(times: pl.Series) -> bool:
    """Whether the times need no zone from the mapping."""
    is_epoch = (time_format_of(times) or "").startswith("epoch")
    return is_epoch or bool(re.search(r"(Z|UTC|GMT|[+-]\d\d:?\d\d)$", times.first() or ""))  # type: ignore[arg-type]


def _of_times(column: Column) -> Iterator[str]:
    time_format = time_format_of(column.values) or "iso"
    if time_format != "iso":
        doubt = " # or is the month first?" if may_be_month_first(column.values, time_format) else ""
        yield f"    time_format: {_scalar(time_format)}{doubt}"


def _of_types(fields: Mapping[str, Column], *, is_exploded: bool) -> Iterator[str]:
    """The rules that make events; where a record holds its items, a view of a page is none of them."""
    if "event_type" in fields:
        column = fields["event_type"]
        types = types_of(column.values)
        types |= {text: None for text in types if is_exploded and plain(text) in OF_PAGES}
        known = {text: kind for text, kind in types.items() if kind}
        others = [text for text, kind in types.items() if not kind]
        values = ", ".join(f"{_scalar(text)}: {kind}" for text, kind in known.items())
        told = (
            f" # which of these are impression, view, cart, favourite, purchase, return or rating? {', '.join(others)}"
        )
        yield "    events:"
        ignored = ", others: ignore" if others else ""
        yield f"      - {{type: {{column: {_scalar(column.name)}, values: {{{values}}}{ignored}}}}}{told if others else ''}"
        return
    kind = "rating" if "rating" in fields else "purchase" if {"order_id", "quantity"} & {*fields} else "view"
    quantity = fields.get("quantity")
    if quantity is not None and bool(quantity.values.str.contains(NEGATIVE).any()):
        is_negative = f"{{{_scalar(quantity.name)}: {{matches: {_scalar(NEGATIVE)}}}}}"
        yield "    events: # a negative quantity is taken for a return"
        yield f"      - {{type: return, when: {is_negative}, negate: [quantity]}}"
        yield f"      - {{type: {kind}, unless: {is_negative}}}"
    else:
        yield f"    events: [{{type: {kind}}}] # no column names a type: is every record a {kind}?"


def _number_signs(fields: Mapping[str, Column]) -> dict[str, str]:
    """A decimal comma, where most prices have one."""
    price = fields.get("price")
    if price is not None and float(price.values.str.contains(r"\d,\d{1,2}$").mean() or 0) > 0.5:  # type: ignore[arg-type]
        return {"decimal": ","} | ({"thousands": "."} if price.values.str.contains(r"\d\.\d{3},").any() else {})
    return {}


def _name(field: str, column: Column) -> str:
    """A column as a mapping names it; a category in one text is parted."""
    if field in LIST_FIELDS:
        for separator in ("|", ">", "/", "."):
            if float(column.values.str.contains(re.escape(separator)).mean() or 0) > 0.2:  # type: ignore[arg-type]
                return f"{{column: {_scalar(column.name)}, separator: {_scalar(separator)}}}"
    return _scalar(column.name)


def _comment(column: Column) -> str:
    """What the column holds, in a comment."""
    empty = column.num_rows - len(column.values)
    example = str(column.values.first() or "").replace("\n", " ")[:40]
    blank = f", {100 * empty / column.num_rows:.0f} % blank" if empty > 0 else ""
    guessed = " guessed from its place;" if re.fullmatch(r"column_\d+", column.name) else ""
    return f" #{guessed} such as {example}; {column.values.n_unique():,} different{blank}"


def _scalar(text: str) -> str:
    """A text as YAML writes it."""
    is_plain = re.fullmatch(r"[A-Za-z_][\w. -]*[\w]|[A-Za-z_]", text) and text.lower() not in (
        *("y", "n", "yes", "no", "on", "off", "true", "false", "null"),
    )
    return text if is_plain else json.dumps(text, ensure_ascii=False)
