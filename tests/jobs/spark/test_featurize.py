"""The featurize job on a hand-made log of 100 days: whole rows worked by hand, and a future that must not show."""

import math
import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession

from lib.cli.jobs import load_job
from lib.engines.arrow_tasks import TABLE_FILES, unpacked
from lib.engines.spark import session, spark_schema
from lib.features import tasks
from lib.features.days import DayShards, item_days
from lib.features.interactions import interactions
from lib.features.item_counts import item_counts, together
from lib.features.item_profiles import item_profiles
from lib.features.prices import currencies_in, in_shop_currency
from lib.features.tasks import FeaturizeWork
from lib.features.user_features import FEATURES
from lib.lake.lake import Lake
from lib.lake.writes import commit_files, write_files
from lib.pipeline import JOBS, ROOT
from lib.ranking.known_pairs import known_pairs
from lib.tables import contract
from tests import lakes

ONE_GIGABYTE = {"driver_memory": "1g"}
# Times of market logs: 80 % and 90 % of the span; its mapping ends the market on the first of July.
END = datetime(2026, 7, 1, tzinfo=UTC)
START = END - timedelta(days=100)
VALID_FROM, TEST_FROM = START + timedelta(days=80), START + timedelta(days=90)
EVENT: dict[str, Any] = {
    "user_key": "ann",
    "item_id": "shoe",
    "event_type": "view",
    "session_id": "s",
    "is_bot": False,
    "source_record": "events:part-0:1",
}
ITEMS = [
    {"item_id": "shoe", "category": ["Shoes", "Boots"], "brand": "Acme", "price": Decimal(30)},
    {"item_id": "hat", "category": ["Hats"], "brand": "Acme", "price": Decimal(10)},
    {"item_id": "cap", "category": ["Hats"], "price": Decimal(20)},
]


def event(day: float, **overrides: Any) -> dict[str, Any]:
    """An event `day` days after the log's start."""
    time = START + timedelta(days=day)
    return EVENT | {"event_time": time, "event_date": time.date()} | overrides


def numbered(*rows: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"event_id": f"e{number}"} | row for number, row in enumerate(rows)]


LOG = numbered(
    event(0, event_type="impression", request_id="r1"),
    event(0.5, request_id="r1", price=Decimal(25)),
    event(0.5, user_key=None, session_id=None, item_id="hat"),
    event(60, event_type="cart"),
    event(60, user_key="bob", item_id="hat"),
    event(72, event_type="purchase", price=Decimal(28), quantity=2),
    event(75, user_key="bob", item_id="hat", event_type="return"),
    event(76, user_key="bot", item_id="cap", is_bot=True),
    event(82, user_key="bob", item_id="hat", event_type="purchase", price=Decimal(11)),
    event(85, user_key="cid", item_id="cap", event_type="favourite"),
    event(91, user_key="cid", item_id="cap", event_type="purchase", price=Decimal(21)),
    event(95, user_key="dot", item_id="shoe"),
)


def put(path: Path, name: str, rows: list[dict[str, Any]]) -> None:
    lakes.put(Lake(str(path)), name, *rows)


def read(path: Path, name: str) -> list[dict[str, Any]]:
    return lakes.content(Lake(str(path)), name)


@pytest.fixture(scope="module")
def job() -> ModuleType:
    return load_job(JOBS["featurize"])


@pytest.fixture(scope="module")
def spark(job: ModuleType) -> SparkSession:
    return session(job.FeaturizeSettings(cluster=ONE_GIGABYTE))


def run(job: ModuleType, path: Path, **settings: Any) -> None:
    job.main(job.FeaturizeSettings(**{"lake": {"path": str(path)}, "cluster": ONE_GIGABYTE} | settings))


