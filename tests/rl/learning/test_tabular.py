"""Tabular Q-learning: the optimum of a small decision process, masks, rare cells, distinct vectors."""

import numpy as np
import pytest

from rl.dataset.decisions import Decisions
from rl.learning.tabular import Cells, fit_tabular

# Two states, two actions (one-hot candidates). In state 0, action 0 ends with reward 1, action 1 pays nothing and leads to
# state 1, where action 0 ends with reward 4 and action 1 with reward 2. Discount 0.5: Q(0, 1) = 0.5 * 4 = 2 > Q(0, 0) = 1.
OPTIMAL = np.array([[1.0, 2.0], [4.0, 2.0]])


def logged_paths(paths: list[tuple[int, ...]], *, cut_off: bool = False) -> Decisions:
    episodes = np.concatenate([np.full(len(path), i) for i, path in enumerate(paths)])
    steps = np.concatenate([np.arange(len(path)) for path in paths])
    actions = np.concatenate([np.array(path) for path in paths])
    rewards = np.array([[1.0, 0.0], [4.0, 2.0]])[steps, actions]
    n = len(actions)
    is_last = np.append(steps[1:] == 0, True)
    return Decisions(
        episodes=episodes,
        steps=steps,
        states=np.eye(2, dtype=np.float32)[steps],
        candidates=np.broadcast_to(np.eye(2, dtype=np.float32), (n, 2, 2)).copy(),
        mask=np.ones((n, 2), dtype=bool),
        actions=actions,
        propensities=np.full(n, 0.5),
        rewards=rewards,
        is_last=is_last & (not cut_off),
        policies=np.full(n, "uniform", dtype=object),
        users=episodes,
    )


CELLS = {"num_state_cells": 16, "num_candidate_cells": 64, "seed": 0}
ALL_PATHS: list[tuple[int, ...]] = [(0,), (1, 0), (1, 1)] * 20


def test_finds_the_optimum_of_a_small_decision_process() -> None:
    q = fit_tabular(logged_paths(ALL_PATHS), discount=0.5, prior_visits=0.0, **CELLS)
    log = logged_paths([(0,), (1, 0)])
    values = q.action_values(log.states, log.candidates, log.mask)
    assert values[[0, 2]] == pytest.approx(OPTIMAL)


def test_order_of_candidates_does_not_matter_and_masked_ones_get_minus_infinity() -> None:
    log = logged_paths(ALL_PATHS)
    q = fit_tabular(log, discount=0.5, prior_visits=0.0, **CELLS)
    mask = np.tile([True, False], (len(log), 1))
    values = q.action_values(log.states, log.candidates[:, ::-1], mask)
    assert values[0].tolist() == [pytest.approx(2.0), -np.inf]


def test_a_cell_that_was_seldom_seen_is_pulled_towards_its_state() -> None:
    log = logged_paths([(0,)] * 99 + [(1, 0)])
    q = fit_tabular(log, discount=0.5, prior_visits=10.0, **CELLS)
    rare = q.action_values(log.states[:1], log.candidates[:1], log.mask[:1])[0, 1]
    second = (4 + 10 * 4) / 11  # the second state was seen once: its prior is its own mean, 4
    target = 0.5 * second
    mean = (99 * 1.0 + target) / 100
    assert rare == pytest.approx((target + 10 * mean) / 11)


def test_a_transition_whose_successor_the_log_does_not_tell_teaches_nothing() -> None:
    log = logged_paths([(1, 0)], cut_off=True)
    assert fit_tabular(log, discount=0.5, **CELLS).table.sum() == pytest.approx(0.0)


def test_few_distinct_vectors_are_cells_of_their_own_and_many_share() -> None:
    few = np.array([[0.0], [5.0], [0.0], [7.0]], dtype=np.float32)
    cells = Cells.fit(few, num_cells=3, seed=0).of(few)
    assert cells[0] == cells[2]
    assert len(set(cells.tolist())) == 3
    many = np.random.default_rng(0).normal(size=(500, 2)).astype(np.float32)
    assert len(np.unique(Cells.fit(many, num_cells=8, seed=0).of(many))) == 8


def test_nothing_logged_is_refused() -> None:
    log = logged_paths(ALL_PATHS)
    with pytest.raises(ValueError, match="there are none"):
        fit_tabular(log.take(log.episodes < 0), discount=0.5, **CELLS)
