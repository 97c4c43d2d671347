"""The evaluate job on a few lists whose metrics are worked by hand."""

from datetime import date, datetime, timedelta
from math import exp, log2, sqrt
from types import ModuleType
from typing import Any

import pytest

from lib.cli.jobs import load_job
from lib.pipeline import JOBS
from lib.ranking.examination import latest_days
from tests.jobs.spark.interactions import LATER, pair
from tests.lakes import START, TEST_FROM, VALID_FROM, SmallLake

SECOND = 1 / log2(3)  # the discount at rank 2


def listed(strategy: str, question: str, user: str, *items: str, as_of: datetime = TEST_FROM) -> list[dict[str, Any]]:
    shared = {"as_of": as_of, "strategy": strategy, "question": question, "user_key": user, "score": 1.0, "reason": "-"}
    return [shared | {"rank": place, "item_id": item} for place, item in enumerate(items, start=1)]


@pytest.fixture(scope="module")
def job() -> ModuleType:
    return load_job(JOBS["evaluate"])


def shop(lake: SmallLake) -> None:
    """Ann knew a and b and buys a again and c; dan is unseen and buys c; bob only looks at c."""
    lake.put(
        "gold/interactions",
        pair("ann", "a"),
        pair("ann", "b"),
        pair("bob", "d"),
        pair("ann", "e", weight=0.0, num_relevant=0),
        pair("ann", "a", **LATER),
        pair("ann", "c", **LATER),
        pair("dan", "c", **LATER),
        pair("bob", "c", num_relevant=0, **LATER),
    )
    lake.put(
        "gold/recommendations",
        *listed("popularity", "all", "ann", "b", "c", "d"),
        *listed("popularity", "all", "bob", "b", "c"),
        *listed("popularity", "all", "dan", "b", "c"),
        *listed("popularity", "new", "ann", "c", "d"),
        *listed("popularity", "new", "dan", "b", "c"),
        *listed("rebuy", "all", "ann", "a"),
    )


def measured(job: ModuleType, lake: SmallLake, **settings: Any) -> dict[tuple[str, str, str, str], dict[str, Any]]:
    job.main(job.EvaluateSettings(**lake.shared_settings, k=2, num_resamples=100, **settings))
    return {
        (row["question"], row["segment"], row["strategy"], row["metric"]): row
        for row in lake.read("gold/ranking_metrics")
    }


