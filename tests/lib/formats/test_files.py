import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lib.formats import log_files
from lib.formats.csv_lines import _batch, _plain_block, _rows_of_lines
from lib.formats.files import find_files
from lib.formats.log_files import LogFile, sha256_of
from lib.formats.mapping import LogMapping, Source
from lib.formats.reading import Inspection, Reading
from lib.formats.rules import Reader


def a_source(*, files: str = "**/*", names: dict[str, str] | None = None, **overrides: Any) -> Source:
    events = {} if "kind" in overrides else {"events": [{"type": "view"}]}
    return Source(files=files, names=names or {"item_id": "item", "event_time": "time"}, **events, **overrides)


def read_whole(path: Path, content: bytes, source: Source) -> tuple[Inspection, list[pa.RecordBatch]]:
    path.write_bytes(content)
    reading = Reading(LogFile(str(path), path.name, len(content), "events"), source)
    batches = list(reading)
    return reading.inspection, batches


def inspect(path: Path, content: bytes, source: Source) -> Inspection:
    return read_whole(path, content, source)[0]


def read(path: Path, content: bytes, source: Source) -> list[dict[str, Any]]:
    inspection, batches = read_whole(path, content, source)
    assert inspection.problem is None
    tables = [pa.Table.from_batches([batch]) for batch in batches]
    return pa.concat_tables(tables, promote_options="default").to_pylist()


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
    files = {"a.csv": content, "copy.csv": content, "b.csv": content + b"2,t\n"}
    for name, held in files.items():
        (tmp_path / name).write_bytes(held)
    found = {file.path: sha256_of(file) for file in find_files(str(tmp_path), a_mapping(a_source()))[0]}
    assert found["a.csv"] == found["copy.csv"] != found["b.csv"]


def test_optional_columns_and_patterns_decide_what_a_file_must_hold(tmp_path: Path) -> None:
    names = {"item_id": "item", "event_time": "ctx.at", "brand": "brand", "context": ["f_*"]}
    source = a_source(names=names, optional=["brand"])
    assert inspect(tmp_path / "a.csv", b"item,ctx,f_1\n1,{},2\n", source).problem is None
    assert inspect(tmp_path / "b.csv", b"item,ctx,g_1\n1,{},2\n", source).problem.startswith("has no column 'f_*'")


def test_a_file_changes_nothing_by_how_it_is_cut_into_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"item,time\n" + b'1,"a""b"\n2,x\n\n3,"y\n4\r5,z\n' * 20
    whole = read(tmp_path / "a.csv", content, a_source())
    for size in (1, 7, 64):
        monkeypatch.setattr(log_files, "BLOCK_BYTES", size)
        assert read(tmp_path / "a.csv", content, a_source()) == whole


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet='ab",\n\r', max_size=40))
def test_arrow_reads_a_plain_block_as_python_reads_its_lines(text: str) -> None:
    block = text.encode()
    plain = _plain_block(block, Reader(), 2)
    if plain is not None:
        assert plain.to_pylist() == _batch(list(_rows_of_lines(block, Reader(), 2)), 2).to_pylist()


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


def test_json_text_round_trips(tmp_path: Path) -> None:
    value = {"a": [1, {"b": None}], "c": "x"}
    rows = read(
        tmp_path / "a.jsonl",
        json.dumps({"item": value, "time": 1}).encode(),
        a_source(reader={"type": "json_lines"}),
    )
    assert json.loads(rows[0]["item"]) == value


def test_a_carriage_return_alone_ends_a_line_where_that_gives_records(tmp_path: Path) -> None:
    source = a_source()
    rows = read(tmp_path / "a.csv", b"item,time\r1,t\r2\r3,\xff\r4,t\r9,t\r\n5,t\n6,t\r\r7,t\n8\r9,t\n", source)
    assert [(row["item"], row["malformed"]) for row in rows] == [
        *(("1", None), (None, "2"), (None, "3,\\xff"), ("4", None), ("9", None), ("5", None), ("6", None), ("7", None)),
        (None, "8\r9,t"),
    ]
    lines = b'{"item": 1, "time": 2}\r{"item": 3, "time": 4}\rx\r{"item": 5, "time": 6}'
    rows = read(tmp_path / "a.jsonl", lines, a_source(reader={"type": "json_lines"}))
    assert [(row["item"], row["malformed"]) for row in rows] == [("1", None), ("3", None), (None, "x"), ("5", None)]


