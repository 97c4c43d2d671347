import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.formats import files as reading
from lib.formats.columns import stored_names
from lib.formats.csv_lines import _plain_block, _record_a_line
from lib.formats.files import Inspection, LogFile, find_files, inspect_file, read_pictures, read_records
from lib.formats.mapping import LogMapping, Source
from lib.formats.rules import Reader


def a_source(*, files: str = "**/*", names: dict[str, str] | None = None, **overrides: Any) -> Source:
    events = {} if "kind" in overrides else {"events": [{"type": "view"}]}
    return Source(files=files, names=names or {"item_id": "item", "event_time": "time"}, **events, **overrides)


def inspect(path: Path, content: bytes, source: Source) -> Inspection:
    path.write_bytes(content)
    return inspect_file(LogFile(str(path), path.name, len(content), "events"), source)


def read(path: Path, content: bytes, source: Source, columns: list[str] | None = None) -> list[dict[str, Any]]:
    inspection = inspect(path, content, source)
    assert inspection.problem is None
    file = LogFile(str(path), path.name, len(content), "events")
    columns = columns or stored_names(inspection.names)
    return [row for batch in read_records(file, source, inspection.names, columns) for row in batch.to_pylist()]


def test_records_are_text_as_received_and_an_empty_field_is_null(tmp_path: Path) -> None:
    rows = read(tmp_path / "a.csv", b'item,time,note\r\n007,2024-01-01,\r\n8.0,,"a, b"\r\n', a_source())
    assert rows == [
        {"item": "007", "time": "2024-01-01", "note": None, "record_number": 1, "malformed": None},
        {"item": "8.0", "time": None, "note": "a, b", "record_number": 2, "malformed": None},
    ]


def test_a_line_that_does_not_fit_is_kept_whole_with_its_number(tmp_path: Path) -> None:
    content = b'item,time\n1,t\n2\n3,t,x\n"4,t\n\n5,t\n\xff,t\n'
    rows = read(tmp_path / "a.csv", content, a_source())
    assert [(r["record_number"], r["item"], r["malformed"]) for r in rows] == [
        (1, "1", None),
        (2, None, "2"),
        (3, None, "3,t,x"),
        (4, None, '"4,t'),
        (5, "5", None),
        (6, None, "\\xff,t"),
    ]


def test_a_quote_that_stays_open_on_the_last_line_is_found(tmp_path: Path) -> None:
    rows = read(tmp_path / "a.csv", b'item,time\n1,t\n2,"t\n', a_source())
    assert [r["malformed"] for r in rows] == [None, '2,"t']


def test_values_may_hold_newlines_where_the_mapping_says_so(tmp_path: Path) -> None:
    source = a_source(reader={"newlines_in_values": True})
    rows = read(tmp_path / "a.csv", b'item,time\n"1\n2",t\n3\n4,"t', source)
    assert [(r["item"], r["malformed"]) for r in rows] == [("1\n2", None), (None, "3"), (None, '4,"t')]


def test_a_file_in_another_encoding_without_a_header(tmp_path: Path) -> None:
    source = a_source(reader={"columns": ["item", "time"], "encoding": "utf-16", "delimiter": ";"})
    assert read(tmp_path / "a.csv", "Käse;t\n".encode("utf-16"), source)[0]["item"] == "Käse"


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    assert inspect(tmp_path / "a.csv", b"\xef\xbb\xbfitem,time\n1,t\n", a_source()).names == ("item", "time")


