"""The policy that would serve: its probabilities."""

import numpy as np
import pytest

from rl.dataset.decisions import Flags, Floats
from rl.policies import ServedPolicy, softmax


class FirstFeature:
    """Q of a candidate is its first feature."""

    def action_values(self, states: Floats, candidates: Floats, mask: Flags) -> Floats:
        return np.where(mask, candidates[..., 0], -np.inf)


def test_softmax_gives_nothing_to_what_is_masked_and_one_in_all() -> None:
    p = softmax(np.array([[1.0, 2.0, -np.inf], [1000.0, 0.0, -np.inf]]), 0.5)
    assert p[0] == pytest.approx([1 / (1 + np.e**2), np.e**2 / (1 + np.e**2), 0.0])
    assert p[1] == pytest.approx([1.0, 0.0, 0.0])


def test_serving_mixes_the_learned_part_with_the_logging_policy() -> None:
    policy = ServedPolicy(FirstFeature(), temperature=1.0, epsilon=0.25)
    candidates = np.array([[[0.0], [0.0]]], dtype=np.float32)
    p = policy(np.zeros((1, 1)), candidates, np.array([[0.9, 0.1]]))
    assert p[0] == pytest.approx([0.75 * 0.5 + 0.25 * 0.9, 0.75 * 0.5 + 0.25 * 0.1])