@pytest.mark.parametrize("newlines_in_values", [False, True])
def test_a_header_cell_with_a_line_break_is_one_column(tmp_path: Path, newlines_in_values: bool) -> None:
    source = a_source(reader={"newlines_in_values": newlines_in_values})
    for end in ("\n", "\r\n", "\r"):
        content = f'item,"unit{end}price",time{end}1,2.5,t{end}'.encode()
        (row,) = read(tmp_path / "a.csv", content, source)
        assert (row["item"], row["unit_price"], row["time"]) == ("1", "2.5", "t")


def test_a_header_in_which_a_quote_stays_open_is_no_record_lost(tmp_path: Path) -> None:
    content = b'item,time,"note\n1,t,"x"\n2,t,y\n'
    assert inspect(tmp_path / "a.csv", content, a_source()).problem == "has a header in which a quote stays open"


def test_a_nul_byte_costs_its_line_and_is_told(tmp_path: Path) -> None:
    content = b"item,time\n1,t\n2,\0\n3,t\n"
    inspection = inspect(tmp_path / "a.csv", content, a_source())
    assert inspection.notes == ("1 lines with a NUL byte do not fit",)
    rows = read(tmp_path / "a.csv", content, a_source())
    assert [(row["item"], row["malformed"]) for row in rows] == [("1", None), (None, "2,\\x00"), ("3", None)]
    over_lines = read(tmp_path / "a.csv", content, a_source(reader={"newlines_in_values": True}))
    assert over_lines == rows


def test_bytes_of_another_encoding_cost_their_line_and_are_told(tmp_path: Path) -> None:
    content = "item,time\nKäse,t\nTee,t\n".encode("latin-1")
    for reader in ({}, {"newlines_in_values": True}, {"encoding": "ascii"}):
        source = a_source(reader=reader)
        (note,) = inspect(tmp_path / "a.csv", content, source).notes
        assert note.startswith(f"1 lines are no {source.reader.encoding} text and do not fit; is reader.encoding right")
        assert [row["item"] for row in read(tmp_path / "a.csv", content, source)] == [None, "Tee"]


@pytest.mark.parametrize(
    ("encoding", "content"),
    [
        ("utf-16", "item,time\nä,t\n".encode("utf-16")),
        ("utf-16", "item,time\nä,t\n".encode("utf-16-le")),
        ("utf-16", "item,time\nä,t\n".encode("utf-16-be")),
        ("utf-16-le", "\ufeffitem,time\nä,t\n".encode("utf-16-le")),
        ("utf-16-be", "\ufeffitem,time\nä,t\n".encode("utf-16-be")),
        ("utf-32", "item,time\nä,t\n".encode("utf-32-be")),
        ("utf-8-sig", "\ufeffitem,time\nä,t\n".encode()),
        ("cp1252", "item,time\nä,t\n".encode("cp1252")),
    ],
)
def test_encodings_with_and_without_a_mark(tmp_path: Path, encoding: str, content: bytes) -> None:
    (row,) = read(tmp_path / "a.csv", content, a_source(reader={"encoding": encoding}))
    assert (row["item"], row["time"]) == ("ä", "t")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("item,time\n1,t\n".encode("utf-16"), "begins with the mark of UTF-16 text; set reader.encoding: utf-16"),
        ("item,time\n1,t\n".encode("utf-16-le"), "is no utf-8 text, but may be UTF-16; is reader.encoding right?"),
        (b"item,time\n1\n2,t,\n", "holds no line that fits the 2 columns of its header"),
        (b"item,time,item\n1,t,2\n", "has 2 columns that 'item' may mean: item, item"),
        (b"item,Time,time\n1,t,2\n", "has 2 columns that 'time' may mean: Time, time"),
    ],
)
def test_what_looks_needed_is_named(tmp_path: Path, content: bytes, problem: str) -> None:
    assert inspect(tmp_path / "a.csv", content, a_source()).problem == problem


def test_an_escape_character_is_read_as_spark_writes_it(tmp_path: Path) -> None:
    lines = ["item,time", '"a \\"b\\" c",t', "C:\\lamps,\\N", '"a\\\\",t', '"a,b",t', '"say ""hi""",t']
    content = "\n".join(lines).encode() + b"\n"
    source = a_source(reader={"escape": "\\"})
    expected = [('a "b" c', "t"), ("C:\\lamps", "\\N"), ("a\\", "t"), ("a,b", "t"), ('say "hi"', "t")]
    for reader in ({"escape": "\\"}, {"escape": "\\", "newlines_in_values": True}):
        rows = read(tmp_path / "a.csv", content, a_source(reader=reader))
        assert [(row["item"], row["time"]) for row in rows] == expected
    assert inspect(tmp_path / "a.csv", content, source).notes == ()


