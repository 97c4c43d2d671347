"""Pictures as received, from Parquet, JSON lines or CSV: each row's item, and its bytes or where they are."""

import base64
import re
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from lib.formats.arrow_texts import arrow_texts, is_bytes, is_text, is_type, plain
from lib.formats.columns import ends_of_keys, locate, stored_names
from lib.formats.ids import item_ids
from lib.formats.json_lines import nested_texts
from lib.formats.log_files import LogFile, UnreadableError
from lib.formats.mapping import Source
from lib.formats.parquet_rows import parquet_batches, parquet_names

ROWS_PER_BATCH = 256
MOST_PIXELS = 2**31 - 1
TEXT_FIELDS, SIZES = ("item_id", "uri"), ("width", "height")
DATA_URI = re.compile(r"data:[^,]*;base64,")
Fields = dict[str, pa.Array]


def read_pictures(file: LogFile, source: Source, texts: Iterable[pa.RecordBatch] | None) -> Iterator[pa.RecordBatch]:
    """The rows of a file of pictures: item_id, bytes, uri, width, height, record_number, and refusal.

    `texts` are the file's records as text, their columns named as in bronze; a Parquet file is read as it is. `refusal`
    says why a row is no picture: malformed or bad_value:<column>; else it is null. Bytes in a text are in base64.

    Raises:
        UnreadableError: the file is damaged, or a column cannot hold what the mapping looks for in it.
    """
    first = 1
    for given, malformed in _from_parquet(file, source) if texts is None else _from_texts(texts, source):
        num_rows = len(malformed)
        for field, text in source.constants.items():
            value = text.format(**source.path_values(file.path) or {})
            given[field] = pa.repeat(pa.scalar(value, pa.string()), num_rows)
        fields = {field: _text(field, given, num_rows, source) for field in TEXT_FIELDS}
        fields |= {size: _pixels(given.get(size), num_rows) for size in SIZES}
        fields["bytes"] = _bytes(given["bytes"]) if "bytes" in given else pa.nulls(num_rows, pa.binary())
        fields["record_number"] = pa.array(range(first, first + num_rows), pa.int64())
        fields["refusal"] = _refusal(fields, given, malformed)
        first += num_rows
        yield pa.RecordBatch.from_pydict(fields)


def _from_parquet(file: LogFile, source: Source) -> Iterator[tuple[Fields, pa.Array]]:
    names = parquet_names(file)
    places = _places(source, stored_names(names))
    outer = list(dict.fromkeys(names[place] for place, _ in places.values()))
    for batch in parquet_batches(file, outer, batch_size=ROWS_PER_BATCH):
        given = {
            field: _inner(batch.column(names[place]), path, names[place]) for field, (place, path) in places.items()
        }
        yield given, pa.nulls(len(batch), pa.string())


def _from_texts(texts: Iterable[pa.RecordBatch], source: Source) -> Iterator[tuple[Fields, pa.Array]]:
    for records in texts:
        names = records.schema.names[:-1]
        places = _places(source, names)
        for start in range(0, len(records), ROWS_PER_BATCH):
            batch = records.slice(start, ROWS_PER_BATCH)
            given = {field: _inner(batch.column(place), path, names[place]) for field, (place, path) in places.items()}
            yield given, batch.column("malformed")


def _places(source: Source, stored: Sequence[str]) -> dict[str, tuple[int, str | None]]:
    """For each field that the file has, the place of its column among those of bronze, and its path in it."""
    found = {field: locate(stored, name.source_columns[0]) for field, name in source.names.items()}
    return {field: (stored.index(place[0]), place[1]) for field, place in found.items() if place is not None}


