"""On the market: the policy that would serve sells more, estimates of value cover the truth, the verdict is right."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pyarrow import csv

from acceptance import lakes
from acceptance.claims import DATA, Claim
from lib.cli.jobs import load_job
from lib.engines.ray_train import ray_session
from lib.lake.lake import Lake
from lib.pipeline import JOBS
from lib.settings import ClusterSettings
from rl.dataset.decisions import Decisions, Flags, Floats
from rl.market.market import Market, TrueValue
from rl.market.truth import interval, logging_itself
from rl.observation import CANDIDATE_FEATURES
from rl.ope.target import choose_temperature, on_log
from rl.ope.valuation import Valuation, verdict
from rl.policies import ServedPolicy

TRUE_SESSIONS = 20_000
MIN_GAIN = 1.2
NUM_MARKETS, MIN_COVERED = 20, 17
NUM_VERDICTS, MIN_PROMOTED, MAX_WRONGLY_PROMOTED = 10, 9, 0
MIN_EFFECTIVE_EPISODES = 50
# What the user touched, what others bought, and not the same again; its reverse; and no preference at all.
TASTE: Mapping[str, float] = {"category_share": 2.0, "brand_share": 1.0, "item_click_rate": 1.0, "shown_category": -1.0}
DISTASTE, NO_TASTE = {name: -weight for name, weight in TASTE.items()}, dict.fromkeys(TASTE, 0.0)


def check() -> list[Claim]:
    """On default markets of three seeds, on twenty small ones, and on the default market's lake."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    return [
        served_policy_beats_logging(),
        doubly_robust_covers(),
        *planted_policies_are_judged_rightly(),
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
    with ray_session(ClusterSettings()):
        for seed in seeds:
            gains[seed] = _gain_of_served(Market.generate(seed))
    num_won = sum(gain >= MIN_GAIN for gain in gains.values())
    return Claim(
        f"the policy that would serve has a true value at least {MIN_GAIN} times the logging mixture's, on every seed",
        f"{num_won} of {len(gains)} seeds: " + ", ".join(f"{gain:.2f} (seed {seed})" for seed, gain in gains.items()),
        num_won == len(gains),
    )


def _gain_of_served(market: Market) -> float:
    """True value of the served policy over the logging mixture's, on the market's test window."""
    job = load_job(JOBS["train_policy"])
    settings = job.TrainPolicySettings()
    train, valid, _ = split_by_time(market)
    dqn = job.dqn_settings(settings, num_rows=len(train), use_gpu=False)
    with tempfile.TemporaryDirectory() as folder:
        network = job.train_dqn(train, dqn, Path(folder))
    chosen = choose_temperature(
        network, valid, epsilon=settings.epsilon, min_effective_frac=settings.min_effective_frac
    )
    since_ms = _moments_ms(market)[1]
    served, logging = (
        market.true_value(policy, num_sessions=TRUE_SESSIONS, since_ms=since_ms, discount=settings.discount).value
        for policy in (ServedPolicy(network, chosen.value, settings.epsilon), logging_itself)
    )
    return served / logging


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


def doubly_robust_covers(num_markets: int = NUM_MARKETS, *, num_users: int = 400, num_items: int = 100) -> Claim:
    """Count the small markets whose doubly robust interval of a fixed target policy holds the policy's true value."""
    target = ServedPolicy(FixedTaste(), temperature=0.3, epsilon=0.1)
    covered = []
    for seed in range(num_markets):
        market = Market.generate(seed, num_users=num_users, num_items=num_items)
        valued = Valuation.on(market.decisions(), discount=0.9)
        estimate = valued.target(on_log(target, valued.decisions))["dr"]
        covered.append(estimate.low <= market.true_value(target, num_sessions=TRUE_SESSIONS).value <= estimate.high)
    return Claim(
        f"for a fixed target policy at least {MIN_COVERED} of {NUM_MARKETS} doubly robust intervals cover the truth",
        f"{sum(covered)} of {num_markets} small markets ({num_users} users each)",
        sum(covered) * NUM_MARKETS >= MIN_COVERED * num_markets,
    )


class Judged(NamedTuple):
    """A planted policy on one market: what it is truly worth beside the logging mixture, and the verdict on its log."""

    gain: float  # true value over the logging mixture's
    is_better: bool  # beyond the error of both simulations
    is_worse: bool
    verdict: str


