"""On the market: the policy that would serve sells more, estimates of value cover the truth, the verdict is right."""

import functools
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from acceptance import lakes
from acceptance.claims import Claim
from lib.cli.jobs import load_job
from lib.engines.ray_train import ray_session
from lib.lake.lake import Lake
from lib.pipeline import JOBS
from lib.settings import ClusterSettings
from rl.dataset.decisions import Decisions, Flags, Floats
from rl.market.market import STRATEGIES, Market, TrueValue
from rl.market.truth import interval, logging_itself
from rl.observation import CANDIDATE_FEATURES
from rl.ope.bootstrap import Estimate
from rl.ope.target import choose_temperature, on_log
from rl.ope.valuation import Valuation, verdict
from rl.policies import ServedPolicy

Found = TypeVar("Found")

TRUE_SESSIONS = 20_000
MIN_GAIN = 1.2
NUM_MARKETS, MIN_COVERED = 20, 17
NUM_LEARNED, MIN_LEARNED_COVERED = 16, 13
NUM_VERDICTS, MIN_PROMOTED, MAX_WRONGLY_PROMOTED = 10, 9, 0
MIN_EFFECTIVE_EPISODES = 50
# What the user touched, what others bought, and not the same again; and its reverse.
TASTE: Mapping[str, float] = {"category_share": 2.0, "brand_share": 1.0, "item_click_rate": 1.0, "shown_category": -1.0}
DISTASTE = {name: -weight for name, weight in TASTE.items()}
GREEDY, TEMPERATURES = 0.15, (0.5, 0.6, 0.7, 0.8, 0.9)


def check() -> list[Claim]:
    """On default markets of three seeds, on small ones, and on the default market's lake."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    with ray_session(ClusterSettings()):
        of_learned = [served_policy_beats_logging(), doubly_robust_covers_learned_policies()]
    return [
        *of_learned,
        doubly_robust_covers(),
        *planted_policies_are_judged_rightly(on_each_market(judged_plants, range(NUM_VERDICTS))),
        verdict_is_right(lakes.market()),
    ]


class FixedTaste:
    """Q of a fixed target policy: weighted features of a candidate. Nothing is learned."""

    def __init__(self, weights: Mapping[str, float] = TASTE) -> None:
        self.weights = weights

    def action_values(self, states: Floats, candidates: Floats, mask: Flags) -> Floats:
        """The weighted features, [n, k]; -inf where the mask is false."""
        columns = [CANDIDATE_FEATURES.index(name) for name in self.weights]
        return np.where(mask, candidates[..., columns] @ np.array([*self.weights.values()]), -np.inf)


def served_policy_beats_logging(seeds: Sequence[int] = (0, 1, 2)) -> Claim:
    """Learn on default markets with the job's own settings, and ask each market what the served policy is worth."""
    gains = {}
    for seed in seeds:
        market = Market.generate(seed)
        since_ms = _moments_ms(market)[1]
        served, logging = (
            market.true_value(policy, num_sessions=TRUE_SESSIONS, since_ms=since_ms).value
            for policy in (learned(market), logging_itself)
        )
        gains[seed] = served / logging
    num_won = sum(gain >= MIN_GAIN for gain in gains.values())
    return Claim(
        f"the policy that would serve has a true value at least {MIN_GAIN} times the logging mixture's, on every seed",
        f"{num_won} of {len(gains)} seeds: " + ", ".join(f"{gain:.2f} (seed {seed})" for seed, gain in gains.items()),
        num_won == len(gains),
    )


def learned(market: Market) -> ServedPolicy:
    """The policy that DQN learns before 80 % of the log's span, its temperature chosen before 90 %, by the job's settings."""
    job = load_job(JOBS["train_policy"])
    settings = job.TrainPolicySettings()
    train, valid, _ = split_by_time(market)
    dqn = job.dqn_options(settings, num_rows=len(train), use_gpu=False)
    with tempfile.TemporaryDirectory() as folder:
        network = job.train_dqn(train, dqn, Path(folder))
    chosen = choose_temperature(
        network, valid, epsilon=settings.epsilon, min_effective_frac=settings.min_effective_frac
    )
    return ServedPolicy(network, chosen.value, settings.epsilon)


