"""What values mean: ids, null markers, times, unwanted events, notation and order ids; cases of ../shared/faults."""

import io
import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.shops import Shop


def with_words(case: Path, words: str) -> str:
    """A case's mapping with further words in its source of events."""
    text = (case / "map.yaml").read_text()
    assert text.count("  events:\n    files:") == 1
    return text.replace("  events:\n    files:", f"  events:\n    {words}\n    files:")


def test_whole_numbers_and_floats_are_one_id_by_a_word_and_told_of_without_it(faults: Path, tmp_path: Path) -> None:
    case = faults / "04-id-int-or-float" / "a"
    shop = Shop.of_case(case, tmp_path, with_words(case, "whole_number_ids: [user_id]"))
    assert shop.run().code == 0
    users = [row["user_key"] for row in shop.read("silver/events", "user_key")]
    assert (len(users), len(set(users) - {None}), users.count(None)) == (120, 10, 1)
    shop.mapping.write_text((case / "map.yaml").read_text())
    told = shop.run(first="clean")
    assert "user_id is written as 1001 in 60 records, as 1001.0 in 59 records; if these are the same ids" in told.text


def test_null_markers_and_padded_keys_leave_no_trace(faults: Path, tmp_path: Path) -> None:
    case = faults / "05-null-markers"
    shop = Shop.of_case(case, tmp_path / "05", with_words(case, "pii_free_context: device"))
    assert shop.run().code == 0
    assert r"\N" not in str([shop.read("silver/events"), shop.read("silver/items")])
    orders = [row["order_id"] for row in shop.read("silver/events", "order_id")]
    assert (len(set(orders) - {None}), orders.count(None)) == (15, 45)
    items = shop.read("silver/items", "category", "brand", "attributes")
    assert {tuple(row["category"]) for row in items} == {("Shoes",), ("Shoes", "Trail")}
    assert {row["brand"] for row in items} == {None, "acme"}

    padded = Shop.of_case(faults / "17-padded-keys", tmp_path / "17")
    assert padded.run().code == 0
    assert len(padded.read("silver/items", "item_id")) == 12
    assert all(row["title"] for row in padded.read("silver/items", "title"))
    assert [row["user_key"] for row in padded.read("silver/events", "user_key")].count(None) == 10
    assert padded.reasons() == {}


def test_guests_are_nobody_and_a_price_of_zero_is_a_price(faults: Path, tmp_path: Path) -> None:
    text = (faults / "20-guest-sentinel" / "map.yaml").read_text()
    shop = Shop.of_case(faults / "20-guest-sentinel", tmp_path, text.replace("null_values: '0'", "guests: [0, -1]"))
    assert shop.run().code == 0
    rows = shop.read("silver/events", "user_key", "price")
    assert len(rows) == 180
    assert (sum(row["user_key"] is None for row in rows), sum(row["price"] == 0 for row in rows)) == (84, 18)


def test_times_by_their_patterns_and_seconds_among_milliseconds(faults: Path, tmp_path: Path) -> None:
    for letter in "af":
        shop = Shop.of_case(faults / "07-times" / letter, tmp_path / letter)
        assert shop.run().code == 0
        dates = [row["event_date"].isoformat() for row in shop.read("silver/events", "event_date")]
        assert set(dates) == {"2024-01-05"}
        assert len(dates) + shop.reasons()["double_click"] == shop.reasons().total() + len(dates) == 60
    zone = Shop.of_case(faults / "07-times" / "b", tmp_path / "b").run()
    assert zone.code == 1
    assert "sources.events.time_format: '%Y-%m-%d %H:%M:%S %Z' cannot be read" in zone.text
    mixed = Shop.of_case(faults / "07-times" / "d", tmp_path / "d")
    told = mixed.run()
    assert told.code == 1
    assert (
        "event_time of 60 of 120 records refused, all of the form dddddddddd (before 1990), all in d.csv; "
        "are they epoch seconds? time_format: epoch reads every unit"
    ) in told.text
    mixed.mapping.write_text(mixed.mapping.read_text().replace("epoch_milliseconds", "epoch"))
    assert mixed.run(first="clean").code == 0
    assert mixed.lake.num_rows("silver/events") == 120


