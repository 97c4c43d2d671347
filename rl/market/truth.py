"""The true value of policies on the simulated market from whose log they were learned."""

from collections.abc import Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from statistics import NormalDist

import numpy as np

from lib.statistics.bootstrap import TAILS
from rl.dataset.logged import RewardWeights
from rl.market.market import MANIFEST, STRATEGIES, Market, TrueValue
from rl.market.sessions import Policy
from rl.observation import Floats

LOG_FOLDER = "raw/market"  # below the lake


def logging_itself(states: Floats, candidates: Floats, logging: Floats) -> Floats:
    """The policy that follows the user's logging strategy: probabilities [n, k]."""
    return logging


def is_known(folder: Path) -> bool:
    """Whether the simulator's finished log lies in `folder`."""
    return (folder / MANIFEST).is_file()


def true_values(
    folder: Path,
    policies: Mapping[str, Policy],
    *,
    since: datetime,
    until: datetime,
    rewards: RewardWeights,
    discount: float,
    num_sessions: int,
) -> dict[str, TrueValue]:
    """Mean discounted return of the sessions in [since, until) if the policy made all their decisions, by simulation.

    The market is built again from the manifest in its log's `folder`, which takes some seconds. The value of the mixture of
    the logging strategies has the name `logging`, that of each of them among its own users `logging/<strategy>`. Each value
    is the mean over at least `num_sessions` sessions.
    """
    market = Market.read(folder)
    simulate = partial(
        market.true_value,
        num_sessions=num_sessions,
        since_ms=int(since.timestamp() * 1000),
        until_ms=int(until.timestamp() * 1000),
        rewards=rewards,
        discount=discount,
    )
    return {
        "logging": simulate(logging_itself),
        **{f"logging/{strategy}": simulate(logging_itself, strategy=strategy) for strategy in STRATEGIES},
        **{name: simulate(policy) for name, policy in policies.items()},
    }


def interval(value: TrueValue) -> tuple[float, float]:
    """95 % interval of a simulated value, by its standard error."""
    half = float(NormalDist().inv_cdf(TAILS[1]) * np.asarray(value.standard_error))
    return value.value - half, value.value + half
