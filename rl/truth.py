"""The true value of policies on the simulated market whose log was learned from."""

from datetime import datetime
from pathlib import Path

import numpy as np

from rl.logged import RewardWeights
from rl.market import MANIFEST, Market, TrueValue
from rl.observation import Floats
from rl.sessions import Policy

LOG_FOLDER = "raw/market"  # below the lake


def logging_itself(states: Floats, candidates: Floats, logging: Floats) -> Floats:
    """The policy that does what the user's logging strategy does: probabilities [n, k]."""
    return logging


class MarketTruth:
    """A market made again from the manifest of its log; tells what a session of its test window is worth under a policy."""

    def __init__(
        self, folder: Path, *, test_from: datetime, rewards: RewardWeights, discount: float, num_sessions: int
    ) -> None:
        """Simulate the market's log once more (some seconds); `num_sessions` are simulated for each value."""
        self.market = Market.read(folder)
        self.since_ms = int(test_from.timestamp() * 1000)
        self.rewards, self.discount, self.num_sessions = rewards, discount, num_sessions
        self.logging = self.value(logging_itself)

    @staticmethod
    def is_known(folder: Path) -> bool:
        """Whether the simulator's finished log lies in `folder`."""
        return (folder / MANIFEST).is_file()

    def value(self, policy: Policy) -> TrueValue:
        """Mean discounted return of a session of the test window under the policy's own course of states."""
        return self.market.true_value(
            policy,
            num_sessions=self.num_sessions,
            since_ms=self.since_ms,
            rewards=self.rewards,
            discount=self.discount,
        )

    def values(self, policies: dict[str, Policy]) -> dict[str, TrueValue]:
        """The value of each policy, and of the logging strategies under the name `logging`."""
        return {"logging": self.logging} | {name: self.value(policy) for name, policy in policies.items()}


def interval(value: TrueValue) -> tuple[float, float]:
    """95 % interval of a simulated value: what comes of simulating only so many sessions."""
    half = float(1.96 * np.asarray(value.standard_error))
    return value.value - half, value.value + half
