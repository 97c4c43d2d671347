import hashlib
import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import polars as pl
import pytest

from lib.cleaning.fields import NUMBER, event_times, raw_json, type_events, type_items
from lib.formats.mapping import LogMapping, load_mapping
from lib.formats.times import TIME

RECORD = {
    **{"source_file": "a.csv", "source_file_sha256": "0", "malformed": None, "batch_id": "ingest-000001"},
    "arrived_at": datetime(2026, 1, 1, tzinfo=UTC),
}


def records(*rows: dict[str, Any], **columns: Any) -> pl.DataFrame:
    """Records as bronze holds them, numbered; each row overrides the columns' common values."""
    names = dict.fromkeys(key for row in (columns, *rows) for key in row)
    texts = {name: pl.String for name in names if name not in ("record_number", "arrived_at")}
    schema = (
        texts | {"record_number": pl.Int64, "arrived_at": TIME} | dict.fromkeys(("malformed", "batch_id"), pl.String)
    )
    schema |= dict.fromkeys(("source_file", "source_file_sha256"), pl.String)
    full = [RECORD | {"record_number": number} | columns | row for number, row in enumerate(rows, start=1)]
    return pl.DataFrame(full, schema=schema).with_row_index(NUMBER)


def a_mapping(**overrides: Any) -> LogMapping:
    source = {
        "files": "*.csv",
        "names": {"user_id": "user", "item_id": "item", "event_time": "time"},
        "events": [{"type": {"column": "what"}}],
    }
    return LogMapping(name="own", currency="EUR", sources={"log": source | overrides})


def typed(mapping: LogMapping, *rows: dict[str, Any], **columns: Any) -> list[dict[str, Any]]:
    defaults = {"user": "u", "item": "i", "time": "2024-01-01", "what": "view"}
    frame = records(*rows, **(defaults | columns))
    return type_events(frame, "log", mapping).sort("record", "event_type").to_dicts()


def refusals(mapping: LogMapping, *rows: dict[str, Any], **columns: Any) -> list[str | None]:
    return [event["refusal"] for event in typed(mapping, *rows, **columns)]


def test_a_line_of_online_retail_is_a_purchase_and_a_cancellation_a_return() -> None:
    line = {
        **{"InvoiceNo": "536365", "StockCode": "85123A", "Description": "HOLDER", "Quantity": "6", "Country": "UK"},
        **{"InvoiceDate": "2010-12-01 08:26:00", "UnitPrice": "2.55", "CustomerID": "17850.0"},
    }
    rows = records(line, line | {"InvoiceNo": "C536365", "Quantity": "-6"}, line | {"StockCode": "POST"})
    purchase, returned, post = type_events(rows, "lines", load_mapping("online_retail")).sort("record").to_dicts()
    expected = {
        **{
            "event_type": "purchase",
            "user_id": "17850.0",
            "item_id": "85123A",
            "quantity": 6,
            "price": Decimal("2.55"),
        },
        **{"currency": "GBP", "order_id": "536365", "title": "HOLDER", "refusal": None, "is_product": True},
        "event_time": datetime(2010, 12, 1, 8, 26, tzinfo=UTC),
    }
    assert {key: purchase[key] for key in expected} == expected
    assert (returned["event_type"], returned["quantity"], returned["order_id"]) == ("return", 6, "C536365")
    assert not post["is_product"]


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"UnitPrice": "0.0"}, "bad_value:price"),
        ({"UnitPrice": "-11062.06"}, "bad_value:price"),
        ({"UnitPrice": "free"}, "bad_value:price"),
        ({"Quantity": "0"}, "bad_value:quantity"),
        ({"Quantity": "-9", "UnitPrice": "0"}, "bad_value:quantity"),
        ({"InvoiceNo": "C1"}, "bad_value:quantity"),  # a cancellation of a positive quantity
        ({"InvoiceDate": "2010-13-01 08:26:00"}, "bad_value:event_time"),
        ({"InvoiceDate": None, "StockCode": None}, "bad_value:event_time"),
        ({"StockCode": None}, "bad_value:item_id"),
        ({"CustomerID": None}, None),
        ({"Quantity": None}, None),
    ],
)
def test_the_first_bad_value_is_the_reason(change: dict[str, Any], refusal: str | None) -> None:
    line = {
        **{"InvoiceNo": "536365", "StockCode": "85123A", "Description": None, "Quantity": "6", "Country": "UK"},
        **{"InvoiceDate": "2010-12-01 08:26:00", "UnitPrice": "2.55", "CustomerID": "17850.0"},
    }
    events = type_events(records(line | change), "lines", load_mapping("online_retail"))
    assert events["refusal"].to_list() == [refusal]
    assert events["event_id"].is_null().to_list() == [refusal is not None]


