import hashlib
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.cleaning.pseudonyms import pseudonyms
from lib.cleaning.shard import CleanShard, clean_events, clean_items
from lib.cleaning.thresholds import Thresholds
from lib.cleaning.whole_log import WholeLog
from lib.formats.mapping import LogMapping, Source
from lib.formats.times import TIME
from lib.tables.silver import EVENTS

RULES = Thresholds(
    double_click_seconds=2,
    session_gap_minutes=30,
    bot_actions_per_day=50,
    bot_actions_per_hour=40,
    bot_regular_actions=10,
    bot_gap_variation=0.1,
)
KEY = b"a key of the tests"
MAPPING = LogMapping(
    name="own",
    currency="EUR",
    sources={
        "clicks": {
            "files": "*.csv",
            "names": {
                "user_id": "user",
                "item_id": "item",
                "event_time": "time",
                "price": "price",
                "title": "title",
                "request_id": "request",
            },
            "events": [{"type": {"column": "what"}}],
            "product": "^[a-z]",
        },
        "offers": {
            "files": "*.jsonl",
            "names": {"item_id": "item", "event_time": "time"},
            "events": [{"type": "impression"}, {"type": "view", "when": {"click": 1}}],
        },
        "products": {
            "kind": "items",
            "files": "items/*.csv",
            "names": {"item_id": "item", "title": "title", "price": "price", "event_time": "changed"},
        },
    },
)
DEFAULTS = {
    "user": "u",
    "item": "i",
    "time": "2024-01-01 12:00:00",
    "what": "view",
    "price": None,
    "title": None,
    "request": None,
}
ORIGIN = {
    **{"source_file": "a.csv", "source_file_sha256": "0", "malformed": None, "batch_id": "ingest-000001"},
    "arrived_at": datetime(2026, 1, 1, tzinfo=UTC),
}


def records(*rows: dict[str, Any], **defaults: Any) -> pl.DataFrame:
    """Records as bronze holds them: DEFAULTS and each row's overrides."""
    full = [DEFAULTS | {"record_number": number} | ORIGIN | defaults | row for number, row in enumerate(rows, start=1)]
    schema = dict.fromkeys(full[0], pl.String) | {"record_number": pl.Int64, "arrived_at": TIME}
    return pl.DataFrame(full, schema=schema)


def clean(*rows: dict[str, Any], rules: Thresholds = RULES, log: WholeLog | None = None, **defaults: Any) -> CleanShard:
    return clean_events({"clicks": records(*rows, **defaults)}, MAPPING, rules, KEY, log or WholeLog())


def at(seconds: float) -> dict[str, Any]:
    return {"time": (datetime(2024, 1, 1, 12, tzinfo=UTC) + timedelta(seconds=seconds)).isoformat()}


def reasons(shard: CleanShard) -> dict[str, str]:
    return dict(shard.rejects.sort("source_record").select("source_record", "reason").iter_rows())


def test_each_record_has_the_first_outcome_that_holds() -> None:
    shard = clean(
        {},
        {"malformed": "x"},
        {"what": "hover", "item": "9"},
        {},
        {"item": "9"},
        {"item": "9"},
        at(1),
    )
    assert reasons(shard) == {
        "a.csv:2": "malformed",
        "a.csv:3": "bad_value:event_type",
        "a.csv:4": "duplicate",
        "a.csv:5": "not_a_product",
        "a.csv:6": "duplicate",  # of a record that is itself refused
        "a.csv:7": "double_click",
    }
    assert shard.events["source_record"].to_list() == ["clicks/a.csv:1"]
    assert shard.counts.sort("outcome").rows() == [
        ("clicks", "accepted", 1, 1),
        ("clicks", "bad_value:event_type", 1, 1),
        ("clicks", "double_click", 1, 1),
        ("clicks", "duplicate", 2, 2),
        ("clicks", "malformed", 1, 1),
        ("clicks", "not_a_product", 1, 1),
    ]


def test_a_reject_keeps_what_was_received_and_where() -> None:
    reject = clean({"item": None, "price": "9", "source_file": "b.csv", "record_number": 7}).rejects.to_dicts()
    assert reject == [
        {
            **{"source": "clicks", "source_file": "b.csv", "source_record": "b.csv:7", "reason": "bad_value:item_id"},
            "raw": '{"price": "9", "time": "2024-01-01 12:00:00", "user": "u", "what": "view"}',
            **{
                "day": "2024-01-01",
                "event_time": datetime(2024, 1, 1, 12, tzinfo=UTC),
                "user_key": pseudonyms(pl.Series(["u"]), KEY)[0],
            },
            **{"batch_id": "ingest-000001", "arrived_at": datetime(2026, 1, 1, tzinfo=UTC)},
        }
    ]


