"""Policies side by side on one log, and the verdict, in all its branches."""

import numpy as np
import pytest

from rl.market.market import Market
from rl.market.truth import interval, logging_itself
from rl.observation import CANDIDATE_FEATURES
from rl.ope.estimators import Bootstrap, Estimate, mean_return
from rl.ope.target import on_log
from rl.ope.valuation import Valuation, verdict
from rl.policies import ServedPolicy


class ByFeature:
    """Q of a candidate is one of its features, or its reverse."""

    def __init__(self, index: int, sign: int = 1) -> None:
        self.index, self.sign = index, sign

    def action_values(self, states: np.ndarray, candidates: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return np.where(mask, self.sign * candidates[..., self.index], -np.inf)


@pytest.fixture(scope="module")
def market() -> Market:
    return Market.generate(seed=5, num_users=500, num_items=100)


def test_estimates_of_a_fixed_policy_come_near_the_markets_truth(market: Market) -> None:
    valued = Valuation.on(market.decisions(), discount=0.9, num_resamples=300)
    policy = ServedPolicy(ByFeature(0), temperature=0.1, epsilon=0.1)
    estimates = valued.target(on_log(policy, valued.decisions))
    truth = market.true_value(policy, num_sessions=8000)
    for name in ("pdis", "dr"):
        estimate = estimates[name]
        slack = 2 * truth.standard_error
        assert estimate.low - slack <= truth.value <= estimate.high + slack, (name, estimate.value, truth)
    logging = valued.logging()
    assert logging["pdis"].value == pytest.approx(logging["mean_return"].value, rel=1e-12)
    true_logging = market.true_value(logging_itself, num_sessions=8000)
    assert logging["mean_return"].value == pytest.approx(true_logging.value, rel=0.1)


@pytest.mark.parametrize(("sign", "wanted"), [(1, "promote"), (0, "keep_logging"), (-1, "keep_logging")])
def test_policies_of_known_true_value_are_judged_by_it(market: Market, sign: int, wanted: str) -> None:
    policy = ServedPolicy(ByFeature(CANDIDATE_FEATURES.index("category_share"), sign), temperature=0.1, epsilon=0.1)
    valued = Valuation.on(market.decisions(), discount=0.9, num_resamples=300)
    (low, high), (logging_low, logging_high) = (
        interval(market.true_value(known, num_sessions=8000)) for known in (policy, logging_itself)
    )
    assert low > logging_high if wanted == "promote" else high < logging_low  # the plant is what it should be
    learned, logging = valued.target(on_log(policy, valued.decisions))["dr"], valued.logging()["mean_return"]
    assert verdict(learned, logging, min_effective_episodes=50).verdict == wanted


def estimates(gain: float, noise: float, num_episodes: int = 400) -> tuple[Estimate, Estimate]:
    rng = np.random.default_rng(0)
    draws = Bootstrap(np.arange(num_episodes), num_resamples=300)
    rewards = rng.normal(1.0, 1.0, size=(num_episodes, 1))
    better = rewards + gain + rng.normal(0, noise, size=rewards.shape)
    return mean_return(better, draws, discount=1.0), mean_return(rewards, draws, discount=1.0)


def test_a_clear_gain_is_promoted_with_its_numbers() -> None:
    said = verdict(*estimates(gain=0.5, noise=0.1), min_effective_episodes=50)
    assert said.verdict == "promote"
    assert "effective sample 400 of 400 episodes" in said.reason


@pytest.mark.parametrize(
    ("gain", "noise", "num_episodes", "why"),
    [
        (-0.5, 0.1, 400, "does not beat"),  # worse
        (
            0.05,
            0.1,
            400,
            "does not beat",
        ),  # better than its pair, but its own bound is not above the logging policy's value
        (0.5, 20.0, 400, "does not beat"),  # too noisy
        (0.5, 0.1, 40, "too little evidence"),
    ],
)
def test_anything_less_keeps_the_logging_policy(gain: float, noise: float, num_episodes: int, why: str) -> None:
    said = verdict(*estimates(gain, noise, num_episodes), min_effective_episodes=50)
    assert said.verdict == "keep_logging"
    assert why in said.reason