def test_an_impression_of_open_bandit_and_its_click_come_from_one_record() -> None:
    line = {
        **{"column_1": "7", "timestamp": "2019-11-24 00:03:13.442536+00:00", "item_id": "14", "position": "3"},
        **{"propensity_score": "0.029", "user_feature_0": "x", "user-item_affinity_0": "0.0", "click": "1"},
    }
    rows = records(line, line | {"click": "0", "column_1": "8"}, source_file="random/men/men.csv")
    impression, view, other = (
        type_events(rows, "impressions", load_mapping("obd")).sort("record", "event_type").to_dicts()
    )
    assert (impression["event_type"], view["event_type"], other["event_type"]) == ("impression", "view", "impression")
    assert impression["request_id"] == view["request_id"] == "random-7" != other["request_id"]
    assert (impression["position"], impression["propensity"], view["position"], view["propensity"]) == (
        3,
        0.029,
        None,
        None,
    )
    assert (impression["policy"], impression["arm"], impression["experiment"]) == ("random", "random", "obd")
    assert impression["user_id"] is None
    assert impression["context"] == [
        {"key": "user_feature_0", "value": "x"},
        {"key": "user-item_affinity_0", "value": "0.0"},
    ]
    assert impression["event_id"] != view["event_id"]


def test_a_session_of_otto_gives_an_event_an_element() -> None:
    events = [{"aid": 1, "ts": 1659304800025, "type": "clicks"}, {"aid": 2, "ts": 1659304800026, "type": "orders"}]
    rows = records({"session": "5", "events": json.dumps(events)}, {"session": "6", "events": "[]"})
    click, order, nothing = type_events(rows, "sessions", load_mapping("otto")).sort("record", "event_time").to_dicts()
    assert (click["event_type"], click["item_id"], click["user_id"]) == ("view", "1", "5")
    assert click["event_time"] == datetime(2022, 7, 31, 22, 0, 0, 25_000, tzinfo=UTC)
    assert (order["event_type"], order["item_id"], order["record"]) == ("purchase", "2", 0)
    assert (nothing["refusal"], nothing["record"]) == ("bad_value:event_type", 1)


def test_an_element_keeps_its_id_when_its_session_arrives_again_with_more() -> None:
    first = {"aid": 1, "ts": 1659304800025, "type": "clicks"}
    sessions = ([first], [first, {"aid": 2, "ts": 1659304800026, "type": "clicks"}])
    rows = records(*({"session": "5", "events": json.dumps(session)} for session in sessions))
    ids = type_events(rows, "sessions", load_mapping("otto")).sort("record", "event_time")["event_id"]
    assert ids[0] == ids[1] != ids[2]


def test_an_event_id_is_the_hash_of_format_fields_and_type() -> None:
    event = typed(a_mapping(), {"note": "x"})[0]
    identity = "own\x1eitem\x1fi\x1enote\x1fx\x1etime\x1f2024-01-01\x1euser\x1fu\x1ewhat\x1fview\x1e" + "\x1eview"
    assert event["event_id"] == hashlib.sha256(identity.encode()).hexdigest()