def doubly_robust_covers_learned_policies(num_markets: int = NUM_LEARNED, *, num_users: int = 1000) -> Claim:
    """Count the markets whose intervals of a learned policy hold its true value, both in the test window of its log."""
    found: dict[str, list[tuple[bool, float]]] = {"dr": [], "pdis": []}
    for seed in range(100, 100 + num_markets):
        market = Market.generate(seed, num_users=num_users, num_items=100)
        policy, test = learned(market), split_by_time(market)[2]
        truth = market.true_value(policy, num_sessions=TRUE_SESSIONS, since_ms=_moments_ms(market)[1]).value
        estimates = Valuation.on(test, discount=0.9).target(on_log(policy, test))
        for name, of in found.items():
            of.append((estimates[name].low <= truth <= estimates[name].high, estimates[name].value / truth - 1))
    told = {
        name: f"{sum(covers for covers, _ in of)} of {num_markets} (mean error {np.mean([e for _, e in of]):+.1%})"
        for name, of in found.items()
    }
    num_covered = sum(covers for covers, _ in found["dr"])
    return Claim(
        f"for a learned policy at least {MIN_LEARNED_COVERED} of {NUM_LEARNED} doubly robust intervals cover the truth",
        f"{told['dr']}; by importance sampling, which is a diagnostic, {told['pdis']}; {num_users} users each",
        num_covered * NUM_LEARNED >= MIN_LEARNED_COVERED * num_markets,
    )


def split_by_time(market: Market) -> tuple[Decisions, Decisions, Decisions]:
    """The market's decisions before 80 %, before 90 % and after that of its span, by the episode's first decision."""
    decisions = market.decisions()
    logged, log = market.logged_decisions()
    first_ms = log.time_ms[logged.row][decisions.steps == 0][decisions.episodes] + market.start_ms
    split = np.searchsorted(_moments_ms(market), first_ms, side="right")
    train, valid, test = (decisions.take(split == number) for number in range(3))
    return train, valid, test


def _moments_ms(market: Market) -> tuple[int, int]:
    span = market.end_ms - market.start_ms
    return market.start_ms + int(0.8 * span), market.start_ms + int(0.9 * span)


def doubly_robust_covers(num_markets: int = NUM_MARKETS, *, num_users: int = 400) -> Claim:
    """Count the small markets whose doubly robust interval of a fixed target policy holds the policy's true value."""
    num_covered = sum(on_each_market(functools.partial(is_covered, num_users=num_users), range(num_markets)))
    return Claim(
        f"for a fixed target policy at least {MIN_COVERED} of {NUM_MARKETS} doubly robust intervals cover the truth",
        f"{num_covered} of {num_markets} small markets ({num_users} users each)",
        num_covered * NUM_MARKETS >= MIN_COVERED * num_markets,
    )


def is_covered(seed: int, *, num_users: int) -> bool:
    """Whether one market's doubly robust interval of a fixed target policy holds its true value."""
    target = ServedPolicy(FixedTaste(), temperature=0.3, epsilon=0.1)
    market = Market.generate(seed, num_users=num_users, num_items=100)
    valued = Valuation.on(market.decisions(), discount=0.9)
    estimate = valued.target(on_log(target, valued.decisions))["dr"]
    return bool(estimate.low <= true_value(market, target).value <= estimate.high)


def on_each_market(look: Callable[[int], Found], seeds: Iterable[int]) -> list[Found]:
    """What `look` finds on the market of each seed, in the seeds' order; as many markets at once as there are cores."""
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as processes:
        return [*processes.map(look, seeds)]


class Truth(NamedTuple):
    """What a market's log is truly worth: the mixture of its strategies, and the best of them among its own users."""

    mixture: TrueValue
    best: TrueValue

    @classmethod
    def of(cls, market: Market) -> "Truth":
        """By simulation."""
        alone = [true_value(market, logging_itself, strategy=strategy) for strategy in STRATEGIES]
        return cls(true_value(market, logging_itself), max(alone, key=lambda true: true.value))


class Judged(NamedTuple):
    """A planted policy on one market: its true value beside the truth of the log, and the verdicts on it."""

    gain: float  # true value over the best strategy's
    gain_on_mixture: float
    is_better: bool  # than the best strategy, beyond the error of both simulations
    is_worse: bool
    verdict: str
    against_mixture: str  # the verdict if the mixture were the incumbent


def true_value(market: Market, policy: Any, strategy: str | None = None) -> TrueValue:
    """The true value of a policy over the whole log."""
    return market.true_value(policy, num_sessions=TRUE_SESSIONS, strategy=strategy)


class JudgedPlants(NamedTuple):
    """The four planted policies of one market."""

    better: Judged
    between: Judged  # better than the mixture of the strategies, worse than the best of them
    worse: Judged
    early: Judged  # the better one, on the log of ten users


def judged_plants(seed: int, *, num_users: int = 600) -> JudgedPlants:
    """The planted policies on the market of a seed."""
    market = Market.generate(seed, num_users=num_users, num_items=100)
    truth, whole = Truth.of(market), market.decisions()
    plant, reverse = fixed(TASTE, GREEDY), fixed(DISTASTE, GREEDY)
    return JudgedPlants(
        better=judged(market, whole, plant, truth),
        between=judged(market, whole, between_mixture_and_best(market, truth), truth),
        worse=judged(market, whole, reverse, truth),
        early=judged(market, whole.take(whole.users < 10), plant, truth),
    )