def test_the_first_of_equal_records_by_file_and_number_is_kept() -> None:
    rows = (
        {"source_file": "b.csv"},
        {"source_file": "a.csv", "record_number": 9},
        {"source_file": "a.csv", "record_number": 3},
    )
    assert clean(*rows).events["source_record"].to_list() == ["clicks/a.csv:3"]


def test_a_double_click_is_a_view_soon_after_the_one_before() -> None:
    shard = clean(
        at(0),
        at(2),
        at(4),  # 2 s after a view that is a double click itself
        at(6.001),
        at(6.5) | {"item": "j"},
        at(6.6) | {"user": "v"},
        at(6.7) | {"what": "cart"},
        at(6.8) | {"user": None},
        at(6.9) | {"user": None},
    )
    assert reasons(shard) == {"a.csv:2": "double_click", "a.csv:3": "double_click"}


@pytest.mark.parametrize(
    ("answers", "kept"),
    [
        ([None, "r"], [2]),  # the click comes after a view of the page
        (["r", None], [1]),
        (["r", "r"], [1]),
        (["r", "q"], [1, 2]),  # two offers, each clicked
        ([None, None, "r", None], [3]),
        ([None, "r", None, "r", "q"], [2, 5]),
        ([None, None], [1]),
    ],
)
def test_a_double_click_never_takes_the_answer_to_a_request(answers: list[str | None], kept: list[int]) -> None:
    shard = clean(*(at(1.5 * n) | {"request": request} for n, request in enumerate(answers)))
    assert shard.events.sort("event_time")["source_record"].to_list() == [f"clicks/a.csv:{n}" for n in kept]
    assert set(reasons(shard).values()) == ({"double_click"} if len(kept) < len(answers) else set())


def test_bursts_of_other_users_and_items_and_times_are_told_apart() -> None:
    shard = clean(
        at(0), at(1) | {"item": "j", "request": "r"}, at(1) | {"user": "v", "request": "r"}, at(3) | {"request": "r"}
    )
    assert reasons(shard) == {}


def on_clock(clock: str) -> WholeLog:
    return WholeLog(clocks={"clicks": clock})


def test_on_a_clock_of_the_day_no_view_is_a_double_click_and_a_session_is_a_users_day() -> None:
    rows = [{"time": f"2024-01-0{day}", "title": str(n)} for day in (1, 2) for n in range(4)]
    shard = clean(*rows, {"time": "2024-01-02", "user": "v"}, log=on_clock("day"))
    assert reasons(shard) == {}
    sessions = shard.events.group_by("user_key", "event_date").agg(pl.col("session_id").n_unique())
    assert sessions["session_id"].to_list() == [1, 1, 1]
    assert shard.events["session_id"].n_unique() == 3
    assert (
        clean(*rows, rules=RULES.model_copy(update={"session_gap_minutes": 1440}), log=on_clock("day"))
        .events["session_id"]
        .n_unique()
        == 2
    )


@pytest.mark.parametrize(("clock", "refused"), [("hour", 0), ("minute", 0), ("second", 1), ("millisecond", 1)])
def test_double_clicks_need_a_clock_finer_than_their_window(clock: str, refused: int) -> None:
    assert len(reasons(clean({"title": "a"}, {"title": "b"}, log=on_clock(clock)))) == refused
    short = RULES.model_copy(update={"double_click_seconds": 1})
    assert len(reasons(clean({"title": "a"}, {"title": "b"}, rules=short, log=on_clock("second")))) == 0


def test_gaps_of_whole_minutes_tell_no_bot() -> None:
    regular = [at(60 * n) for n in range(12)]
    assert bots(clean(*regular, log=on_clock("minute"))) == {(False, None)}
    assert bots(clean(*regular, log=on_clock("second"))) == {(True, "regular gaps between actions")}


def test_events_on_a_coarse_clock_do_not_cut_the_sessions_of_a_finer_one() -> None:
    names = {"user_id": "user", "item_id": "item", "event_time": "time"}
    orders = {"files": "orders/*.csv", "names": names, "events": [{"type": "purchase"}]}
    clicks = {"files": "*.csv", "names": names, "events": [{"type": "view"}]}
    mapping = LogMapping(name="own", sources={"clicks": clicks, "orders": orders})
    night = records({"time": "2024-01-01 23:59:00"}, {"time": "2024-01-02 00:01:00"})
    bought = records({"time": "2024-01-02"}, source_file="orders/o.csv")
    log = WholeLog(clocks={"clicks": "second", "orders": "day"})
    events = clean_events({"clicks": night, "orders": bought}, mapping, RULES, KEY, log).events
    sessions = events.group_by("event_type").agg(pl.col("session_id").unique()).sort("event_type")["session_id"]
    (of_purchase,), (of_views,) = sessions.to_list()
    assert of_purchase != of_views