def test_an_event_id_does_not_know_its_file_its_place_or_columns_that_are_empty() -> None:
    one = typed(a_mapping(), {"note": None})[0]
    other = typed(a_mapping(), {"source_file": "b.csv", "record_number": 9, "batch_id": "x"})[0]
    assert one["event_id"] == other["event_id"] != typed(a_mapping(), {"note": "x"})[0]["event_id"]


def test_parts_of_the_path_are_fields_of_a_record() -> None:
    mapping = a_mapping(files="{shop}/*.csv", constants={"arm": "{shop}"})
    one, other = typed(mapping, {"source_file": "a/1.csv"}, {"source_file": "b/1.csv"})
    assert (one["arm"], other["arm"]) == ("a", "b")
    assert one["event_id"] != other["event_id"]


def test_equal_records_are_separate_where_the_mapping_says_so_but_not_across_files() -> None:
    mapping = a_mapping(equal_records_are_separate=True)
    files = ("a.csv", "a.csv", "b.csv")
    first, second, copy = typed(mapping, *({"source_file": file} for file in files))
    assert first["event_id"] != second["event_id"]
    assert first["event_id"] == copy["event_id"]


def test_types_and_conditions_on_columns() -> None:
    mapping = a_mapping(
        events=[
            {"type": {"column": "what", "values": {"1": "view"}}, "unless": {"kind": ["test", "robot"]}},
            {"type": "cart", "when": {"kind": {"matches": "^b"}}},
        ]
    )
    rows = [{"what": "1", "kind": "buy"}, {"what": "1", "kind": "robot"}, {"what": "2", "kind": None}]
    events = [(e["record"], e["event_type"], e["refusal"]) for e in typed(mapping, *rows)]
    assert events == [
        (0, "cart", None),
        (0, "view", None),
        (1, None, "bad_value:event_type"),
        (2, None, "bad_value:event_type"),
    ]


def test_an_unknown_type_a_late_time_and_impossible_numbers_are_bad_values() -> None:
    mapping = a_mapping(
        names={"item_id": "item", "event_time": "time", "position": "at", "propensity": "p", "rating": "r"}
    )
    ended = mapping.model_copy(
        update={"times": mapping.times.model_copy(update={"end": datetime(2024, 2, 1, tzinfo=UTC)})}
    )
    rows = [
        {"what": "hover"},
        {"time": "2024-02-01"},
        {"at": "0"},
        {"p": "0"},
        {"p": "1.5"},
        {"r": "good"},
        {"at": "1", "p": "1", "r": "-3", "time": "2024-01-31 23:59:59"},
    ]
    assert refusals(ended, *rows, at=None, p=None, r=None) == [
        *("bad_value:event_type", "bad_value:event_time", "bad_value:position", "bad_value:propensity"),
        *("bad_value:propensity", "bad_value:rating", None),
    ]


def test_texts_that_stand_for_nothing_are_unknown() -> None:
    event = typed(a_mapping(null_values=["NULL", "-"]), {"user": "NULL"})[0]
    assert (event["user_id"], event["refusal"]) == (None, None)
    assert refusals(a_mapping(null_values=["NULL", "-"]), {"item": "-"}) == ["bad_value:item_id"]


def test_nested_columns_lists_and_templates() -> None:
    names = {
        **{"user_id": "who.id", "item_id": "item", "event_time": "time", "candidates": "offer"},
        **{"category": {"column": "path", "separator": "/"}, "order_id": {"template": "{what}-{item}"}},
    }
    event = typed(
        a_mapping(names=names),
        {"who": '{"id": "u7", "age": 3}', "offer": '["i", "j"]', "path": "home/lamps", "what": "impression"},
    )[0]
    assert (event["user_id"], event["candidates"], event["category"]) == ("u7", ["i", "j"], ["home", "lamps"])
    assert event["order_id"] == "impression-i"


