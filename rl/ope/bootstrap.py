"""Estimates with their intervals: percentile bootstraps over users.

A user's episodes are drawn together, because they are correlated. All estimates of one `Bootstrap` share its draws, so that the
difference of two of them is paired. NumPy only.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lib.statistics.bootstrap import TAILS

Matrix = npt.NDArray[np.float64]
Ints = npt.NDArray[np.integer]

NUM_RESAMPLES = 1000


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; `replicates` [B] are the bootstrap's values, in the order of its draws."""

    value: float
    low: float
    high: float
    effective_sample_size: float
    num_episodes: int
    replicates: Matrix

    def minus(self, other: "Estimate") -> "Estimate":
        """The paired difference of two estimates of the same `Bootstrap`, with the smaller effective sample size."""
        assert len(self.replicates) == len(other.replicates), "a paired difference needs the same draws"
        replicates = self.replicates - other.replicates
        low, high = _interval(replicates)
        size = min(self.effective_sample_size, other.effective_sample_size)
        return Estimate(self.value - other.value, low, high, size, self.num_episodes, replicates)

    def bound(self, confidence: float) -> float:
        """The value that is exceeded with this confidence, such as 0.95: a one-sided lower bound."""
        return float(np.nanquantile(self.replicates, 1 - confidence))


class Bootstrap:
    """Draws of users with replacement, made once and shared by every estimate on the same episodes."""

    def __init__(
        self, users: Ints, *, num_resamples: int = NUM_RESAMPLES, max_groups: int = 10_000, seed: int = 0
    ) -> None:
        """Prepare `num_resamples` draws for episodes whose users are `users` [E].

        With more than `max_groups` users, users are put into that many groups and the groups are drawn. Users are independent,
        so the interval is the same in expectation, and memory stays at `num_resamples * max_groups` bytes.
        """
        rng = np.random.default_rng(seed)
        self.num_episodes = len(users)
        group = np.unique(users, return_inverse=True)[1]
        num_users = int(group.max(initial=-1)) + 1
        self.num_groups = min(num_users, max_groups)
        self.group = (rng.permutation(num_users) % max(self.num_groups, 1))[group]
        self.counts = np.zeros((num_resamples, self.num_groups), dtype=np.uint8)
        for row in self.counts if self.num_groups else ():
            drawn = np.bincount(rng.integers(self.num_groups, size=self.num_groups), minlength=self.num_groups)
            row[:] = np.minimum(drawn, 255)

    def estimate(
        self,
        columns: Matrix,
        statistic: Callable[[Matrix], Matrix],
        *,
        weights: Matrix,
        num_episodes: int | None = None,
    ) -> Estimate:
        """Estimate a statistic of column sums.

        `columns` [E, m] are summed over episodes; `statistic` maps sums [..., m] to values [...]. The effective sample size is
        that of the importance weights `weights` [E]. `num_episodes` is how many of the episodes count (default: all).
        """
        if self.num_episodes == 0:
            raise ValueError("no episode to estimate a value from; is the log's test window empty?")
        sums = np.zeros((self.num_groups, columns.shape[1]))
        np.add.at(sums, self.group, columns)
        drawn = np.concatenate([block.astype(np.float64) @ sums for block in np.array_split(self.counts, 10)])
        replicates = statistic(drawn)
        low, high = _interval(replicates)
        value = float(statistic(columns.sum(axis=0)))
        size = self.num_episodes if num_episodes is None else num_episodes
        return Estimate(value, low, high, effective_sample_size(weights), size, replicates)

    def mean(self, values: Matrix, *, weights: Matrix) -> Estimate:
        """The mean of a value an episode, [E]."""
        columns = np.column_stack([values, np.ones(len(values))])
        return self.estimate(columns, lambda sums: sums[..., 0] / sums[..., 1], weights=weights)

    def ratio(self, numerators: Matrix, denominators: Matrix, *, weights: Matrix) -> Estimate:
        """The sum over steps of quotients of sums: numerators and denominators are [E, T]; a step without weight counts 0."""
        horizon = numerators.shape[1]

        def statistic(sums: Matrix) -> Matrix:
            above, below = sums[..., :horizon], sums[..., horizon:]
            return np.asarray(np.divide(above, below, out=np.zeros_like(above), where=below > 0).sum(axis=-1))

        return self.estimate(np.hstack([numerators, denominators]), statistic, weights=weights)


def _interval(replicates: Matrix) -> tuple[float, float]:
    low, high = np.nanquantile(replicates, TAILS)
    return float(low), float(high)


def effective_sample_size(weights: Matrix) -> float:
    """(sum w)^2 / sum w^2 (Kish 1965): as many episodes of equal weight have the same variance; 0 where all weights are 0."""
    total = float(np.square(weights).sum())
    return float(weights.sum()) ** 2 / total if total > 0 else 0.0
