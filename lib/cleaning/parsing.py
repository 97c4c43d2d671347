"""Parses received texts into money, counts, lists and maps, as Polars expressions (times: lib/formats/times.py).

A text that cannot be parsed becomes null; lib/cleaning/fields.py tells it apart from an absent one.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from lib.formats.json_lines import nested_texts, parse_json, text_array
from lib.formats.rules import Reader

MONEY = pl.Decimal(18, 4)
TEXTS = pl.List(pl.String)
# How Python prints a list and NumPy an array: texts in quotes, numbers or None, with commas or only blanks between.
_ELEMENT = r"""'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"|([+-]?[\d.]+(?:e[+-]?\d+)?|None|nan|null|True|False)"""
PRINTED_ELEMENT = re.compile(_ELEMENT)
PRINTED_ARRAY = re.compile(rf"""\[\s*(?:(?:{_ELEMENT})(?:\s*,\s*|\s+|(?=\])))*\]""")
PAIRS = pl.List(pl.Struct({"key": pl.String, "value": pl.String}))  # how Polars represents a map


def with_pairs(stored: pl.DataFrame) -> pl.DataFrame:
    """Rows that were read from a table, whose maps become PAIRS."""
    maps = [name for name, kind in stored.schema.items() if isinstance(kind, pl.Map)]
    return stored.with_columns(pl.col(name).cast(PAIRS) for name in maps)


