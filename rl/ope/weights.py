"""Importance weights of whole histories, and what keeps a few of them from deciding everything. NumPy only.

rho_t = pi(a_t | s_t) / mu(a_t | s_t), 1 after an episode's end. w_t = rho_0 ... rho_t. One episode in a thousand can have a weight of
a thousand; each way below trades some bias for less variance.
"""

from collections.abc import Callable

import numpy as np

from rl.ope.bootstrap import Ints, Matrix

Shape = Callable[[Matrix], Matrix]  # weights (E, T) -> those that are used


def cumulative(ratios: Matrix) -> Matrix:
    """w_t, (E, T)."""
    return np.asarray(np.cumprod(ratios, axis=1), dtype=np.float64)


def unchanged(weights: Matrix) -> Matrix:
    """The weights themselves."""
    return weights


def clipped(most: float) -> Shape:
    """At most a number (Ionides 2008, "Truncated importance sampling"); with the square root of the episodes the bias vanishes as they grow."""
    return lambda weights: np.minimum(weights, most)


def switched(most: float) -> Shape:
    """0 from the step on at which a history's weight first exceeds a number: there the model speaks alone (Wang, Agarwal & Dudik 2017, switch-DR)."""
    return lambda weights: weights * (np.maximum.accumulate(weights, axis=1) <= most)


def shrunk(strength: float) -> Shape:
    """Strength w / (w^2 + strength) (Su et al. 2020, "Doubly robust off-policy evaluation with shrinkage", optimistic)."""
    return lambda weights: strength * weights / (weights**2 + strength)


def marginal(ratios: Matrix, cells: Ints) -> Matrix:
    """(E, T) the ratio of how often both policies come to a state, times the step's own ratio (Xie, Ma & Wang 2019, marginalised).

    The ratio of a cell of states is the mean of the weights with which its episodes came there: products over steps are
    averaged at each step, so their variance grows with the number of steps and not exponentially; each step's are over their mean,
    which is 1 in expectation. As good as the cells: states of one cell are taken for one state.

    Args:
        ratios: (E, T).
        cells: (E, T), the cell of the state at each step; -1 after an episode's end, which is a cell of its own.
    """
    found = np.empty_like(ratios, dtype=np.float64)
    before = np.ones(len(ratios))
    for step in range(ratios.shape[1]):
        cell = np.unique(cells[:, step], return_inverse=True)[1]
        arrived = np.bincount(cell, weights=before) / np.bincount(cell)
        found[:, step] = arrived[cell] * ratios[:, step]
        found[:, step] /= max(found[:, step].mean(), np.finfo(np.float64).tiny)
        before = found[:, step]
    return found