def test_records_of_json_lines_keep_digits_and_nested_values(tmp_path: Path) -> None:
    lines = [
        '{"item": 12345678901234567890, "time": "t", "price": 2.50, "new": true}',
        '{"item": "1", "time": "t", "tags": ["ä", 1], "price": null, "new": ""}',
        '{"item": "1", "price": NaN, "tags": [-Infinity]}',
        "[1]",
        '{"item": "half \\ud800"}',
    ]
    rows = read(tmp_path / "a.jsonl", "\n".join(lines).encode(), a_source(reader={"type": "json_lines"}))
    assert rows[0] == {
        **{"item": "12345678901234567890", "time": "t", "price": "2.50", "new": "true", "tags": None},
        **{"record_number": 1, "malformed": None},
    }
    assert rows[1]["tags"] == '["ä",1]'
    assert rows[1]["new"] is None
    assert (rows[2]["item"], rows[2]["price"], rows[2]["tags"]) == ("1", None, "[null]")  # they cost one value
    assert [row["malformed"] for row in rows[2:]] == [None, *lines[3:]]


def test_records_of_parquet_become_text(tmp_path: Path) -> None:
    table = pa.table(
        {
            "item": pa.array([1, None], pa.int64()),
            "time": pa.array([0, 1_500_000], pa.timestamp("us", tz="UTC")),
            "tags": pa.array([["a"], []]),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    rows = read(tmp_path / "a.parquet", (tmp_path / "a.parquet").read_bytes(), a_source(reader={"type": "parquet"}))
    assert [(r["item"], r["time"], r["tags"]) for r in rows] == [
        ("1", "1970-01-01 00:00:00.000000Z", '["a"]'),
        (None, "1970-01-01 00:00:01.500000Z", "[]"),
    ]


def test_a_column_that_the_file_lacks_is_null(tmp_path: Path) -> None:
    rows = read(tmp_path / "a.csv", b"time,item\nt,1\n", a_source(), columns=("item", "brand", "time"))
    assert rows == [{"item": "1", "brand": None, "time": "t", "record_number": 1, "malformed": None}]


@pytest.mark.parametrize("type_", ["csv", "json_lines"])
def test_gzip_is_known_by_its_first_bytes(tmp_path: Path, type_: str) -> None:
    content = {"csv": b"item,time\n1,t\n", "json_lines": b'{"item": "1", "time": "t"}\n'}[type_]
    rows = read(tmp_path / "no_suffix", gzip.compress(content), a_source(reader={"type": type_}))
    assert rows == [{"item": "1", "time": "t", "record_number": 1, "malformed": None}]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b"item,time\n", "holds a header and no record"),
        (b"\n\n", "holds nothing but blank lines"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is binary, not csv text"),
        (gzip.compress(b"item,time\n" + b"1,t\n" * 1000)[:-10], "is a gzip file that was cut off"),
        (gzip.compress(b"item,time\n1,t\n")[:-6] + b"xxxxxx", "is a damaged gzip file"),
        (b"item;time\n1;t\n", "has no column 'item'; it has item;time"),
        (b"item\n1\n", "has no column 'time'; it has item"),
    ],
)
def test_a_csv_file_that_cannot_be_read_says_why(tmp_path: Path, content: bytes, problem: str) -> None:
    assert inspect(tmp_path / "a.csv", content, a_source()).problem == problem


@pytest.mark.parametrize(
    ("type_", "content", "problem"),
    [
        ("json_lines", b"item,time\n1,t\n", "holds no line that is a JSON object"),
        ("json_lines", b'{"item": 1}\n', "has no column 'time'; it has item"),
        ("parquet", b"item,time\n1,t\n", "is no Parquet file, or a damaged one"),
        ("parquet", b"", "is empty"),
    ],
)
def test_a_file_of_another_type_says_so(tmp_path: Path, type_: str, content: bytes, problem: str) -> None:
    assert inspect(tmp_path / "a", content, a_source(reader={"type": type_})).problem.startswith(problem)


def test_a_file_is_known_by_its_content(tmp_path: Path) -> None:
    content = b"item,time\n1,t\n"
    one, other = (inspect(tmp_path / name, content, a_source()) for name in ("a.csv", "copy.csv"))
    assert one.sha256 == other.sha256 != inspect(tmp_path / "b.csv", content + b"2,t\n", a_source()).sha256