def test_metrics_equal_the_values_worked_by_hand(job: ModuleType, small_lake: SmallLake) -> None:
    shop(small_lake)
    rows = measured(job, small_lake)
    ideal = 1 + SECOND
    expected = {
        # Ann wants a and c: popularity has c second, rebuy has a first. Dan wants c, which popularity has second.
        ("all", "all", "popularity", "ndcg"): (SECOND / ideal + SECOND) / 2,
        ("all", "returning", "popularity", "ndcg"): SECOND / ideal,
        ("all", "unseen", "popularity", "ndcg"): SECOND,
        ("all", "all", "popularity", "recall"): (1 / 2 + 1) / 2,
        ("all", "all", "popularity", "map"): (0.5 / 2 + 0.5) / 2,
        ("all", "all", "rebuy", "ndcg"): (1 / ideal + 0) / 2,
        ("all", "all", "rebuy", "precision"): (1 / 2 + 0) / 2,
        ("all", "all", "rebuy", "hit_rate"): 1 / 2,
        ("all", "all", "rebuy", "ndcg_minus_popularity"): (1 / ideal - SECOND / ideal - SECOND) / 2,
        # Composed: ann gets a, then b; dan has popularity's list alone.
        ("all", "all", "rebuy_then_popularity", "ndcg"): (1 / ideal + SECOND) / 2,
        # Of the new items ann wants c alone, and rebuy has no list of new items.
        ("new", "all", "popularity", "ndcg"): (1 + SECOND) / 2,
        ("new", "all", "rebuy", "ndcg"): 0.0,
        ("new", "all", "rebuy_then_popularity", "ndcg"): (1 + SECOND) / 2,
        # Three items were known before: a, b, d. Within two places popularity shows b and c, then to ann anew c and d.
        ("all", "all", "popularity", "coverage"): 2 / 3,
        ("all", "unseen", "rebuy", "coverage"): 0.0,
        ("all", "returning", "rebuy_then_popularity", "coverage"): 2 / 3,
    }
    assert {key: rows[key]["value"] for key in expected} == pytest.approx(expected)
    assert {(row["as_of"], row["split"], row["k"], row["seed"]) for row in rows.values()} == {(TEST_FROM, "test", 2, 0)}
    assert {
        key: (row["num_users"], row["num_without_list"])
        for key, row in rows.items()
        if key[3] == "ndcg" and key[1] in ("all", "returning", "unseen")
    } == {
        ("all", "all", "popularity", "ndcg"): (2, 0),
        ("all", "returning", "popularity", "ndcg"): (1, 0),
        ("all", "unseen", "popularity", "ndcg"): (1, 0),
        ("all", "all", "rebuy", "ndcg"): (2, 1),
        ("all", "returning", "rebuy", "ndcg"): (1, 0),
        ("all", "unseen", "rebuy", "ndcg"): (1, 1),
        ("all", "all", "rebuy_then_popularity", "ndcg"): (2, 0),
        ("all", "returning", "rebuy_then_popularity", "ndcg"): (1, 0),
        ("all", "unseen", "rebuy_then_popularity", "ndcg"): (1, 0),
        ("new", "all", "popularity", "ndcg"): (2, 0),
        ("new", "returning", "popularity", "ndcg"): (1, 0),
        ("new", "unseen", "popularity", "ndcg"): (1, 0),
        ("new", "all", "rebuy", "ndcg"): (2, 2),
        ("new", "returning", "rebuy", "ndcg"): (1, 1),
        ("new", "unseen", "rebuy", "ndcg"): (1, 1),
        ("new", "all", "rebuy_then_popularity", "ndcg"): (2, 0),
        ("new", "returning", "rebuy_then_popularity", "ndcg"): (1, 0),
        ("new", "unseen", "rebuy_then_popularity", "ndcg"): (1, 0),
    }
    # Ann knew two items, so she is a light user; nobody is heavy.
    assert rows["all", "light", "popularity", "ndcg"]["value"] == pytest.approx(SECOND / ideal)
    assert rows["all", "heavy", "popularity", "ndcg"]["value"] is None
    assert rows["all", "all", "rebuy", "ndcg_minus_rebuy_then_popularity"]["value"] == pytest.approx(-SECOND / 2)
    assert rows["all", "all", "popularity", "mrr"]["value"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    # One of the two users who were known before knew each of a, b and d; c, which is shown, was not known and has no surprise.
    assert rows["all", "all", "popularity", "novelty"]["value"] == pytest.approx(1.0)
    assert rows["all", "all", "popularity", "head_exposure"]["value"] == pytest.approx(
        1.0
    )  # all three are known to one
    assert rows["all", "all", "popularity", "diversity"]["value"] is None
    coverage, ndcg = rows["all", "all", "popularity", "coverage"], rows["all", "all", "popularity", "ndcg"]
    assert (coverage["low"], coverage["high"]) == (None, None)
    assert (ndcg["low"], ndcg["high"]) == pytest.approx((SECOND / ideal, SECOND))


def test_of_new_items_alone_are_asked_the_users_who_want_one_and_only_these_items_are_relevant(
    job: ModuleType, small_lake: SmallLake
) -> None:
    # a is old; c came two days before; nobody knew e.
    old, young = {"event_time": START - timedelta(days=60)}, {"event_time": TEST_FROM - timedelta(days=2)}
    small_lake.put(
        "gold/interactions",
        *(pair(user, "a", **old) for user in ("ann", "bob")),
        pair("bob", "c", **young),
        *(pair(user, "a", **LATER) for user in ("ann", "dan")),
        pair("ann", "c", **LATER),
        pair("eve", "e", **LATER),
    )
    small_lake.put(
        "gold/recommendations",
        *(row for user in ("ann", "dan", "eve") for row in listed("popularity", "all", user, "a", "c")),
        *listed("rebuy", "all", "ann", "c", "a"),
        *listed("popularity", "new", "ann", "c"),
    )
    rows = measured(job, small_lake)
    expected = {
        # Ann wants c, which popularity has second and rebuy first; eve wants e, which no list has.
        ("all", "popularity", "ndcg"): SECOND / 2,
        ("all", "popularity", "recall"): 1 / 2,
        ("all", "rebuy", "mrr"): 1 / 2,
        ("all", "rebuy", "mrr_minus_popularity"): (1 - 1 / 2) / 2,
        ("new", "popularity", "ndcg"): 1 / 2,
    }
    found = {(question, *key): row for (question, segment, *key), row in rows.items() if segment == "new_items"}
    assert {key: found[key]["value"] for key in expected} == pytest.approx(expected)
    assert (found["all", "rebuy", "mrr"]["num_users"], found["all", "rebuy", "mrr"]["num_without_list"]) == (2, 1)
    assert (found["all", "rebuy", "mrr"]["low"], found["all", "rebuy", "mrr"]["high"]) == (0.0, 1.0)
    assert rows["all", "all", "popularity", "recall"]["value"] == pytest.approx((1 + 1 + 0) / 3)
    assert not {"coverage", "novelty", "diversity"} & {metric for _, _, metric in found}


@pytest.mark.parametrize(("num_rows", "first"), [(1, 19), (5, 19), (6, 17), (99, 17)])
def test_the_latest_days_before_a_moment_hold_enough_rows_without_its_own_day(num_rows: int, first: int) -> None:
    rows_of = {date(2026, 1, day): rows for day, rows in ((17, 3), (19, 5), (21, 100), (22, 100))}
    assert latest_days(rows_of, TEST_FROM, num_rows=num_rows) == date(2026, 1, first)


def shown_at(position: int, *, times: int, clicks: int) -> list[dict[str, Any]]:
    """Impressions of x at a position the day before, some of them answered."""
    told = {"item_id": "x", "event_time": TEST_FROM - timedelta(days=1)}
    requests = [{"request_id": f"{position}-{number}"} for number in range(times)]
    impressions = [told | request | {"event_type": "impression", "position": position} for request in requests]
    return impressions + [told | request | {"event_type": "view"} for request in requests[:clicks]]


def put_positions(lake: SmallLake) -> None:
    """What is second is clicked half as often; ann finds c there, and a and dan's c by no impression."""
    led = {"user_key": "ann", "item_id": "c", "event_time": TEST_FROM, "request_id": "r"}
    lake.put_events(
        {"event_time": START},
        *shown_at(1, times=80, clicks=40),
        *shown_at(2, times=80, clicks=20),
        led | {"event_type": "impression", "position": 2},
        led,
        *({"user_key": user, "item_id": item, "event_time": TEST_FROM} for user, item in (("ann", "a"), ("dan", "c"))),
    )


def test_what_was_found_at_a_position_that_is_seldom_looked_at_counts_more(
    job: ModuleType, small_lake: SmallLake, capsys: pytest.CaptureFixture[str]
) -> None:
    shop(small_lake)
    put_positions(small_lake)
    rows = measured(job, small_lake)
    # What is second is looked at half as often: c counts twice of ann, and once as a does that no impression led to.
    expected = {
        ("all", "popularity", "item_recall"): 2 / 3,
        ("all", "popularity", "item_recall_unbiased"): (2 + 1) / 4,
        ("all", "popularity", "item_dcg_unbiased"): 3 * SECOND / 4,
        ("all", "rebuy", "item_dcg_unbiased"): 1 / 4,
        ("all", "rebuy", "item_dcg_unbiased_minus_popularity"): 1 / 4 - 3 * SECOND / 4,
        ("new", "popularity", "item_dcg_unbiased"): (2 * 1 + SECOND) / 3,
    }
    found = {(question, *key): row for (question, segment, *key), row in rows.items() if segment == "all"}
    assert {key: found[key]["value"] for key in expected} == pytest.approx(expected)
    assert found["all", "popularity", "ndcg"]["value"] == pytest.approx((SECOND / (1 + SECOND) + SECOND) / 2)
    told = {row["k"]: row for row in small_lake.read("gold/ranking_metrics") if row["metric"] == "examination"}
    assert {k: (row["value"], row["num_users"]) for k, row in told.items()} == {1: (1.0, 80), 2: (0.5, 80)}
    spread = exp(1.959964 * sqrt(0.05))  # (60 * 80 * 80 - 20 * 40 * 160) / 160^2 over 20 * 80 / 160 and 40 * 80 / 160
    assert (told[2]["low"], told[2]["high"]) == pytest.approx((0.5 / spread, 0.5 * spread))
    assert "positions are looked at  at_1=1  at_2=0.5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("events", "why"),
    [
        ([{"event_time": START}], "no impression of this log has a position"),
        (
            [{"event_time": START}, *shown_at(1, times=80, clicks=40), *shown_at(2, times=80, clicks=19)],
            "no two positions have 20",
        ),
        (
            [{"event_time": START}, *shown_at(1, times=80, clicks=40), *shown_at(2, times=80, clicks=20)],
            "none that is wanted was found through an impression",
        ),
    ],
)
def test_a_log_that_tells_nothing_of_positions_is_not_corrected_for_them_and_the_run_says_why(
    job: ModuleType,
    small_lake: SmallLake,
    capsys: pytest.CaptureFixture[str],
    events: list[dict[str, Any]],
    why: str,
) -> None:
    shop(small_lake)
    small_lake.put_events(*events)
    rows = measured(job, small_lake)
    assert not [metric for *_, metric in rows if metric.startswith("item_")]
    says = capsys.readouterr().out
    assert "positions are not corrected for" in says
    assert why in says


