"""Strategies of hypothesis: files of every type with anything in them, and mappings that may be wrong."""

import json
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

NAMES = ("user", "item", "time", "what", "price", "qty", "Item", "a b", "a.b", "$id", "@t", "x'y", "p|q", "", "né")
NESTED = ("who.id", "who.first name", "who.a.b", "who.$x", "who.@y", "who.l.0.z", "who.l[1]", "who.", ".who", "who..id")
TIMES = ("2024-01-01 12:00:00", "2024-01-01T12:00:00Z", "1704110400", "9999-12-31", "0000-00-00", "01.02.2024", "1e400")
VALUES = (
    "",
    "1",
    "-1",
    "2.50",
    "1e5",
    "1,5",
    "NaN",
    "inf",
    "i",
    "ä",
    "\\N",
    "null",
    '"',
    'a"b',
    "a\\",
    '\\"',
    "\t",
    "\0",
)
JSON_TEXTS = ('{"id": 1}', '{"a": {"b": [1, {"z": 2}]}, "a.b": "x"}', "[1, [2]]", '["x", null]', "{", "[" * 2000, "NaN")
texts = st.one_of(st.sampled_from(VALUES), st.sampled_from(TIMES), st.sampled_from(JSON_TEXTS), st.text(max_size=8))
columns = st.one_of(st.sampled_from(NAMES), st.sampled_from(NESTED), st.text(max_size=6), st.just("*"), st.just("a*"))
junk = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5), st.lists(st.integers(), max_size=2))


def mostly(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.integers(0, 30).flatmap(lambda number: strategy if number else junk)


names = st.one_of(
    columns,
    st.lists(columns, max_size=3),
    st.fixed_dictionaries({"column": columns, "separator": st.sampled_from([",", "", "|"])}),
    st.builds(lambda name: {"template": "x-{" + name + "}"}, columns),
)
conditions = st.one_of(texts, st.lists(texts, max_size=2), st.builds(lambda t: {"matches": t}, texts))
rules = st.fixed_dictionaries(
    {
        "type": st.one_of(
            st.sampled_from(["view", "purchase", "impression", "return"]),
            st.builds(lambda c: {"column": c}, columns),
            st.builds(lambda c: {"column": c, "values": {"1": "view", "i": "cart"}}, columns),
        )
    },
    optional={
        "when": st.dictionaries(columns, conditions, max_size=2),
        "unless": st.dictionaries(columns, conditions, max_size=1),
        "negate": st.just(["quantity"]),
    },
)
characters = st.one_of(
    st.sampled_from([",", ";", "\t", "|", '"', "'", "\\", " ", "§"]), st.text(min_size=1, max_size=1)
)


def readers(type_: str) -> st.SearchStrategy[Any]:
    keys = {
        "delimiter": characters,
        "quote": st.one_of(st.just('"'), st.just(""), characters),
        "escape": st.one_of(st.just("\\"), characters),
        "newlines_in_values": st.booleans(),
        "encoding": st.sampled_from(
            ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "latin-1", "cp932", "ascii", "utf-7"]
        ),
        "columns": st.lists(st.sampled_from(NAMES), max_size=4),
        "decimal": st.sampled_from([",", "."]),
        "thousands": st.sampled_from([",", ".", " ", "'"]),
        "currency_signs": st.dictionaries(texts, st.just("EUR"), max_size=2),
    }
    chance = {
        key: st.integers(0, 5).flatmap(lambda n, s=s: st.just(None) if n else mostly(s)) for key, s in keys.items()
    }  # type: ignore[misc]
    given_keys = st.fixed_dictionaries(chance).map(lambda some: {k: v for k, v in some.items() if v is not None})
    return given_keys.map(lambda some: {"type": type_, **some})


