import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import polars as pl
import pytest

from lib.cleaning.fields import NUMBER, type_events
from lib.formats.mapping import load_mapping, parse_mapping
from lib.formats.writing import writer_of

AT = datetime(2026, 6, 3, 4, 5, 6, 789_000, UTC)
HEAD = "name: live\nsources:\n  clicks:\n    files: '*.jsonl'\n    reader: {type: json_lines}\n"


def read_back(text: str, events: list[dict[str, Any]], *, as_messages: bool = False) -> pl.DataFrame:
    """What clean makes of the records of some events."""
    mapping = parse_mapping(text, "live.yaml")
    writer = writer_of(mapping, as_messages=as_messages)
    flat = [{name: _text(value) for name, value in _flat(writer.record_of(event)).items()} for event in events]
    columns = {name: [row.get(name) for row in flat] for name in dict.fromkeys(name for row in flat for name in row)}
    records = pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String)).with_columns(
        pl.int_range(pl.len(), dtype=pl.Int64).alias(NUMBER),
        record_number=pl.int_range(pl.len(), dtype=pl.Int64),
        arrived_at=pl.lit(AT).cast(pl.Datetime("us", "UTC")),
        source_file=pl.lit("a.jsonl"),
        source_file_sha256=pl.lit("0"),
        malformed=pl.lit(None, pl.String),
    )
    return type_events(records, writer.source, mapping)