def test_strategies_of_which_nothing_is_composed_are_judged_alone(job: ModuleType, small_lake: SmallLake) -> None:
    small_lake.put("gold/interactions", pair("ann", "a"), pair("ann", "c", **LATER))
    small_lake.put("gold/recommendations", *listed("als", "all", "ann", "c"))
    rows = measured(job, small_lake)
    assert rows["all", "all", "als", "ndcg"]["value"] == 1.0
    assert {strategy for _, _, strategy, _ in rows} == {"als"}


@pytest.mark.slow
def test_a_list_is_as_diverse_as_it_has_categories_for_its_items(job: ModuleType, small_lake: SmallLake) -> None:
    shop(small_lake)
    paths = {"a": ["x"], "b": ["x"], "d": []}
    small_lake.put("silver/items", *({"item_id": item, "category": path} for item, path in paths.items()))
    rows = measured(job, small_lake)
    # Ann is shown a and b, which are of one kind; dan b, and c, which nobody knew.
    assert rows["all", "all", "rebuy_then_popularity", "diversity"]["value"] == pytest.approx((1 / 2 + 1) / 2)
    assert rows["new", "returning", "popularity", "diversity"]["value"] is None  # c, and d of no kind


@pytest.mark.slow
def test_the_number_of_shards_changes_nothing(job: ModuleType, small_lake: SmallLake) -> None:
    shop(small_lake)
    put_positions(small_lake)
    one = measured(job, small_lake, num_shards=1)
    assert ("all", "all", "rebuy", "item_dcg_unbiased_minus_popularity") in one
    many = measured(job, small_lake, num_shards=7)
    assert one.keys() == many.keys()
    for key, row in one.items():
        for name in ("value", "low", "high"):
            assert many[key][name] == (None if row[name] is None else pytest.approx(row[name], rel=1e-12))


