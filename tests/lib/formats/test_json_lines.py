"""Columns of values taken from whole blocks are those that Python's parser gives, line by line."""

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lib.formats import json_lines
from lib.formats.json_lines import JsonLines

texts = st.text(st.characters(codec="utf-8"), max_size=6)
numbers = st.sampled_from(
    [
        "0",
        "-0",
        "7",
        "-12",
        "2.50",
        "-0.5",
        "1e5",
        "1E-3",
        "-0e1",
        "1e400",
        "1e999999999999999999999",
        "9" * 30,
        "01",
        "1.",
        "NaN",
    ]
)
values = st.recursive(
    st.one_of(
        st.builds(json.dumps, texts),
        st.builds(lambda text: json.dumps(text, ensure_ascii=False), texts),
        numbers,
        st.sampled_from(
            ["null", "true", "false", '""', r'"\ud800"', r'"\ud83d\ude00"', r'"\/"', '"a\tb"', "[]", "{}", "nul"]
        ),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{','.join(items)}]"),
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)} ]"),
        st.lists(st.tuples(st.sampled_from('abA"'), inner), max_size=3).map(
            lambda pairs: f"{{{','.join(f'{json.dumps(key)}:{value}' for key, value in pairs)}}}"
        ),
    ),
    max_leaves=6,
)
objects = st.lists(st.tuples(st.sampled_from(["a", "b", "A", "c d", 'q"', ""]), values), max_size=4).map(
    lambda pairs: f"{{{', '.join(f'{json.dumps(key)}: {value}' for key, value in pairs)}}}"
)
lines = st.lists(
    st.one_of(
        objects.map(str.encode),
        objects.map(lambda text: text.encode() + b"\r"),
        st.tuples(objects, objects).map(lambda two: "\r".join(two).encode()),
        st.sampled_from(
            [
                b"",
                b" ",
                b"broken",
                b"[1]",
                b'{"a": "\xff"}',
                b'\xef\xbb\xbf{"a": 1}',
                b'{"a": ' + b"[" * 500 + b"]" * 500 + b"}",
            ]
        ),
    ),
    max_size=6,
)


def rows(*blocks: bytes) -> tuple[JsonLines, list[dict[str, Any]]]:
    reader = JsonLines()
    batches = [reader.read(block) for block in blocks]
    for batch in batches:
        batch.validate(full=True)
    named = [pa.Table.from_batches([batch]).rename_columns(names_of(batch, reader)) for batch in batches]
    return reader, pa.concat_tables(named, promote_options="default").to_pylist()


def names_of(batch: pa.RecordBatch, reader: JsonLines) -> list[str]:
    return [*(repr(key) for key in reader.keys[: batch.num_columns - 1]), "malformed"]


@settings(max_examples=400, deadline=None)
@given(lines)
@example([b'{"a": "x"}', b'{"a": 1e999999999999999999999}'])
@example([b'{"a": 1}', b'{"A": 2, "a": 3}', b'{"b": [1, 2.50, {"c": 1e5}]}'])
def test_a_block_is_read_as_python_reads_its_lines(given_lines: list[bytes]) -> None:
    blocks = [b"\n".join(given_lines[:3]), b"\n".join(given_lines[3:])]
    reader, found = rows(*blocks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_lines, "_plain_records", lambda *_: None)
        by_python, expected = rows(*blocks)
    assert found == expected
    assert reader.keys == by_python.keys
    assert (reader.num_lines, reader.num_objects) == (by_python.num_lines, by_python.num_objects)
    assert reader.num_constants == by_python.num_constants


def test_keys_may_come_late_and_in_another_case() -> None:
    many = b"".join(b'{"n": %d}\n' % number for number in range(1000))
    blocks = [many + b'{"N": 1000, "late": [1]}\n', b'{"late": 2}\n{"n": 1, "N": 2}\n', b'{"N": 3}\n']
    reader, found = rows(*blocks)
    assert reader.keys == ["n", "late", "N"]
    assert [row["'n'"] for row in found] == [*map(str, range(1001)), None, "1", None]
    assert [row["'late'"] for row in found[1000:]] == ["[1]", "2", None, None]
    assert [row["'N'"] for row in found[1000:]] == [None, None, "2", "3"]
    assert (reader.num_lines, reader.num_objects) == (1004, 1004)


def test_lines_that_are_not_plain_stand_where_they_stood_among_those_that_are() -> None:
    given_lines = [b'{"n": %d}' % number for number in range(2000)]
    given_lines[700], given_lines[701], given_lines[1999] = b"broken", b'{"n": NaN}', rb'{"n": "\ud83d\ude00"}'
    _, found = rows(b"\n".join(given_lines))
    expected: list[str | None] = [str(number) for number in range(2000)]
    expected[700], expected[701], expected[1999] = None, None, "\U0001f600"
    assert [row["'n'"] for row in found] == expected
    assert [place for place, row in enumerate(found) if row["malformed"]] == [700]


@pytest.mark.parametrize("block", [b'{"a":1}\n\n{}{}', b'{"a":1}\n \n{}{}\n'])
def test_two_objects_in_a_line_are_no_record_also_where_the_lines_are_as_many_as_the_objects(block: bytes) -> None:
    malformed = JsonLines().read(block).column("malformed").to_pylist()
    assert malformed == [None, *(line.decode() for line in block.split(b"\n")[1:] if line.strip())]
