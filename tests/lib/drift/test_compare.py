"""Two samples of users: the statistics against references, no false alarm without drift, and drift that was planted is found."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import rel_entr
from scipy.stats import false_discovery_control, ks_2samp

from lib.drift import compare as comparing
from lib.drift.compare import Measure, Sides, compare, corrected, ks_statistic, num_units, psi
from lib.drift.judging import Limits, of_measures

LIMITS = Limits(max_p=0.01, min_psi=0.2, min_reward_change_frac=0.1)
VALUES = arrays(
    np.float64, st.integers(1, 60), elements=st.one_of(st.sampled_from([0.0, 1.0, np.nan]), st.floats(-5, 5, width=16))
)


def one_row_a_unit(num_then: int, num_now: int) -> Sides:
    return Sides(np.arange(num_then), np.arange(num_now))


@given(VALUES, VALUES)
@settings(max_examples=150, deadline=None)
def test_the_distance_is_the_largest_of_the_distribution_functions_and_the_psi_both_relative_entropies(
    then: np.ndarray, now: np.ndarray
) -> None:
    low = [np.where(np.isnan(side), -1e9, side) for side in (then, now)]
    points = np.concatenate(low)
    distance = max(abs(np.mean(low[0] <= point) - np.mean(low[1] <= point)) for point in points)
    assert ks_statistic(then, now) == pytest.approx(distance)
    known = np.sort(then[~np.isnan(then)])
    cuts = np.unique([known[math.floor(tenth / 10 * (len(known) - 1))] for tenth in range(1, 10)]) if len(known) else []
    ends = [-np.inf, *np.nextafter(cuts, np.inf), np.inf]
    counts = []
    for side in (then, now):
        of_known = np.histogram(side[~np.isnan(side)], bins=ends)[0]
        counts.append(np.array([np.isnan(side).sum(), *of_known], float))
    used = counts[0] + counts[1] > 0
    shares = [(count[used] + 0.5) / (count.sum() + 0.5 * used.sum()) for count in counts]
    both = rel_entr(shares[0], shares[1]).sum() + rel_entr(shares[1], shares[0]).sum()
    assert psi(then, now) == pytest.approx(both, abs=1e-9)


def test_a_psi_is_what_is_worked_by_hand() -> None:
    # Categories 0 and 1: 7 and 3 rows then, 3 and 7 now; with half a row more in each, 7.5 / 11 and 3.5 / 11.
    then, now = np.array([0.0] * 7 + [1.0] * 3), np.array([0.0] * 3 + [1.0] * 7)
    by_hand = 2 * (4 / 11) * math.log(7.5 / 3.5)
    assert psi(then, now, is_category=True) == pytest.approx(by_hand) == pytest.approx(0.5543, abs=1e-4)
    assert psi(then, then) == 0
    # Known then, unknown now: of two bins one of each side is empty. (10.5 - 0.5) / 11 * ln(10.5 / 0.5), twice.
    unknown = np.full(10, np.nan)
    assert psi(np.zeros(10), unknown) == pytest.approx(2 * (10 / 11) * math.log(21))
    assert ks_statistic(np.zeros(10), unknown) == 1
    # 4 of 100 rows now in a bin that was empty: with half a user's rows in each bin, of one and of ten.
    few = np.repeat([0.0, 1.0], [96, 4])
    of_rows, of_users = (psi(np.zeros(100), few, is_category=True, rows_per_unit=rows) for rows in (1, 10))
    assert of_rows == pytest.approx(4 / 101 * (math.log(4.5 / 0.5) + math.log(100.5 / 96.5)))
    assert of_users == pytest.approx(4 / 110 * (math.log(9 / 5) + math.log(105 / 101)))


def test_with_a_row_a_user_p_is_kolmogorovs_and_smirnovs_and_its_correction_scipys() -> None:
    draw = np.random.default_rng(0)
    then, now = draw.normal(size=60), draw.normal(0.4, size=50)
    (found,) = compare([Measure("x", then, now)], one_row_a_unit(60, 50), num_permutations=4_999, seed=0)
    assert found.p == pytest.approx(ks_2samp(then, now, method="exact").pvalue, abs=0.02)
    assert found.statistic == pytest.approx(ks_2samp(then, now).statistic)
    assert (found.then, found.now) == (pytest.approx(then.mean()), pytest.approx(now.mean()))
    p = draw.random(40) ** 3
    assert corrected(p.tolist()) == pytest.approx(false_discovery_control(p))


def of_users(
    draw: np.random.Generator, num: int, *, rows: int = 20, features: int = 12, shift: float = 0
) -> np.ndarray:
    """(users x rows, features): each feature mostly the user's own, as those of a user's candidates are; the first is shifted."""
    own = np.repeat(draw.normal(size=(num, features)), rows, axis=0)
    own[:, 0] += shift
    return own + 0.3 * draw.normal(size=own.shape)


def alarms(num_trials: int, shift: float) -> tuple[int, int, int]:
    """In how many trials anything drifts, the shifted feature does, and any of the others does."""
    draw = np.random.default_rng(5)
    units, any_drifts, it_drifts, others_drift = np.repeat(np.arange(60), 20), 0, 0, 0
    for trial in range(num_trials):
        then, now = of_users(draw, 60), of_users(draw, 60, shift=shift)
        measures = [Measure(f"f{n}", then[:, n], now[:, n]) for n in range(then.shape[1])]
        found = compare(measures, Sides(units, units), num_permutations=1_299, seed=trial)
        rows = of_measures({one.name: "feature" for one in measures}, found, (60, 60), LIMITS)
        drifted = {row["name"] for row in rows if row["is_drifted"]}
        any_drifts += bool(drifted)
        it_drifts += "f0" in drifted
        others_drift += bool(drifted - {"f0"})
    return any_drifts, it_drifts, others_drift


def test_users_who_are_drawn_alike_raise_no_alarm_where_rows_by_themselves_always_would() -> None:
    # 1 % of the trials are expected; 4 or more of 60 have a chance of 0.3 %.
    assert alarms(60, shift=0)[0] <= 3
    draw = np.random.default_rng(6)
    by_rows = [ks_2samp(*(of_users(draw, 60)[:, 0] for _ in "ab")).pvalue < 0.01 for _ in range(40)]
    assert np.mean(by_rows) > 0.5


def test_a_feature_that_is_shifted_by_one_and_a_half_deviations_is_found_and_no_other() -> None:
    any_drifts, it_drifts, others_drift = alarms(10, shift=1.5)
    assert (any_drifts, it_drifts) == (10, 10)
    assert others_drift <= 1


def test_a_difference_that_is_sure_and_small_is_no_drift() -> None:
    draw = np.random.default_rng(1)
    then, now = draw.normal(size=2_000), draw.normal(0.25, size=2_000)
    (found,) = compare([Measure("x", then, now)], one_row_a_unit(2_000, 2_000), num_permutations=999, seed=0)
    assert found.p == 0.001
    (row,) = of_measures({"x": "feature"}, [found], (2_000, 2_000), LIMITS)
    assert not row["is_drifted"]
    assert row["reason"].startswith("less than PSI 0.2 beyond chance: PSI 0.0")


def test_a_share_that_doubles_is_drift_of_a_category() -> None:
    then, now = np.repeat([0.0, 1.0], [240, 60]), np.repeat([0.0, 1.0], [165, 135])
    found = compare(
        [Measure("kind", then, now, is_category=True)], one_row_a_unit(300, 300), num_permutations=999, seed=0
    )
    assert found[0].statistic == pytest.approx(0.25)
    (row,) = of_measures({"kind": "events"}, found, (300, 300), LIMITS, {"kind": "most by b"})
    assert row["is_drifted"] and row["reason"].endswith("; most by b")
    assert row["reference"] is row["now"] is None


@pytest.mark.bad_input("a feature that is never known, or known of one user")
def test_of_a_feature_that_is_never_known_and_of_one_user_nothing_is_told() -> None:
    unknown = np.full(40, np.nan)
    units = np.repeat(np.arange(20), 2)
    found = compare([Measure("x", unknown, unknown)], Sides(units, units), num_permutations=99, seed=0)
    assert found[0][1:7] == (None, None, 1, 1, 0, 0)
    assert found[0].p == 1
    (row,) = of_measures({"x": "feature"}, found, (20, 20), LIMITS)
    assert (row["is_drifted"], row["reason"]) == (False, "unknown then and now")
    alone = np.zeros(40, np.int64)
    found = compare([Measure("x", np.zeros(40), np.ones(40))], Sides(alone, alone), num_permutations=99, seed=0)
    assert found[0].p == 1 and found[0].statistic == 1
    (row,) = of_measures({"x": "feature"}, found, (1, 1), LIMITS)
    assert (row["is_drifted"], row["reason"]) == (False, "too few users to tell (1 and 1 of at least 10)")


def test_of_very_many_users_some_are_drawn_and_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "MOST_UNITS", 50)
    draw = np.random.default_rng(2)
    units = np.repeat(np.arange(0, 400, 2), 3)
    measures = [Measure("x", draw.normal(size=600), draw.normal(3, size=600))]
    first, second = (compare(measures, Sides(units, units), num_permutations=99, seed=4) for _ in range(2))
    assert first == second and num_units(units) == 200
    assert first[0].p == 0.01 and first[0].statistic > 0.7
