"""Records of JSON lines: one object per line, values as text, nested ones as JSON text.

Uses Python's parser for exactness.

A number keeps its digits as received (2.50 stays 2.50; inside a nested value it becomes 2.5). NaN and Infinity, which
are no JSON, become null. A line that is not a JSON object does not fit: it is kept whole in `malformed`.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from lib.formats.columns import ends_of_keys

MOST_NESTED = 400  # arrays and objects in one another: far below the limit of Python's parser
BRACKET = re.compile(r"[\[\]{}]")
ARRAY_PLACE = re.compile(r"\[(\d+)\]")


def _finite(value: Decimal) -> float | str:
    """A number as JSON holds it; one beyond the range of a float as text."""
    number = float(value)
    return number if math.isfinite(number) else str(value)


def _decoder(on_constant: Callable[[str], None]) -> json.JSONDecoder:
    return json.JSONDecoder(parse_float=Decimal, parse_constant=on_constant)


DECODER = _decoder(lambda name: None)
ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=_finite)


def parse_json(text: str, decoder: json.JSONDecoder = DECODER) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is not JSON, or nested too deeply, or holds half a surrogate pair, which is not text.
    """
    try:
        value = decoder.decode(text)
        if "\\u" in text:
            ENCODER.encode(value).encode()
    except (RecursionError, ArithmeticError) as error:
        raise ValueError(f"is no JSON that can be read: {error}") from None
    if text.count("[") + text.count("{") > MOST_NESTED and _depth(text) > MOST_NESTED:
        raise ValueError("is nested too deeply")
    return value


class JsonKeys(NamedTuple):
    """The keys of all objects of a file, and how many lines, objects, and NaN or Infinity it holds."""

    names: tuple[str, ...]
    num_lines: int
    num_objects: int
    num_constants: int


def json_keys(blocks: Iterable[bytes]) -> JsonKeys:
    """The keys in order of appearance; those that differ only in case are one, the first, unless an object has both."""
    shapes: dict[tuple[str, ...], None] = {}
    constants: list[str] = []
    decoder = _decoder(constants.append)
    num_lines = num_objects = 0
    for block in blocks:
        for _, record in _lines(block, decoder):
            num_lines += 1
            if record is not None:
                num_objects += 1
                shapes.setdefault(tuple(record))
    keys = dict.fromkeys(key for shape in shapes for key in shape)
    apart = {low for shape in shapes for low in _repeated(key.lower() for key in shape)}
    first: dict[str, str] = {}
    for key in keys:
        first.setdefault(key if key.lower() in apart else key.lower(), key)
    return JsonKeys(tuple(first.values()), num_lines, num_objects, len(constants))


def json_records(blocks: Iterable[bytes], keys: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The records of blocks of whole lines: a text column for each of `keys`, named by position, and `malformed`."""
    known, any_case = frozenset(keys), {key.lower(): key for key in keys}

    def named(record: dict[str, Any]) -> dict[str, Any]:
        if record.keys() <= known:
            return record
        return {key if key in known else any_case.get(key.lower(), key): value for key, value in record.items()}

    for block in blocks:
        lines: list[bytes] = []
        records: list[dict[str, Any] | None] = []
        for line, record in _lines(block, DECODER):
            lines.append(line)
            records.append(named(record) if record else record)
        columns = [text_array([record.get(key) if record else None for record in records]) for key in keys]
        malformed = [
            None if record is not None else line.decode(errors="backslashreplace").replace("\0", "\\x00").rstrip("\r")
            for line, record in zip(lines, records, strict=True)
        ]
        yield pa.record_batch(
            [*columns, pa.array(malformed, pa.string())], names=[*map(str, range(len(keys))), "malformed"]
        )


def text_array(values: list[Any]) -> pa.Array:
    """JSON values as the texts of fields; null and empty text become null."""
    try:
        texts = pa.array(values, pa.string())
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        texts = pa.array([_as_text(value) for value in values], pa.string())
    return pc.if_else(pc.equal(texts, ""), None, texts)


def nested_texts(texts: Iterable[str | None], path: str) -> pa.Array:
    """The text at a path in each JSON text; null where there is none."""
    path = ARRAY_PLACE.sub(r".\1", path)
    return text_array([_nested_text(text, path) for text in texts])


def nested_value(value: Any, path: str) -> Any:
    """The value at a path of keys joined by dots; None where there is none.

    A key may hold dots itself, and may differ in case if no other key does; a number is a place in an array.
    """
    for end in ends_of_keys(path):
        key, rest = path[:end], path[end + 1 :]
        inner = None
        if isinstance(value, list):
            inner = value[int(key)] if re.fullmatch("[0-9]{1,9}", key) and int(key) < len(value) else None
        elif isinstance(value, dict):
            inner = value[key] if key in value else _in_any_case(value, key)
        found = nested_value(inner, rest) if rest and inner is not None else inner
        if found is not None:
            return found
    return None


def _in_any_case(value: dict[str, Any], key: str) -> Any:
    found = [other for other in value if other.lower() == key.lower()]
    return value[found[0]] if len(found) == 1 else None


def _nested_text(text: str | None, path: str) -> Any:
    try:
        return None if text is None else nested_value(parse_json(text), path)
    except ValueError:
        return None


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | Decimal) else ENCODER.encode(value)


def _lines(block: bytes, decoder: json.JSONDecoder) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
    """The lines of a block that are not blank, each with its object, or None if it is none.

    A carriage return alone ends a line where most of what it parts are objects.
    """
    for line in block.split(b"\n"):
        if not line.strip():
            continue
        record = _object(line, decoder)
        if record is None and b"\r" in line.strip():
            pieces = [(piece, _object(piece, decoder)) for piece in line.split(b"\r") if piece.strip()]
            if 2 * sum(found is not None for _, found in pieces) > len(pieces):
                yield from pieces
                continue
        yield line, record


def _object(line: bytes, decoder: json.JSONDecoder) -> dict[str, Any] | None:
    """The object of one line; None for anything else."""
    try:
        value = parse_json(line.decode(), decoder)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _depth(text: str) -> int:
    """The most brackets that are open at once, those in strings among them."""
    depth = most = 0
    for bracket in BRACKET.findall(text):
        depth += 1 if bracket in "[{" else -1
        most = max(most, depth)
    return most


def _repeated(values: Iterable[str]) -> set[str]:
    seen: set[str] = set()
    return {value for value in values if value in seen or seen.add(value)}  # type: ignore[func-returns-value]
