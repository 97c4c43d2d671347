"""Parses received texts into times in UTC, money, counts, lists and maps, as Polars expressions.

A text that cannot be parsed becomes null; lib/cleaning/fields.py tells it apart from an absent one.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from lib.formats.json_lines import text_array

TIME = pl.Datetime("us", "UTC")
MONEY = pl.Decimal(18, 4)
TEXTS = pl.List(pl.String)
PAIRS = pl.List(pl.Struct({"key": pl.String, "value": pl.String}))  # how Polars represents a map
ISO_PATTERNS = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d")
ISO_ZONE = r"(:\d{2}(?:\.\d+)?)\s*(Z|UTC|GMT|[+-]\d{2}(?::?\d{2})?)$"
FIRST_SECOND, LAST_SECOND = -62_135_596_800, 253_402_300_799  # of the years 1 and 9999


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


def parse_time(text: pl.Expr, time_format: str, timezone: str) -> pl.Expr:
    """Times in UTC to the microsecond; a time without a zone is in `timezone`.

    `time_format` is iso, epoch_seconds, epoch_milliseconds, or a strftime pattern. A local time that a clock change
    skips becomes null; one that it repeats is taken as the earlier of the two.
    """
    text = text.str.strip_chars()
    if time_format.startswith("epoch"):
        return _from_epoch(text, microseconds=1_000_000 if time_format == "epoch_seconds" else 1_000)
    if "%z" in time_format:
        return text.str.to_datetime(time_format, strict=False, time_unit="us", time_zone="UTC")
    if time_format != "iso":
        return _in_utc(text.str.to_datetime(time_format, strict=False, time_unit="us"), timezone)
    clock = text.str.replace(ISO_ZONE, "$1").str.replace("T", " ", literal=True)
    naive = pl.coalesce(clock.str.to_datetime(pattern, strict=False, time_unit="us") for pattern in ISO_PATTERNS)
    zone = text.str.extract(ISO_ZONE, 2).str.replace(":", "", literal=True)
    is_signed = zone.str.contains("^[+-]")
    minutes = zone.str.slice(1, 2).cast(pl.Int64, strict=False) * 60 + zone.str.slice(3, 2).cast(
        pl.Int64, strict=False
    ).fill_null(0)
    offset = pl.when(zone.str.starts_with("-")).then(-minutes).when(is_signed).then(minutes).otherwise(0)
    zoned = (naive - pl.duration(minutes=offset)).dt.replace_time_zone("UTC")
    return pl.when(zone.is_null()).then(_in_utc(naive, timezone)).otherwise(zoned)


def _in_utc(naive: pl.Expr, timezone: str) -> pl.Expr:
    local = naive.dt.replace_time_zone(timezone, ambiguous="earliest", non_existent="null")
    return local.dt.convert_time_zone("UTC")


def _from_epoch(text: pl.Expr, *, microseconds: int) -> pl.Expr:
    """Times given as whole or fractional numbers since 1970, in a unit of `microseconds`."""
    number = text.cast(pl.Float64, strict=False)
    whole = text.cast(pl.Int64, strict=False)
    first, last = (second * (1_000_000 // microseconds) for second in (FIRST_SECOND, LAST_SECOND))
    moment = pl.coalesce(whole * microseconds, (number * microseconds).round().cast(pl.Int64, strict=False))
    return pl.when(number.is_between(first, last)).then(moment).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")


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


def parse_map(text: pl.Expr) -> pl.Expr:
    """Maps from JSON objects, without their empty values."""
    return text.map_batches(_decode_objects, return_dtype=PAIRS)


def map_of(columns: Sequence[str]) -> pl.Expr:
    """Maps from column name to value, without empty values."""
    return pl.struct(columns).map_batches(_filled_pairs, return_dtype=PAIRS)


def list_of(columns: Sequence[str]) -> pl.Expr:
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


def _decode_objects(texts: pl.Series) -> pl.Series:
    maps = []
    for text in texts:
        value = _loaded(text, dict)
        pairs = zip(value, text_array(list(value.values())).to_pylist(), strict=True) if value else ()
        maps.append(
            None if value is None else [{"key": key, "value": field} for key, field in pairs if field is not None]
        )
    return pl.Series(texts.name, maps, PAIRS)


def _loaded(text: str | None, kind: type) -> Any:
    try:
        value = None if text is None else json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, kind) else None