@pytest.mark.parametrize(
    ("name", "user"),
    [
        ("who.first name", "blank"),
        ("who.$id", "dollar"),
        ("who.@t", "at"),
        ("who.a.b", "dot"),
        ("who.a.c", "inner"),
        ("who.it's", "quote"),
        ("who.ID", "12345678901234567890123"),
        ("WHO.list.1.z", "third"),
        ("who.list[1].z", "third"),
        ("who.absent", None),
        ("who.empty", None),
    ],
)
def test_a_nested_key_may_hold_any_character(name: str, user: str | None) -> None:
    who = {"first name": "blank", "$id": "dollar", "@t": "at", "a.b": "dot", "a": {"c": "inner"}, "it's": "quote"}
    who |= {"id": 12345678901234567890123, "list": [1, {"z": "third"}], "empty": ""}
    names = {"user_id": name, "item_id": "item", "event_time": "time"}
    assert typed(a_mapping(names=names), {"who": json.dumps(who)})[0]["user_id"] == user


def test_names_match_in_any_case_wherever_the_mapping_has_them() -> None:
    names = {
        **{"user_id": "user", "item_id": "ITEM", "event_time": "Time", "price": "price", "attributes": ["F_*"]},
        "order_id": {"template": "{WHAT}-{item}"},
    }
    rules = [{"type": {"column": "What"}, "unless": {"KIND": "robot"}}]
    event, refused = typed(
        a_mapping(names=names, events=rules, optional=["price"], null_values=["-"]),
        {"User": "-", "Price": "2.5", "kind": "x", "f_1": "y"},
        {"kind": "robot"},
        user=None,
    )
    assert (event["user_id"], event["price"], event["order_id"]) == (None, Decimal("2.5"), "view-i")
    assert event["attributes"] == [{"key": "f_1", "value": "y"}]
    assert refused["refusal"] == "bad_value:event_type"


def test_keys_of_exploded_elements_may_hold_any_character() -> None:
    names = {"item_id": "basket.lines.Item No", "event_time": "time", "price": "basket.lines.cost.amount"}
    mapping = a_mapping(names=names, explode="basket.lines")
    lines = [{"item no": "i", "cost": {"amount": 2.50}}, {"item no": "j", "x": float("nan"), "*": 1, "^a$": 2}]
    basket = {"id": 1, "lines": lines}
    first, second = typed(mapping, {"basket": json.dumps(basket)}, item=None)
    assert (first["item_id"], first["price"], second["item_id"]) == ("i", Decimal("2.5"), "j")
    (nothing,) = typed(mapping, {"basket": "[" * 5000}, item=None)
    assert nothing["refusal"] == "bad_value:item_id"


def test_columns_that_no_file_has_are_unknown() -> None:
    names = {"item_id": "item", "event_time": "time", "category": ["c1", "c2"], "attributes": ["f_*"]}
    event = typed(a_mapping(names=names, optional=["category", "attributes"]), {})[0]
    assert (event["refusal"], event["category"], event["attributes"]) == (None, None, None)


def test_a_column_of_the_source_may_bear_any_name_of_ours() -> None:
    event = typed(a_mapping(), {"source": "app", "record": "x", "event_id": "y", "outcome": "z", "reason": "q"})[0]
    assert event["source"] == "log"
    assert event["refusal"] is None


def test_a_malformed_record_is_refused_and_kept_as_it_came() -> None:
    rows = records({"malformed": "a;b", "item": None}, {"item": "i", "time": None})
    assert refusals(a_mapping(), {"malformed": "a;b", "item": None, "time": None, "what": None}) == ["malformed"]
    assert raw_json(rows).to_list() == ["a;b", '{"item": "i"}']


