from datetime import UTC, datetime
from typing import Any

import polars as pl

from lib.cleaning.corrections import mark_superseded, record_keys
from lib.formats.mapping import LogMapping, parse_mapping
from lib.formats.times import TIME

MAPPING = """
name: shop
sources:
  lines:
    files: "*.csv"
    names: {user_id: user, item_id: item, event_time: ts, price: price}
    events: [{type: purchase}]
    record_key: [order.id, line]
"""
LINE = {"order.id": "o1", "line": "1", "user": "u", "item": "i", "ts": "2024-01-01 12:00:00", "price": "5"}
ORIGIN = {"source_file": "a.csv", "source_file_sha256": "0", "malformed": None, "batch_id": "b"}


def arrived(day: int) -> dict[str, Any]:
    return {"arrived_at": datetime(2026, 1, day, tzinfo=UTC)}


def mapping(text: str = MAPPING) -> LogMapping:
    return parse_mapping(text, "own.yaml")


def records(*rows: dict[str, Any]) -> pl.DataFrame:
    full = [LINE | ORIGIN | {"record_number": n} | arrived(1) | row for n, row in enumerate(rows, start=1)]
    return pl.DataFrame(
        full, schema=dict.fromkeys(full[0], pl.String) | {"record_number": pl.Int64, "arrived_at": TIME}
    )


def superseded(*rows: dict[str, Any]) -> list[bool]:
    return mark_superseded(records(*rows), "lines", mapping())["(superseded)"].to_list()


def test_the_latest_arrival_of_a_key_stays_whatever_else_it_says() -> None:
    assert superseded(arrived(3) | {"price": "6", "user": "v"}, arrived(1), arrived(2), {"line": "2"}) == [
        *(False, True, True, False)
    ]


def test_in_one_batch_the_later_file_stays_and_in_one_file_the_later_line() -> None:
    assert superseded({"source_file": "b.csv"}, {}, {}) == [False, True, True]
    assert superseded({"record_number": 9}, {"record_number": 10}) == [True, False]


def test_a_refused_record_supersedes_nothing_and_is_not_superseded() -> None:
    assert superseded({}, arrived(2) | {"ts": "soon"}) == [False, False]
    assert superseded({"ts": "soon"}, arrived(2)) == [False, False]


def test_records_without_a_key_are_all_kept_and_a_part_of_a_key_is_one() -> None:
    nothing = {"order.id": None, "line": None}
    assert superseded(nothing, nothing) == [False, False]
    assert superseded({"line": None}, {"line": None}, {}) == [True, False, False]
    assert record_keys(records(nothing, {}, {"line": None}), mapping().sources["lines"]).to_list() == [
        *(None, '{"order.id":"o1","line":"1"}', '{"order.id":"o1","line":null}')
    ]


def test_a_key_may_lie_in_a_nested_value() -> None:
    nested = mapping(MAPPING.replace("[order.id, line]", "meta.id"))
    rows = [{"meta": '{"id": 7}', "price": str(n)} for n in range(2)]
    assert mark_superseded(records(*rows), "lines", nested)["(superseded)"].to_list() == [True, False]
