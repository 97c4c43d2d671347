"""Statistics of a randomised experiment from sums over its units.

A unit is what was assigned to an arm: a user, or an impression where the log names no user. Each function takes only
sums that can be computed in a distributed way (counts, sums, squares, cross products), never the units themselves.
Higher metrics are better. Intervals are at 95 % and not corrected for multiple comparisons; `holm` corrects their
p values, and the verdict goes by these.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from scipy.special import chdtrc, stdtr, stdtrit

from lib.statistics.bootstrap import CONFIDENCE

# A mismatch this unlikely by chance means that assignment or logging is broken (Fabijan et al. 2019, KDD).
SAMPLE_RATIO_THRESHOLD = 0.001
ROUNDING = 1e-10  # of a mean square: a variance below that is what is left of sums that cancel


@dataclass(frozen=True)
class Sums:
    """Sums over the `n` units of an arm, of one number y per unit, or of two, y and x, whose ratio is the metric."""

    n: int
    y: float
    yy: float
    x: float = 0.0
    xx: float = 0.0
    xy: float = 0.0


@dataclass(frozen=True)
class Comparison:
    """One metric in an arm and its control; `effect` is arm minus control with its interval, None if undefined."""

    arm_value: float | None
    control_value: float | None
    effect: float | None
    low: float | None
    high: float | None
    p: float | None


def compare_shares(arm: Sums, control: Sums) -> Comparison:
    """Shares of units for which something holds (y is 0 or 1): interval and test of Agresti and Caffo (2000)."""
    if not arm.n or not control.n:
        return _undefined(_mean(arm), _mean(control))
    (p, p_variance), (q, q_variance) = (
        (share := (s.y + 1) / (s.n + 2), share * (1 - share) / (s.n + 2)) for s in (arm, control)
    )  # one success and one failure more in each arm, as the method has it
    low, high, chance = _normal_interval(p - q, p_variance + q_variance)
    a, b = arm.y / arm.n, control.y / control.n
    return Comparison(a, b, a - b, low, high, chance)


def compare_means(arm: Sums, control: Sums) -> Comparison:
    """Means over units: Welch's t-test, which allows the arms to have different variances."""
    if min(arm.n, control.n) < 2:
        return _undefined(_mean(arm), _mean(control))
    a, b = arm.y / arm.n, control.y / control.n
    variances = [_above_rounding(_covariance(s.n, s.y, s.y, s.yy), s.yy / s.n) for s in (arm, control)]
    squared_errors = [variance / s.n for variance, s in zip(variances, (arm, control), strict=True)]
    squared_error = sum(squared_errors)
    if squared_error <= 0:
        return _undefined(a, b)
    freedom = 1 / sum(
        (e / squared_error) ** 2 / (s.n - 1) for e, s in zip(squared_errors, (arm, control), strict=True)
    )  # Welch and Satterthwaite
    error = math.sqrt(squared_error)
    spread = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * error
    p = 2 * float(stdtr(freedom, -abs(a - b) / error))
    return Comparison(a, b, a - b, a - b - spread, a - b + spread, p)


def compare_ratios(arm: Sums, control: Sums) -> Comparison:
    """Ratios of two totals, sum of y / sum of x (clicks / impressions), where a unit may have several x.

    Impressions of one user are not independent, so the variance is that of the ratio over units, by the delta method:
    var(R) = (s_yy - 2 R s_xy + R^2 s_xx) / (n mean(x)^2) (Deng, Knoblich and Lu 2018, eq. 2).
    """
    if min(arm.n, control.n) < 2 or min(arm.x, control.x) <= 0:
        return _undefined(_ratio(arm), _ratio(control))
    a, b = arm.y / arm.x, control.y / control.x
    squared_error = _ratio_variance(arm) + _ratio_variance(control)
    if squared_error <= 0:
        return _undefined(a, b)
    return Comparison(a, b, a - b, *_normal_interval(a - b, squared_error))


def sample_ratio_p(counts: Sequence[int], shares: Sequence[float]) -> float:
    """The p value of a chi-square test of the arms' numbers of units against their intended shares; 1 without units.

    Raises:
        ValueError: shares are not all above zero, or there is not one for each arm.
    """
    if len(counts) != len(shares) or min(shares, default=0) <= 0:
        raise ValueError(f"an experiment needs one share above zero for each of its {len(counts)} arms; got {shares}")
    if len(counts) < 2 or not sum(counts):
        return 1.0
    expected = np.asarray(shares) / sum(shares) * sum(counts)
    statistic = (np.square(np.asarray(counts) - expected) / expected).sum()
    return float(chdtrc(len(counts) - 1, statistic))


def holm(p: Sequence[float | None]) -> list[float | None]:
    """The p values corrected for their number by Holm's step-down method (1979); an unknown one stays so.

    Rejecting those below 5 % keeps the chance of a single false one below 5 %, however the tests hang together.
    """
    known = sorted((value, place) for place, value in enumerate(p) if value is not None)
    corrected: list[float | None] = [None] * len(p)
    largest = 0.0
    for rank, (value, place) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * value))
        corrected[place] = largest
    return corrected


def verdict(
    effect: float | None,
    p_adjusted: float | None,
    ratio_p: float,
    *,
    is_running: bool = False,
    threshold: float = SAMPLE_RATIO_THRESHOLD,
) -> str:
    """`better` or `worse` if the corrected p value is below 5 %, else `undecided`.

    `invalid` on a sample-ratio mismatch; else `running` before the planned end.
    """
    if ratio_p < threshold:
        return "invalid"
    if is_running:
        return "running"
    if effect is None or p_adjusted is None or p_adjusted >= 1 - CONFIDENCE:
        return "undecided"
    return "better" if effect > 0 else "worse"


def _undefined(arm_value: float | None, control_value: float | None) -> Comparison:
    """Values without an interval: too few units, or units that do not differ at all."""
    effect = None if arm_value is None or control_value is None else arm_value - control_value
    return Comparison(arm_value, control_value, effect, None, None, None)


def _normal_interval(effect: float, squared_error: float) -> tuple[float, float, float]:
    """Low, high and two-sided p of a normally distributed effect."""
    normal = NormalDist(0, math.sqrt(squared_error))
    spread = normal.inv_cdf((1 + CONFIDENCE) / 2)
    return effect - spread, effect + spread, 2 * normal.cdf(-abs(effect))


def _mean(sums: Sums) -> float | None:
    return sums.y / sums.n if sums.n else None


def _ratio(sums: Sums) -> float | None:
    return sums.y / sums.x if sums.x else None


def _covariance(n: int, a: float, b: float, ab: float) -> float:
    return (ab - a * b / n) / (n - 1)


def _ratio_variance(sums: Sums) -> float:
    ratio = sums.y / sums.x
    s_yy = _covariance(sums.n, sums.y, sums.y, sums.yy)
    s_xy = _covariance(sums.n, sums.x, sums.y, sums.xy)
    s_xx = _covariance(sums.n, sums.x, sums.x, sums.xx)
    residual = _above_rounding(s_yy - 2 * ratio * s_xy + ratio**2 * s_xx, (sums.yy + ratio**2 * sums.xx) / sums.n)
    return residual / (sums.n * (sums.x / sums.n) ** 2)


def _above_rounding(variance: float, mean_square: float) -> float:
    """The variance, or zero where it is no larger than what rounding leaves of values that are all the same."""
    return variance if variance > ROUNDING * mean_square else 0.0