@pytest.mark.slow
def test_lists_as_of_valid_from_are_judged_by_the_validation_window(job: ModuleType, small_lake: SmallLake) -> None:
    small_lake.put(
        "gold/interactions",
        pair("ann", "a"),
        pair("ann", "b", split="valid", event_time=VALID_FROM),
        pair("ann", "c", **LATER),
    )
    small_lake.put(
        "gold/recommendations",
        *listed("popularity", "all", "ann", "b", as_of=VALID_FROM),
        *listed("popularity", "new", "ann", "b", as_of=VALID_FROM),
    )
    rows = measured(job, small_lake, time={"as_of": "valid_from"})
    assert rows["new", "all", "popularity", "ndcg"]["value"] == 1.0
    assert {(row["as_of"], row["split"]) for row in rows.values()} == {(VALID_FROM, "valid")}


@pytest.mark.parametrize(
    ("as_of", "why"),
    [
        ("end", "no window to judge lists by begins at 2026-01-31"),
        ("test_from", "no user has a purchase in the test window"),
    ],
)
def test_without_a_window_or_without_purchases_in_it_the_run_is_skipped(
    job: ModuleType, small_lake: SmallLake, capsys: pytest.CaptureFixture[str], as_of: str, why: str
) -> None:
    small_lake.put("gold/interactions", pair("ann", "a"), pair("ann", "c", num_relevant=0, **LATER))
    small_lake.put("gold/recommendations", *listed("popularity", "all", "ann", "c"))
    assert measured(job, small_lake, time={"as_of": as_of}) == {}
    assert f"skipped: {why}" in capsys.readouterr().out