def test_items_of_a_catalogue_are_typed() -> None:
    row = {
        **{"item_id": "i1", "title": "Lamp", "category": "Home", "subcategory": "Lamps", "brand": None},
        **{"price": "49.00", "colour": "Red", "currency": "EUR"},
    }
    rows = records(row, row | {"price": "-1"}, row | {"item_id": None}, {"malformed": "x"} | dict.fromkeys(row))
    items = type_items(rows, "items", load_mapping("market")).to_dicts()
    assert [item["refusal"] for item in items] == [None, "bad_value:price", "bad_value:item_id", "malformed"]
    assert (items[0]["category"], items[0]["price"], items[0]["currency"]) == (["Home", "Lamps"], Decimal(49), "EUR")
    assert items[0]["attributes"] == [{"key": "colour", "value": "Red"}]


def test_whole_number_ids_have_one_form_wherever_they_stand() -> None:
    names = {"user_id": "user", "item_id": "item", "event_time": "time", "candidates": "offer"}
    mapping = a_mapping(
        names=names | {"order_id": {"template": "{shop}-{order}"}},
        whole_number_ids=["user_id", "item_id", "order_id"],
        events=[
            {"type": "impression", "when": {"item": [7]}},
            {"type": "view", "unless": {"item": {"matches": "^7$"}}},
        ],
    )
    forms = ["17850", "17850.0", " 17850  ", "1.785E4", "1.785E+4", "017850"]
    events = typed(mapping, *({"user": form, "item": form} for form in forms), shop="web", order="3.0")
    assert {(e["user_id"], e["item_id"], e["order_id"]) for e in events} == {("17850", "17850", "web-3")}
    shown = typed(mapping, {"item": "7.0", "user": "1", "offer": '["7.0", "8", " 9", "x"]'})[0]
    assert (shown["event_type"], shown["item_id"], shown["candidates"]) == ("impression", "7", ["7", "8", "9", "x"])


def test_a_whole_number_that_is_not_known_is_nobody_and_what_is_none_is_a_bad_value() -> None:
    mapping = a_mapping(whole_number_ids=["user_id"])
    users = ["NaN", "nan", "None", "NULL", "<NA>", "  ", None, "ann", "1.5", "1.2345678901234568e+18"]
    events = typed(mapping, *({"user": user} for user in users))
    assert [event["user_id"] for event in events] == [None] * 10
    assert [event["refusal"] for event in events] == [None] * 7 + ["bad_value:user_id"] * 3
    assert typed(mapping, {"user": "1234567890123456789"})[0]["user_id"] == "1234567890123456789"


def test_ids_are_trimmed_and_keep_their_form_where_the_mapping_does_not_call_them_numbers() -> None:
    events = typed(a_mapping(), {"user": "17850.0 ", "item": "SKU1    "}, {"user": "        ", "item": "007"})
    assert [(event["user_id"], event["item_id"]) for event in events] == [("17850.0", "SKU1"), (None, "007")]
    assert refusals(a_mapping(), {"item": "    "}) == ["bad_value:item_id"]
    assert type_items(
        records({"item_id": "i1   ", "title": "Lamp   ", "brand": "   ", "price": "  "}, category=None), "items",
        load_mapping("market"),
    ).select("item_id", "title", "brand", "price", "refusal").row(0) == ("i1", "Lamp", None, None, None)  # fmt: skip


def test_the_values_of_guests_name_nobody() -> None:
    mapping = a_mapping(guests=[0, -1, "guest"])
    users = ["0", "0.0", "-1", "guest ", "10", "Guest"]
    assert [event["user_id"] for event in typed(mapping, *({"user": user} for user in users))] == [
        *(None, None, None, None),
        *("10", "Guest"),
    ]


def test_an_event_id_hashes_fields_as_received_whatever_ids_become() -> None:
    row = {"user": "1.0 ", "item": " 7"}
    plain = typed(a_mapping(), row)[0]
    whole = typed(a_mapping(whole_number_ids=["user_id", "item_id"]), row)[0]
    assert plain["event_id"] == whole["event_id"] != typed(a_mapping(), {"user": "1", "item": "7"})[0]["event_id"]


