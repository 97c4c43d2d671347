"""Records of JSON lines: one object per line, values as text, nested ones as JSON text.

A number keeps its digits as received (2.50 stays 2.50; inside a nested value it becomes 2.5). NaN and Infinity, which
are no JSON, become null. A line that is not a JSON object does not fit: it is kept whole in `malformed`.

msgspec finds where each value of a line begins and ends, and whole columns of values become texts at once; what is not
plain (a line that it refuses, an escape, a number to be written anew) is read by Python's parser, which decides.
"""

import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from decimal import Decimal
from functools import reduce
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lib.formats.columns import ends_of_keys
from lib.formats.log_files import is_utf8

MOST_NESTED = 400  # arrays and objects in one another: far below the limit of Python's parser
BRACKET = re.compile(r"[\[\]{}]")
ARRAY_PLACE = re.compile(r"\[(\d+)\]")
LINES_AT_ONCE = 256  # where a block holds a line that is not plain
NESTED = pa.array([b"[", b"{"])  # what a list or an object begins with
HALF_A_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")  # a surrogate: its other half may be missing, and then it is no text
# Values as received that are not yet the text of the field: -0, an exponent, a list that ENCODER would write otherwise.
UNUSUAL_NUMBER, UNUSUAL_LIST = r"^-0|^-?[0-9.]+[eE]", r"^\{|^\[.*[\s{\\]|^\[(.*[\[,])?(-0|-?[0-9]+[.eE])"


def _finite(value: Decimal) -> float | str:
    """A number as JSON holds it; one beyond the range of a float as text."""
    number = float(value)
    return number if math.isfinite(number) else str(value)


def _decoder(on_constant: Callable[[str], None]) -> json.JSONDecoder:
    return json.JSONDecoder(parse_float=Decimal, parse_constant=on_constant)


DECODER = _decoder(lambda name: None)
ABSENT = msgspec.Raw(b"null")
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