@pytest.fixture(scope="module")
def lake(job: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake on which the job has run once with its defaults."""
    path = tmp_path_factory.mktemp("lakes") / "featurized"
    put(path, "silver/events", LOG)
    put(path, "silver/items", ITEMS)
    run(job, path)
    return path


def frame(spark: SparkSession, name: str, rows: list[dict[str, Any]]) -> DataFrame:
    table = contract(name)
    schema = spark_schema(table.schema)
    return spark.createDataFrame([tuple(row.values()) for row in lakes.whole_rows(table, rows)], schema)


def test_interactions_are_pairs_by_moment_without_impressions_bots_and_unknown_users(lake: Path) -> None:
    found = {
        (row["user_key"], row["item_id"], (row["event_time"] - START) / timedelta(days=1)): (
            row["split"],
            row["weight"],
            row["count"],
            row["num_relevant"],
        )
        for row in read(lake, "gold/interactions")
    }
    assert found == {
        ("ann", "shoe", 0.5): ("train", 0.2, 1, 0),
        ("ann", "shoe", 60): ("train", 0.6, 1, 0),
        ("ann", "shoe", 72): ("train", 1.0, 1, 1),
        ("bob", "hat", 60): ("train", 0.2, 1, 0),
        ("bob", "hat", 75): ("train", 0.0, 1, 0),  # a return
        ("bob", "hat", 82): ("valid", 1.0, 1, 1),
        ("cid", "cap", 85): ("valid", 0.6, 1, 0),
        ("cid", "cap", 91): ("test", 1.0, 1, 1),
        ("dot", "shoe", 95): ("test", 0.2, 1, 0),
    }


# A date within train, one between the splits that cuts a day, the very moment of an event, and the end.
@pytest.mark.parametrize("day", [40.0, 84.37, 90.0, 100.0])
def test_what_was_known_at_any_moment_is_what_silver_counts(day: float) -> None:
    rng = random.Random(0)
    purchases = numbered(
        *(
            event(rng.choice((day, rng.uniform(0, 100))), user_key=user, item_id=item, event_type="purchase")
            for user, item in ((rng.choice("abcd"), rng.choice("xyz")) for _ in range(300))
        )
    )
    as_of = START + timedelta(days=day)
    counted = Counter((row["user_key"], row["item_id"]) for row in purchases if row["event_time"] < as_of)
    stored = interactions(
        pl.DataFrame(purchases, infer_schema_length=None).cast({"event_time": pl.Datetime("us", "UTC")}),
        valid_from=VALID_FROM,
        test_from=TEST_FROM,
        event_weights={"purchase": 1.0},
        relevant="purchase",
    )
    known = known_pairs(stored, as_of=as_of).to_dicts()
    assert {(row["user_key"], row["item_id"]): row["num_relevant"] for row in known} == counted
    assert {(row["user_key"], row["item_id"]): row["weight"] for row in known} == counted


def test_user_profiles_are_of_everyone_known_before_as_of(lake: Path) -> None:
    rows = {row["user_key"]: row for row in read(lake, "gold/user_profiles")}
    assert set(rows) == {"ann", "bob", "cid"}  # the bot is left out, dot comes later
    ann = rows["ann"]
    assert (ann["recency_days"], ann["tenure_days"], ann["num_events"], ann["num_items"]) == (18.0, 90.0, 3, 1)
    assert (ann["spend"], ann["mean_price"], ann["click_rate"]) == (Decimal("56.0000"), 28.0, 1.0)
    assert [tag["tag"] for tag in ann["interest_tags"]] == ["brand=Acme", "category=Shoes", "category=Shoes/Boots"]
    assert ann["favourite_category"] == "Shoes"
    assert sum(tag["weight"] for tag in rows["bob"]["interest_tags"]) == pytest.approx(1.0)
    assert all(row["as_of"] == TEST_FROM for row in rows.values())


def test_item_profiles_count_and_rank_what_was_known_before_as_of(lake: Path) -> None:
    rows = {row["item_id"]: row for row in read(lake, "gold/item_profiles")}
    counted = ("num_impressions", "num_views", "num_carts", "num_purchases", "num_returns", "num_buyers", "num_users")
    assert {item: [row[name] for name in counted] for item, row in rows.items()} == {
        "shoe": [1, 1, 1, 1, 0, 1, 1],
        "hat": [0, 2, 0, 1, 1, 1, 1],  # the view without a user counts for the item, not as a user
        "cap": [0, 0, 0, 0, 0, 0, 1],
    }
    # Ties in buyers and users are broken by events: the hat has four, the shoe has four with its impression; then by id.
    assert {item: row["popularity_rank"] for item, row in rows.items()} == {"hat": 1, "shoe": 2, "cap": 3}
    assert rows["shoe"]["age_days"] == 90.0
    assert rows["hat"]["novelty"] == pytest.approx(-math.log2(2 / 4))  # one of three users, one added to both


def test_item_rates_are_shrunk_towards_the_shop_s(lake: Path) -> None:
    rows = {row["item_id"]: row for row in read(lake, "gold/item_profiles")}
    shop_rate = 2 / 3  # two purchases, three views
    assert rows["shoe"]["purchase_rate"] == pytest.approx((1 + 20 * shop_rate) / (1 + 20))
    assert rows["cap"]["purchase_rate"] == pytest.approx(shop_rate)
    assert rows["shoe"]["click_rate"] == pytest.approx(1.0)  # one click, one impression, here as in the shop


def test_an_item_has_its_last_price_before_as_of_and_its_place_in_its_category(lake: Path) -> None:
    rows = {row["item_id"]: row for row in read(lake, "gold/item_profiles")}
    prices = {item: (row["price"], row["price_position"]) for item, row in rows.items()}
    assert prices == {
        "shoe": (Decimal(28), 0.0),
        "hat": (Decimal(11), 0.0),
        "cap": (Decimal(20), 1.0),  # the catalogue's: it was sold at 21 only after as_of; the one other hat costs less
    }


def test_examples_look_at_three_dates_and_label_the_window_after(lake: Path) -> None:
    rows = read(lake, "gold/examples")
    assert [(row["user_key"], row["split"], row["as_of"], row["label"]) for row in rows] == [
        ("ann", "train", START + timedelta(days=70), 1),
        ("ann", "valid", VALID_FROM, 0),
        ("ann", "test", TEST_FROM, 0),
        ("bob", "train", START + timedelta(days=70), 0),
        ("bob", "valid", VALID_FROM, 1),
        ("bob", "test", TEST_FROM, 0),
        ("cid", "test", TEST_FROM, 1),
    ]
    assert all(len(row["features"]) == len(FEATURES) for row in rows)
    assert all(0.0 <= value <= 1.0 for row in rows for value in row["features"])


def test_scaling_is_fitted_on_train_alone_and_counts_what_it_clips(lake: Path) -> None:
    bounds = {row["feature"]: row for row in read(lake, "gold/scaling")}
    assert sorted(bounds, key=lambda name: bounds[name]["position"]) == list(FEATURES)
    # In train ann has been known for 70 days and bob for 10.
    tenure = bounds["log_tenure_days"]
    assert (tenure["min"], tenure["max"]) == pytest.approx((math.log1p(10), math.log1p(70)))
    assert tenure["num_clipped"] == 3  # ann on valid (80) and test (90), cid on test (5); bob (20 and 30) lies within
    features = {(row["user_key"], row["split"]): row["features"] for row in read(lake, "gold/examples")}
    place = tenure["position"]
    assert (features["ann", "train"][place], features["ann", "test"][place], features["cid", "test"][place]) == (
        1,
        1,
        0,
    )
    scaled = (math.log1p(20) - math.log1p(10)) / (math.log1p(70) - math.log1p(10))
    assert features["bob", "valid"][place] == pytest.approx(scaled, abs=1e-6)
    # Nobody had bought by then: a feature that is constant in train is 0, and those who bought since are clipped.
    bought = bounds["has_purchased"]
    assert (bought["min"], bought["max"], bought["num_clipped"]) == (0.0, 0.0, 3)
    assert {row[bought["position"]] for row in features.values()} == {0.0}


@pytest.mark.slow
def test_moving_the_future_changes_no_profile_and_no_feature(job: ModuleType, lake: Path, tmp_path: Path) -> None:
    past = [row for row in LOG if row["event_time"] < TEST_FROM]
    future = [
        event(90, event_type="purchase", item_id="cap", price=Decimal(99), quantity=9),
        event(93, user_key="bob", event_type="cart"),
        event(97, user_key="eve", item_id="new"),
        event(99, user_key="cid", event_type="impression", item_id="hat"),
    ]
    put(tmp_path, "silver/events", numbered(*past, *future))
    put(tmp_path, "silver/items", ITEMS)
    run(job, tmp_path)
    for table in ("gold/user_profiles", "gold/item_profiles"):
        assert read(tmp_path, table) == read(lake, table)
    without_label = [{k: v for k, v in row.items() if k != "label"} for row in read(lake, "gold/examples")]
    assert [{k: v for k, v in row.items() if k != "label"} for row in read(tmp_path, "gold/examples")] == without_label
    assert read(tmp_path, "gold/scaling") == read(lake, "gold/scaling")
    labels = {row["user_key"]: row["label"] for row in read(tmp_path, "gold/examples") if row["split"] == "test"}
    assert labels == {"ann": 1, "bob": 0, "cid": 0}


@pytest.mark.slow
def test_only_the_history_that_is_asked_for_counts(job: ModuleType, lake: Path, tmp_path: Path) -> None:
    put(tmp_path, "silver/events", LOG)
    put(tmp_path, "silver/items", ITEMS)
    run(job, tmp_path, history_days=20)  # of the ninetieth day: since the seventieth
    profiles = {row["user_key"]: row for row in read(tmp_path, "gold/user_profiles")}
    of_all = {row["user_key"]: row for row in read(lake, "gold/user_profiles")}
    ann, whole = profiles["ann"], of_all["ann"]
    assert (whole["num_views"], whole["num_carts"], whole["num_purchases"]) == (1, 1, 1)
    assert (ann["num_views"], ann["num_carts"], ann["num_purchases"]) == (0, 0, 1)
    assert (whole["first_event_at"], ann["first_event_at"]) == (START, START + timedelta(days=72))
    assert ann["last_event_at"] == whole["last_event_at"]
    shoe, known = (
        next(row for row in read(path, "gold/item_profiles") if row["item_id"] == "shoe") for path in (tmp_path, lake)
    )
    assert (known["num_impressions"], shoe["num_impressions"]) == (1, 0)
    assert (known["num_purchases"], shoe["num_purchases"]) == (1, 1)
    seen = {(row["split"], row["user_key"]) for row in read(tmp_path, "gold/examples")}
    # At the train date, day 70, the history begins on day 50; ann was seen before that, and on day 60.
    assert {split for split, user in seen if user == "ann"} == {"train", "valid", "test"}
    days_of_all, days = (len(read(path, "gold/daily")) for path in (lake, tmp_path))
    assert days == days_of_all


@pytest.mark.slow
def test_a_production_run_leaves_the_labels_of_test_open(job: ModuleType, lake: Path, tmp_path: Path) -> None:
    put(tmp_path, "silver/events", LOG)
    run(job, tmp_path, time={"as_of": "end"})
    assert read(tmp_path, "gold/interactions") == read(lake, "gold/interactions")
    rows = {(row["user_key"], row["split"]): (row["as_of"], row["label"]) for row in read(tmp_path, "gold/examples")}
    assert {key: value for key, value in rows.items() if key[1] == "test"} == {
        (user, "test"): (END, None) for user in ("ann", "bob", "cid", "dot")
    }
    assert rows["cid", "valid"] == (TEST_FROM, 1)
    assert rows["bob", "train"] == (VALID_FROM, 1)
    profiles = {row["user_key"]: row for row in read(tmp_path, "gold/user_profiles")}
    assert set(profiles) == {"ann", "bob", "cid", "dot"}
    assert profiles["ann"]["interest_tags"] is None  # this lake has no catalogue


@pytest.mark.slow
def test_a_log_that_names_no_users_has_item_profiles_and_empty_user_tables(job: ModuleType, tmp_path: Path) -> None:
    anonymous = {"user_key": None, "session_id": None}
    put(
        tmp_path,
        "silver/events",
        numbered(
            *(event(day, event_type="impression", request_id=f"r{day}", **anonymous) for day in range(4)),
            event(1, request_id="r1", **anonymous),
        ),
    )
    run(job, tmp_path)
    (shoe,) = read(tmp_path, "gold/item_profiles")
    assert (shoe["num_impressions"], shoe["num_views"], shoe["num_users"], shoe["novelty"]) == (4, 1, 0, 0.0)
    assert shoe["click_rate"] == pytest.approx(0.25)
    for table in ("gold/user_profiles", "gold/interactions", "gold/examples", "gold/scaling"):
        assert read(tmp_path, table) == []


def events_of(*rows: dict[str, Any]) -> pl.DataFrame:
    """Events as the tasks have them."""
    whole = lakes.whole_rows(contract("silver/events"), numbered(*rows))
    return pl.DataFrame(pa.Table.from_pylist(whole, schema=contract("silver/events").schema))


def test_an_item_s_rate_is_null_where_the_log_has_no_views_or_impressions() -> None:
    days = item_days(events_of(event(1, event_type="purchase")).with_columns(part=pl.lit(0)))
    counts = together(item_counts(days, as_of=TEST_FROM))
    profiles = item_profiles(
        counts,
        pl.DataFrame(contract("silver/items").schema.empty_table()),
        num_shop_users=1,
        as_of=TEST_FROM,
        prior_views=20,
        prior_impressions=50,
    )
    (row,) = profiles.to_dicts()
    assert (row["click_rate"], row["purchase_rate"], row["price"], row["price_position"]) == (None, None, None, None)


def test_the_relevant_event_may_be_another_than_the_purchase() -> None:
    pairs = interactions(
        events_of(event(1), event(2), event(3, event_type="purchase")),
        valid_from=VALID_FROM,
        test_from=TEST_FROM,
        event_weights={"view": 0.5, "purchase": 2.0},
        relevant="view",
    )
    rows = pairs.sort("event_time").select("num_relevant", "count", "weight").rows()
    assert rows == [(1, 1, 0.5), (1, 1, 0.5), (0, 1, 2.0)]


def test_prices_are_in_one_currency_and_one_without_a_rate_is_not_added() -> None:
    paid = [(1500, "JPY"), (10, " eur"), (7, None), (3, "CHF"), (None, "CHF"), (99_999_999_999_999, "XAU")]
    prices = [None if price is None else Decimal(price) for price, _ in paid]
    rows = [event(n, price=price, currency=paid[n][1]) for n, price in enumerate(prices)]
    events = events_of(*rows)
    assert {*currencies_in(events)["currency"]} == {"JPY", "EUR", None, "CHF", "XAU"}
    rates = {"EUR": Decimal(1), None: Decimal(1), "JPY": Decimal("0.00625"), "XAU": Decimal("2000.5")}
    found = in_shop_currency(events, rates).select("price", "is_unconverted")
    assert found.rows() == [
        *((Decimal("9.3750"), False), (Decimal("10.0000"), False), (Decimal("7.0000"), False)),
        *((None, True), (None, False), (None, True)),  # too much for an amount is none
    ]
    assert in_shop_currency(events, {})["price"].null_count() == len(rows)


def test_an_hour_is_known_where_the_clock_of_the_source_tells_it(tmp_path: Path) -> None:
    rows = [event(n, source_record=f"{source}/2024/a.csv:1") for n, source in enumerate(("orders", "clicks"))]
    put(tmp_path, "silver/events", numbered(*rows))
    work = FeaturizeWork(
        lake=Lake(str(tmp_path)),
        items_version=None,
        rates={None: Decimal(1)},
        sources_by_day=("orders",),
        **{"as_of": TEST_FROM, "valid_from": VALID_FROM, "test_from": TEST_FROM, "dates": ()},
        **{"relevant": "purchase", "event_weights": {}, "half_life_days": 30, "history_days": None, "max_tags": 20},
        **{"prior_views": 20, "prior_impressions": 50},
    )
    files = [
        {"location": location, "num_bytes": 1, "kind": tasks.EVENT}
        for location, _ in work.lake.data_files("silver/events")
    ]
    shards = DayShards.of({row["event_date"]: 1 for row in rows}, num_shards=1)
    parts = tasks.spread_events(pa.Table.from_pylist(files, schema=TABLE_FILES).to_batches(), work=work, shards=shards)
    assert unpacked(parts)[tasks.EVENT].sort("event_time")["has_hour"].to_list() == [False, True]


TABLES = JOBS["featurize"].writes


def write_days(path: Path, days: range, rows: list[dict[str, Any]]) -> None:
    """Make these the events of some days of the log, and leave those of other days as they are."""
    lake, table = Lake(str(path)), contract("silver/events")
    first = START.date()
    dates = [str(first + timedelta(days=day)) for day in days]
    own = [row for row in rows if str(row["event_date"]) in dates]
    files = write_files(lake, table, [lakes.arrow_rows(table, *own)] if own else [])
    number = lake.last_committed_run("silver/events", "days") + 1
    where = {"event_date": dates} if lake.exists("silver/events") else None
    properties = lakes.PROPERTIES["silver/events"]
    commit_files(lake, table, files, transaction="days", number=number, where=where, properties=properties)


def random_log(draw: random.Random) -> list[dict[str, Any]]:
    """Events of six people on a hundred days, some of them bots and of nobody; sessions last seven hours, over midnight too."""
    rows = []
    for _ in range(700):
        day, user = draw.uniform(0, 100), draw.choice(["ann", "bob", "cid", "dot", "eve", None])
        rows.append(
            event(
                day,
                user_key=user,
                item_id=draw.choice(["shoe", "hat", "cap", "bag"]),
                event_type=draw.choice(["impression", "view", "view", "cart", "favourite", "purchase", "return"]),
                session_id=user and f"{user}-{int(day * 24 // 7)}",
                price=draw.choice([None, Decimal(draw.randint(1, 99))]),
                request_id=draw.choice([None, "r1", "r2"]),
                is_bot=user == "eve" and int(day) % 3 == 0,
            )
        )
    return numbered(*rows)


def files_of_days(path: Path, table: str) -> dict[str, frozenset[str]]:
    """The files of each day of a table."""
    found: dict[str, set[str]] = {}
    for location, _ in Lake(str(path)).data_files(table):
        found.setdefault(location.partition("event_date=")[2].partition("/")[0], set()).add(location)
    return {day: frozenset(files) for day, files in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_days_that_come_and_change_give_the_tables_of_all_at_once(job: ModuleType, tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    log = random_log(draw)
    grown, whole = tmp_path / "grown", tmp_path / "whole"
    for path in (grown, whole):
        put(path, "silver/items", ITEMS)
    first = [row for row in log if draw.random() < 0.95]  # what is left out comes late
    write_days(grown, range(95), first)
    run(job, grown)
    before = files_of_days(grown, "gold/daily")
    late = draw.sample(range(95), 2)
    for day in late:
        write_days(grown, range(day, day + 1), log)
    write_days(grown, range(95, 101), log)
    run(job, grown)
    after = files_of_days(grown, "gold/daily")
    touched = {*late, *(day + 1 for day in late), *range(95, 102)}
    kept = {str(START.date() + timedelta(days=day)) for day in range(102) if day not in touched}
    assert {day: files for day, files in after.items() if day in kept} == {day: before[day] for day in kept & {*before}}
    for day in range(95):
        if day not in late:
            write_days(whole, range(day, day + 1), first)
    for day in (*late, *range(95, 101)):
        write_days(whole, range(day, day + 1), log)
    run(job, whole)
    for table in TABLES:
        assert read(grown, table) == read(whole, table), table


@pytest.mark.slow
def test_another_as_of_reads_no_day_again_but_those_that_it_cuts(job: ModuleType, tmp_path: Path) -> None:
    write_days(tmp_path, range(101), random_log(random.Random(5)))
    run(job, tmp_path)
    before = {
        table: Lake(str(tmp_path)).data_version(table)
        for table in ("gold/daily", "gold/user_days", "gold/interactions")
    }
    run(job, tmp_path, time={"as_of": (START + timedelta(days=60.3)).isoformat()})
    assert {table: Lake(str(tmp_path)).data_version(table) for table in before} == before
    moved = {table: read(tmp_path, table) for table in ("gold/user_profiles", "gold/examples", "gold/item_profiles")}
    alone = tmp_path / "alone"
    write_days(alone, range(101), random_log(random.Random(5)))
    run(job, alone, time={"as_of": (START + timedelta(days=60.3)).isoformat()})
    assert {table: read(alone, table) for table in moved} == moved


def test_other_settings_make_all_days_anew(job: ModuleType, tmp_path: Path) -> None:
    put(tmp_path, "silver/events", LOG)
    run(job, tmp_path)
    light = {(row["user_key"], row["item_id"]): row["weight"] for row in read(tmp_path, "gold/daily")}
    run(job, tmp_path, purchase_weight=3.0)
    heavy = {(row["user_key"], row["item_id"]): row["weight"] for row in read(tmp_path, "gold/daily")}
    assert heavy["cid", "cap"] > light["cid", "cap"]
    assert heavy["dot", "shoe"] == light["dot", "shoe"]


@pytest.mark.slow
def test_where_the_splits_move_interactions_are_labelled_again_and_no_day_is_made_anew(
    job: ModuleType, tmp_path: Path
) -> None:
    log, mapping = random_log(random.Random(9)), tmp_path / "own.yaml"
    shipped = (ROOT / "conf" / "formats" / "market.yaml").read_text()

    def run_split_at(valid: float, test: float) -> None:
        moments = {"valid_from": START + timedelta(days=valid), "test_from": START + timedelta(days=test)}
        stated = "".join(f"  {name}: {moment.isoformat()}\n" for name, moment in moments.items())
        mapping.write_text(shipped.replace("times:\n", f"times:\n{stated}"))
        run(job, tmp_path / "lake", log={"format": str(mapping)})

    def labels() -> dict[float, str]:
        rows = read(tmp_path / "lake", "gold/interactions")
        return {(row["event_time"] - START) / timedelta(days=1): row["split"] for row in rows}

    write_days(tmp_path / "lake", range(101), log)
    run_split_at(80, 90)
    before = {table: files_of_days(tmp_path / "lake", table) for table in ("gold/daily", "gold/interactions")}
    run_split_at(78.4, 92.6)
    assert files_of_days(tmp_path / "lake", "gold/daily") == before["gold/daily"]
    moved = files_of_days(tmp_path / "lake", "gold/interactions")
    first = START.date()
    between = {str(first + timedelta(days=day)) for day in (78, 79, 80, 90, 91, 92)}
    assert {day for day in moved if moved[day] != before["gold/interactions"][day]} == between & {*moved}
    assert labels() == {day: "train" if day < 78.4 else "valid" if day < 92.6 else "test" for day in labels()}
    write_days(tmp_path / "lake", range(40, 41), log[: len(log) // 2])
    run_split_at(78.4, 92.6)
    again = files_of_days(tmp_path / "lake", "gold/daily")
    changed = {str(first + timedelta(days=day)) for day in (40, 41)}
    assert {day for day in again if again[day] != before["gold/daily"][day]} <= changed