def test_optional_columns_and_patterns_decide_what_a_file_must_hold(tmp_path: Path) -> None:
    names = {"item_id": "item", "event_time": "ctx.at", "brand": "brand", "context": ["f_*"]}
    source = a_source(names=names, optional=["brand"])
    assert inspect(tmp_path / "a.csv", b"item,ctx,f_1\n1,{},2\n", source).problem is None
    assert inspect(tmp_path / "b.csv", b"item,ctx,g_1\n1,{},2\n", source).problem.startswith("has no column 'f_*'")


def test_a_file_changes_nothing_by_how_it_is_cut_into_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"item,time\n" + b'1,"a""b"\n2,x\n\n3,"y\n4\r5,z\n' * 20
    whole = read(tmp_path / "a.csv", content, a_source())
    for size in (1, 7, 64):
        monkeypatch.setattr(reading, "BLOCK_BYTES", size)
        assert read(tmp_path / "a.csv", content, a_source()) == whole


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet='ab",\n\r', max_size=40))
def test_arrow_reads_a_plain_block_as_python_reads_its_lines(text: str) -> None:
    block = text.encode()
    plain = _plain_block(block, Reader(), 2)
    if plain is not None:
        assert plain.to_pylist() == _record_a_line(block, Reader(), 2).to_pylist()


def a_mapping(source: Source) -> LogMapping:
    return LogMapping(name="own", sources={"events": source})


def test_files_of_a_folder_are_found_below_it_and_hidden_ones_left_aside(tmp_path: Path) -> None:
    for name in ("b/2.csv", "a/1.csv.gz", "a/_SUCCESS.csv", ".tmp/3.csv", "a/readme.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    files, num_strangers = find_files(str(tmp_path), a_mapping(a_source(files="*/*.csv")))
    assert [file.path for file in files] == ["a/1.csv.gz", "b/2.csv"]
    assert num_strangers == 1


def test_a_single_file_keeps_the_folders_that_its_pattern_speaks_of(tmp_path: Path) -> None:
    file = tmp_path / "random" / "men" / "men.csv"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x")
    mapping = a_mapping(a_source(files="{policy}/men/*.csv"))
    assert [f.path for f in find_files(str(file), mapping)[0]] == ["random/men/men.csv"]
    with pytest.raises(ValueError, match="there is no log at"):
        find_files(str(tmp_path / "absent"), mapping)


def test_pictures_keep_their_bytes(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [7], "jpg": [b"\xff\xd8"], "w": [2]}), tmp_path / "p.parquet")
    names = {"item_id": "id", "bytes": "jpg", "width": "w"}
    source = a_source(kind="images", names=names, reader={"type": "parquet"})
    file = LogFile(str(tmp_path / "p.parquet"), "p.parquet", 1, "images")
    assert [row for batch in read_pictures(file, source) for row in batch.to_pylist()] == [
        {"item_id": "7", "bytes": b"\xff\xd8", "uri": None, "width": 2, "height": None}
    ]


def test_pictures_bear_the_ids_that_events_have(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"id": ["7.0", "8   ", "  ", "-"], "jpg": [b"a", b"b", b"c", b"d"]}), tmp_path / "p.parquet"
    )
    source = a_source(
        kind="images", names={"item_id": "id", "bytes": "jpg"}, reader={"type": "parquet"}, whole_number_ids="item_id",
        null_values="-",
    )  # fmt: skip
    file = LogFile(str(tmp_path / "p.parquet"), "p.parquet", 1, "images")
    assert [row["item_id"] for batch in read_pictures(file, source) for row in batch.to_pylist()] == [
        "7",
        "8",
        None,
        None,
    ]


def test_json_text_round_trips(tmp_path: Path) -> None:
    value = {"a": [1, {"b": None}], "c": "x"}
    rows = read(
        tmp_path / "a.jsonl",
        json.dumps({"item": value, "time": 1}).encode(),
        a_source(reader={"type": "json_lines"}),
    )
    assert json.loads(rows[0]["item"]) == value