def test_a_stray_time_is_refused_and_describes_nothing() -> None:
    log = WholeLog(first_day=date(2024, 1, 1), last_day=date(2024, 1, 1))
    shard = clean({"title": "Lamp"}, {"time": "2025-01-01 12:00:00", "title": "Hat"}, {"time": "1999-01-01"}, log=log)
    assert reasons(shard) == {"a.csv:2": "stray_time", "a.csv:3": "stray_time"}
    assert shard.items["title"].to_list() == ["Lamp"]


def test_a_superseded_record_gives_nothing_and_makes_no_later_one_a_duplicate() -> None:
    marked = records({"price": "5"}, {"price": "6"}, {"price": "5"}).with_columns(
        pl.Series("(superseded)", [True, True, False])
    )
    shard = clean_events({"clicks": marked}, MAPPING, RULES, KEY)
    assert reasons(shard) == {"a.csv:1": "superseded", "a.csv:2": "superseded"}
    assert shard.events["event_id"].to_list() == clean({"price": "5"}).events["event_id"].to_list()


def test_a_session_ends_with_a_silence_over_the_gap() -> None:
    shard = clean(at(0), at(1800), at(3601), at(3600) | {"user": "v"}, at(3600) | {"user": None})
    events = shard.events.sort("user_key", "event_time", nulls_last=True)
    u, v = pseudonyms(pl.Series(["u", "v"]), KEY)
    of_u, of_v = (events.filter(pl.col("user_key") == key) for key in (u, v))
    first, second, third = of_u["session_id"]
    assert first == second != third
    assert of_v["session_id"][0] not in (first, third)
    assert first == hashlib.sha256(f"{u} {of_u['event_id'][0]}".encode()).hexdigest()[:32]
    assert events["session_id"].to_list()[-1] is None


def test_refused_records_neither_open_nor_prolong_a_session() -> None:
    shard = clean(at(0), at(1500) | {"item": "9"}, at(3000))
    assert shard.events["session_id"].n_unique() == 2


def bots(shard: CleanShard) -> set:
    return set(shard.events.select("is_bot", "bot_reason").iter_rows())


def test_a_day_with_too_many_actions_is_a_bots_and_the_next_day_is_not() -> None:
    irregular = [(i * 61 + i * i % 37) * 10 for i in range(52)]
    shard = clean(*(at(second) for second in irregular[:51]), at(24 * 3600))
    by_day = (
        shard.events.group_by("event_date").agg(pl.col("is_bot").all(), pl.col("bot_reason").first()).sort("event_date")
    )
    assert by_day["is_bot"].to_list() == [True, False]
    assert by_day["bot_reason"].to_list() == ["more than 50 actions a day", None]
    assert bots(clean(*(at(second) | {"item": f"i{second % 3}"} for second in irregular[:40]))) == {(False, None)}


def test_an_hour_with_too_many_actions_is_a_bots() -> None:
    irregular = [i * 40 + i * i % 37 for i in range(45)]
    assert bots(clean(*(at(second) for second in irregular))) == {(True, "more than 40 actions an hour")}


def test_regular_gaps_are_a_bots_and_silences_between_sessions_do_not_hide_them() -> None:
    regular = [60 * i for i in range(6)] + [20_000 + 60 * i for i in range(6)]
    assert bots(clean(*(at(second) for second in regular))) == {(True, "regular gaps between actions")}
    assert bots(clean(*(at(second) for second in regular[:-1]))) == {(False, None)}  # 9 gaps are too few to tell


def lifting(of_one_item: int, of_others: int) -> CleanShard:
    """A day at no steady pace: so many events of one item, and of others."""
    items = ["i1"] * of_one_item + [f"i{2 + n}" for n in range(of_others)]
    return clean(*(at(n * 300 + n * n % 37 * 7) | {"item": item} for n, item in enumerate(items)))


def test_who_hardly_acts_on_more_than_one_item_lifts_it() -> None:
    lifts = {(True, "hardly anything but one item")}
    assert bots(lifting(20, 0)) == bots(lifting(27, 3)) == lifts
    assert bots(lifting(19, 0)) == bots(lifting(26, 4)) == {(False, None)}  # too few actions; too many others