def _inner(array: pa.Array, path: str | None, column: str) -> pa.Array:
    """What lies at a path in a column: in its structs and lists, or in its JSON text."""
    array = plain(array)
    if path is None or is_type.is_null(array.type):
        return array
    if is_text(array.type):
        return nested_texts(array.cast(pa.string()).to_pylist(), path)
    if is_type.is_struct(array.type):
        keys = [field.name for field in array.type]
        for end in ends_of_keys(path):
            same = [at for at, key in enumerate(keys) if key == path[:end]]
            same = same or [at for at, key in enumerate(keys) if key.lower() == path[:end].lower()]
            if len(same) == 1:
                return _inner(array.flatten()[same[0]], path[end + 1 :] or None, column)
    key, _, rest = path.partition(".")
    if hasattr(array.type, "value_type") and re.fullmatch("[0-9]{1,9}", key):
        chosen = [value[int(key)] if value and int(key) < len(value) else None for value in array.to_pylist()]
        return _inner(pa.array(chosen, array.type.value_type), rest or None, column)
    raise UnreadableError(f"has no {path!r} in its column {column!r}, which is of the type {_shown(array.type)}")


def _text(field: str, given: Fields, num_rows: int, source: Source) -> pa.Array:
    texts = arrow_texts(given[field]) if field in given else pa.nulls(num_rows, pa.string())
    return item_ids(texts, are_whole_numbers=source.are_whole_numbers(field), unknown=source.unknown_texts(field))


def _pixels(array: pa.Array | None, num_rows: int) -> pa.Array:
    """Whole numbers above zero; null for anything else."""
    texts = [None] * num_rows if array is None else arrow_texts(array).to_pylist()
    found = [re.fullmatch(r"\s*([0-9]{1,10})(?:\.0*)?\s*", text or "") for text in texts]
    numbers = [int(match[1]) if match else 0 for match in found]
    return pa.array([number if 0 < number <= MOST_PIXELS else None for number in numbers], pa.int32())


def _bytes(array: pa.Array) -> pa.Array:
    """The bytes of pictures, from bytes, from texts in base64, or from lists of numbers; null for anything else."""
    array = plain(array)
    if is_bytes(array.type):
        values = array.cast(pa.large_binary()).to_pylist()
    elif is_text(array.type):
        values = [None if text is None else _from_base64(text) for text in array.to_pylist()]
    elif is_type.is_null(array.type):
        values = [None] * len(array)
    elif hasattr(array.type, "value_type") and is_type.is_integer(array.type.value_type):
        values = [_from_numbers(numbers or ()) for numbers in array.to_pylist()]
    else:
        raise UnreadableError(
            f"holds no bytes where the mapping looks for them, but the type {_shown(array.type)}; name a value in it, as "
            "in image.bytes or images.0.bytes"
        )
    return pa.array([value or None for value in values], pa.binary())


def _from_base64(text: str) -> bytes | None:
    letters = "".join(DATA_URI.sub("", text.strip(), count=1).split()).rstrip("=").translate({45: "+", 95: "/"})
    try:
        return base64.b64decode(letters + "=" * (-len(letters) % 4), validate=True)
    except ValueError:
        return None


def _from_numbers(numbers: Sequence[int | None]) -> bytes | None:
    fits = all(number is not None and -128 <= number < 256 for number in numbers)
    return bytes(number % 256 for number in numbers if number is not None) if fits else None


def _refusal(fields: Fields, given: Fields, malformed: pa.Array) -> pa.Array:
    """The first thing that makes a row no picture."""
    is_empty = pc.and_(pc.is_null(fields["bytes"]), pc.is_null(fields["uri"]))
    bad = {
        "malformed": pc.is_valid(malformed),
        "bad_value:item_id": pc.is_null(fields["item_id"]),
        "bad_value:bytes": pc.or_(is_empty, _is_unread("bytes", fields, given)),
        **{f"bad_value:{size}": _is_unread(size, fields, given) for size in SIZES},
    }
    reasons = [pc.if_else(is_bad, reason, pa.scalar(None, pa.string())) for reason, is_bad in bad.items()]
    return pc.coalesce(*reasons)


def _is_unread(field: str, fields: Fields, given: Fields) -> pa.Array:
    """Whether a value is given that could not be read."""
    if field not in given:
        return pa.repeat(pa.scalar(False), len(fields[field]))
    texts = given[field] if field == "bytes" else arrow_texts(given[field])
    return pc.and_(pc.is_valid(texts), pc.is_null(fields[field]))


def _shown(type_: pa.DataType) -> str:
    text = str(type_)
    return text if len(text) <= 120 else f"{text[:120]}..."
