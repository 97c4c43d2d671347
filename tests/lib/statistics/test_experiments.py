import math
from dataclasses import asdict

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats import proportion
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

from lib.statistics.experiments import (
    Comparison,
    Sums,
    compare_means,
    compare_ratios,
    compare_shares,
    holm,
    sample_ratio_p,
    verdict,
)


def sums_of(y: npt.ArrayLike, x: npt.ArrayLike | None = None) -> Sums:
    y = np.asarray(y, float)
    x = np.zeros(len(y)) if x is None else np.asarray(x, float)
    return Sums(n=len(y), y=y.sum(), yy=(y**2).sum(), x=x.sum(), xx=(x**2).sum(), xy=(x * y).sum())


def test_shares_are_compared_as_worked_by_hand() -> None:
    # 30 of 100 against 20 of 100; Agresti-Caffo adds one success and one failure to each: 31/102 and 21/102.
    result = compare_shares(Sums(100, 30, 30), Sums(100, 20, 20))
    p, q = 31 / 102, 21 / 102
    error = math.sqrt(p * (1 - p) / 102 + q * (1 - q) / 102)
    assert (result.arm_value, result.control_value, result.effect) == pytest.approx((0.3, 0.2, 0.1))
    assert (result.low, result.high) == pytest.approx((p - q - 1.959964 * error, p - q + 1.959964 * error), abs=1e-6)


@pytest.mark.parametrize(
    ("yes", "n", "control_yes", "control_n"), [(30, 100, 20, 100), (1, 7, 400, 9000), (4, 5, 1, 30)]
)
def test_shares_equal_the_interval_and_test_of_statsmodels(yes: int, n: int, control_yes: int, control_n: int) -> None:
    ours = compare_shares(Sums(n, yes, yes), Sums(control_n, control_yes, control_yes))
    counts = {"compare": "diff", "method": "agresti-caffo"}
    theirs = proportion.confint_proportions_2indep(yes, n, control_yes, control_n, **counts)
    assert (ours.low, ours.high) == pytest.approx(theirs, rel=1e-9)
    assert ours.p == pytest.approx(
        proportion.test_proportions_2indep(yes, n, control_yes, control_n, **counts).pvalue, rel=1e-9
    )


def test_shares_of_large_arms_agree_with_the_pooled_z_test_of_statsmodels() -> None:
    ours = compare_shares(Sums(20_000, 1_100, 1_100), Sums(20_000, 1_000, 1_000))
    _, theirs = proportion.proportions_ztest([1_100, 1_000], [20_000, 20_000])
    assert ours.p == pytest.approx(theirs, rel=0.01)


def test_means_equal_the_welch_interval_of_statsmodels_on_the_raw_values() -> None:
    rng = np.random.default_rng(0)
    arm, control = rng.exponential(3, 80), rng.exponential(2, 50)
    ours = compare_means(sums_of(arm), sums_of(control))
    theirs = CompareMeans(DescrStatsW(arm), DescrStatsW(control))
    assert (ours.low, ours.high) == pytest.approx(theirs.tconfint_diff(usevar="unequal"), rel=1e-9)
    assert ours.p == pytest.approx(theirs.ttest_ind(usevar="unequal")[1], rel=1e-9)
    assert ours.effect == pytest.approx(arm.mean() - control.mean())


def test_the_ratio_of_one_impression_a_unit_is_the_mean_of_its_clicks() -> None:
    rng = np.random.default_rng(0)
    arm, control = (rng.random(3000) < 0.2).astype(float), (rng.random(3000) < 0.15).astype(float)
    ratio = compare_ratios(sums_of(arm, np.ones(3000)), sums_of(control, np.ones(3000)))
    mean = compare_means(sums_of(arm), sums_of(control))
    assert (ratio.effect, ratio.low, ratio.high) == pytest.approx((mean.effect, mean.low, mean.high), rel=1e-3)


def test_the_delta_interval_of_a_ratio_covers_the_truth_where_impressions_of_a_user_hang_together() -> None:
    # Each user has a click rate of its own: per-impression intervals would be far too narrow.
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(300):
        arms = []
        for _ in range(2):
            impressions = rng.integers(1, 30, 200)
            arms.append(sums_of(rng.binomial(impressions, rng.beta(0.5, 2, 200)), impressions))
        result = compare_ratios(*arms)
        covered += result.low <= 0 <= result.high
    assert 275 <= covered <= 296


def test_arms_without_enough_units_or_without_variance_have_no_interval() -> None:
    one, same = Sums(1, 2.0, 4.0, x=4.0, xx=16.0, xy=8.0), sums_of([2.0, 2.0], [4.0, 4.0])
    for compare in (compare_means, compare_ratios):
        assert compare(one, same).low is None
        assert compare(same, same).p is None
    assert compare_ratios(one, one).arm_value == 0.5
    assert compare_shares(Sums(0, 0, 0), Sums(5, 1, 1)) == Comparison(None, 0.2, None, None, None, None)