def _flat(record: dict[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in record.items():
        found |= _flat(value, f"{before}{name}.") if isinstance(value, dict) else {f"{before}{name}": value}
    return found


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


MARKET = load_mapping("market")


@pytest.mark.parametrize(
    "text",
    [
        HEAD
        + "    names: {user_id: u, item_id: i, event_time: t, quantity: q, candidates: c}\n    optional: [user_id, quantity, candidates]\n"
        "    events: [{type: {column: kind}}]\n",
        HEAD
        + "    names: {user_id: who.id, item_id: what, event_time: ts, quantity: q, candidates: {column: c, separator: '|'}}\n"
        "    optional: [user_id, quantity, candidates]\n    time_format: epoch_milliseconds\n    ignore: {action: hover}\n"
        "    events: [{type: {column: action, values: {pv: view, buy: purchase, show: impression, back: return}}}]\n",
        HEAD + "    names: {user_id: u, item_id: i, event_time: t, quantity: q, candidates: c}\n"
        "    optional: [user_id, quantity, candidates]\n    time_format: '%d.%m.%Y %H:%M:%S.%3f'\n"
        "    events:\n      - {type: view, when: {a: [look, glance]}, unless: {bought: 'yes'}}\n      - {type: purchase, when: {a: buy}}\n"
        "      - {type: impression, when: {a: show}}\n      - {type: return, when: {a: back}, negate: [quantity]}\n",
    ],
    ids=["our own types", "other names", "rules with conditions"],
)
def test_what_is_written_is_read_as_the_same_events(text: str) -> None:
    if "%3f" in text:
        text = text.replace("%S.%3f", "%S")
    at = AT.replace(microsecond=0) if "%S'" in text else AT
    base = {"event_time": at, "item_id": "p 1", "user_id": 'Ann "O\'Neil"\n'}
    events = [
        base | {"event_type": "view"},
        base | {"event_type": "purchase", "quantity": 2},
        base | {"event_type": "impression", "candidates": ["p 1", "p2"], "user_id": None},
        base | {"event_type": "return", "quantity": 1},
    ]
    found = read_back(text, events)
    assert found["refusal"].to_list() == [None] * 4
    ordered = found.sort("record")
    assert sorted(ordered["event_type"].to_list()) == ["impression", "purchase", "return", "view"]
    assert ordered["event_time"].to_list() == [at] * 4
    by_type = {row["event_type"]: row for row in found.to_dicts()}
    assert by_type["purchase"]["quantity"] == 2 and by_type["return"]["quantity"] == 1
    assert by_type["impression"]["candidates"] == ["p 1", "p2"] and by_type["impression"]["user_id"] is None
    assert by_type["view"]["user_id"].strip() == base["user_id"].strip()  # type: ignore[attr-defined]


def test_the_market_is_written_as_it_is_read() -> None:
    writer = writer_of(MARKET)
    event = {"event_type": "cart", "event_time": AT, "item_id": "p1", "user_id": "u1", "quantity": None}
    assert writer.record_of(event) == {
        "event_type": "cart",
        "user_id": "u1",
        "item_id": "p1",
        "event_time": "2026-06-03T04:05:06.789000Z",
    }
    assert set(writer.types) == {"impression", "view", "cart", "favourite", "purchase", "return", "rating"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (HEAD.replace("json_lines", "csv") + "    names: {user_id: u, item_id: i, event_time: t}\n    events: [{type: view}]\n", "no source of events has reader"),
        (HEAD + "    names: {user_id: u, item_id: {template: '{a}-{b}'}, event_time: t}\n    events: [{type: view}]\n", "names: item_id does not come from one column"),
        (HEAD + "    names: {user_id: u, item_id: i, event_time: t}\n    events: [{type: view, when: {a: {matches: 'x.*'}}}]\n", "no rule under events can be turned round"),
        (HEAD + "    names: {user_id: u, item_id: things.id, event_time: t}\n    explode: things\n    events: [{type: view}]\n", "explode: things"),
    ],
)  # fmt: skip
@pytest.mark.bad_input("a log whose records cannot be written")
def test_a_mapping_that_cannot_be_turned_round_is_refused_with_the_rule_that_is_in_the_way(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        writer_of(parse_mapping(text, "live.yaml"))


def test_a_type_whose_record_would_give_a_second_event_is_not_written() -> None:
    text = HEAD + (
        "    names: {user_id: u, item_id: i, event_time: t}\n"
        "    events: [{type: purchase, when: {a: buy}}, {type: cart, when: {a: [buy, basket]}}, {type: view, when: {a: look}}]\n"
    )
    writer = writer_of(parse_mapping(text, "live.yaml"))
    assert set(writer.types) == {"cart", "view"}
    assert writer.types["cart"] == {"a": "basket"}  # buy would be a purchase too


def test_as_messages_the_records_of_csv_files_are_written_in_the_mappings_own_forms() -> None:
    text = (
        "name: own\ntimezone: Europe/Berlin\nsources:\n  lines:\n    files: '*.csv'\n    reader: {decimal: ',', thousands: '.'}\n"
        "    names: {user_id: Kunde.Nr, item_id: Artikel, event_time: Datum, quantity: Menge, price: Preis}\n"
        "    time_format: '%d.%m.%Y %H:%M:%S'\n"
        "    events:\n      - {type: return, when: {Art: R}, negate: [quantity]}\n      - {type: purchase, when: {Art: K}}\n"
    )
    at = datetime(2026, 6, 3, 4, 5, 6, tzinfo=UTC)
    event = {"user_id": "7", "item_id": "mug", "event_time": at, "quantity": 2, "price": 1234.5}
    events: list[dict[str, Any]] = [event | {"event_type": kind} for kind in ("purchase", "return")]
    record = writer_of(parse_mapping(text, "own.yaml"), as_messages=True).record_of(events[1])
    assert record == {
        "Art": "R",
        "Kunde.Nr": "7",
        "Artikel": "mug",
        "Datum": "03.06.2026 06:05:06",
        "Menge": -2,
        "Preis": "1234,5",
    }
    found = read_back(text, events, as_messages=True).sort("record")
    assert found.select("event_type", "event_time", "user_id", "quantity", "price").rows() == [
        ("purchase", at, "7", 2, Decimal("1234.5000")),
        ("return", at, "7", 2, Decimal("1234.5000")),
    ]


def test_as_messages_a_source_that_can_be_written_is_taken_where_another_cannot() -> None:
    exploded = "  baskets:\n    files: 'b/*.parquet'\n    reader: {type: parquet}\n    explode: lines\n"
    exploded += "    names: {user_id: u, item_id: lines.i, event_time: t}\n    events: [{type: purchase}]\n"
    clicks = "  clicks:\n    files: '*.csv'\n    names: {user_id: u, item_id: i, event_time: t}\n    events: [{type: view}]\n"
    text = f"name: own\nsources:\n{exploded}{clicks}"
    assert writer_of(parse_mapping(text, "own.yaml"), as_messages=True).source == "clicks"
    with pytest.raises(ValueError, match=r"no source of events has reader.*with live.kafka"):
        writer_of(parse_mapping(text, "own.yaml"))
