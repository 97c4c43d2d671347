"""The experiment job on a few users whose figures are worked by hand, and on a planted better arm."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from lib.cli.jobs import load_job
from lib.pipeline import JOBS
from tests.lakes import Row, SmallLake

START = datetime(2026, 1, 1, tzinfo=UTC)
END = datetime(2026, 1, 30, tzinfo=UTC)


def at(days: float) -> datetime:
    return START + timedelta(days=days)


def impression(user: str | None, request: str, item: str = "a", **overrides: Any) -> dict[str, Any]:
    shared = {"event_type": "impression", "experiment": "front", "event_time": START}
    return shared | {"user_key": user, "request_id": request, "item_id": item} | overrides


def act(user: str | None, kind: str, **overrides: Any) -> dict[str, Any]:
    return {"user_key": user, "event_type": kind, "event_time": START} | overrides


@pytest.fixture(scope="module")
def job() -> ModuleType:
    return load_job(JOBS["experiment"])


def results(job: ModuleType, lake: SmallLake, *events: Row, **settings: Any) -> dict[tuple[str, str], dict[str, Any]]:
    lake.put_events(*events, {"event_time": END, "event_type": "rating"})
    job.main(job.ExperimentSettings(**lake.shared_settings, **settings))
    return {(row["arm"], row["metric"]): row for row in lake.read("gold/experiments")}


def test_figures_equal_those_worked_by_hand(job: ModuleType, small_lake: SmallLake) -> None:
    rows = results(
        job,
        small_lake,
        # Ann (arm b) is shown two items, clicks one of them twice, buys two pieces of it and comes back: 3 signs of 4.
        impression("ann", "r1", arm="b"),
        impression("ann", "r2", arm="b", item="c"),
        act("ann", "view", request_id="r1"),
        act("ann", "view", request_id="r1", event_time=at(1)),
        act("ann", "purchase", quantity=2, price=7, event_time=at(1)),
        # What she bought before she was assigned is nobody's doing.
        act("ann", "purchase", quantity=1, price=100, event_time=at(-0.5)),
        # Bea (arm b) views another item than the one shown, and carts something: 1 of 4.
        impression("bea", "r3", arm="b"),
        act("bea", "view", request_id="r3", item_id="c"),
        act("bea", "cart"),
        # Cat (arm control) clicks and buys for 4, gets 1 back another day, and has 2 of 4.
        impression("cat", "r4", arm="control"),
        act("cat", "view", request_id="r4"),
        act("cat", "purchase", quantity=1, price=4),
        act("cat", "return", quantity=1, price=1, event_time=at(2)),
        # Dan (arm control) does nothing: 0 of 4. Eve saw both arms, Max is a machine, Ned was never assigned.
        impression("dan", "r5", arm="control"),
        impression("eve", "r6", arm="control"),
        impression("eve", "r7", arm="b"),
        impression("max", "r8", arm="b", is_bot=True),
        act("ned", "purchase", quantity=1, price=1000),
        impression(None, "r9", arm="b"),
    )
    assert {key: (row["arm_value"], row["control_value"], row["effect"]) for key, row in rows.items()} == {
        ("b", "ctr"): pytest.approx((1 / 3, 1 / 2, 1 / 3 - 1 / 2)),
        ("b", "conversion"): (0.5, 0.5, 0.0),
        ("b", "revenue_per_user"): (7.0, 1.5, 5.5),
        ("b", "satisfaction"): pytest.approx((0.5, 0.25, 0.25)),
    }
    for row in rows.values():
        assert (row["experiment"], row["control"], row["num_arm"], row["num_control"]) == ("front", "control", 2, 2)
        assert (row["sample_ratio_p"], row["verdict"]) == (1.0, "undecided")
    assert rows["b", "revenue_per_user"]["reason"].startswith("7 against 1.5: +5.5 (95 % from -")
    assert rows["b", "ctr"]["notes"] == "left out, seen in several arms: 1 user; 1 of its events name no user"
    assert [metric for (_, metric), row in rows.items() if row["is_primary"]] == ["conversion"]


def shop_with_a_better_arm(num_users: int = 400) -> Iterator[dict[str, Any]]:
    """Users of arm b click three times as often; purchases are the same."""
    rng = np.random.default_rng(0)
    for user in range(num_users):
        arm = ("a", "b")[user % 2]
        for view in range(5):
            request = f"{user}-{view}"
            yield impression(f"u{user}", request, arm=arm)
            if rng.random() < (0.1 if arm == "a" else 0.3):
                yield act(f"u{user}", "view", request_id=request)
        if rng.random() < 0.5:
            yield act(f"u{user}", "purchase", quantity=1, price=10)


@pytest.mark.slow
def test_the_planted_better_arm_is_found_and_the_same_is_called_undecided(
    job: ModuleType, small_lake: SmallLake
) -> None:
    rows = results(job, small_lake, *shop_with_a_better_arm())
    assert {key: row["verdict"] for key, row in rows.items()} == {
        ("b", "ctr"): "better",
        ("b", "conversion"): "undecided",
        ("b", "revenue_per_user"): "undecided",
        ("b", "satisfaction"): "better",
    }
    assert rows["b", "ctr"]["low"] > 0.1
    turned = results(job, small_lake, *shop_with_a_better_arm(), control="b")
    assert turned["a", "ctr"]["verdict"] == "worse"
    assert turned["a", "ctr"]["effect"] == pytest.approx(-rows["b", "ctr"]["effect"])


@pytest.mark.slow
def test_arms_of_another_size_than_intended_make_every_verdict_invalid(job: ModuleType, small_lake: SmallLake) -> None:
    events = list(shop_with_a_better_arm(200))
    rows = results(job, small_lake, *events, shares={"a": 0.3, "b": 0.7})
    assert {row["verdict"] for row in rows.values()} == {"invalid"}
    assert rows["b", "ctr"]["reason"] == "the arms' sizes are not those intended: 100 in a, 100 in b (p 6.7e-10)"
    with pytest.raises(ValueError, match=r"experiment.shares names a, c: no experiment has these arms: front has a, b"):
        results(job, small_lake, *events, shares={"a": 1.0, "c": 1.0})


@pytest.mark.slow
def test_without_users_the_unit_is_the_impression_and_only_clicks_are_compared(
    job: ModuleType, small_lake: SmallLake
) -> None:
    rows = results(
        job,
        small_lake,
        *(impression(None, f"{arm}{n}", arm=arm) for arm in ("random", "bts") for n in range(10)),
        *(act(None, "view", request_id=f"bts{n}", arm="bts", experiment="front") for n in range(4)),
        act(None, "view", request_id="random1"),
    )
    assert {key: (row["control"], row["arm_value"], row["control_value"]) for key, row in rows.items()} == {
        ("random", "ctr"): ("bts", 0.1, 0.4)
    }
    assert (rows["random", "ctr"]["num_arm"], rows["random", "ctr"]["num_control"]) == (10, 10)
    assert rows["random", "ctr"]["notes"].startswith("bts, the arm seen first, is taken for the control")


RETURNS = (
    *(act(user, "view", experiment="front", arm=arm) for arm in ("A", "B") for user in (f"{arm}1", f"{arm}2")),
    # 3 pieces for 30 and 1 for 14 are 11 a piece: 2 of them come back without a price, 22 off 44.
    act("B1", "purchase", item_id="x", quantity=3, price=10),
    act("B1", "purchase", item_id="x", quantity=1, price=14),
    act("B1", "return", item_id="x", quantity=2),
    # An item that the log never saw her buy; its worth is not known.
    act("B1", "return", item_id="y", quantity=1),
    act("B2", "purchase", item_id="x", quantity=1, price=7),
    act("B2", "return", item_id="x", quantity=1, price=7, event_time=at(5)),
    # What came back without a price is worth nothing where the item was bought before the experiment.
    act("A1", "purchase", item_id="x", price=5, event_time=at(-1)),
    act("A1", "return", item_id="x", event_time=at(1)),
    act("A2", "purchase", item_id="z", price=1),
)


def test_revenue_is_net_of_returns(job: ModuleType, small_lake: SmallLake) -> None:
    rows = results(job, small_lake, *RETURNS)
    row = rows["B", "revenue_per_user"]
    assert (row["control"], row["arm_value"], row["control_value"]) == ("A", 11.0, 0.5)


def test_what_the_mapping_says_of_experiments_and_rates_is_kept_to(job: ModuleType, small_lake: SmallLake) -> None:
    facts = """