def test_escaped_quotes_that_no_key_speaks_of_are_refused_and_told(tmp_path: Path) -> None:
    content = b'item,time\n1,t\n"a \\"b\\" c",t\n"{""k"":""x \\""y\\""""}",t\n5\\" pipe,t\n'
    inspection = inspect(tmp_path / "a.csv", content, a_source())
    assert [note.partition(";")[0] for note in inspection.notes] == [
        "1 quoted values hold a backslash and a quote, so their lines do not fit"
    ]
    assert "set reader.escape: '\\'" in inspection.notes[0]
    rows = read(tmp_path / "a.csv", content, a_source())
    assert [row["item"] for row in rows] == ["1", None, '{"k":"x \\"y\\""}', '5\\" pipe']
    assert rows[1]["malformed"] == '"a \\"b\\" c",t'


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet='ab",\n\\', max_size=40))
@example('""\\\\,')
@example('a,",,"\\,a')
def test_arrow_reads_escapes_in_a_plain_block_as_python_does(text: str) -> None:
    reader = Reader(escape="\\")
    plain = _plain_block(text.encode(), reader, 2)
    if plain is not None:
        assert plain.to_pylist() == _batch(list(_rows_of_lines(text.encode(), reader, 2)), 2).to_pylist()


def test_keys_of_json_lines_that_differ_in_case_are_one_unless_an_object_has_both(tmp_path: Path) -> None:
    source = a_source(reader={"type": "json_lines"})
    apart = b'{"item": 1, "time": 2}\n{"Item": 3, "TIME": 4}\n'
    assert [(row["item"], row["time"]) for row in read(tmp_path / "a.jsonl", apart, source)] == [("1", "2"), ("3", "4")]
    both = apart + b'{"item": 5, "ITEM": 6, "time": 7}\n'
    assert inspect(tmp_path / "a.jsonl", both, source).problem == "has 3 columns that 'item' may mean: item, Item, ITEM"


def test_numbers_that_json_has_not_and_that_no_float_holds_cost_no_line(tmp_path: Path) -> None:
    source = a_source(reader={"type": "json_lines"})
    content = b'{"item": 1, "time": NaN, "more": {"x": 1e400}}\n{"item": 1e999999999999999999999, "time": 1}\n'
    content += b'{"item": ' + b"[" * 900 + b"]" * 900 + b', "time": 1}\n'
    assert inspect(tmp_path / "a.jsonl", content, source).notes == (
        "1 values NaN or Infinity, which are no JSON, are read as unknown",
    )
    first, second, third = read(tmp_path / "a.jsonl", content, source)
    assert (first["item"], first["time"], first["more"]) == ("1", None, '{"x":"1E+400"}')
    assert second["malformed"]
    assert third["malformed"]


def test_a_parquet_file_with_a_column_of_any_type_is_inspected_as_it_is_read(tmp_path: Path) -> None:
    table = pa.table({"item": [b"\xff"], "time": pa.array([2**62]).cast(pa.timestamp("us")), "x": [{"t": b"\0"}]})
    pq.write_table(table, tmp_path / "a.parquet")
    content = (tmp_path / "a.parquet").read_bytes()
    (row,) = read(tmp_path / "a.parquet", content, a_source(reader={"type": "parquet"}))
    assert (row["item"], row["x"]) == ("/w==", '{"t":"AA=="}')
    assert row["time"].startswith("<value out of range")


def test_int96_times_do_not_wrap(tmp_path: Path) -> None:
    times = pa.array([253_402_214_400_000_000], pa.timestamp("us"))  # 9999-12-31
    pq.write_table(
        pa.table({"item": ["i"], "time": times}), tmp_path / "a.parquet", use_deprecated_int96_timestamps=True
    )
    content = (tmp_path / "a.parquet").read_bytes()
    (row,) = read(tmp_path / "a.parquet", content, a_source(reader={"type": "parquet"}))
    assert row["time"] == "9999-12-31 00:00:00.000000"