def test_the_lines_of_one_order_are_one_action() -> None:
    lines = [{"what": "purchase", "item": f"i{n}"} for n in range(60)]
    assert bots(clean(*lines)) == {(False, None)}


def test_bots_are_flagged_by_user() -> None:
    shard = clean(
        *(at(60 * n) for n in range(12)), *(at(60 * n) | {"user": None} for n in range(12)), at(0) | {"user": "v"}
    )
    flagged = shard.events.group_by("user_key").agg(pl.col("is_bot").all()).rows()
    assert sorted(flag for _, flag in flagged) == [False, False, True]


def test_a_record_of_several_events_is_accepted_when_one_of_them_is() -> None:
    offers = records({"click": "1"}, {"click": "1", "time": "soon"}, {"click": "0"}, what=None, source_file="o.jsonl")
    shard = clean_events({"offers": offers}, MAPPING, RULES, KEY)
    # The third record is another (its click is 0), but as an impression it differs from the first in that field alone.
    assert sorted(shard.events["event_type"]) == ["impression", "impression", "view"]
    assert reasons(shard) == {"o.jsonl:2": "bad_value:event_time"}
    assert shard.counts.sort("outcome").rows() == [
        ("offers", "accepted", 2, 3),
        ("offers", "bad_value:event_time", 1, 2),
    ]


def test_events_describe_their_items_and_the_latest_says_so() -> None:
    shard = clean(
        at(0) | {"title": "Lamp", "price": "5"},
        at(9) | {"title": None, "price": "6"},
        at(5) | {"title": "Red lamp", "price": None},
        at(99) | {"title": "No product", "item": "9"},
    )
    latest = shard.items.sort("event_time").select("item_id", "title", "price").rows()
    assert latest == [("i", "Red lamp", None), ("i", None, Decimal(6))]


def test_a_catalogue_has_its_own_outcomes() -> None:
    rows = [
        {"item": "i", "title": "Lamp", "price": "5", "changed": None},
        {"item": "i", "title": "Lamp", "price": "5", "changed": None},
        {"item": "i", "title": "Red lamp", "price": "6", "changed": None},
        {"item": "j", "title": "Mug", "price": "cheap", "changed": None},
    ]
    products = records(*rows).drop("user", "what", "time", "request")
    shard = clean_items({"products": products}, MAPPING)
    assert shard.events is None
    assert reasons(shard) == {"a.csv:2": "duplicate", "a.csv:4": "bad_value:price"}
    assert shard.items.select("item_id", "title", "price").rows() == [("i", "Red lamp", Decimal(6))]


def test_events_have_the_columns_of_silver() -> None:
    events = clean({"price": "2.5"}, {"user": None}).events
    assert events.columns == [column.name for column in EVENTS.columns]
    assert events.sort("user_key")["currency"].to_list() == [None, "EUR"]
    assert events.select("event_id", "is_bot", "source_record", "event_date").null_count().row(0) == (0, 0, 0, 0)


