import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import proportions_ztest
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

from lib.statistics.experiments import (
    Comparison,
    Sums,
    compare_means,
    compare_ratios,
    compare_shares,
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


def test_shares_of_large_arms_agree_with_the_pooled_z_test_of_statsmodels() -> None:
    ours = compare_shares(Sums(20_000, 1_100, 1_100), Sums(20_000, 1_000, 1_000))
    _, theirs = proportions_ztest([1_100, 1_000], [20_000, 20_000])
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
    ("low", "high", "ratio_p", "expected"),
    [
        (0.01, 0.03, 0.5, "better"),
        (-0.03, -0.01, 0.5, "worse"),
        (-0.01, 0.01, 0.5, "undecided"),
        (0.01, 0.03, 0.0001, "invalid"),
        (None, None, 0.5, "undecided"),
    ],
)
def test_the_verdict_follows_the_interval_unless_the_sample_ratio_is_broken(
    low: float | None, high: float | None, ratio_p: float, expected: str
) -> None:
    assert verdict(Comparison(0.2, 0.1, 0.1, low, high, 0.01), ratio_p) == expected


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