def planted_policies_are_judged_rightly(num_markets: int = NUM_VERDICTS) -> list[Claim]:
    """On small markets: a policy that is truly better must be promoted, one that is truly worse must not.

    The truth is asked of the market first: a plant that is not what it should be is a failure too. And a better policy on the
    log of a few users must wait: its evidence carries no interval.
    """
    better, worse, even, early = [], [], [], []
    for seed in range(num_markets):
        market = Market.generate(seed, num_users=400, num_items=100)
        logging = market.true_value(logging_itself, num_sessions=TRUE_SESSIONS)
        whole = market.decisions()
        better.append(judged(market, whole, TASTE, logging))
        worse.append(judged(market, whole, DISTASTE, logging))
        even.append(judged(market, whole, NO_TASTE, logging))
        early.append(judged(market, whole.take(whole.users < 10), TASTE, logging))
    num_promoted = sum(found.verdict == "promote" for found in better)
    wrongly = sum(found.verdict == "promote" for found in (*worse, *even))
    return [
        Claim(
            f"a policy that is truly better than the logging mixture is promoted on at least {MIN_PROMOTED} of {NUM_VERDICTS} markets",
            f"{num_promoted} of {num_markets}; true gains {_gains(better)}",
            num_promoted * NUM_VERDICTS >= MIN_PROMOTED * num_markets and all(found.is_better for found in better),
        ),
        Claim(
            "a policy that is truly worse (the reverse of it, and one that shows everything evenly) is never promoted",
            f"{wrongly} of {len(worse) + len(even)}; true gains {_gains(worse)}; evenly {_gains(even)}",
            wrongly <= MAX_WRONGLY_PROMOTED and all(found.is_worse for found in (*worse, *even)),
        ),
        Claim(
            "the better policy is not promoted on the log of ten users",
            f"promoted on {sum(found.verdict == 'promote' for found in early)} of {num_markets}",
            all(found.verdict == "keep_logging" for found in early),
        ),
    ]


def judged(market: Market, log: Decisions, taste: Mapping[str, float], logging: TrueValue) -> Judged:
    """The verdict on a fixed policy by this log, as train_policy reaches it, and the policy's true value."""
    policy = ServedPolicy(FixedTaste(taste), temperature=0.3, epsilon=0.1)
    valued = Valuation.on(log, discount=0.9)
    estimate = valued.target(on_log(policy, log))["dr"]
    said = verdict(estimate, valued.logging()["mean_return"], min_effective_episodes=MIN_EFFECTIVE_EPISODES)
    true = market.true_value(policy, num_sessions=TRUE_SESSIONS)
    (low, high), (logging_low, logging_high) = interval(true), interval(logging)
    return Judged(true.value / logging.value, low > logging_high, high < logging_low, said.verdict)


def _gains(found: Sequence[Judged]) -> str:
    gains = sorted(judged.gain for judged in found)
    return f"{gains[0]:.2f} to {gains[-1]:.2f}"


def verdict_is_right(lake: Path) -> Claim:
    """On a lake of the simulator's log: the learned policy is promoted when the market says that it is better, and only then."""
    rows = _values(lake)
    decisive, true, logging = (
        rows[key] for key in (("dqn", "test", "dr"), ("dqn", "test", "true"), ("logging", "test", "true"))
    )
    wanted = "promote" if true["low"] > logging["high"] else "keep_logging"
    return Claim(
        "the verdict on the learned policy is the one that its true value asks for",
        f"{decisive['verdict']}, wanted {wanted}; true value {true['value']:.3f} ({true['low']:.3f} to {true['high']:.3f}), "
        f"logging {logging['value']:.3f} ({logging['low']:.3f} to {logging['high']:.3f})",
        decisive["verdict"] == wanted,
    )


def uniform_log_values_itself(lake: Path) -> Claim:
    """On a lake of Open Bandit: the uniform log's estimate of its own policy against the clicks in the raw file."""
    clicks = csv.read_csv(DATA / "obd" / "random" / "men" / "men.csv")["click"].to_numpy()
    row = _values(lake)["logging", "all/random", "pdis"]
    return Claim(
        "the uniform log's estimate of its own policy equals its mean click rate",
        f"{row['value']:.6f} ({row['low']:.6f} to {row['high']:.6f}), {row['num_rewarded']} clicks of "
        f"{row['num_episodes']}; raw file {clicks.mean():.6f}, {clicks.sum()} of {len(clicks)}",
        abs(row["value"] - clicks.mean()) < 1e-12 and row["num_rewarded"] == clicks.sum(),
    )


def _values(lake: Path) -> dict[tuple[str, str, str], dict[str, Any]]:
    rows = Lake(str(lake)).dataset("gold/policy_values").to_table().to_pylist()
    return {(row["policy"], row["dataset"], row["estimator"]): row for row in rows}
