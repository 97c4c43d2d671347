"""Estimators of the value of pages of k items, from pages that another policy logged: each page a row, each place a column.

What they assume of how a page's reward comes about says which weights it needs, and so how much the estimate varies:

| name | the reward at a place depends on | weights |
|---|---|---|
| standard | the whole page | product over all places |
| cascade | its item and those above it | product over the places down to it (McInerney et al. 2020, reward interaction) |
| independent | its item alone | that place's own ratio (Li et al. 2018) |
| pseudo_inverse | the page's reward is a sum over places | sum of the places' ratios (Swaminathan et al. 2017) |

`cascade_doubly_robust` (Kiyohara et al. 2022) is `doubly_robust` of rl/ope/estimators.py, whose steps are the places.
"""

import numpy as np

from rl.ope.bootstrap import Bootstrap, Estimate, Matrix
from rl.ope.estimators import per_decision_is, trajectory_is, weighed
from rl.ope.weights import Shape, unchanged


def standard(rewards: Matrix, ratios: Matrix, bootstrap: Bootstrap, *, shape: Shape = unchanged) -> Estimate:
    """Rewards and ratios [P, k] of P pages; a ratio is that of a place's item given those above it."""
    return trajectory_is(rewards, ratios, bootstrap, discount=1.0, shape=shape)


def cascade(rewards: Matrix, ratios: Matrix, bootstrap: Bootstrap, *, shape: Shape = unchanged) -> Estimate:
    """The same; a reward is weighed by the places down to its own."""
    return per_decision_is(rewards, ratios, bootstrap, discount=1.0, shape=shape)


def independent(rewards: Matrix, marginal_ratios: Matrix, bootstrap: Bootstrap) -> Estimate:
    """`marginal_ratios` [P, k] are those of an item standing at a place at all, whatever stands above."""
    return weighed(rewards, marginal_ratios, bootstrap, discount=1.0)


def pseudo_inverse(rewards: Matrix, marginal_ratios: Matrix, bootstrap: Bootstrap) -> Estimate:
    """V = (1/P) sum_p R_p (sum_j rho_pj - k + 1), R the page's whole reward.

    For logging policies that fill the places independently of each other, as an exploration does that draws each place by itself; for
    others the pseudo-inverse of the places' joint chances would be needed, which logs do not hold.
    """
    num_places = rewards.shape[1]
    weights = marginal_ratios.sum(axis=1) - num_places + 1
    return bootstrap.mean(np.asarray(weights * rewards.sum(axis=1), dtype=np.float64), weights=np.abs(weights))
