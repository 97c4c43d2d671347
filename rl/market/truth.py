"""The true value of policies on the simulated market from whose log they were learned."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from statistics import NormalDist

import numpy as np

from lib.lake.lake import Lake
from lib.statistics.bootstrap import TAILS
from rl.dataset.logged import RewardWeights
from rl.market.market import CATALOGUE_FILE, MANIFEST, STRATEGIES, Market, TrueValue
from rl.market.sessions import Policy
from rl.observation import Floats

LOG_FOLDER = "raw/market"  # below the lake


def logging_itself(states: Floats, candidates: Floats, logging: Floats) -> Floats:
    """The policy that follows the user's logging strategy: probabilities [n, k]."""
    return logging


def is_known(lake: Lake) -> bool:
    """Whether the lake holds the simulator's finished log."""
    return lake.local(f"{LOG_FOLDER}/{MANIFEST}").is_file()


@dataclass(frozen=True)
class Simulation:
    """Which sessions of the simulated market are simulated again, and how their returns are counted.

    The market is built again from the manifest and the catalogue of the log that the lake holds, which takes some seconds.
    """

    lake: Lake
    since: datetime  # of the sessions' starts, in [since, until)
    until: datetime
    rewards: RewardWeights
    discount: float
    num_sessions: int  # a value is the mean over at least as many


def logging_values(simulation: Simulation) -> dict[str, TrueValue]:
    """The true value of the mixture of the logging strategies, `logging`, and of each among its users, `logging/<strategy>`."""
    value = _true_value(simulation)
    alone = {f"logging/{strategy}": value(logging_itself, strategy=strategy) for strategy in STRATEGIES}
    return {"logging": value(logging_itself), **alone}


def policy_values(simulation: Simulation, policies: Mapping[str, Policy]) -> dict[str, TrueValue]:
    """The true value of each policy: the mean discounted return of the sessions if it made all their decisions."""
    value = _true_value(simulation)
    return {name: value(policy) for name, policy in policies.items()}


def _true_value(simulation: Simulation) -> Callable[..., TrueValue]:
    for name in (MANIFEST, CATALOGUE_FILE):
        simulation.lake.local(f"{LOG_FOLDER}/{name}")
    return partial(
        Market.read(simulation.lake.folder / LOG_FOLDER).true_value,
        num_sessions=simulation.num_sessions,
        since_ms=int(simulation.since.timestamp() * 1000),
        until_ms=int(simulation.until.timestamp() * 1000),
        rewards=simulation.rewards,
        discount=simulation.discount,
    )


def interval(value: TrueValue) -> tuple[float, float]:
    """95 % interval of a simulated value, by its standard error."""
    half = float(NormalDist().inv_cdf(TAILS[1]) * np.asarray(value.standard_error))
    return value.value - half, value.value + half