def test_the_sample_ratio_check_is_the_chi_square_test() -> None:
    # 5,050 and 4,950 where halves were meant: (50^2 + 50^2) / 5000 = 1 with one degree of freedom.
    assert sample_ratio_p([5050, 4950], [1, 1]) == pytest.approx(stats.chi2.sf(1.0, 1))
    assert sample_ratio_p([300, 100], [0.75, 0.25]) == 1.0
    assert sample_ratio_p([100], [1]) == 1.0
    with pytest.raises(ValueError, match="one share above zero for each of its 2 arms"):
        sample_ratio_p([5, 5], [1.0])


@pytest.mark.parametrize(
    ("effect", "p", "ratio_p", "is_running", "expected"),
    [
        (0.02, 0.01, 0.5, False, "better"),
        (-0.02, 0.01, 0.5, False, "worse"),
        (-0.02, 0.06, 0.5, False, "undecided"),
        (0.02, 0.01, 0.0001, False, "invalid"),
        (0.02, 0.01, 0.5, True, "running"),
        (0.02, 0.01, 0.0001, True, "invalid"),
        (0.0, None, 0.5, False, "undecided"),
        (None, None, 0.5, False, "undecided"),
    ],
)
def test_the_verdict_follows_the_corrected_p_unless_the_sample_ratio_is_broken_or_the_end_is_to_come(
    effect: float | None, p: float | None, ratio_p: float, is_running: bool, expected: str
) -> None:
    assert verdict(effect, p, ratio_p, is_running=is_running) == expected


def test_holm_is_as_worked_by_hand() -> None:
    # 0.01 x 3 = 0.03; 0.02 x 2 = 0.04; 0.9 x 1; the unknown one counts for nothing.
    assert holm([0.02, None, 0.01, 0.9]) == pytest.approx([0.04, None, 0.03, 0.9])
    assert holm([0.02, 0.03]) == pytest.approx([0.04, 0.04])  # never below a smaller one's
    assert holm([None]) == [None]
    assert holm([]) == []


@settings(deadline=None, max_examples=20)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_is_that_of_statsmodels(p: list[float]) -> None:
    assert holm(p) == pytest.approx(list(multipletests(p, method="holm")[1]))


def test_values_that_are_all_the_same_have_no_variance_whatever_rounding_leaves_of_their_sums() -> None:
    for price in (9.99, 0.1, 19.99):
        same, more = sums_of([price] * 1001), sums_of([price] * 777)
        result = compare_means(same, more)
        assert (result.low, result.p) == (None, None)
        paid = sums_of([0.3, 0.6, 0.9] * 99, [1, 2, 3] * 99)  # the same ratio in every unit
        assert compare_ratios(paid, paid).p is None


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 20), st.integers(0, 20)), min_size=2, max_size=30), st.integers(2, 10))
def test_swapping_the_arms_turns_the_effect_around(units: list[tuple[int, int]], further: int) -> None:
    x, y = zip(*units, strict=True)
    arm, control = sums_of(y, x), sums_of([1.0, 0.0] * further, [2.0] * (2 * further))
    for compare in (compare_means, compare_ratios):
        there, back = compare(arm, control), compare(control, arm)
        assert there.effect == pytest.approx(-back.effect)
        assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
        assert there.low <= there.effect <= there.high
        assert (there.p <= 0.05) == (there.low >= 0 or there.high <= 0) or there.p == pytest.approx(0.05)


UNITS = st.lists(st.tuples(st.integers(0, 50), st.floats(-1e15, 1e15)), max_size=12)


@settings(deadline=None, max_examples=200)
@given(UNITS, UNITS, st.sampled_from([1.0, 1e-150, 1e-9]))
def test_whatever_the_units_a_comparison_is_of_numbers_or_undefined(
    arm: list[tuple[int, float]], control: list[tuple[int, float]], scale: float
) -> None:
    sums = [sums_of([y * scale for _, y in units], [x for x, _ in units]) for units in (arm, control)]
    for compare in (compare_means, compare_ratios):
        result = compare(*sums)
        assert all(number is None or math.isfinite(number) for number in asdict(result).values())
        assert (result.low is None) == (result.high is None) == (result.p is None)
        if result.low is not None:
            assert result.low <= result.effect <= result.high
            assert 0 <= result.p <= 1


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**9), st.integers(0, 10**9), st.floats(0, 1), st.floats(0, 1))
def test_whatever_the_shares_their_comparison_is_of_numbers_or_undefined(n: int, m: int, p: float, q: float) -> None:
    yes, control_yes = round(p * n), round(q * m)
    result = compare_shares(Sums(n, yes, yes), Sums(m, control_yes, control_yes))
    assert all(number is None or math.isfinite(number) for number in asdict(result).values())
    assert (result.low is None) == (not n or not m)
    if result.low is not None:
        assert result.low <= result.high
        assert 0 <= result.p <= 1


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 10**12), st.floats(1e-6, 1e6)), min_size=1, max_size=8))
def test_whatever_the_sizes_the_sample_ratio_check_is_a_chance(arms: list[tuple[int, float]]) -> None:
    assert 0 <= sample_ratio_p([size for size, _ in arms], [share for _, share in arms]) <= 1