def test_events_that_are_not_wanted_are_counted_outside_the_limit(faults: Path, tmp_path: Path) -> None:
    cosmetics = Shop.of_case(faults / "10-other-event-types" / "a", tmp_path / "a")
    assert cosmetics.run(format="rees46").code == 0
    assert cosmetics.lake.num_rows("silver/events") == 160
    assert cosmetics.reasons() == {"ignored": 40}
    case = faults / "10-other-event-types" / "b"
    web = Shop.of_case(case, tmp_path / "b", with_words(case, "ignore: {event: [scroll, session_start]}"))
    told = web.run()
    assert told.code == 0
    assert "accepted=40  ignored=60" in told.text
    assert web.reasons() == {"ignored": 60}


LINES = """
name: own
currency: EUR
sources:
  lines:
    files: "*.csv"
    reader: {delimiter: ";", decimal: ",", thousands: ".", currency_signs: {€: EUR}}
    names: &names {user_id: who, item_id: item, event_time: at, price: price, order_id: order, context: [device, phone]}
    whole_number_ids: &ids [user_id, item_id, order_id]
    pii_free_context: &free device
    optional: &optional [context]
    events: &events [{type: purchase}]
  clicks:
    {files: "*.jsonl", reader: {type: json_lines}, names: *names, whole_number_ids: *ids, pii_free_context: *free,
     optional: *optional, events: *events}
  rows:
    {files: "*.parquet", reader: {type: parquet}, names: *names, whole_number_ids: *ids, pii_free_context: *free,
     optional: *optional, events: *events}
"""


def test_values_of_three_formats_mean_the_same_and_no_order_id_leaves_bronze(tmp_path: Path) -> None:
    shop = Shop(tmp_path, LINES)
    shop.put(
        "a.csv",
        "who;item;at;price;order;device;phone\n"
        "17850;0070 ;2024-01-01 10:00:00;€ 1.249,50;936501001;tv;555-0199\n"
        "17850.0;70;2024-01-01 11:00:00,5;12,50 €;936501001.0;tv;555-0199\n",
    )
    click = '{"who": 1.785E4, "item": 70.0, "at": "2024-01-02T10:00:00Z", "price": 3, "order": "936501001 "}\n'
    shop.put("b.jsonl", click + click.replace("1.785E4", '"None"').replace("T10", "T11"))
    buffer = io.BytesIO()
    floats = {"who": [17850.0, float("nan")], "item": [70.0, 70.0], "price": [1.5, 0.0], "order": [936501001.0, None]}
    pq.write_table(pa.table(floats | {"at": [datetime(2024, 1, 3, hour, tzinfo=UTC) for hour in (1, 2)]}), buffer)
    shop.put("c.parquet", buffer.getvalue())
    told = shop.run()
    assert told.code == 0
    events = sorted(shop.read("silver/events"), key=lambda row: row["event_time"])
    assert [row["user_key"] is None for row in events] == [False, False, False, True, False, True]
    assert len({row["user_key"] for row in events} - {None}) == 1
    assert {row["item_id"] for row in events} == {"70"}
    assert len({row["order_id"] for row in events[:5]}) == 1
    assert events[5]["order_id"] is None
    assert [row["price"] for row in events[:2]] == [Decimal("1249.50"), Decimal("12.50")]
    assert [row["context"] for row in events[:2]] == [[("device", "tv")]] * 2
    silver = json.dumps([shop.read("silver/events"), shop.read("silver/items")], default=str)
    logs = "".join(file.read_text() for file in (shop.lake.folder / "logs").glob("*"))
    for secret in ("936501001", "555-0199"):
        assert secret not in silver + logs + told.text
