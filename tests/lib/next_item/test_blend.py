"""The weights of the mixture."""

import numpy as np
import pytest

from lib.next_item.blend import LENGTHS, bucket_of, learn_weights, prior_of
from lib.next_item.strategies import STRATEGIES

HALF = np.array([0.5, 0.5])


def test_a_planted_mixture_is_found_again() -> None:
    # Three in four answers come from the first strategy, whose items the second hardly names, the others the other way round.
    draw = np.random.default_rng(0)
    is_first = draw.random(20_000) < 0.75
    shares = np.where(is_first[:, None], [0.5, 0.001], [0.001, 0.5])
    weights = learn_weights(shares, np.full(20_000, 2), HALF)
    assert weights.shape == (len(LENGTHS), 2)
    assert weights[bucket_of(np.array([2]))[0]] == pytest.approx([0.75, 0.25], abs=0.02)
    assert weights.sum(axis=1) == pytest.approx(np.ones(len(LENGTHS)))


def test_the_length_of_a_visit_decides_on_the_weights() -> None:
    shares = np.repeat([[0.9, 0.01], [0.01, 0.9]], 5_000, axis=0)
    weights = learn_weights(shares, np.repeat([1, 9], 5_000), HALF)
    first, last = weights[bucket_of(np.array([1, 9]))]
    assert first[0] > 0.9 and last[1] > 0.9


def test_without_anything_to_learn_from_the_weights_are_the_prior_ones() -> None:
    prior = prior_of(STRATEGIES)
    assert prior.sum() == pytest.approx(1) and prior.min() > 0
    weights = learn_weights(np.zeros((0, len(prior))), np.zeros(0, np.int64), prior)
    assert weights.tolist() == [prior.tolist()] * len(LENGTHS)


def test_numbers_of_events_beyond_the_last_border_share_its_weights() -> None:
    assert bucket_of(np.array([0, 1, 2, 3, 4, 5, 8, 9, 1_000])).tolist() == [0, 0, 1, 2, 2, 3, 3, 4, 4]
