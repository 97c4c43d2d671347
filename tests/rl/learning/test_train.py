"""DQN from flat batches, on a small real RLlib run: it finds what is planted, checkpoints, and resumes to the same place."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from rl.dataset.decisions import Decisions
from rl.learning import train


@dataclass(frozen=True)
class Planted:
    """Two-step sessions. The first decision pays nothing itself but opens the door: its second feature raises what the second
    decision pays, while its first feature pays a little at once: a myopic policy shows the wrong product first.
    """

    log: Decisions

    @staticmethod
    def make(num_episodes: int = 3000, num_candidates: int = 4) -> "Planted":
        rng = np.random.default_rng(0)
        n = num_episodes * 2
        step = np.tile([0, 1], num_episodes)
        candidates = rng.normal(size=(n, num_candidates, 2)).astype(np.float32)
        actions = rng.integers(num_candidates, size=n)
        chosen = candidates[np.arange(n), actions]
        opened = np.where(step == 1, np.roll(chosen[:, 1], 1), 0.0)
        rewards = np.where(step == 0, 0.3 * chosen[:, 0], 2.0 * opened + chosen[:, 0])
        log = Decisions(
            episodes=np.repeat(np.arange(num_episodes), 2),
            steps=step,
            states=np.column_stack([step, opened]).astype(np.float32),
            candidates=candidates,
            mask=np.ones((n, num_candidates), dtype=bool),
            actions=actions,
            propensities=np.full(n, 1 / num_candidates),
            rewards=rewards,
            is_last=step == 1,
            policies=np.full(n, "uniform", dtype=object),
            users=np.repeat(np.arange(num_episodes), 2),
        )
        return Planted(log)

    def value_of_greedy(self, q_values: np.ndarray) -> float:
        """Mean return of taking the best Q at both steps; what the first opens is added where the second is chosen."""
        best = self.log.candidates[np.arange(len(q_values)), q_values.argmax(axis=1)]
        first, second = best[self.log.steps == 0], best[self.log.steps == 1]
        return float((0.3 * first[:, 0] + 0.9 * (2.0 * first[:, 1] + second[:, 0])).mean())


SMALL = train.DqnOptions(
    discount=0.9,
    hidden=(32, 16),
    learning_rate=1e-3,
    tau=0.02,
    batch_size=256,
    num_updates=600,
    updates_per_call=50,
    checkpoint_every=600,
    num_learners=0,
    use_gpu=False,
    seed=0,
)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_learns_to_look_ahead_and_resumes_to_the_same_network(tmp_path: Path) -> None:
    planted = Planted.make()
    seen: list[int] = []
    whole = train.train_dqn(planted.log, SMALL, tmp_path / "whole", on_progress=lambda done, _: seen.append(done))
    assert seen == list(range(50, 601, 50))
    features = (planted.log.states, planted.log.candidates, planted.log.mask)
    value = planted.value_of_greedy(whole.action_values(*features))
    myopic = planted.value_of_greedy(planted.log.candidates[..., 0])
    assert value > 2 * myopic > 0  # a random policy is worth 0 here
    assert value > 0.9 * planted.value_of_greedy(
        np.where(
            (planted.log.steps == 0)[:, None],
            0.3 * planted.log.candidates[..., 0] + 1.8 * planted.log.candidates[..., 1],
            planted.log.candidates[..., 0],
        )
    )

    train.train_dqn(planted.log, replace(SMALL, num_updates=550, checkpoint_every=550), tmp_path / "cut")
    resumed: list[int] = []
    again = train.train_dqn(planted.log, SMALL, tmp_path / "cut", on_progress=lambda done, _: resumed.append(done))
    assert resumed == [600]
    assert again.action_values(*features) == pytest.approx(whole.action_values(*features), abs=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_fewer_rows_than_a_batch_are_enough(tmp_path: Path) -> None:
    log = Planted.make(num_episodes=3).log
    network = train.train_dqn(log, replace(SMALL, num_updates=2, updates_per_call=2), tmp_path)
    assert np.isfinite(network.action_values(log.states, log.candidates, log.mask)).all()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_two_learners_share_every_minibatch_and_learn_what_one_does(tmp_path: Path) -> None:
    """The same network follows only from as many updates, of the same samples, and as many moves of the target network."""
    log = Planted.make(num_episodes=500).log
    few = replace(SMALL, num_updates=60, updates_per_call=30, checkpoint_every=60)
    features = (log.states, log.candidates, log.mask)
    alone = train.train_dqn(log, few, tmp_path / "alone").action_values(*features)
    two = train.train_dqn(log, replace(few, num_learners=2), tmp_path / "two").action_values(*features)
    half = train.train_dqn(log, replace(few, num_updates=30), tmp_path / "half").action_values(*features)
    assert np.abs(two - alone).max() < 0.02 * np.abs(half - alone).max()


def test_a_minibatch_that_learners_cannot_share_equally_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch_size of 256 cannot be shared equally by num_learners = 3"):
        train.train_dqn(Planted.make(num_episodes=2).log, replace(SMALL, num_learners=3), tmp_path)


def test_a_log_without_a_known_transition_is_refused(tmp_path: Path) -> None:
    log = Planted.make(num_episodes=2).log
    with pytest.raises(ValueError, match="there are none"):
        train.train_dqn(log.take(log.episodes < 0), SMALL, tmp_path)