def test_null_markers_hold_in_lists_maps_templates_constants_and_nested_values() -> None:
    names = {
        **{"user_id": "who.id", "item_id": "item", "event_time": "time", "order_id": {"template": "{shop}-{order}"}},
        **{"category": ["cat1", "cat2"], "candidates": "offer", "attributes": "props", "title": "words"},
    }
    mapping = a_mapping(
        names=names, null_values=["\\N"], files="{arm}/*.csv", constants={"arm": "{arm}", "brand": "\\N"},
        events=[{"type": "impression", "when": {"order": {"matches": "."}}}, {"type": "view", "unless": {"order": "1"}}],
    )  # fmt: skip
    row = {
        **{"who": '{"id": "\\\\N"}', "shop": "web", "order": "\\N ", "cat1": "Shoes", "cat2": "\\N", "words": "\\N"},
        **{"offer": '["i", "\\\\N", "", null]', "props": '{"colour": "\\\\N", "size": " 42 ", "fit": ""}'},
    }
    event = typed(mapping, row, source_file="\\N/a.csv")[0]
    assert (event["event_type"], event["refusal"]) == ("view", None)  # an unknown order fills no condition
    for field in ("user_id", "order_id", "arm", "brand", "title"):
        assert event[field] is None, field
    assert (event["category"], event["attributes"]) == (["Shoes"], [{"key": "size", "value": "42"}])
    shown = typed(mapping, row | {"order": "1", "cat1": "\\N", "props": "{}"}, source_file="b/a.csv")[0]
    assert (shown["event_type"], shown["candidates"]) == ("impression", ["i", None, None, None])
    assert (shown["order_id"], shown["arm"]) == ("web-1", "b")
    assert (shown["category"], shown["attributes"], shown["refusal"]) == (None, None, None)


def test_lists_with_a_separator_and_json_arrays_of_categories_lose_their_null_markers() -> None:
    names = {"item_id": "item", "event_time": "time", "category": {"column": "path", "separator": ">"}}
    split = typed(a_mapping(names=names, null_values="-"), {"path": "Home > Lamps > -"}, {"path": "-"})
    assert [event["category"] for event in split] == [["Home", "Lamps"], None]
    arrays = typed(a_mapping(names=names | {"category": "path"}, null_values="-"), {"path": '["Home", "-"]'})
    assert arrays[0]["category"] == ["Home"]


def test_a_null_marker_of_one_column_is_a_value_in_the_others() -> None:
    names = {"user_id": "user", "item_id": "item", "event_time": "time", "price": "price", "brand": "brand"}
    mapping = a_mapping(names=names, null_values={"user_id": 0, "*": ["NULL", "-"]})
    event = typed(mapping, {"user": "0", "price": "0", "brand": "NULL"})[0]
    assert (event["user_id"], event["price"], event["brand"], event["refusal"]) == (None, Decimal(0), None, None)


def test_a_time_that_no_shops_clock_can_mean_is_a_bad_value() -> None:
    times = [
        "1989-12-31 23:59:59",
        "1970-01-20 17:27:21",
        "1990-01-01",
        "2026-01-02",
        "2026-01-02 00:00:01",
        "2099-07-01",
    ]
    rows = [{"time": time} for time in times]  # they arrive on 2026-01-01
    bad = "bad_value:event_time"
    assert refusals(a_mapping(), *rows) == [bad, bad, None, None, bad, bad]
    assert [event["form"] for event in typed(a_mapping(), *rows[:1], *rows[-1:])] == [
        "dddd-dd-dd dd:dd:dd (before 1990)",
        "dddd-dd-dd (later than its arrival)",
    ]
    end = {"end": datetime(2100, 1, 1, tzinfo=UTC)}
    planned = a_mapping().model_copy(update={"times": a_mapping().times.model_copy(update=end)})
    assert refusals(planned, *rows) == [bad, bad, None, None, None, None]  # the mapping says when the log ends


