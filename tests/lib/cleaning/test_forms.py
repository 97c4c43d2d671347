from typing import Any

import polars as pl
import pytest

from lib.cleaning.forms import form_of, hint, remarks
from lib.formats.mapping import LogMapping, Source

NAMES = {"user_id": "user", "item_id": "item", "event_time": "time", "price": "price", "order_id": "order"}


def a_source(**overrides: Any) -> Source:
    return Source.model_validate({"files": "*.csv", "names": NAMES, "events": [{"type": "view"}], **overrides})


def said(*forms: dict[str, Any], counts: dict[str, int] | None = None, **overrides: Any) -> list[str]:
    mapping = LogMapping(name="own", sources={"log": a_source(**overrides)})
    outcomes = [
        {"source": "log", "outcome": outcome, "num_records": number}
        for outcome, number in (counts or {"accepted": 96, "bad_value:price": 4}).items()
    ]
    row = {"source": "log", "outcome": "bad_value:price", "first_file": "a.csv", "last_file": "b.csv"}
    return remarks(outcomes, [row | form for form in forms], mapping)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("1,249.00", "d,ddd.dd"),
        ("ann.smith@shop.example", "a.a@a.a"),
        ("2024-01-05T10:00:00Z", "dddd-dd-ddadd:dd:dda"),
        ("€ 5\u00a0-\x07", "€ d -?"),
        ("٣,٥", "d,d"),
        ("1" * 50, "d" * 30),
        (None, None),
    ],
)
def test_a_form_holds_signs_and_no_value(text: str | None, form: str | None) -> None:
    assert pl.select(form_of(pl.lit(text, pl.String))).item() == form


def test_refusals_that_share_a_form_are_said_with_what_to_set() -> None:
    assert said({"form": "d,ddd.dd", "num_records": 4}) == [
        "log: price of 4 of 100 records refused, all of the form d,ddd.dd; set reader.thousands: ','?"
    ]
    assert said(
        {"form": "-d.dd", "num_records": 1, "last_file": "a.csv"},
        {"form": "d", "num_records": 3, "first_file": "b.csv"},
    ) == ["log: price of 4 of 100 records refused, 3 of them of the form d"]
    assert said({"form": None, "num_records": 4, "outcome": "bad_value:item_id", "first_file": "b.csv"}) == [
        "log: item_id of 4 of 100 records refused, all absent, all in b.csv"
    ]


@pytest.mark.parametrize(
    ("field", "form", "expected"),
    [
        ("price", "dd,dd", "set reader.decimal: ','?"),
        ("price", "d.ddd,dd", "set reader.decimal: ',' and reader.thousands: '.'?"),
        ("price", "d.ddd.ddd", "set reader.thousands: '.'?"),
        ("quantity", "d'ddd", 'set reader.thousands: "\'"?'),
        ("price", "d ddd.dd", "set reader.thousands: ' '?"),
        ("price", "€dd.dd", "set reader.currency_signs?"),
        ("price", "dd.dd a", "set reader.currency_signs?"),
        ("price", '{"a":d}', None),
        ("quantity", "[d,d]", None),
        ("price", "a", None),
        ("price", "-d.dd", None),
        ("event_time", "dddddddddd (before 1990)", "are they epoch seconds? time_format: epoch reads every unit"),
        ("event_time", "ddddddddddddd", "are they epoch milliseconds? time_format: epoch reads every unit"),
        ("event_time", "dddddddddddddddd", "are they epoch microseconds? time_format: epoch reads every unit"),
        ("event_time", "dddd-dd-dd (later than its arrival)", "times.end in the mapping would allow them"),
        ("event_time", "dddd-dd-dd dd:dd:dd a", "the name of a zone is not read; set timezone"),
        ("event_time", "dddd/dd/dd", None),
        ("candidates", "a|a", "does it need a separator?"),
        ("user_id", "a", "it is no whole number; name it under null_values or guests if it stands for nobody"),
        ("event_type", None, "name such types under values, or set others: ignore beside them if they are not wanted"),
        ("item_id", None, None),
    ],
)
def test_a_form_suggests_what_the_mapping_lacks(field: str, form: str | None, expected: str | None) -> None:
    assert hint(field, form, a_source(whole_number_ids="user_id")) == expected


def test_two_forms_of_one_id_are_told_of_and_never_two_users_in_silence() -> None:
    of_users = {"outcome": "written:user_id", "source": "log"}
    forms = [of_users | {"form": "1001", "num_records": 60}, of_users | {"form": "1001.0", "num_records": 1059}]
    assert said(*forms) == [
        "user_id is written as 1001 in 60 records, as 1001.0 in 1,059 records; if these are the same ids, set "
        "whole_number_ids: [user_id] in the mapping"
    ]
    assert said(forms[1]) == []
    assert said(of_users | {"form": "NaN", "num_records": 3}) == [
        "user_id of 3 records is NaN, None or the like; name it under guests if that is nobody"
    ]


def test_a_rule_that_refuses_more_than_a_tenth_is_a_warning() -> None:
    counts = {"accepted": 47, "double_click": 52, "duplicate": 10, "ignored": 1}
    assert said(counts=counts) == ["WARNING log: 52 of 110 records (47 %) are refused as double click"]
    assert said(counts={"accepted": 10, "ignored": 90}) == []
    assert said(counts={"ignored": 90}) == ["log: every record is ignored; is the mapping's ignore right?"]


def test_a_context_of_which_nothing_may_leave_bronze_is_told_of() -> None:
    (line,) = said(counts={"accepted": 1}, names=NAMES | {"context": ["device"]})
    assert line == "log: the context stays in bronze; name its keys that are free of people under pii_free_context"
    assert said(counts={"accepted": 1}, names=NAMES | {"context": ["device"]}, pii_free_context="device") == []


def test_a_few_prices_of_three_decimals_are_told_of() -> None:
    of_prices = {"outcome": "written:price", "source": "log"}
    few = [of_prices | {"form": "d.ddd", "num_records": 4}, of_prices | {"form": "1001", "num_records": 56}]
    assert said(*few) == [
        "price of 4 of 60 records has three decimals, unlike the others; if the point stands between thousands, set "
        "reader.thousands: '.' (and reader.decimal: ',')"
    ]
    assert said(few[0], few[1] | {"num_records": 4}) == []
