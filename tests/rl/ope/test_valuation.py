"""Policies side by side on one log, and the verdict, in all its branches."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest

from rl.dataset.decisions import Decisions
from rl.market.market import Market
from rl.market.truth import interval, logging_itself
from rl.observation import CANDIDATE_FEATURES
from rl.ope.bootstrap import Bootstrap, Estimate
from rl.ope.estimators import mean_return
from rl.ope.target import on_log
from rl.ope.valuation import Valuation, Verdict, verdict
from rl.policies import ServedPolicy


class ByFeatures:
    """Q of a candidate is a weighted sum of its features."""

    def __init__(self, **weights: float) -> None:
        self.weights = weights

    def action_values(self, states: np.ndarray, candidates: np.ndarray, mask: np.ndarray) -> np.ndarray:
        columns = [CANDIDATE_FEATURES.index(name) for name in self.weights]
        return np.where(mask, candidates[..., columns] @ np.array([*self.weights.values()]), -np.inf)


@pytest.fixture(scope="module")
def market() -> Market:
    return Market.generate(seed=5, num_users=500, num_items=100)


def test_estimates_of_a_fixed_policy_come_near_the_markets_truth(market: Market) -> None:
    valued = Valuation.on(market.decisions(), discount=0.9, num_resamples=300)
    policy = ServedPolicy(ByFeatures(category_share=1), temperature=0.1, epsilon=0.1)
    estimates = valued.target(on_log(policy, valued.decisions))
    truth = market.true_value(policy, num_sessions=8000)
    for name in ("pdis", "dr"):
        estimate = estimates[name]
        slack = 2 * truth.standard_error
        assert estimate.low - slack <= truth.value <= estimate.high + slack, (name, estimate.value, truth)
    true_logging = market.true_value(logging_itself, num_sessions=8000)
    assert valued.logging().value == pytest.approx(true_logging.value, rel=0.1)
    for strategy, own in valued.logging_policies().items():
        truth = market.true_value(logging_itself, num_sessions=8000, strategy=strategy)
        assert own.low - 2 * truth.standard_error <= truth.value <= own.high + 2 * truth.standard_error, strategy


@pytest.mark.parametrize(("sign", "wanted"), [(1, "promote"), (0, "keep_logging"), (-1, "keep_logging")])
def test_policies_of_known_true_value_are_judged_by_the_best_strategy(market: Market, sign: int, wanted: str) -> None:
    weights = {"category_share": 2, "brand_share": 1, "item_click_rate": 1, "shown_category": -1}
    taste = ByFeatures(**{name: sign * weight for name, weight in weights.items()})
    policy = ServedPolicy(taste, temperature=0.15, epsilon=0.1)
    valued = Valuation.on(market.decisions(), discount=0.9, num_resamples=300)
    low, high = interval(market.true_value(policy, num_sessions=8000))
    best_low, best_high = interval(market.true_value(logging_itself, num_sessions=8000, strategy="personal"))
    assert low > best_high if wanted == "promote" else high < best_low  # the plant is what it should be
    learned = valued.target(on_log(policy, valued.decisions))["dr"]
    said = verdict(learned, valued.logging_policies(), incumbent=None, min_effective_episodes=50)
    assert (said.verdict, said.incumbent) == (wanted, "personal")


def bandit(rewards: np.ndarray, policies: np.ndarray) -> Decisions:
    """One-step episodes of as many users, with two candidates."""
    n = len(rewards)
    return Decisions(
        episodes=np.arange(n),
        steps=np.zeros(n, dtype=np.int64),
        states=np.zeros((n, 1), dtype=np.float32),
        candidates=np.zeros((n, 2, 1), dtype=np.float32),
        mask=np.ones((n, 2), dtype=bool),
        actions=np.zeros(n, dtype=np.int64),
        propensities=np.full(n, 0.5),
        rewards=rewards,
        is_last=np.ones(n, dtype=bool),
        policies=policies.astype(object),
        users=np.arange(n),
    )


def test_each_logging_policy_is_worth_the_mean_return_of_the_episodes_that_it_decided_alone() -> None:
    log = bandit(np.array([1.0, 3.0, 5.0, 7.0]), np.array(["a", "a", "b", "b"]))
    both = replace(
        log,
        episodes=np.array([0, 1, 2, 2]),
        steps=np.array([0, 0, 0, 1]),
        policies=np.array(list("aaba"), dtype=object),
    )
    assert {name: own.value for name, own in Valuation.on(log, discount=0.5).logging_policies().items()} == {
        "a": 2.0,
        "b": 6.0,
    }
    found = Valuation.on(replace(both, users=np.array([0, 1, 2, 2])), discount=0.5)
    assert {name: own.value for name, own in found.logging_policies().items()} == {"a": 2.0, "a+b": 5 + 0.5 * 7}
    assert [found.num_rewarded(), found.num_rewarded("a"), found.num_rewarded("a+b")] == [4, 2, 2]
    assert found.logging_policies()["a"].num_episodes == 2


class Log(NamedTuple):
    """What a verdict is given: a learned policy's estimate, and those of the logging policies, with paired draws."""

    learned: Estimate
    logging: dict[str, Estimate]


