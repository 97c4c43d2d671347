"""From sums of arms to rows: which arms are compared, which metric decides, and what is said of the rest."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import confint_proportions_2indep

from lib.formats.experiments import METRICS, Experiment
from lib.statistics.experiments import Sums
from lib.statistics.verdicts import Arm, Judged, Rules, judge

START = datetime(2026, 1, 1, tzinfo=UTC)
EUROS = frozenset({"EUR"})


def rules(**changes: Any) -> Rules:
    usual: dict[str, Any] = {"unit": "user", "min_units": 30, "min_frac": 0.01, "threshold": 0.001}
    return Rules(**usual | {"last_event": START + timedelta(days=30)} | changes)


def arm(num_units: int, num_buyers: int, *, clicks: int = 0, currencies: frozenset[str] = EUROS, day: int = 0) -> Arm:
    """Every buyer pays 10; where there are clicks, each unit was shown one impression."""
    n = float(num_units)
    return Arm(
        START + timedelta(days=day),
        {
            "conversion": Sums(num_units, num_buyers, num_buyers),
            "ctr": Sums(num_units, clicks, clicks, n, n, clicks) if clicks else Sums(num_units, 0, 0),
            "revenue_per_user": Sums(num_units, 10 * num_buyers, 100 * num_buyers),
            "satisfaction": Sums(num_units, 0.25 * num_buyers, 0.0625 * num_buyers),
        },
        currencies if num_buyers else frozenset(),
    )


def told(judged: Judged, column: str = "verdict") -> dict[tuple[str, str], Any]:
    return {(row["arm"], row["metric"]): row[column] for row in judged.rows}


def test_one_metric_decides_by_its_own_p_value_and_the_others_are_corrected() -> None:
    judged = judge({"control": arm(200, 78, clicks=20), "treatment": arm(200, 56, clicks=36)}, Experiment(), rules())
    p = {metric: value for (_, metric), value in told(judged, "p").items()}
    adjusted = {metric: value for (_, metric), value in told(judged, "p_adjusted").items()}
    assert adjusted["conversion"] == p["conversion"] == pytest.approx(0.0198, abs=1e-3)
    others = [metric for metric in METRICS if metric != "conversion"]
    expected = multipletests([p[metric] for metric in others], method="holm")[1]
    assert [adjusted[metric] for metric in others] == pytest.approx(list(expected))
    # Revenue differs with p = 0.019 alone, which is 0.058 among three.
    assert p["revenue_per_user"] < 0.05 < adjusted["revenue_per_user"]
    assert told(judged) == {
        ("treatment", "conversion"): "worse",
        ("treatment", "ctr"): "undecided",
        ("treatment", "revenue_per_user"): "undecided",
        ("treatment", "satisfaction"): "undecided",
    }
    assert [row["metric"] for row in judged.rows if row["is_primary"]] == ["conversion"]
    low, high = confint_proportions_2indep(56, 200, 78, 200, compare="diff", method="agresti-caffo")
    decides = judged.rows[0]
    assert (decides["low"], decides["high"]) == pytest.approx((low, high))
    assert decides["reason"].endswith(f"p {p['conversion']:.2g})")
    assert judged.rows[2]["reason"].endswith("corrected for 3 comparisons)")
    assert judged.notes == []


def test_the_plan_names_the_metric_that_decides() -> None:
    arms = {"control": arm(200, 78, clicks=20), "treatment": arm(200, 56, clicks=36)}
    judged = judge(arms, Experiment(primary="ctr"), rules())
    assert told(judged)["treatment", "ctr"] == "better"
    assert told(judged, "is_primary")["treatment", "conversion"] is False
    without_clicks = judge({"a": arm(200, 78), "b": arm(200, 56)}, Experiment(primary="ctr"), rules())
    assert told(without_clicks, "is_primary")["b", "conversion"] is True
    assert without_clicks.notes == ["ctr is not known of it: conversion decides instead"]


def test_of_several_arms_the_deciding_metric_is_corrected_for_their_number() -> None:
    arms = {"A": arm(1000, 100), "B": arm(1000, 130), "C": arm(1000, 103)}
    p = told(judged := judge(arms, Experiment(), rules()), "p")
    corrected = multipletests([p["B", "conversion"], p["C", "conversion"]], method="holm")[1]
    assert [told(judged, "p_adjusted")[name, "conversion"] for name in "BC"] == pytest.approx(list(corrected))
    assert p["B", "conversion"] < 0.05 < corrected[0]
    assert told(judged)["B", "conversion"] == "undecided"
    assert {row["control"] for row in judged.rows} == {"A"}
    assert len(judged.rows) == 2 * 3


def test_stray_arms_are_left_out_and_named_and_spoil_no_other() -> None:
    arms = {"control": arm(200, 78), "debug": arm(2, 0), "qa": arm(1, 1), "treatment": arm(200, 56)}
    judged = judge(arms, Experiment(), rules())
    assert told(judged)["treatment", "conversion"] == "worse"
    assert {row["arm"] for row in judged.rows} == {"treatment"}
    assert judged.rows[0]["sample_ratio_p"] == 1.0
    assert judged.notes == ["left out as arms that were not meant: debug (2 users), qa (1 user)"]


def test_planned_shares_say_which_arms_are_meant_and_how_large() -> None:
    plan = Experiment(shares={"control": 0.9, "Treatment": 0.1})
    arms = {"control": arm(360, 120), "extra": arm(300, 0), "treatment": arm(40, 14)}
    judged = judge(arms, plan, rules())
    assert {row["arm"] for row in judged.rows} == {"treatment"}
    assert judged.rows[0]["sample_ratio_p"] == 1.0
    assert told(judged)["treatment", "conversion"] == "undecided"
    assert judged.notes == ["left out as arms that were not meant: extra (300 users)"]
    assert {row["verdict"] for row in judge(arms, Experiment(), rules()).rows} == {"invalid"}


def test_a_planned_arm_without_units_is_a_mismatch() -> None:
    plan = Experiment(shares={"control": 1, "new": 1, "newer": 1})
    judged = judge({"control": arm(50, 5), "new": arm(50, 5)}, plan, rules())
    assert told(judged)["newer", "conversion"] == "invalid"
    assert judged.rows[0]["reason"].startswith(
        "the arms' sizes are not those intended: 50 in control, 50 in new, 0 in newer"
    )
    assert told(judged, "effect")["newer", "conversion"] is None


def test_the_control_is_the_planned_one_and_else_the_choice_is_told() -> None:
    arms = {"blue": arm(100, 10, day=1), "red": arm(100, 10)}
    assert {row["control"] for row in judge(arms, Experiment(control="BLUE"), rules()).rows} == {"blue"}
    judged = judge(arms, Experiment(), rules())
    assert {row["control"] for row in judged.rows} == {"red"}
    assert judged.notes == [
        "red, the arm seen first, is taken for the control, since no arm's name says which is; "
        "name it in the mapping under experiments"
    ]
    switch = {"on": arm(100, 10), "off": arm(100, 10)}
    plan = Experiment.model_validate({"control": False, "shares": {True: 0.5, False: 0.5}})  # as YAML reads on and off
    assert {row["control"] for row in judge(switch, plan, rules()).rows} == {"off"}
    absent = judge(arms, Experiment(control="green"), rules())
    assert absent == ([], ["its control 'green' has no user; its arms are blue, red"])


def test_until_its_planned_end_an_experiment_is_running() -> None:
    arms = {"control": arm(200, 78), "treatment": arm(200, 56)}

    def verdicts(ends: datetime, **changes: Any) -> set[str]:
        return {row["verdict"] for row in judge(arms, Experiment(ends=ends), rules(**changes)).rows}

    day = timedelta(days=1)
    last = START + 30 * day
    assert verdicts(last + 2 * day) == {"running"}
    assert verdicts(last + day + timedelta(microseconds=1)) == {"running"}
    assert verdicts(last + day) == verdicts(START) == {"worse"}  # its last day is in the log
    judged = judge(arms, Experiment(ends=last + 2 * day), rules())
    assert judged.rows[0]["reason"].startswith(
        "until 2026-02-02 00:00 (UTC); so far 0.28 against 0.39: -0.11 (95 % from"
    )
    broken = judge(arms | {"treatment": arm(20, 5)}, Experiment(ends=last + 2 * day), rules())
    assert {row["verdict"] for row in broken.rows} == {"invalid"}


def test_nobody_bought_is_undecided_and_says_so() -> None:
    judged = judge({"control": arm(100, 0), "treatment": arm(100, 0)}, Experiment(), rules())
    (row,) = judged.rows
    assert (row["metric"], row["verdict"], row["reason"]) == ("conversion", "undecided", "nobody bought")
    assert (row["arm_value"], row["effect"], row["p"]) == (0.0, 0.0, 1.0)
    clicked = judge({"control": arm(100, 0, clicks=9), "treatment": arm(100, 0, clicks=30)}, Experiment(), rules())
    assert told(clicked, "is_primary")["treatment", "ctr"] is True  # the first that anything happened of
    assert told(clicked) == {("treatment", "ctr"): "better", ("treatment", "conversion"): "undecided"}


def test_amounts_of_several_currencies_are_not_compared() -> None:
    both = frozenset({"EUR", "JPY"})
    judged = judge({"control": arm(100, 9, currencies=both), "treatment": arm(100, 9)}, Experiment(), rules())
    assert {row["metric"] for row in judged.rows} == {"conversion", "satisfaction"}
    assert judged.notes == ["revenue is left out: amounts in EUR and JPY do not add up without the mapping's rates"]
    unknown = judge({"control": arm(100, 9, currencies=frozenset({""})), "t": arm(100, 9)}, Experiment(), rules())
    assert unknown.notes == [
        "revenue is left out: amounts in an unknown currency and EUR do not add up without the mapping's rates"
    ]
    yen = frozenset({"JPY"})
    alone = judge({"control": arm(100, 9, currencies=yen), "t": arm(100, 9, currencies=yen)}, Experiment(), rules())
    assert "revenue_per_user" in {row["metric"] for row in alone.rows}
    # What a stray arm pays in does not count.
    stray = judge({"control": arm(100, 9), "debug": arm(2, 1, currencies=yen), "t": arm(100, 9)}, Experiment(), rules())
    assert "revenue_per_user" in {row["metric"] for row in stray.rows}


@pytest.mark.parametrize(
    ("arms", "why"),
    [
        ({"control": arm(50, 5)}, "it has one arm with users of its own: control"),
        ({"control": arm(50, 5), "b": arm(0, 0)}, "it has one arm with users of its own: control"),
        ({"control": arm(0, 0), "b": arm(0, 0)}, "it has no user in one arm alone"),
    ],
)
def test_without_two_arms_there_is_no_row_but_a_reason(arms: dict[str, Arm], why: str) -> None:
    assert judge(arms, Experiment(), rules()) == ([], [why])


ARMS = st.dictionaries(
    st.sampled_from(["control", "a", "b", "debug", ""]),
    st.tuples(st.integers(0, 300), st.integers(0, 300), st.integers(0, 300)).map(
        lambda sizes: arm(sizes[0], min(sizes[:2]), clicks=min(sizes[0], sizes[2]))
    ),
    max_size=5,
)
PLANS = st.tuples(
    st.sampled_from([{}, {"control": "control"}, {"control": "absent"}]),
    st.sampled_from(
        [{}, {"shares": {"control": 0.5, "b": 0.5, "absent": 1e-6}}, {"shares": {"control": 9, "absent": 1}}]
    ),
    st.sampled_from([{}, {"primary": "ctr"}, {"primary": "revenue_per_user"}]),
    st.sampled_from([{}, {"ends": START}, {"ends": START + timedelta(days=99)}]),
).map(lambda parts: Experiment(**{key: value for part in parts for key, value in part.items()}))


@settings(deadline=None, max_examples=200)
@given(ARMS, PLANS, st.sampled_from(["user", "impression"]))
def test_whatever_the_arms_every_row_is_whole_or_the_reason_is_given(
    arms: dict[str, Arm], plan: Experiment, unit: str
) -> None:
    rows, notes = judge(arms, plan, rules(unit=unit))
    assert rows or notes
    for arm_name, control in {(row["arm"], row["control"]) for row in rows}:
        assert arm_name != control
        assert sum(row["is_primary"] for row in rows if row["arm"] == arm_name) == 1
    for row in rows:
        numbers = [row[name] for name in ("effect", "low", "high", "p", "p_adjusted", "sample_ratio_p")]
        assert all(number is None or math.isfinite(number) for number in numbers)
        assert row["verdict"] in ("better", "worse", "undecided", "running", "invalid")
        assert "nan" not in row["reason"] and "None" not in row["reason"]
        if row["p"] is not None:
            assert row["p"] <= row["p_adjusted"] <= 1
