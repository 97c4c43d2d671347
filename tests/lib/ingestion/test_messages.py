"""Messages as records: each is one row, whatever it holds, and what fits is read as the same line of a file is."""

import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.formats.files import find_files
from lib.formats.mapping import LogMapping
from lib.formats.reading import Reading
from lib.ingestion.messages import last_time, records_of, source_of_topics
from lib.runs.errors import SettingError
from lib.settings import LiveSettings

MAPPING = LogMapping.model_validate(
    {
        "name": "tiny",
        "sources": {
            "clicks": {
                "files": "*.jsonl",
                "reader": {"type": "json_lines"},
                "names": {"user_id": "user", "item_id": "item", "event_time": "at.time"},
                "events": [{"type": "view"}],
            }
        },
    }
)
CLICKS = MAPPING.sources["clicks"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
KEYS = st.sampled_from(["user", "item", "at", "Item", "USER", "extra", "price", "Größe", "x-1"])
WILD_KEYS = KEYS | st.sampled_from(["malformed", "record_number", "", "a b", "a_b", "*"]) | st.text()
RECORDS = st.dictionaries(KEYS, VALUES, max_size=4)
WILD_RECORDS = st.dictionaries(WILD_KEYS, VALUES, max_size=4)
MESSAGES = st.one_of(
    st.none(),
    st.binary(max_size=30).filter(lambda value: b"{" not in value),
    RECORDS.map(lambda record: json.dumps(record).encode()),
    RECORDS.map(lambda record: json.dumps(record, indent=1).encode()),
    VALUES.filter(lambda value: not isinstance(value, dict)).map(lambda value: json.dumps(value).encode()),
)


def rows_of(*values: bytes | None) -> list[dict[str, str | None]]:
    rows: list[dict[str, str | None]] = pl.DataFrame(records_of(values, CLICKS)).to_dicts()
    return rows


@given(st.lists(MESSAGES | WILD_RECORDS.map(lambda record: json.dumps(record).encode()), max_size=12))
def test_each_message_is_one_row_whatever_it_holds(values: list[bytes | None]) -> None:
    assert len(rows_of(*values)) == len(values)


@given(st.lists(MESSAGES, max_size=12))
def test_a_message_reads_the_same_beside_any_others(values: list[bytes | None]) -> None:
    together = rows_of(*values)
    assert len(together) == len(values)
    for value, row in zip(values, together, strict=True):
        (alone,) = rows_of(value)
        by_case = {name.lower(): text for name, text in alone.items() if text is not None}
        assert {name.lower(): text for name, text in row.items() if text is not None} == by_case


@given(
    st.lists(RECORDS.filter(lambda record: len({key.lower() for key in record}) == len(record)), min_size=1, max_size=8)
)
def test_records_of_plain_keys_are_read_as_the_lines_of_a_file_are(records: list[dict[str, object]]) -> None:
    lines = [
        json.dumps(
            {"user": 1, "item": 2, "at": 3}
            | {key: value for key, value in record.items() if key.lower() not in ("user", "item", "at")}
        ).encode()
        for record in records
    ]
    messages = records_of(lines, CLICKS)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a.jsonl").write_bytes(b"\n".join(lines) + b"\n")
        (file,), _ = find_files(folder, MAPPING)
        reading = Reading(file, CLICKS)
        of_file = pa.Table.from_batches([*reading]).drop_columns("record_number")
        assert reading.inspection.problem is None
    assert pl.DataFrame(messages).to_dicts() == pl.DataFrame(of_file.select(messages.schema.names)).to_dicts()


def test_what_is_no_object_is_kept_whole_and_a_tombstone_is_an_empty_text() -> None:
    values = [b"junk", None, b" ", b"[1]", b'{"item": "a"} {"item": "b"}', b"a\nb", b"\xff", b'"x"']
    assert [row["malformed"] for row in rows_of(*values)] == [
        *("junk", "", " ", "[1]", '{"item": "a"} {"item": "b"}', "a\nb", "\\xff", '"x"')
    ]


def test_an_object_over_several_lines_is_one_record() -> None:
    assert rows_of(b'{"item":\r\n "a",\n"n": 1.50}') == [
        {"item": "a", "n": "1.50", "user": None, "at": None, "malformed": None}
    ]


def test_two_keys_that_one_name_may_mean_make_their_message_alone_malformed() -> None:
    bad, good, other = b'{"item": "a", "Item": "b"}', b'{"item": "c"}', b'{"ITEM": "d"}'
    rows = rows_of(good, bad, other)
    assert [row["malformed"] for row in rows] == [None, bad.decode(), None]
    assert [next(text for name, text in row.items() if name.lower() == "item") for row in rows] == ["c", None, "d"]


def test_the_columns_that_the_mapping_needs_are_there_whatever_comes() -> None:
    assert set(rows_of(b"junk")[0]) == {"user", "item", "at", "malformed"}


def test_times_of_the_future_and_after_the_end_of_the_log_move_no_clock() -> None:
    records = pl.DataFrame(
        {
            "at": ['{"time": "2026-01-01T00:00:00Z"}', '{"time": "2026-03-01T00:00:00Z"}', '{"time": "never"}', None],
            "source_file": "kafka/t/0",
        }
    )
    until = datetime(2026, 2, 1, tzinfo=UTC)
    assert last_time(records, "clicks", MAPPING, until=until) == datetime(2026, 1, 1, tzinfo=UTC)
    assert last_time(records.tail(2), "clicks", MAPPING, until=until) is None
    ended = MAPPING.model_validate(
        MAPPING.model_dump(exclude_unset=True) | {"times": {"end": datetime(2026, 1, 1, tzinfo=UTC)}}
    )
    assert last_time(records, "clicks", ended, until=datetime(2026, 4, 1, tzinfo=UTC)) is None


@pytest.mark.bad_input("a log whose records cannot come from Kafka")
def test_a_source_that_takes_something_from_its_files_paths_cannot_come_from_kafka() -> None:
    given = MAPPING.model_dump(exclude_unset=True)
    given["sources"]["clicks"] |= {"files": "{shop}/*.jsonl", "constants": {"experiment": "{shop}"}}
    with pytest.raises(SettingError, match="takes 'shop' from the paths of its files"):
        source_of_topics(LogMapping.model_validate(given), LiveSettings(topic_prefix="t."))
    assert source_of_topics(MAPPING, LiveSettings(topic_prefix="t.")) == {"t.clicks": "clicks"}
