"""On the market: the policy that would serve sells more, estimates of value cover the truth, the verdict is right."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
from rl.market.market import Market
from rl.market.truth import logging_itself
from rl.observation import CANDIDATE_FEATURES
from rl.ope.target import choose_temperature, on_log
from rl.ope.valuation import Valuation
from rl.policies import ServedPolicy

TRUE_SESSIONS = 20_000
MIN_GAIN = 1.2
NUM_MARKETS, MIN_COVERED = 20, 17
TASTE = {"category_share": 2.0, "brand_share": 1.0, "item_click_rate": 1.0, "shown_category": -1.0}


def check() -> list[Claim]:
    """On default markets of three seeds, on twenty small ones, and on the default market's lake."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    return [served_policy_beats_logging(), doubly_robust_covers(), verdict_is_right(lakes.market())]


class FixedTaste:
    """Q of a fixed target policy: what the user touched, what others bought, and not the same again. Nothing is learned."""

    def action_values(self, states: Floats, candidates: Floats, mask: Flags) -> Floats:
        """The weighted features, [n, k]; -inf where the mask is false."""
        columns = [CANDIDATE_FEATURES.index(name) for name in TASTE]
        return np.where(mask, candidates[..., columns] @ np.array([*TASTE.values()]), -np.inf)


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


def verdict_is_right(lake: Path) -> Claim:
    """On a lake of the simulator's log: a promoted policy is truly better than the logging mixture."""
    rows = _values(lake)
    decisive, true, logging = (
        rows[key] for key in (("dqn", "test", "dr"), ("dqn", "test", "true"), ("logging", "test", "true"))
    )
    better = true["value"] > logging["value"]
    return Claim(
        "either verdict on the policy is a pass, a wrong one is not",
        f"{decisive['verdict']}; true value {true['value']:.3f}, logging {logging['value']:.3f}",
        decisive["verdict"] == "keep_logging" or better,
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