IGNORING = {
    **{"files": "*.csv", "names": {"item_id": "item", "event_time": "time"}, "events": [{"type": "view"}]},
    "ignore": [{"what": "scroll"}, {"what": {"matches": "^session_"}}],
}
some_records = st.lists(
    st.fixed_dictionaries(
        {
            "user": st.sampled_from(["u", "v", None]),
            "item": st.sampled_from(["i", "j", "9", None]),
            "time": st.sampled_from([at(n)["time"] for n in (0, 1, 2, 4, 2000, 90_000)] + ["soon", None]),
            "what": st.sampled_from(["view", "view", "cart", "hover"]),
            "request": st.sampled_from([None, None, "r", "q"]),
            "malformed": st.sampled_from([None, None, None, "x"]),
        }
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(some_records, st.randoms(use_true_random=False))
def test_accepted_and_rejected_add_up_and_the_order_of_records_changes_nothing(
    rows: list[dict[str, Any]], random: Random
) -> None:
    whole = records(*rows)
    shard = clean_events({"clicks": whole}, MAPPING, RULES, KEY)
    assert shard.events.height + shard.rejects.height == whole.height
    assert shard.counts["num_records"].sum() == whole.height
    places = list(range(whole.height))
    random.shuffle(places)
    shuffled = clean_events({"clicks": whole[places]}, MAPPING, RULES, KEY)
    for one, other in zip(shard, shuffled, strict=True):
        key = [
            c
            for c in ("event_id", "source_record", "outcome", "form", "item_id", "described_by", "event_date", "clock")
            if c in one.columns
        ]
        assert one.sort(key).equals(other.sort(key))


@settings(max_examples=40, deadline=None)
@given(some_records)
def test_a_shard_of_one_user_gives_what_a_shard_of_all_gives(rows: list[dict[str, Any]]) -> None:
    whole = records(*rows)
    together = clean_events({"clicks": whole}, MAPPING, RULES, KEY).events
    apart = [
        clean_events({"clicks": part}, MAPPING, RULES, KEY).events
        for _, part in whole.group_by("user", maintain_order=True)
    ]
    assert pl.concat(apart).sort("event_id").equals(together.sort("event_id"))


@pytest.mark.parametrize("what", ["malformed", "item"])
def test_a_shard_without_an_event_is_empty_and_typed(what: str) -> None:
    shard = clean({what: "x" if what == "malformed" else None})
    assert shard.events.is_empty()
    assert shard.events.schema == clean({}).events.schema
    assert shard.rejects.height == 1


def test_ignored_records_are_counted_and_cost_no_second_copy() -> None:
    source = MAPPING.sources["clicks"].model_copy(update={"ignore": Source.model_validate(IGNORING).ignore})
    mapping = MAPPING.model_copy(update={"sources": {"clicks": source}})
    rows = [{}, {"what": "scroll"}, {"what": "scroll", "time": "soon"}, {"what": "session_end"}, {"what": "hover"}]
    shard = clean_events({"clicks": records(*rows, {"malformed": "x", "what": None})}, mapping, RULES, KEY)
    assert reasons(shard) == {
        **dict.fromkeys(("a.csv:2", "a.csv:3", "a.csv:4"), "ignored"),
        **{"a.csv:5": "bad_value:event_type", "a.csv:6": "malformed"},
    }
    assert shard.counts.filter(pl.col("outcome") == "ignored").rows() == [("clicks", "ignored", 3, 3)]
    raws = shard.rejects.filter(pl.col("raw").is_null())
    assert raws["reason"].to_list() == ["ignored"] * 3  # bronze/clicks holds them


def test_order_ids_are_pseudonyms_that_still_join_and_are_none_of_a_user() -> None:
    names = {"user_id": "user", "item_id": "item", "event_time": "time", "order_id": "title"}
    source = MAPPING.sources["clicks"].model_copy(
        update={"names": Source.model_validate(IGNORING | {"names": names}).names}
    )
    mapping = MAPPING.model_copy(update={"sources": {"clicks": source}})
    lines = [{"title": "A1", "item": "i"}, {"title": "A1", "item": "j"}, {"title": "A2", "item": "k"}, {"item": "l"}]
    events = clean_events({"clicks": records(*lines, user="A1")}, mapping, RULES, KEY).events.sort("item_id")
    first, second, other, none = events["order_id"]
    assert first == second != other
    assert none is None
    assert len(first) == 32
    assert first != events["user_key"][0]  # the same text as a user


def test_forms_say_how_bad_values_are_written_and_in_which_files() -> None:
    rows = [{"price": "1,249.00"}, {"price": "3,100.00", "source_file": "b.csv"}, {"price": "ask Ann"}, {"price": "9"}]
    forms = clean(*rows).forms.filter(pl.col("outcome") == "bad_value:price")
    assert forms.sort("form").select("source", "form", "num_records", "first_file", "last_file").rows() == [
        ("clicks", "a a", 1, "a.csv", "a.csv"),
        ("clicks", "d,ddd.dd", 2, "a.csv", "b.csv"),
    ]


def test_forms_say_how_ids_are_written() -> None:
    users = ["1001", "1002", "1001.0", "1.001E3", "nan", "u7", None]
    forms = clean(*({"user": user, "item": f"i{n}"} for n, user in enumerate(users))).forms
    written = forms.filter(pl.col("outcome") == "written:user_id").sort("form").select("form", "num_records").rows()
    assert written == [("1.001E3", 1), ("1001", 2), ("1001.0", 1), ("NaN", 1)]


def test_forms_say_how_many_prices_have_three_decimals() -> None:
    prices = ["1.249", "1.200", "9.99", "0.5", "5", None, "1,249"]
    forms = clean(*({"price": price, "item": f"i{n}"} for n, price in enumerate(prices))).forms
    written = forms.filter(pl.col("outcome") == "written:price").sort("form").select("form", "num_records").rows()
    assert written == [("1001", 4), ("d.ddd", 1)]
