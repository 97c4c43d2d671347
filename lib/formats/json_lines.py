"""Records of JSON lines: one object per line, values as text, nested ones as JSON text.

Uses Python's parser for exactness.

A number keeps its digits as received (2.50 stays 2.50; inside a nested value it becomes 2.5). A line that is not a JSON
object does not fit: it is kept whole in `malformed`.
"""

import json
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


DECODER = json.JSONDecoder(parse_float=Decimal, parse_constant=_no_number)
ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=float)


def json_keys(blocks: Iterator[bytes]) -> tuple[tuple[str, ...], int]:
    """The keys of all objects in order of appearance, and how many lines are objects."""
    keys: dict[str, None] = {}
    num_objects = 0
    for block in blocks:
        for line in block.split(b"\n"):
            record = _parse(line)
            if record is not None:
                keys.update(dict.fromkeys(record))
                num_objects += 1
    return tuple(keys), num_objects


def json_records(blocks: Iterator[bytes], keys: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The records of blocks of whole lines: a text column for each of `keys`, named by position, and `malformed`."""
    for block in blocks:
        lines = [line for line in block.split(b"\n") if line.strip()]
        records = [_parse(line) for line in lines]
        columns = [text_array([record.get(key) if record else None for record in records]) for key in keys]
        malformed = [
            line.decode(errors="backslashreplace").rstrip("\r") if record is None else None
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


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | Decimal) else ENCODER.encode(value)


def _parse(line: bytes) -> dict[str, Any] | None:
    """The object of one line; None for anything else."""
    try:
        text = line.decode()
        value = DECODER.decode(text)
        if "\\u" in text:
            ENCODER.encode(value).encode()  # fails on half a surrogate pair, which is not text
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
