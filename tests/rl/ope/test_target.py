"""A policy on a log: its ratios, and how greedy it may be."""

import dataclasses

import numpy as np
import pytest

from rl.dataset.decisions import Decisions, Flags, Floats
from rl.ope.target import TargetPolicy, choose_temperature, effective_frac, on_log
from rl.policies import ServedPolicy


class FirstFeature:
    """Q of a candidate is its first feature."""

    def action_values(self, states: Floats, candidates: Floats, mask: Flags) -> Floats:
        return np.where(mask, candidates[..., 0], -np.inf)


def uniform_log(num_episodes: int = 400, num_steps: int = 2, num_candidates: int = 4, seed: int = 0) -> Decisions:
    rng = np.random.default_rng(seed)
    n = num_episodes * num_steps
    steps = np.tile(np.arange(num_steps), num_episodes)
    return Decisions(
        episodes=np.repeat(np.arange(num_episodes), num_steps),
        steps=steps,
        states=np.zeros((n, 1), dtype=np.float32),
        candidates=rng.normal(size=(n, num_candidates, 1)).astype(np.float32),
        mask=np.ones((n, num_candidates), dtype=bool),
        actions=rng.integers(num_candidates, size=n),
        propensities=np.full(n, 1 / num_candidates),
        rewards=np.zeros(n),
        is_last=steps == num_steps - 1,
        policies=np.full(n, "uniform", dtype=object),
        users=np.repeat(np.arange(num_episodes), num_steps),
    )


def test_ratio_is_the_served_probability_over_the_logged_one() -> None:
    target = TargetPolicy(np.array([[0.2, 0.8]]), 0.1, np.array([1]), np.array([0.4]))
    assert target.ratios == pytest.approx([(0.9 * 0.8 + 0.1 * 0.4) / 0.4])


def test_expectation_is_right_on_average_over_the_logging_policy() -> None:
    logging, learned, q = np.array([0.3, 0.7]), np.array([[0.2, 0.8]]), np.array([[5.0, -1.0]])
    by_action = [TargetPolicy(learned, 0.1, np.array([a]), logging[[a]]).expectation(q)[0] for a in (0, 1)]
    assert logging @ by_action == pytest.approx((0.9 * learned[0] + 0.1 * logging) @ q[0])


def frac_at(log: Decisions, temperature: float) -> float:
    """The share of episodes that the weights are worth, by way of the policy itself."""
    return effective_frac(on_log(ServedPolicy(FirstFeature(), temperature, 0.1), log).ratios, log)


def test_effective_share_is_of_truncated_weights_of_whole_episodes() -> None:
    log = uniform_log(num_episodes=4)
    ratios = np.array([1.0, 1.0, 2.0, 0.5, 1.0, 1.0, 10.0, 10.0])  # the last episode weighs 100, truncated to sqrt(4)
    assert effective_frac(ratios, log) == pytest.approx((1 + 1 + 1 + 2) ** 2 / (1 + 1 + 1 + 4) / 4)


def test_temperature_is_the_coldest_that_keeps_the_effective_sample() -> None:
    log = uniform_log()
    chosen = choose_temperature(FirstFeature(), log, epsilon=0.1, min_effective_frac=0.3)
    assert chosen.effective_frac == pytest.approx(frac_at(log, chosen.value))
    assert chosen.effective_frac >= 0.3
    assert frac_at(log, chosen.value * 10 ** (-4 / 96)) < 0.3


def test_other_action_values_are_as_greedy_at_the_same_share_of_their_spread() -> None:
    class Threefold(FirstFeature):
        def action_values(self, states: Floats, candidates: Floats, mask: Flags) -> Floats:
            return 7 + 3 * super().action_values(states, candidates, mask)

    log = uniform_log()
    chosen = choose_temperature(FirstFeature(), log, epsilon=0.1, min_effective_frac=0.3)
    assert chosen.for_values(FirstFeature(), log) == pytest.approx(chosen.value)
    assert chosen.for_values(Threefold(), log) == pytest.approx(3 * chosen.value)
    padded = dataclasses.replace(log, mask=np.tile([True, True, True, False], (len(log), 1)))
    assert np.isfinite(chosen.for_values(FirstFeature(), padded))


def test_where_no_temperature_does_the_nearest_is_taken() -> None:
    log = dataclasses.replace(uniform_log(), propensities=np.random.default_rng(5).uniform(0.01, 1.0, size=800))
    chosen = choose_temperature(FirstFeature(), log, epsilon=0.1, min_effective_frac=0.9)
    assert chosen.effective_frac < 0.9
    assert chosen.effective_frac >= frac_at(log, chosen.value * 2) - 1e-9
    assert chosen.effective_frac >= frac_at(log, chosen.value / 2) - 1e-9


def test_temperature_needs_an_episode() -> None:
    log = uniform_log()
    with pytest.raises(ValueError, match="there are none"):
        choose_temperature(FirstFeature(), log.take(log.episodes < 0), epsilon=0.1, min_effective_frac=0.05)