rates: {JPY: 0.01}
experiments:
  "FRONT": {control: red, shares: {red: 0.5, blue: 0.5}, primary: revenue_per_user, ends: 2026-01-10}
  back: {ends: 2026-02-10}
  gone: {control: a}
"""
    small_lake.mapping.write_text(small_lake.mapping.read_text() + facts)
    euros, yen = {"price": 10, "currency": "EUR"}, {"price": 3000, "currency": "JPY"}
    rows = results(
        job,
        small_lake,
        *(impression(f"{arm}{n}", f"{arm}{n}", arm=arm) for arm in ("blue", "red") for n in range(40)),
        *(impression(f"{arm}{n}", f"-{arm}{n}", arm=arm, experiment="back") for arm in ("on", "off") for n in range(5)),
        *(act(f"blue{n}", "purchase", **euros) for n in range(4)),
        *(act(f"red{n}", "purchase", **yen) for n in range(2)),
        act("red3", "purchase", **euros),
        # From the planned end on nothing counts: neither what is bought nor who comes.
        act("blue30", "purchase", price=9999, currency="EUR", event_time=at(9)),
        impression("late", "late", arm="blue", event_time=at(9)),
    )
    front = rows["blue", "revenue_per_user"]
    assert (front["control"], front["num_arm"], front["num_control"], front["is_primary"]) == ("red", 40, 40, True)
    assert (front["arm_value"], front["control_value"]) == pytest.approx((1.0, 1.75))  # 40 and 30 + 30 + 10 euros
    assert front["verdict"] == "undecided"
    assert rows["on", "ctr"]["verdict"] == "running"  # the log ends on 30 January
    assert rows["on", "ctr"]["control"] == "off"


@pytest.mark.parametrize(
    ("events", "why"),
    [
        ([act("ann", "purchase")], "no experiment in this log"),
        ([impression("ann", "r1", arm="b")], "no arm to compare in front: it has one arm with users of its own: b"),
        (
            [act("ann", "view", arm="b")],
            "its events name arms but no experiment; a constant `experiment` in the mapping",
        ),
        ([act("ann", "view", experiment="front")], "its events name experiments but no arm"),
    ],
)
def test_without_arms_to_compare_the_run_is_skipped(
    job: ModuleType, small_lake: SmallLake, capsys: pytest.CaptureFixture[str], events: list[dict[str, Any]], why: str
) -> None:
    assert results(job, small_lake, *events) == {}
    assert f"skipped: {why}" in capsys.readouterr().out
