"""A mixture of the strategies: P(item | events so far) = sum over strategies of w_s P_s(item | events so far).

The weights, by the number of events so far, maximise the likelihood of what came next in visits that the strategies have not
learnt from (expectation maximisation: Dempster, Laird and Rubin 1977).
"""

from collections.abc import Sequence

import numpy as np

from lib.next_item.candidates import Candidates
from lib.next_item.scores import Floats
from lib.next_item.visits import Ints

LENGTHS = (1, 2, 3, 5, 9)  # from these numbers of events so far the weights are others
ROUNDS = 60
PRIOR_EVENTS = 30.0  # the weights of all lengths count for so many events of each


def bucket_of(length: Ints) -> Ints:
    """Which weights go with each number of events so far."""
    return np.maximum(np.searchsorted(LENGTHS, length, side="right") - 1, 0)


def learn_weights(shares: Floats, length: Ints) -> Floats:
    """[lengths, strategies] the weights that make what came next most likely; equal ones where nothing tells.

    Args:
        shares: [questions, strategies] what each strategy says of the item that came next.
        length: [questions] events so far.
    """
    is_told = shares.sum(axis=1) > 0
    told, bucket = shares[is_told], bucket_of(length[is_told])
    equal = np.full(shares.shape[1], 1.0 / shares.shape[1])
    overall = _maximised(told, equal, prior=PRIOR_EVENTS)
    return np.stack([_maximised(told[bucket == b], overall, prior=PRIOR_EVENTS) for b in range(len(LENGTHS))])


def blended(candidates: Candidates, weights: Floats, length: Ints) -> Floats:
    """[candidates] the mixture's share of each."""
    return np.asarray((candidates.shares * weights[bucket_of(length)][candidates.row]).sum(axis=1))


def _maximised(shares: Floats, start: Floats, *, prior: float) -> Floats:
    weights = start
    for _ in range(ROUNDS if len(shares) else 0):
        joint = shares * weights
        weights = (joint / joint.sum(axis=1, keepdims=True)).sum(axis=0) + prior * start
        weights = weights / weights.sum()
    return weights


def told(weights: Floats, names: Sequence[str]) -> dict[str, float]:
    """The mean weight of each strategy."""
    return dict(zip(names, weights.mean(axis=0).tolist(), strict=True))