class JsonLines:
    """Reads JSON lines, and learns the keys of their objects on the way.

    `keys` are in order of appearance; those that differ only in case are one, the first, until an object has both. A NaN
    or Infinity is a constant.
    """

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.num_lines = self.num_objects = self.num_constants = 0
        self._apart = set[str]()  # keys in lower case of which an object has two
        self._others = set[str]()  # keys under which a value is no text
        self._plain: msgspec.json.Decoder[Any] | None = None

    def read(self, block: bytes) -> pa.RecordBatch:
        """The records of a block of whole lines: a text column for each of `keys`, named by position, and `malformed`."""
        if not self.keys:
            self._learn(_lines(filter(bytes.strip, block.split(b"\n", LINES_AT_ONCE)[:LINES_AT_ONCE]), DECODER))
        parsed, columns, constants = self._columns(block)
        if self._learn(parsed.others):
            parsed, columns, constants = self._columns(block)
        if parsed.others:
            records = self._named(line.record or {} for line in parsed.others)
            others = [text_array([record.get(key) for record in records]) for key in self.keys]
            columns = [pa.concat_arrays(pair).take(parsed.places) for pair in zip(columns, others, strict=True)]
        whole = [kept_whole(line.text) if line.record is None else None for line in parsed.others]
        malformed = pa.concat_arrays([pa.nulls(len(parsed.received), pa.string()), pa.array(whole, pa.string())])
        self.num_lines += len(malformed)
        self.num_objects += malformed.null_count
        self.num_constants += len(constants)
        names = [*map(str, range(len(self.keys))), "malformed"]
        return pa.record_batch([*columns, malformed.take(parsed.places)], names=names)

    def _columns(self, block: bytes) -> "tuple[_Parsed, list[pa.Array], list[str]]":
        """A block's lines, the columns of those that were plain, and the constants of the others."""
        constants: list[str] = []
        parsed = _parsed(block, self._plain, _decoder(constants.append))
        try:
            return parsed, _texts_as_received(parsed.received, len(self.keys)), constants
        except ValueError:  # JSON, but with a number that Python cannot read: it says in which line
            constants.clear()
            parsed = _parsed(block, None, _decoder(constants.append))
            return parsed, _texts_as_received([], len(self.keys)), constants

    def _learn(self, lines: "Iterable[_Line]") -> bool:
        """Learn of keys, and of those whose values are not all texts; returns whether anything is new."""
        records = [line.record for line in lines if line.record]
        shapes = dict.fromkeys(map(tuple, records))
        self._apart |= {low for shape in shapes for low in _repeated(key.lower() for key in shape)}
        num_before, known, in_any_case = self._num_learnt(), set(self.keys), {key.lower() for key in self.keys}
        for key in (key for shape in shapes for key in shape):
            if key not in known and (key.lower() not in in_any_case or key.lower() in self._apart):
                self.keys.append(key)
                known.add(key)
                in_any_case.add(key.lower())
        for record in records:
            others = (key for key, value in record.items() if value is not None and not isinstance(value, str))
            self._others.update(key for key in others if key in known)
        if self._num_learnt() > num_before:
            self._plain = _decoder_of(self.keys, self._others)
        return self._num_learnt() > num_before

    def _num_learnt(self) -> int:
        return len(self.keys) + len(self._others)

    def _named(self, records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Records under the names of `keys`."""
        known, in_any_case = set(self.keys), {key.lower(): key for key in reversed(self.keys)}
        return [
            {key if key in known else in_any_case.get(key.lower(), key): value for key, value in record.items()}
            for record in records
        ]


def kept_whole(line: bytes) -> str:
    """A line that does not fit, as text."""
    return line.decode(errors="backslashreplace").replace("\0", "\\x00").rstrip("\r")


def _decoder_of(keys: Sequence[str], others: Collection[str]) -> "msgspec.json.Decoder[Any] | None":
    """A decoder of objects with no other keys; None if msgspec cannot take a key.

    The values of `others` stay as received, those of the other keys are texts or null.
    """
    names = {f"field_{place}": key for place, key in enumerate(keys)}
    fields = [(name, msgspec.Raw, ABSENT) if key in others else (name, str | None, None) for name, key in names.items()]
    try:
        record = msgspec.defstruct("Record", fields, rename=names, forbid_unknown_fields=True, gc=False)
    except ValueError:
        return None
    return msgspec.json.Decoder(record)


def _texts_as_received(records: Sequence[msgspec.Struct], num_keys: int) -> list[pa.Array]:
    """The texts of the records' values, by key.

    Raises:
        ValueError: a value cannot be read by Python.
    """
    if not records:
        return [pa.array([], pa.string())] * num_keys
    return [_texts_of_column([*map(attrgetter(f"field_{place}"), records)]) for place in range(num_keys)]


def _texts_of_column(values: list[Any]) -> pa.Array:
    """The texts of one key's values, which are texts and null, or all as received."""
    if not isinstance(next((value for value in values if value is not None), None), msgspec.Raw):
        return text_array(values)
    places = [place for place, value in enumerate(values) if value is not ABSENT]
    if len(places) == len(values):
        return _texts_of(values)
    numbers = np.full(len(values), -1)
    numbers[places] = np.arange(len(places))
    return _texts_of([values[place] for place in places]).take(pa.array(numbers, mask=numbers < 0))


def _texts_of(values: Sequence[msgspec.Raw]) -> pa.Array:
    """Values as they stand in JSON as the texts of fields, like `text_array` of what they mean."""
    ends = np.cumsum(np.fromiter(map(len, values), np.int32, len(values)), dtype=np.int32)
    offsets = pa.py_buffer(np.concatenate([np.zeros(1, np.int32), ends]))
    received = pa.Array.from_buffers(pa.binary(), len(values), [None, offsets, pa.py_buffer(b"".join(values))])
    first = pc.binary_slice(received, 0, 1)
    is_quoted = pc.equal(first, b'"')
    texts = pc.if_else(is_quoted, pc.binary_slice(received, 1, -1), received).cast(pa.string())
    texts = pc.if_else(pc.or_(pc.equal(received, b"null"), pc.equal(texts, "")), None, texts)
    is_unusual = pc.and_(is_quoted, pc.match_substring(texts, "\\"))
    if not pc.all(is_quoted).as_py():
        is_long = pc.and_(pc.is_in(first, NESTED), pc.greater(pc.binary_length(received), MOST_NESTED))
        regexes = (pc.match_substring_regex(texts, regex) for regex in (UNUSUAL_NUMBER, UNUSUAL_LIST))
        is_unusual = pc.or_(is_unusual, pc.and_not(reduce(pc.or_, regexes, is_long), is_quoted))
    is_unusual = is_unusual.fill_null(False)
    if not pc.any(is_unusual).as_py():
        return texts
    others = text_array([parse_json(value.decode()) for value in received.filter(is_unusual).to_pylist()])
    return pc.replace_with_mask(texts, is_unusual, others)


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


class _Line(NamedTuple):
    """A line, and its object as Python has parsed it, or None if it is none."""

    text: bytes
    record: dict[str, Any] | None


class _Parsed(NamedTuple):
    """The lines of a block that are not blank: those that msgspec has parsed, and the others.

    `places` tell for each line its place among the former, or after them its place among the latter.
    """

    received: list[Any]
    others: list[_Line]
    places: pa.Array


def _parsed(block: bytes, plain: "msgspec.json.Decoder[Any] | None", decoder: json.JSONDecoder) -> _Parsed:
    """The records of a block, by `plain` as far as it goes."""
    received = _plain_records(block, plain)
    if received is not None:
        return _Parsed(received, [], pa.array(range(len(received)), pa.int64()))
    received, others, places = [], list[_Line](), list[int]()
    lines = [line for line in block.split(b"\n") if line.strip()]
    for start in range(0, len(lines), LINES_AT_ONCE):
        piece = lines[start : start + LINES_AT_ONCE]
        records = _plain_records(b"\n".join(piece), plain)
        if records is None:
            found = [*_lines(piece, decoder)]
            places += range(-len(others) - 1, -len(others) - len(found) - 1, -1)
            others += found
        else:
            places += range(len(received), len(received) + len(records))
            received += records
    numbers = [place if place >= 0 else len(received) - place - 1 for place in places]
    return _Parsed(received, others, pa.array(numbers, pa.int64()))


def _plain_records(text: bytes, decoder: "msgspec.json.Decoder[Any] | None") -> list[Any] | None:
    """The records of lines that msgspec can parse as Python would; None if any cannot, or is blank."""
    if decoder is None or not text or not is_utf8(text) or (b"\\u" in text and HALF_A_PAIR.search(text)):
        return None
    try:
        records = decoder.decode_lines(text)
    except msgspec.MsgspecError:
        return None
    lines = text.replace(b"\r\n", b"\n").removesuffix(b"\n")
    num_breaks = lines.count(b"\n")
    # A line may hold two objects, and an object lines: one a line they are where each begins and ends with its brackets.
    is_one_each = lines.startswith(b"{") and lines.endswith(b"}") and lines.count(b"}\n{") == num_breaks
    return records if is_one_each and len(records) == num_breaks + 1 else None


def received_lines(block: bytes) -> list[bytes]:
    """The lines of a block as received, those that `JsonLines` reads as records."""
    lines = [line for line in block.split(b"\n") if line.strip()]
    if not any(b"\r" in line.strip() for line in lines):
        return lines
    return [line.text for line in _lines(lines, DECODER)]


def _lines(lines: Iterable[bytes], decoder: json.JSONDecoder) -> Iterator[_Line]:
    """Lines parsed by Python. A carriage return alone ends a line where most of what it parts are objects."""
    for line in lines:
        record = _object(line, decoder)
        if record is None and b"\r" in line.strip():
            pieces = [_Line(piece, _object(piece, decoder)) for piece in line.split(b"\r") if piece.strip()]
            if 2 * sum(piece.record is not None for piece in pieces) > len(pieces):
                yield from pieces
                continue
        yield _Line(line, record)


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
