from datetime import date
from decimal import Decimal
from uuid import UUID

import pyarrow as pa
import pytest

from lib.formats.arrow_texts import arrow_texts

NO_TEXT = pa.Array.from_buffers(
    pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xff\xfe")]
)
DEEP = pa.struct([("at", pa.timestamp("ms")), ("raw", pa.binary()), ("sum", pa.decimal256(50, 2)), ("x", pa.float16())])


@pytest.mark.parametrize(
    ("array", "texts"),
    [
        (pa.array([b"ab", b"\xff", b"", None]), ["ab", "/w==", None, None]),
        (pa.array([b"\0" * 16]).cast(pa.binary(16)), ["AAAAAAAAAAAAAAAAAAAAAA=="]),
        (pa.array([UUID(int=7).bytes, None], pa.uuid()), ["00000000-0000-0000-0000-000000000007", None]),
        (pa.array([b"\xff", b"a", b"\xff"]).dictionary_encode(), ["/w==", "a", "/w=="]),
        (NO_TEXT, ["a", "//4="]),
        (pa.nulls(2), [None, None]),
        (pa.array([Decimal("1.50"), None], pa.decimal256(60, 2)), ["1.50", None]),
        (pa.array([1.5, None], pa.float16()), ["1.5", None]),
        (pa.array([1, -1500, None], pa.duration("ms")), ["PT0.001S", "-PT1.500S", None]),
        (
            pa.array([0, 2**62], pa.int64()).cast(pa.timestamp("us")),
            ["1970-01-01 00:00:00.000000", f"<value out of range: {2**62}>"],
        ),
        (pa.array([0]).view(pa.timestamp("us", "Mars/X")), ["1970-01-01 00:00:00.000000Z"]),
        (pa.array([0]).view(pa.timestamp("ms", "+05:30")), ["1970-01-01 05:30:00.000+0530"]),
        (pa.array([1], pa.int64()).view(pa.time64("ns")), ["00:00:00.000000001"]),
        (pa.array([date(2024, 2, 29)]), ["2024-02-29"]),
        (pa.array([[1], None, [2, 3]], pa.list_view(pa.int64())), ["[1]", None, "[2,3]"]),
        (pa.array([[1, 2], None, [2, 3]], pa.list_(pa.int64(), 2))[1:], [None, "[2,3]"]),
        (pa.array([[("a", 1), ("b", None)], None], pa.map_(pa.string(), pa.int32())), ['{"a":1,"b":null}', None]),
        (pa.array([{}, None], pa.struct([])), ["{}", None]),
        (
            pa.array([{"at": 0, "raw": b"\xff", "sum": Decimal("2.50"), "x": float("nan")}, None], DEEP),
            ['{"at":"1970-01-01 00:00:00.000","raw":"/w==","sum":2.5,"x":null}', None],
        ),
        (pa.array([pa.MonthDayNano([1, 2, 3])]), ["MonthDayNano(months=1, days=2, nanoseconds=3)"]),
    ],
)
def test_a_column_of_any_type_is_text(array: pa.Array, texts: list[str | None]) -> None:
    assert arrow_texts(array).to_pylist() == texts
    assert arrow_texts(array).type == pa.string()


def test_lists_and_maps_of_ids_become_json_also_with_nulls_and_in_a_slice() -> None:
    ids = [UUID(int=number) for number in range(3)]
    texts = [f'"{one}"' for one in ids]
    of_ids = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([one.bytes for one in ids], pa.binary(16)))
    lists = pa.ListArray.from_arrays(pa.array([0, 2, 2, 3]), of_ids, mask=pa.array([False, True, False]))
    expected = [f"[{texts[0]},{texts[1]}]", None, f"[{texts[2]}]"]
    assert arrow_texts(lists).to_pylist() == expected
    assert arrow_texts(lists.slice(1)).to_pylist() == expected[1:]
    maps = pa.MapArray.from_arrays(pa.array([0, None, 1, 3]), pa.array(["a", "b", "c"]), of_ids)
    expected = [f'{{"a":{texts[0]}}}', None, f'{{"b":{texts[1]},"c":{texts[2]}}}']
    assert arrow_texts(maps).to_pylist() == expected
    pairs = pa.FixedSizeListArray.from_arrays(pa.array([1, 2, 3, 4, 5, 6]), 2, mask=pa.array([False, True, False]))
    assert arrow_texts(pairs.slice(1)).to_pylist() == [None, "[5,6]"]
