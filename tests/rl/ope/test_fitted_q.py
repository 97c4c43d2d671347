"""The model of the doubly robust estimate: exact where it can be, and never fitted on the user it predicts."""

import dataclasses

import numpy as np
import pytest

from rl.dataset.decisions import Decisions
from rl.ope.fitted_q import cross_fitted_q
from rl.ope.target import TargetPolicy


def linear_log(num_episodes: int = 300, num_steps: int = 2) -> tuple[Decisions, np.ndarray]:
    """A log whose reward is linear in the shown candidate (and doubles at the second step), with those means [n, k]."""
    rng = np.random.default_rng(0)
    n = num_episodes * num_steps
    steps = np.tile(np.arange(num_steps), num_episodes)
    candidates = rng.normal(size=(n, 3, 2)).astype(np.float32)
    means = (1 + steps)[:, None] * (candidates @ np.array([1.0, -0.5]))
    actions = rng.integers(3, size=n)
    log = Decisions(
        episodes=np.repeat(np.arange(num_episodes), num_steps),
        steps=steps,
        states=steps[:, None].astype(np.float32),
        candidates=candidates,
        mask=np.ones((n, 3), dtype=bool),
        actions=actions,
        propensities=np.full(n, 1 / 3),
        rewards=means[np.arange(n), actions],
        is_last=steps == num_steps - 1,
        policies=np.full(n, "uniform", dtype=object),
        users=np.repeat(np.arange(num_episodes), num_steps),
    )
    return log, means


def uniform_target(log: Decisions) -> TargetPolicy:
    return TargetPolicy(np.full(log.mask.shape, 1 / 3), 0.0, log.actions, log.propensities)


def test_finds_the_value_of_what_is_linear() -> None:
    log, means = linear_log()
    q = cross_fitted_q(log, uniform_target(log), discount=0.9, ridge=1e-6)
    last, first = log.is_last, ~log.is_last
    assert q[last] == pytest.approx(means[last], abs=0.02)
    # What follows a first decision does not depend on it: 0.9 * mean of the second step's means, which is 0 on average.
    assert np.corrcoef(q[first].ravel(), means[first].ravel())[0, 1] > 0.99
    assert abs(q[first].mean()) < 0.15


def test_a_users_own_rewards_never_reach_the_users_predictions() -> None:
    log, _ = linear_log(num_episodes=30)
    before = cross_fitted_q(log, uniform_target(log), discount=0.9)
    of_user = log.users == 4
    moved = dataclasses.replace(log, rewards=np.where(of_user, 1e6, log.rewards))
    after = cross_fitted_q(moved, uniform_target(log), discount=0.9)
    assert np.array_equal(before[of_user], after[of_user])
    assert not np.allclose(before[~of_user], after[~of_user])


def test_padding_is_worth_zero_and_a_single_user_gets_a_model_of_zeros() -> None:
    log, _ = linear_log(num_episodes=30)
    padded = dataclasses.replace(
        log,
        candidates=np.concatenate([log.candidates, np.zeros_like(log.candidates[:, :1])], axis=1),
        mask=np.hstack([log.mask, np.zeros((len(log), 1), dtype=bool)]),
    )
    learned = np.hstack([np.full(log.mask.shape, 1 / 3), np.zeros((len(log), 1))])
    target = TargetPolicy(learned, 0.0, log.actions, log.propensities)
    q = cross_fitted_q(padded, target, discount=0.9)
    assert np.all(q[:, 3] == 0)
    assert q[:, :3] == pytest.approx(cross_fitted_q(log, uniform_target(log), discount=0.9))
    alone = dataclasses.replace(log, users=np.zeros_like(log.users))
    assert np.all(cross_fitted_q(alone, uniform_target(log), discount=0.9) == 0)