def test_numbers_are_read_in_the_readers_notation_and_refused_in_another() -> None:
    names = {"item_id": "item", "event_time": "time", "price": "price", "quantity": "n"}
    rows = [{"price": price} for price in ("1.249,50", "12,50", "12.50", "€ 5", "7 €", "-3")]
    german = {"type": "csv", "decimal": ",", "thousands": ".", "currency_signs": {"€": "EUR", "$": "USD"}}
    events = typed(a_mapping(names=names, reader=german), *rows, {"price": "$1.000,00", "n": "1.200"}, n="1,0")
    assert [event["price"] for event in events if event["refusal"] is None] == [
        *(Decimal("1249.50"), Decimal("12.50"), Decimal(5), Decimal(7)),
        Decimal(1000),
    ]
    assert [event["form"] for event in events if event["refusal"]] == ["dd.dd", "-d"]
    assert [event["currency"] for event in events[3:]] == ["EUR", "EUR", "EUR", "USD"]
    assert events[-1]["quantity"] == 1200
    plain = typed(a_mapping(names=names), *rows, n="1")
    assert [event["form"] for event in plain] == ["d.ddd,dd", "dd,dd", None, "€ d", "d €", "-d"]


def test_lists_are_read_as_python_and_numpy_print_them_and_unsplit_candidates_are_refused() -> None:
    names = {"item_id": "item", "event_time": "time", "candidates": "offer", "category": "path"}
    mapping = a_mapping(names=names, events=[{"type": "impression"}])
    offers = ["['a', \"it's\", None]", "['a' 'b']", "[1 2]", "a", "a|b", "a, b", "[a, b]"]
    events = typed(mapping, *({"offer": offer} for offer in offers), path="Home|Lamps")
    assert [event["candidates"] for event in events[:4]] == [["a", "it's", None], ["a", "b"], ["1", "2"], ["a"]]
    assert [event["refusal"] for event in events] == [None] * 4 + ["bad_value:candidates"] * 3
    assert [event["form"] for event in events[4:]] == ["a|a", "a, a", "[a, a]"]


def test_only_the_keys_of_context_that_are_free_of_people_leave_bronze() -> None:
    names = {"item_id": "item", "event_time": "time", "context": ["device", "phone", "slot_*"]}
    row = {"device": "tv", "phone": "555 1234", "slot_1": "x", "slot_2": None}
    some = typed(a_mapping(names=names, pii_free_context=["device", "slot_*"]), row)[0]
    assert some["context"] == [{"key": "device", "value": "tv"}, {"key": "slot_1", "value": "x"}]
    assert typed(a_mapping(names=names), row)[0]["context"] is None
    names = names | {"context": "ctx"}
    row = {"ctx": '{"device": "tv", "phone": "555 1234"}'}
    some = typed(a_mapping(names=names, pii_free_context="dev*"), row)[0]
    assert some["context"] == [{"key": "device", "value": "tv"}]
    none = typed(a_mapping(names=names), row)[0]
    assert (none["context"], none["refusal"]) == (None, None)


def test_an_element_that_is_not_wanted_is_ignored_and_the_others_are_events() -> None:
    mapping = load_mapping("otto")
    source = mapping.sources["sessions"].model_copy(
        update={"ignore": a_mapping(ignore={"events.type": "scrolls"}).sources["log"].ignore}
    )
    mapping = mapping.model_copy(update={"sources": {"sessions": source}})
    events = [{"aid": 1, "ts": 1659304800025, "type": "clicks"}, {"aid": 2, "ts": 1659304800026, "type": "scrolls"}]
    rows = records({"session": "5", "events": json.dumps(events)})
    assert sorted(type_events(rows, "sessions", mapping).select("event_type", "refusal").rows(), key=str) == [
        ("view", None),
        (None, "ignored"),
    ]


