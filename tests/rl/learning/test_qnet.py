"""The Q-network scores candidates alone: masks, padding, order, scaling, and what a file brings back."""

from pathlib import Path

import numpy as np
import pytest
import torch

from rl.learning.qnet import CandidateQNet, load, save


@pytest.fixture
def network() -> CandidateQNet:
    torch.manual_seed(0)
    return CandidateQNet(state_dim=3, candidate_dim=2, hidden=(8, 4))


def decisions(num: int = 5, num_candidates: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    states = rng.normal(size=(num, 3)).astype(np.float32)
    candidates = rng.normal(size=(num, num_candidates, 2)).astype(np.float32)
    return states, candidates, np.ones((num, num_candidates), dtype=bool)


def test_masked_candidates_get_exactly_minus_infinity(network: CandidateQNet) -> None:
    states, candidates, mask = decisions()
    mask[0, 2] = False
    q = network.action_values(states, candidates, mask)
    assert np.isneginf(q).tolist() == (~mask).tolist()


def test_permuted_candidates_get_permuted_scores(network: CandidateQNet) -> None:
    states, candidates, mask = decisions()
    order = np.array([2, 0, 3, 1])
    q = network.action_values(states, candidates, mask)
    assert network.action_values(states, candidates[:, order], mask) == pytest.approx(q[:, order])


def test_padding_changes_no_score(network: CandidateQNet) -> None:
    states, candidates, mask = decisions()
    padded = np.concatenate([candidates, np.full((5, 3, 2), 99.0, dtype=np.float32)], axis=1)
    wide = np.hstack([mask, np.zeros((5, 3), dtype=bool)])
    assert network.action_values(states, padded, wide)[:, :4] == pytest.approx(
        network.action_values(states, candidates, mask), abs=1e-6
    )


def test_scaling_standardises_what_is_there_and_leaves_constants_alone(network: CandidateQNet) -> None:
    states, candidates, mask = decisions(num=200)
    states[:, 1] = 7.0
    candidates[:, 3] = 1e6
    mask[:, 3] = False
    network.fit_scaling(states, candidates * 10 + 3, mask)
    assert network.state_scale[1] == 1.0
    assert network.state_mean[1] == 7.0
    seen = candidates[mask] * 10 + 3
    scaled = (seen - network.candidate_mean.numpy()) / network.candidate_scale.numpy()
    assert scaled.mean(axis=0) == pytest.approx([0, 0], abs=1e-4)
    assert scaled.std(axis=0) == pytest.approx([1, 1], rel=1e-4)


def test_a_saved_network_comes_back_with_its_scores_and_what_serves_it(network: CandidateQNet, tmp_path: Path) -> None:
    states, candidates, mask = decisions()
    network.fit_scaling(states, candidates, mask)
    save(network, tmp_path / "q.safetensors", tables={"gold/decisions": 3}, temperature=0.25, epsilon=0.1)
    again, served = load(tmp_path / "q.safetensors")
    assert served == {"temperature": 0.25, "epsilon": 0.1}
    assert np.array_equal(
        again.action_values(states, candidates, mask), network.action_values(states, candidates, mask)
    )


def test_no_decision_gives_no_score(network: CandidateQNet) -> None:
    states, candidates, mask = decisions(num=0)
    assert network.action_values(states, candidates, mask).shape == (0, 4)
