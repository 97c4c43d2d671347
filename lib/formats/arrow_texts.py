"""Any Arrow column as text: times as ISO text, bytes as base64 unless they are text, nested values as JSON."""

import base64
import math
from itertools import pairwise, repeat
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lib.formats.json_lines import ENCODER, text_array

UNIT_DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}
is_type = pa.types


def arrow_texts(array: pa.Array) -> pa.Array:
    """The values as texts, of whatever type; null and empty text become null.

    A value that its type cannot hold (the 400th hour of a day) becomes a text that says so, and is no value of ours.
    """
    texts = _texts(array)
    return pc.if_else(pc.equal(texts, ""), None, texts)


def plain(array: pa.Array) -> pa.Array:
    """The array without its extension type, dictionary or runs."""
    while True:
        if isinstance(array.type, pa.BaseExtensionType) and not isinstance(array.type, pa.UuidType):
            array = array.storage
        elif is_type.is_dictionary(array.type):
            array = array.dictionary_decode()
        elif is_type.is_run_end_encoded(array.type):
            array = pc.run_end_decode(array)
        else:
            return array


def is_bytes(type_: pa.DataType) -> bool:
    """Whether a column's values are bytes."""
    kinds = (is_type.is_binary, is_type.is_large_binary, is_type.is_fixed_size_binary, is_type.is_binary_view)
    return any(is_kind(type_) for is_kind in kinds)


def is_text(type_: pa.DataType) -> bool:
    """Whether a column's values are text."""
    kinds = (is_type.is_string, is_type.is_large_string, is_type.is_string_view)
    return any(is_kind(type_) for is_kind in kinds)


def _texts(array: pa.Array) -> pa.Array:
    array = plain(array)
    if is_type.is_nested(array.type):
        return text_array(_json_values(array))
    if is_bytes(array.type) or is_text(array.type):
        return _texts_of_bytes(array)
    if isinstance(array.type, pa.UuidType):
        return pa.array([None if value is None else str(value) for value in array.to_pylist()], pa.string())
    if is_type.is_duration(array.type):
        values = array.cast(pa.int64()).to_pylist()
        return pa.array([_iso_duration(value, array.type.unit) for value in values], pa.string())
    return _cast(array)


def _cast(array: pa.Array) -> pa.Array:
    """A column of any other type as text, by Arrow if it knows how."""
    try:
        return array.cast(pa.string())
    except pa.ArrowException:
        if is_type.is_timestamp(array.type):  # in a zone that this machine does not know
            return array.view(pa.timestamp(array.type.unit, "UTC")).cast(pa.string())
        return pa.array([str(value) if value.is_valid else None for value in array], pa.string())


def _texts_of_bytes(array: pa.Array) -> pa.Array:
    """Bytes that are text as they are, others in base64; a column of text may hold bytes that are none, too."""
    try:
        texts = array.cast(pa.string())
        texts.validate(full=True)
        if is_text(array.type) or not pc.any(pc.match_substring(texts, "\0")).as_py():
            return texts
    except pa.ArrowException:
        pass
    values = array.cast(pa.large_binary()).to_pylist()
    return pa.array([None if value is None else _text_of_bytes(value) for value in values], pa.string())


def _text_of_bytes(value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = "\0"
    return base64.b64encode(value).decode() if "\0" in text else text


def _iso_duration(value: int | None, unit: str) -> str | None:
    if value is None:
        return None
    digits = UNIT_DIGITS[unit]
    whole, part = divmod(abs(value), 10**digits)
    return f"{'-' if value < 0 else ''}PT{whole}{f'.{part:0{digits}}' if part else ''}S"


def _json_values(array: pa.Array) -> list[Any]:
    """The values as JSON holds them: numbers, flags, lists and objects; all others as text."""
    array = plain(array)
    type_ = array.type
    if is_type.is_floating(type_):
        return [value if value is not None and math.isfinite(value) else None for value in array.to_pylist()]
    if is_type.is_nested(type_):
        return _json_nested(array)
    kept = (is_type.is_null, is_type.is_boolean, is_type.is_integer, is_type.is_decimal)
    return list((array if any(is_kept(type_) for is_kept in kept) else _texts(array)).to_pylist())


def _json_nested(array: pa.Array) -> list[Any]:
    """Structs and maps as objects, lists of all kinds as arrays."""
    type_ = array.type
    if is_type.is_union(type_):
        return [None if value.as_py() is None else str(value) for value in array]
    if is_type.is_struct(type_):
        fields = zip((field.name for field in type_), map(_json_values, array.flatten()), strict=True)
        columns = [[(name, value) for value in values] for name, values in fields]
        rows = zip(*columns, strict=True) if columns else repeat((), len(array))
        return [dict(row) if valid else None for row, valid in zip(rows, array.is_valid().to_pylist(), strict=True)]
    if is_type.is_map(type_):
        entries = pa.struct([pa.field("key", type_.key_type, nullable=False), ("value", type_.item_type)])
        pairs = _json_values(array.cast(pa.list_(entries)))
        return [None if row is None else {_key(pair["key"]): pair["value"] for pair in row} for row in pairs]
    return _json_lists(array)


def _json_lists(array: pa.Array) -> list[Any]:
    """Lists as arrays; not by Arrow's `flatten`, which copies, and cannot copy extension types such as UUIDs."""
    type_ = array.type
    if is_type.is_list_view(type_) or is_type.is_large_list_view(type_):
        return [_json_values(value.values) if value.is_valid else None for value in array]
    if is_type.is_fixed_size_list(type_):
        ends = [(array.offset + place) * type_.list_size for place in range(len(array) + 1)]
    else:
        ends = array.offsets.to_pylist()
    values = _json_values(array.values.slice(ends[0], ends[-1] - ends[0]))
    rows = zip(pairwise(end - ends[0] for end in ends), array.is_valid().to_pylist(), strict=True)
    return [values[start:end] if valid else None for (start, end), valid in rows]


def _key(value: Any) -> str:
    return value if isinstance(value, str) else ENCODER.encode(value)