def planted(value: float, noise: float = 0.1, num_episodes: int = 800, **logging: tuple[float, int]) -> Log:
    """A learned policy worth `value`; the logging policies have these values and numbers of own episodes."""
    rng = np.random.default_rng(0)
    draws = Bootstrap(np.arange(num_episodes), num_resamples=300)
    learned = mean_return(rng.normal(value, noise, size=(num_episodes, 1)), draws, discount=1.0)
    own, first = {}, 0
    for name, (mean, size) in logging.items():
        among = (np.arange(num_episodes) >= first) & (np.arange(num_episodes) < first + size)
        own[name] = mean_return(rng.normal(mean, 0.1, size=(num_episodes, 1)), draws, discount=1.0, among=among)
        first += size
    return Log(learned, own)


def judge(log: Log, incumbent: str | None = None) -> Verdict:
    return verdict(log.learned, log.logging, incumbent=incumbent, min_effective_episodes=50)


def test_a_policy_that_beats_the_mixture_and_not_the_best_of_it_is_not_promoted() -> None:
    log = planted(1.4, personal=(1.565, 400), popular=(1.1, 400))  # a mixture worth 1.33
    said = judge(log)
    assert (said.verdict, said.incumbent) == ("keep_logging", "personal")
    assert "does not beat the incumbent" in said.reason
    assert "incumbent personal 1.5" in said.reason
    assert "on its own 400 episodes" in said.reason
    assert judge(planted(1.7, personal=(1.565, 400), popular=(1.1, 400))).verdict == "promote"


def test_a_named_incumbent_is_the_one_to_beat() -> None:
    log = planted(1.4, personal=(1.565, 400), popular=(1.1, 400))
    assert judge(log, incumbent="popular")[::2] == ("promote", "popular")
    assert judge(log, incumbent="personal")[::2] == ("keep_logging", "personal")
    said = judge(log, incumbent="retired")
    assert said[::2] == ("keep_logging", "retired")
    assert "the incumbent retired decided none alone" in said.reason


def test_a_policy_of_few_episodes_is_not_the_one_to_beat() -> None:
    assert judge(planted(1.4, lucky=(9.0, 3), popular=(1.1, 400)))[::2] == ("promote", "popular")
    said = judge(planted(1.4, one=(1.0, 30), other=(1.1, 40)))
    assert said[::2] == ("keep_logging", None)
    assert "no logging policy decided so many alone" in said.reason


@pytest.mark.parametrize(
    ("value", "noise", "num_episodes", "why"),
    [
        (0.5, 0.1, 400, "does not beat"),  # worse
        (1.005, 0.1, 400, "does not beat"),  # hardly better
        (1.5, 20.0, 400, "does not beat"),  # too noisy
        (1.5, 0.1, 49, "too little evidence"),
    ],
)
def test_anything_less_keeps_the_logging_policy(value: float, noise: float, num_episodes: int, why: str) -> None:
    said = judge(planted(value, noise, num_episodes, popular=(1.0, num_episodes)))
    assert said.verdict == "keep_logging"
    assert why in said.reason