def test_all_conditions_of_ignore_must_hold_or_all_of_another() -> None:
    mapping = a_mapping(ignore=[{"what": "view", "kind": ["test", "robot"]}, {"kind": {"matches": "^x"}}])
    rows = [{"kind": "test"}, {"kind": "test", "what": "cart"}, {"kind": "xx"}, {"kind": None}]
    assert refusals(mapping, *rows) == ["ignored", None, "ignored", None]
    described = load_mapping("market").sources["items"].model_copy(update={"ignore": mapping.sources["log"].ignore})
    shop = load_mapping("market").model_copy(update={"sources": {"items": described}})
    row = {"item_id": "i1", "title": None, "category": None, "subcategory": None, "brand": None, "price": None}
    items = type_items(records(row | {"kind": "xx"}, row, kind=None, colour=None, what=None), "items", shop)
    assert items["refusal"].to_list() == ["ignored", None]


def test_rees46_knows_its_four_types() -> None:
    row = {
        "event_time": "2019-10-01 00:00:00 UTC",
        "product_id": "1",
        "category_code": None,
        "brand": None,
        "price": "1",
    }
    rows = [
        row | {"event_type": kind, "user_id": "7"} for kind in ("view", "cart", "remove_from_cart", "purchase", "x")
    ]
    events = type_events(records(*rows), "events", load_mapping("rees46")).sort("record")
    assert events["refusal"].to_list() == [None, None, "ignored", None, "bad_value:event_type"]


CLOCK = {"sent": "sent_at", "received": "received_at"}


def times(mapping: LogMapping, *rows: dict[str, Any]) -> list[tuple[str, bool]]:
    """The time of day of each record's event, and whether it was corrected; both ways of reading it must agree."""
    read = typed(mapping, *rows)
    assert event_times(records(*rows), "log", mapping).to_list() == [event["event_time"] for event in read]
    return [(f"{event['event_time']:%d %H:%M:%S}", event["is_corrected"]) for event in read]


def test_a_time_is_corrected_by_what_its_devices_clock_is_off_between_sending_and_arrival() -> None:
    mapping = a_mapping(device_clock=CLOCK)
    stamped = {"time": "2024-01-05T10:00:00Z"}
    right = stamped | {"sent_at": "2024-01-05T10:00:01Z", "received_at": "2024-01-05T10:00:02Z"}
    ahead = stamped | {"sent_at": "2024-01-05T10:00:01Z", "received_at": "2024-01-05T09:48:01Z"}
    in_another_zone = stamped | {"sent_at": "2024-01-05T10:30:00Z", "received_at": "2024-01-05T21:30:00Z"}
    without_a_network = stamped | {"sent_at": "2024-01-05T18:00:00Z", "received_at": "2024-01-05T18:00:01Z"}
    unknown = stamped | {"sent_at": None, "received_at": "2024-01-05T18:00:01Z"}
    assert times(mapping, right, ahead, in_another_zone, without_a_network, unknown) == [
        ("05 10:00:00", False),
        ("05 09:48:00", True),
        ("05 21:00:00", True),
        ("05 10:00:00", False),
        ("05 10:00:00", False),
    ]
    assert times(a_mapping(), ahead) == [("05 10:00:00", False)]
    patient = a_mapping(device_clock=CLOCK | {"tolerance_seconds": 1200})
    assert times(patient, ahead) == [("05 10:00:00", False)]


def test_a_time_in_the_future_is_judged_when_it_is_corrected() -> None:
    mapping = a_mapping(device_clock=CLOCK)
    row = {"time": "2026-02-01T10:00:00Z", "sent_at": "2026-02-01T10:00:00Z", "received_at": "2025-12-31T10:00:00Z"}
    assert refusals(mapping, row, row | {"received_at": None}) == [None, "bad_value:event_time"]
