"""The true value of policies on the simulated market whose log was learned from."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from statistics import NormalDist

import numpy as np

from lib.statistics.bootstrap import TAILS
from rl.dataset.logged import RewardWeights
from rl.market.market import MANIFEST, Market, TrueValue
from rl.market.sessions import Policy
from rl.observation import Floats

LOG_FOLDER = "raw/market"  # below the lake


def logging_itself(states: Floats, candidates: Floats, logging: Floats) -> Floats:
    """The policy that does what the user's logging strategy does: probabilities [n, k]."""
    return logging


def is_known(folder: Path) -> bool:
    """Whether the simulator's finished log lies in `folder`."""
    return (folder / MANIFEST).is_file()


def true_values(
    folder: Path,
    policies: Mapping[str, Policy],
    *,
    test_from: datetime,
    rewards: RewardWeights,
    discount: float,
    num_sessions: int,
) -> dict[str, TrueValue]:
    """Mean discounted return of a session of the test window under each policy's own course of states, by simulation.

    The market is made again from the manifest in its log's `folder` (some seconds); the logging strategies' value stands under the
    name `logging`; `num_sessions` are simulated for each value.
    """
    market = Market.read(folder)
    since_ms = int(test_from.timestamp() * 1000)
    return {
        name: market.true_value(
            policy, num_sessions=num_sessions, since_ms=since_ms, rewards=rewards, discount=discount
        )
        for name, policy in {"logging": logging_itself, **policies}.items()
    }


def interval(value: TrueValue) -> tuple[float, float]:
    """95 % interval of a simulated value: what comes of simulating only so many sessions."""
    half = float(NormalDist().inv_cdf(TAILS[1]) * np.asarray(value.standard_error))
    return value.value - half, value.value + half
