"""Parses received texts into money, counts, lists and maps, as Polars expressions (times: lib/formats/times.py).

A text that cannot be parsed becomes null; lib/cleaning/fields.py tells it apart from an absent one.
"""

import json
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from lib.formats.json_lines import text_array

MONEY = pl.Decimal(18, 4)
TEXTS = pl.List(pl.String)
PAIRS = pl.List(pl.Struct({"key": pl.String, "value": pl.String}))  # how Polars represents a map


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
    """Lists of texts from JSON arrays; any other text becomes a list of one."""
    is_array = text.str.starts_with("[")
    arrays = pl.when(is_array).then(text).map_batches(_decode_arrays, return_dtype=TEXTS)
    return pl.when(is_array).then(arrays).when(text.is_not_null()).then(pl.concat_list(text))


def parse_map(text: pl.Expr, unknown: Collection[str] = ()) -> pl.Expr:
    """Maps from JSON objects, without their blank values and those that stand for an unknown one."""
    return text.map_batches(partial(_decode_objects, unknown={"", *unknown}), return_dtype=PAIRS)


def map_of(columns: Sequence[pl.Expr]) -> pl.Expr:
    """Maps from column name to value, without empty values."""
    return pl.struct(columns).map_batches(_filled_pairs, return_dtype=PAIRS)


def list_of(columns: Sequence[pl.Expr]) -> pl.Expr:
    """Lists of the columns' values, without empty ones."""
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
        lists = (_loaded(text, list) for text in texts)
        return pl.Series(texts.name, [None if v is None else text_array(v).to_pylist() for v in lists], TEXTS)


def _decode_objects(texts: pl.Series, *, unknown: Collection[str]) -> pl.Series:
    maps = []
    for text in texts:
        value = _loaded(text, dict)
        fields = text_array(list(value.values())).to_pylist() if value else ()
        known = [(key, field.strip()) for key, field in zip(value or (), fields, strict=True) if field is not None]
        pairs = [{"key": key, "value": field} for key, field in known if field not in unknown]
        maps.append(None if value is None else pairs)
    return pl.Series(texts.name, maps, PAIRS)


def _loaded(text: str | None, kind: type) -> Any:
    try:
        value = None if text is None else json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, kind) else None