def to_arrow(frame: pl.DataFrame, schema: pa.Schema) -> pa.Table:
    """The frame's columns that `schema` names, in its types; PAIRS become maps."""
    table = frame.select(schema.names).to_arrow()
    columns = [
        _map_array(column.combine_chunks()) if pa.types.is_map(field.type) else column.cast(field.type)
        for column, field in zip(table.columns, schema, strict=True)
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _map_array(lists: pa.Array) -> pa.MapArray:
    plain = lists.cast(pa.list_(pa.struct([("key", pa.string()), ("value", pa.string())])))
    fields = [pa.field("key", pa.string(), nullable=False), pa.field("value", pa.string())]
    entries = pa.StructArray.from_arrays(plain.values.flatten(), fields=fields)
    kind, buffers = pa.map_(pa.string(), pa.string()), plain.buffers()[:2]
    return pa.Array.from_buffers(kind, len(plain), buffers, offset=plain.offset, children=[entries])


def plain_number(text: pl.Expr, reader: Reader) -> pl.Expr:
    """Numbers in the reader's notation as parsers take them: a decimal point, and no sign between thousands.

    A sign in a wrong place stays where it is, so that the number is refused: 12,50 is not 1250.
    """
    text = text.str.strip_chars()
    if reader.thousands is not None:
        sign = {" ": r"\s", "'": "['’]"}.get(reader.thousands, re.escape(reader.thousands))
        grouped = rf"^[+-]?\d{{1,3}}(?:{sign}\d{{2,3}})*{sign}\d{{3}}(?:{re.escape(reader.decimal)}\d*)?$"
        text = pl.when(text.str.contains(grouped)).then(text.str.replace_all(sign, "")).otherwise(text)
    if reader.decimal == ",":
        has_point = text.str.contains(".", literal=True)
        text = pl.when(has_point).then(pl.lit("?")).otherwise(text.str.replace(",", ".", literal=True))
    return text


def split_currency(text: pl.Expr, signs: Mapping[str, str]) -> tuple[pl.Expr, pl.Expr]:
    """Prices without the sign of a currency before or after them, and that currency; null without a sign."""
    longest_first = sorted(signs, key=len, reverse=True)
    either = "|".join(re.escape(sign.strip()) for sign in longest_first)
    before, after = rf"^([+-]?)\s*({either})\s*([+-]?)", rf"\s*({either})$"
    text = text.str.strip_chars()
    is_before = text.str.contains(before)
    amount = pl.when(is_before).then(text.str.replace(before, "$1$3")).otherwise(text.str.replace(after, ""))
    sign = pl.when(is_before).then(text.str.extract(before, 2)).otherwise(text.str.extract(after, 1))
    codes = {sign.strip(): code for sign, code in signs.items()}
    return amount, sign.replace_strict(codes, default=None, return_dtype=pl.String)


def parse_whole(text: pl.Expr) -> pl.Expr:
    """Whole numbers; 6.0 is accepted, 6.5 becomes null."""
    text = text.str.strip_chars()
    number = text.cast(pl.Float64, strict=False)
    is_whole = (number == number.round()) & (number.abs() < 2.0**53)
    return pl.coalesce(text.cast(pl.Int64, strict=False), pl.when(is_whole).then(number).cast(pl.Int64, strict=False))


def parse_number(text: pl.Expr) -> pl.Expr:
    """Finite numbers."""
    number = text.str.strip_chars().cast(pl.Float64, strict=False)
    return pl.when(number.is_finite()).then(number)


def parse_money(text: pl.Expr) -> pl.Expr:
    """Amounts, rounded to four decimals."""
    return text.str.strip_chars().cast(MONEY, strict=False)


def parse_list(text: pl.Expr) -> pl.Expr:
    """Lists of texts from arrays in JSON or as Python and NumPy print them; any other text becomes a list of one."""
    is_array = text.str.starts_with("[")
    arrays = pl.when(is_array).then(text).map_batches(_decode_arrays, return_dtype=TEXTS)
    return pl.when(is_array).then(arrays).when(text.is_not_null()).then(pl.concat_list(text))


def parse_map(text: pl.Expr, unknown: Collection[str] = (), keys: Sequence[str] = ("*",)) -> pl.Expr:
    """Maps from JSON objects: the keys that match a pattern of `keys`, without blank values and those of `unknown`."""
    decode = partial(_decode_objects, unknown={"", *unknown}, keys=keys)
    return text.map_batches(decode, return_dtype=PAIRS)


def nested(text: pl.Expr, path: str) -> pl.Expr:
    """The texts at a path in JSON texts; null where there is none."""

    def found(texts: pl.Series) -> pl.Series:
        return pl.Series(texts.name, nested_texts(texts, path), pl.String)

    return text.map_batches(found, return_dtype=pl.String)


def map_of(columns: Sequence[pl.Expr]) -> pl.Expr:
    """Maps from column name to value, without empty values."""
    return pl.struct(columns).map_batches(_filled_pairs, return_dtype=PAIRS) if columns else pl.lit(None, PAIRS)


def list_of(columns: Sequence[pl.Expr]) -> pl.Expr:
    """Lists of the columns' values, without empty ones."""
    if not columns:
        return pl.lit(None, TEXTS)
    filled = pl.concat_list(columns).list.drop_nulls()
    return pl.when(filled.list.len() > 0).then(filled)


def _filled_pairs(structs: pl.Series) -> pl.Series:
    """Names and values of a struct's filled fields, as lists; null where all are empty."""
    frame = structs.struct.unnest()
    values = frame.select(pl.concat_list(pl.all())).to_series().explode()
    is_filled = values.is_not_null()
    keys = pl.Series(frame.columns)[np.tile(np.arange(frame.width), frame.height)]
    pairs = pl.DataFrame({"key": keys.filter(is_filled), "value": values.filter(is_filled)}).to_struct().to_arrow()
    lengths = is_filled.to_numpy().reshape(frame.shape).sum(axis=1)
    lists = pa.LargeListArray.from_arrays(np.concatenate([[0], np.cumsum(lengths)]), pairs, mask=pa.array(lengths == 0))
    return pl.Series(structs.name, lists, PAIRS)


def _decode_arrays(texts: pl.Series) -> pl.Series:
    try:
        return texts.str.json_decode(TEXTS)
    except pl.exceptions.ComputeError:  # some text in the column is not an array of plain values
        return pl.Series(texts.name, [_array(text) for text in texts], TEXTS)


def _array(text: str | None) -> list[str | None] | None:
    """The elements of one array; null if the text is none."""
    value = loaded(text, list)
    if value is not None:
        return list(text_array(value).to_pylist())
    if text is None or not PRINTED_ARRAY.fullmatch(text.strip()):
        return None
    elements: list[str | None] = []
    for quoted, double_quoted, plain in PRINTED_ELEMENT.findall(text.strip()[1:-1]):
        is_known = plain not in ("None", "nan", "null")
        elements.append(re.sub(r"\\(.)", r"\1", quoted or double_quoted) or plain or "" if is_known else None)
    return elements


def _decode_objects(texts: pl.Series, *, unknown: Collection[str], keys: Sequence[str]) -> pl.Series:
    maps = []
    for text in texts:
        value = loaded(text, dict)
        if value and keys != ("*",):
            value = {key: field for key, field in value.items() if any(fnmatchcase(key, name) for name in keys)}
        fields = text_array(list(value.values())).to_pylist() if value else ()
        known = [(key, field.strip()) for key, field in zip(value or (), fields, strict=True) if field is not None]
        pairs = [{"key": key, "value": field} for key, field in known if field not in unknown]
        maps.append(None if value is None else pairs)
    return pl.Series(texts.name, maps, PAIRS)


def loaded(text: str | None, kind: type) -> Any:
    """The value of a JSON text if it is of that kind, else None."""
    try:
        value = None if text is None else parse_json(text)
    except ValueError:
        return None
    return value if isinstance(value, kind) else None