def sources(type_: str) -> st.SearchStrategy[Any]:
    fields = st.dictionaries(
        st.sampled_from(["price", "quantity", "category", "attributes", "context", "candidates", "order_id", "rating"]),
        names,
        max_size=3,
    )
    needed = {"item_id": "item", "event_time": "time"}
    return st.fixed_dictionaries(
        {
            "kind": st.sampled_from(["events", "events", "items"]),
            "files": st.just([f"*.{type_}", f"{{shop}}/*.{type_}"]),
            "reader": mostly(readers(type_)),
            "names": mostly(
                st.tuples(fields, st.booleans(), names).map(
                    lambda some: needed | some[0] | ({"item_id": some[2]} if some[1] else {"user_id": "user"})
                )
            ),
        },
        optional={
            "optional": st.just(["price", "quantity"]) | junk,
            "null_values": st.lists(texts, max_size=2) | st.dictionaries(st.just("item_id"), texts, max_size=1),
            "whole_number_ids": st.lists(st.sampled_from(["item_id", "order_id", "user_id"]), max_size=2),
            "guests": st.lists(texts, max_size=2),
            "ignore": st.dictionaries(columns, conditions, max_size=2),
            "pii_free_context": st.lists(columns, max_size=2),
            "time_format": st.sampled_from(
                ["iso", "epoch", "epoch_seconds", "epoch_milliseconds", "%d.%m.%Y", "%s", "%Q", "%Y-%m-%dT%H:%M:%S%z"]
            )
            | texts,
            "clock": st.sampled_from(["day", "hour", "minute", "second"]),
            "explode": columns,
            "constants": st.dictionaries(st.sampled_from(["arm", "policy"]), st.just("a") | texts, max_size=1),
            "product": texts,
            "equal_records_are_separate": st.booleans(),
        },
    ).flatmap(_with_rules)


def pictures(type_: str) -> st.SearchStrategy[Any]:
    """A source of pictures in files of a type, right or wrong."""
    fields = st.dictionaries(st.sampled_from(["uri", "width", "height"]), columns, max_size=2)
    mapped = st.tuples(fields, st.sampled_from(["user", "who", "what", "who.id", "who.0", "who.a.b"]) | columns)
    return st.fixed_dictionaries(
        {
            "kind": st.just("images"),
            "files": st.just([f"*.{type_}"]),
            "reader": mostly(readers(type_)),
            "names": mapped.map(lambda some: {"item_id": "item", "bytes": some[1], **some[0]}),
        },
        optional={"optional": st.just(["uri"]), "null_values": st.lists(texts, max_size=2), "explode": columns},
    )


def _with_rules(source: dict[str, Any]) -> st.SearchStrategy[Any]:
    if source["kind"] != "events":
        return st.just(source)
    return st.lists(rules, min_size=1, max_size=3).map(lambda some: source | {"events": some})


@st.composite
def csv_files(draw: st.DrawFn) -> bytes:
    delimiter, quote = draw(st.sampled_from([",", ",", ";", "\t"])), draw(st.sampled_from(['"', '"', "'"]))
    end = draw(st.sampled_from(["\n", "\n", "\r\n", "\r"]))
    header = draw(st.sampled_from([["user", "item", "time"]] * 3 + [list(NAMES)])) + draw(st.lists(columns, max_size=3))
    lines = [header] + [
        [draw(texts) for _ in range(len(header) + draw(st.sampled_from([0, 0, 0, 0, 1, -1])))]
        for _ in range(draw(st.integers(0, 4)))
    ]

    def field(value: str) -> str:
        is_quoted = draw(st.integers(0, 4)) == 0 or any(c in value for c in (delimiter, quote, "\n", "\r"))
        doubled = value.replace(quote, draw(st.sampled_from([quote * 2, "\\" + quote, quote])))
        return f"{quote}{doubled}{quote}" if is_quoted else value

    text = "".join(delimiter.join(map(field, line)) + draw(st.sampled_from([end] * 9 + ["\n"])) for line in lines)
    encoding = draw(st.sampled_from(["utf-8"] * 6 + ["utf-8-sig", "utf-16", "utf-16-be", "utf-16-le", "latin-1"]))
    return spoilt(draw, text.encode(encoding, errors="replace"))


