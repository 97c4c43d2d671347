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
PRIOR_EVENTS = (
    30.0  # what is known before counts for so many events: of all lengths the prior, of each the weights of all
)
# Rounded from the weights of three logs' validation windows (docs/decisions/0027); other strategies share what is left.
PRIOR = {"own_items": 0.4, "successor": 0.15, "session_knn": 0.15, "same_item": 0.1}


def bucket_of(length: Ints) -> Ints:
    """Which weights go with each number of events so far."""
    return np.maximum(np.searchsorted(LENGTHS, length, side="right") - 1, 0)


def learn_weights(shares: Floats, length: Ints, prior: Floats) -> Floats:
    """[lengths, strategies] the weights that make what came next most likely; those of `prior` where nothing tells.

    Args:
        shares: [questions, strategies] what each strategy says of the item that came next.
        length: [questions] events so far.
        prior: [strategies] weights, which sum to one.
    """
    is_told = shares.sum(axis=1) > 0
    told, bucket = shares[is_told], bucket_of(length[is_told])
    overall = _maximised(told, prior)
    return np.stack([_maximised(told[bucket == b], overall) for b in range(len(LENGTHS))])


def blended(candidates: Candidates, weights: Floats, length: Ints) -> Floats:
    """[candidates] the mixture's share of each."""
    return np.asarray((candidates.shares * weights[bucket_of(length)][candidates.row]).sum(axis=1))


def prior_of(names: Sequence[str]) -> Floats:
    """The weights of some strategies before anything is known of a log."""
    left = (1.0 - sum(PRIOR.values())) / sum(name not in PRIOR for name in names)
    return np.array([PRIOR.get(name, left) for name in names])


def _maximised(shares: Floats, start: Floats) -> Floats:
    weights = start
    for _ in range(ROUNDS if len(shares) else 0):
        joint = shares * weights
        weights = (joint / joint.sum(axis=1, keepdims=True)).sum(axis=0) + PRIOR_EVENTS * start
        weights = weights / weights.sum()
    return weights
