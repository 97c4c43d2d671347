"""The weights of the mixture."""

import numpy as np
import pytest

from lib.next_item.blend import LENGTHS, bucket_of, learn_weights


def test_a_planted_mixture_is_found_again() -> None:
    # Three in four answers come from the first strategy, whose items the second hardly names, the others the other way round.
    draw = np.random.default_rng(0)
    is_first = draw.random(20_000) < 0.75
    shares = np.where(is_first[:, None], [0.5, 0.001], [0.001, 0.5])
    weights = learn_weights(shares, np.full(20_000, 2))
    assert weights.shape == (len(LENGTHS), 2)
    assert weights[bucket_of(np.array([2]))[0]] == pytest.approx([0.75, 0.25], abs=0.02)
    assert weights.sum(axis=1) == pytest.approx(np.ones(len(LENGTHS)))


def test_the_length_of_a_visit_decides_on_the_weights() -> None:
    shares = np.repeat([[0.9, 0.01], [0.01, 0.9]], 5_000, axis=0)
    weights = learn_weights(shares, np.repeat([1, 9], 5_000))
    first, last = weights[bucket_of(np.array([1, 9]))]
    assert first[0] > 0.9 and last[1] > 0.9


def test_without_anything_to_learn_from_all_strategies_weigh_the_same() -> None:
    assert learn_weights(np.zeros((0, 4)), np.zeros(0, np.int64)).tolist() == [[0.25] * 4] * len(LENGTHS)


def test_numbers_of_events_beyond_the_last_border_share_its_weights() -> None:
    assert bucket_of(np.array([0, 1, 2, 3, 4, 5, 8, 9, 1_000])).tolist() == [0, 0, 1, 2, 2, 3, 3, 4, 4]