json_values = st.recursive(
    st.one_of(texts, st.none(), st.booleans(), st.integers(), st.floats(), st.integers(-(2**200), 2**200)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(columns, inner, max_size=3),
    max_leaves=8,
)


@st.composite
def json_files(draw: st.DrawFn) -> bytes:
    needed = {"user": texts, "item": texts, "time": texts}
    objects = st.fixed_dictionaries(needed, optional=dict.fromkeys((*NAMES[3:], "who", "ITEM"), json_values))
    lines = draw(st.lists(st.one_of(objects, objects, objects, json_values), max_size=5))
    end = draw(st.sampled_from(["\n", "\n", "\r\n", "\r"]))
    escaped = draw(st.booleans())
    content = end.join(json.dumps(line, ensure_ascii=escaped) for line in lines) + end
    content = content.replace(
        '"1e5"', draw(st.sampled_from(["1e5", "1e999999999999999999999", "-Infinity", "1" * 5000]))
    )
    return spoilt(draw, content.encode(errors="surrogatepass"))


def spoilt(draw: st.DrawFn, content: bytes) -> bytes:
    """The content, sometimes with other bytes in its middle, or cut off."""
    if draw(st.integers(0, 5)) or not content:
        return content
    at = draw(st.integers(0, len(content)))
    return content[:at] + draw(st.sampled_from([b"\0", b"\xff", b"\r", b'"', b"\x1f\x8b"])) + content[at + 1 :]


raw_bytes = st.one_of(
    st.binary(max_size=60),
    st.builds(
        lambda start, rest: start + rest,
        st.sampled_from([b"\x1f\x8b\x08", b"PAR1", b"\xff\xfe", b"\xef\xbb\xbf"]),
        st.binary(max_size=40),
    ),
)
NUMBERS = [pa.int8(), pa.uint16(), pa.int32(), pa.uint64(), pa.int64(), pa.float16(), pa.float32(), pa.float64()]
CLOCKS = [
    *(pa.timestamp(unit) for unit in ("s", "ms", "us", "ns")),
    *(
        pa.timestamp(unit, tz)
        for unit, tz in (("us", "UTC"), ("ms", "Europe/Berlin"), ("ns", "+05:30"), ("s", "Mars/X"))
    ),
    *(pa.duration(unit) for unit in ("s", "ms", "us", "ns")),
    *(pa.date32(), pa.date64(), pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns")),
]
DECIMALS = [pa.decimal32(9, 2), pa.decimal64(18, 4), pa.decimal128(38, 10), pa.decimal256(76, 0)]
CHARACTERS = [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view()]
FIXED = [pa.null(), pa.bool_(), pa.binary(3), pa.binary(16), pa.uuid()]
plain_types = st.sampled_from([*NUMBERS, *CLOCKS, *DECIMALS, *CHARACTERS, *FIXED])


def nested_types(inner: st.SearchStrategy[pa.DataType]) -> st.SearchStrategy[pa.DataType]:
    return st.one_of(
        st.builds(pa.list_, inner),
        st.builds(pa.large_list, inner),
        st.builds(lambda type_: pa.list_(type_, 2), inner),
        st.builds(pa.list_view, inner),
        st.builds(lambda one, other: pa.struct([("id", one), ("a.b", other)]), inner, inner),
        st.builds(lambda type_: pa.map_(pa.string(), type_), inner),
        st.builds(lambda type_: pa.map_(type_, pa.int32()), plain_types.filter(lambda type_: type_ != pa.null())),
    )


types = st.recursive(plain_types, nested_types, max_leaves=3)
NUM_VALUES = 3


def arrays(draw: st.DrawFn, type_: pa.DataType, length: int) -> pa.Array:
    """An array of a type with any values that its bits can hold, some null."""
    values = filled(draw, type_)
    places = draw(st.lists(st.none() | st.integers(0, NUM_VALUES - 1), min_size=length, max_size=length))
    try:
        return values.take(pa.array(places, pa.int64()))
    except pa.ArrowNotImplementedError:
        return pa.concat_arrays([values] * (length // NUM_VALUES + 1)).slice(0, length)


def filled(draw: st.DrawFn, type_: pa.DataType) -> pa.Array:  # noqa: PLR0911
    """NUM_VALUES values of a type."""
    if isinstance(type_, pa.UuidType):
        return pa.ExtensionArray.from_storage(type_, filled(draw, pa.binary(16)))
    if pa.types.is_map(type_):
        return pa.MapArray.from_arrays(
            list(range(NUM_VALUES + 1)), filled(draw, type_.key_type), filled(draw, type_.item_type)
        )
    if pa.types.is_struct(type_):
        return pa.StructArray.from_arrays([arrays(draw, field.type, NUM_VALUES) for field in type_], fields=list(type_))
    if pa.types.is_fixed_size_list(type_):
        return pa.FixedSizeListArray.from_arrays(arrays(draw, type_.value_type, 2 * NUM_VALUES), type=type_)
    if pa.types.is_nested(type_):
        from_arrays = {pa.ListType: pa.ListArray, pa.LargeListType: pa.LargeListArray}.get(type(type_))
        inner = arrays(draw, type_.value_type, NUM_VALUES)
        if from_arrays:
            return from_arrays.from_arrays([0, 0, 1, len(inner)], inner, type=type_)
        return pa.ListViewArray.from_arrays([0, 0, 0], [0, len(inner), 1], inner, type=type_)
    if pa.types.is_null(type_):
        return pa.nulls(NUM_VALUES)
    if type_ in CHARACTERS:
        some = st.one_of(st.binary(max_size=6), texts.map(lambda text: text.encode(errors="replace")))
        binary = pa.array([draw(some) for _ in range(NUM_VALUES)], pa.binary())
        if type_ == pa.string():  # a file may hold bytes that are no text
            return pa.Array.from_buffers(type_, NUM_VALUES, binary.buffers())
        if "string" in str(type_):
            binary = pa.array([value.decode(errors="replace") for value in binary.to_pylist()], pa.string())
        return binary.cast(type_)
    bits = draw(st.sampled_from([b"\0", b"\xff", b"\x7f", b"\x80"])) * 32 + draw(st.binary(min_size=64, max_size=64))
    if pa.types.is_decimal(type_):
        most, width = 10**type_.precision, type_.byte_width
        whole = [int.from_bytes(bits[n * 31 : n * 31 + 31], "big", signed=True) for n in range(NUM_VALUES)]
        bits = b"".join((abs(n) % most * (-1 if n < 0 else 1)).to_bytes(width, "little", signed=True) for n in whole)
    return pa.Array.from_buffers(type_, NUM_VALUES, [None, pa.py_buffer(bits)])


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    length = draw(st.integers(0, NUM_VALUES))
    own = {
        "user": st.just(pa.string()),
        "item": types,
        "time": st.sampled_from(CLOCKS) | types,
        "who": types,
        "Who": types,
    }
    chosen = {name: draw(type_) for name, type_ in own.items() if name != "Who" or draw(st.integers(0, 5)) == 0}
    return pa.Table.from_arrays([arrays(draw, type_, length) for type_ in chosen.values()], names=list(chosen))


def as_parquet(table: pa.Table) -> bytes:
    """The table as a file, without the columns that Parquet cannot hold."""
    while True:
        try:
            pq.write_table(table, content := BytesIO())
            return content.getvalue()
        except (pa.ArrowException, ValueError):
            if not table.num_columns:
                return b"PAR1"
            writable = [name for name in table.column_names if can_be_written(table.select([name]))]
            table = table.select(writable)


def can_be_written(table: pa.Table) -> bool:
    try:
        pq.write_table(table, BytesIO())
    except (pa.ArrowException, ValueError):
        return False
    return True