def planted_policies_are_judged_rightly(judged_on: Sequence[JudgedPlants]) -> list[Claim]:
    """On small markets: a policy truly better than the best logging strategy must be promoted, one truly worse must not.

    Among the worse is one that beats the mixture of the strategies all the same. The truth is asked of the market first: a
    plant that is not what it should be is a failure too. And a better policy on the log of a few users must wait.
    """
    better, between, worse, early = zip(*judged_on, strict=True)
    num_markets = len(judged_on)
    num_promoted = sum(plant.verdict == "promote" for plant in better)
    wrongly = sum(plant.verdict == "promote" for plant in (*between, *worse))
    misled = sum(plant.against_mixture == "promote" for plant in between)
    return [
        Claim(
            f"a policy truly better than the best logging strategy is promoted on at least {MIN_PROMOTED} of {NUM_VERDICTS} markets",
            f"{num_promoted} of {num_markets}; true values {_gains(better)} times the best strategy's",
            num_promoted * NUM_VERDICTS >= MIN_PROMOTED * num_markets and all(plant.is_better for plant in better),
        ),
        Claim(
            "a policy truly worse than the best strategy is never promoted: one that beats the mixture, and the reverse of the better",
            f"{wrongly} of {len(between) + len(worse)}; true values {_gains(between)} and {_gains(worse)} times the best "
            f"strategy's, the former {np.mean([plant.gain_on_mixture for plant in between]):.2f} times the mixture's on "
            f"average (against the mixture {misled} of {num_markets} would be promoted)",
            wrongly <= MAX_WRONGLY_PROMOTED
            and all(plant.is_worse for plant in (*between, *worse))
            and bool(np.mean([plant.gain_on_mixture for plant in between]) > 1),
        ),
        Claim(
            "the better policy is not promoted on the log of ten users",
            f"promoted on {sum(plant.verdict == 'promote' for plant in early)} of {num_markets}",
            all(plant.verdict == "keep_logging" for plant in early),
        ),
    ]


def fixed(taste: Mapping[str, float], temperature: float) -> ServedPolicy:
    """A policy that is not learned."""
    return ServedPolicy(FixedTaste(taste), temperature, epsilon=0.1)


def between_mixture_and_best(market: Market, truth: Truth) -> ServedPolicy:
    """The better policy made less greedy until it is worth a third of the way from the mixture to the best strategy."""
    wanted = (2 * truth.mixture.value + truth.best.value) / 3
    tried = [fixed(TASTE, temperature) for temperature in TEMPERATURES]
    return min(tried, key=lambda policy: abs(true_value(market, policy).value - wanted))


def judged(market: Market, log: Decisions, policy: ServedPolicy, truth: Truth) -> Judged:
    """The verdict on a fixed policy by this log, as train_policy reaches it, and the policy's true value."""
    valued = Valuation.on(log, discount=0.9)
    estimate = valued.target(on_log(policy, log))["dr"]

    def said(logging: Mapping[str, Estimate]) -> str:
        return verdict(estimate, logging, incumbent=None, min_effective_episodes=MIN_EFFECTIVE_EPISODES).verdict

    true = true_value(market, policy)
    (low, high), (best_low, best_high) = interval(true), interval(truth.best)
    return Judged(
        gain=true.value / truth.best.value,
        gain_on_mixture=true.value / truth.mixture.value,
        is_better=low > best_high,
        is_worse=high < best_low,
        verdict=said(valued.logging_policies()),
        against_mixture=said({"mixture": valued.logging()}),
    )


def _gains(found: Sequence[Judged]) -> str:
    gains = sorted(judged.gain for judged in found)
    return f"{gains[0]:.2f} to {gains[-1]:.2f}"


def verdict_is_right(lake: Path) -> Claim:
    """On a lake of the simulator's log: the learned policy is promoted when it truly beats the incumbent, and only then."""
    rows = _values(lake)
    decisive, true = rows["dqn", "test", "dr"], rows["dqn", "test", "true"]
    alone = {strategy: rows["logging", f"test/{strategy}", "true"] for strategy in STRATEGIES}
    best = max(alone, key=lambda strategy: float(alone[strategy]["value"]))
    wanted = "promote" if true["low"] > alone[best]["high"] else "keep_logging"
    return Claim(
        "the incumbent is the truly best strategy, and the verdict on the learned policy the one that its true value asks for",
        f"{decisive['verdict']} against {decisive['incumbent']}, wanted {wanted} against {best}; true value "
        f"{true['value']:.3f} ({true['low']:.3f} to {true['high']:.3f}), "
        + ", ".join(
            f"{name} {row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})" for name, row in alone.items()
        ),
        (decisive["verdict"], decisive["incumbent"]) == (wanted, best),
    )


def _values(lake: Path) -> dict[tuple[str, str, str], dict[str, Any]]:
    rows = Lake(str(lake)).dataset("gold/policy_values").to_table().to_pylist()
    return {(row["policy"], row["dataset"], row["estimator"]): row for row in rows}
