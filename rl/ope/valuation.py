"""The values of policies on the same logged decisions, and the verdict whether a learned one may serve."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rl.dataset.decisions import Decisions
from rl.ope.estimators import Bootstrap, Estimate, doubly_robust, mean_return, per_decision_wis
from rl.ope.fitted_q import cross_fitted_q
from rl.ope.target import TargetPolicy


class Verdict(NamedTuple):
    """Whether a learned policy may serve, and why, with the numbers."""

    verdict: str  # promote or keep_logging
    reason: str


@dataclass(frozen=True)
class Valuation:
    """Estimates on one set of logged decisions; all share one bootstrap, so that their differences are paired."""

    decisions: Decisions
    discount: float
    bootstrap: Bootstrap

    @classmethod
    def on(cls, decisions: Decisions, *, discount: float, num_resamples: int = 1000, seed: int = 0) -> "Valuation":
        """Draw the bootstrap for these decisions."""
        draws = Bootstrap(decisions.episode_users, num_resamples=num_resamples, seed=seed)
        return cls(decisions, discount, draws)

    @property
    def num_rewarded(self) -> int:
        """Decisions with a reward above zero."""
        return int((self.decisions.rewards > 0).sum())

    def logging(self) -> dict[str, Estimate]:
        """The value of the logging policies, as mean return and by importance sampling with all ratios 1; both must be equal."""
        rewards = self.decisions.by_step(self.decisions.rewards, fill=0.0)
        return {
            "mean_return": mean_return(rewards, self.bootstrap, discount=self.discount),
            "pdis": per_decision_wis(rewards, np.ones_like(rewards), self.bootstrap, discount=self.discount),
        }

    def target(self, target: TargetPolicy, *, seed: int = 0) -> dict[str, Estimate]:
        """A target policy's value, per-decision self-normalised and doubly robust, with weights truncated at sqrt(episodes)."""
        log = self.decisions
        q_values = cross_fitted_q(log, target, discount=self.discount, seed=seed)
        rewards, ratios = log.by_step(log.rewards, fill=0.0), log.by_step(target.ratios, fill=1.0)
        q_logged = log.by_step(q_values[np.arange(len(log)), log.actions], fill=0.0)
        v_target = log.by_step(target.expectation(q_values), fill=0.0)
        how: dict[str, float] = {"discount": self.discount, "max_weight": math.sqrt(log.num_episodes)}
        return {
            "pdis": per_decision_wis(rewards, ratios, self.bootstrap, **how),
            "dr": doubly_robust(rewards, ratios, q_logged, v_target, self.bootstrap, **how),
        }


def verdict(learned: Estimate, logging: Estimate, *, min_effective_episodes: float) -> Verdict:
    """Promote a learned policy only where the evidence is large enough and says that the policy is better.

    Three conditions must hold: the effective sample size is at least `min_effective_episodes`, since a bootstrap of fewer says
    little; the lower bound of the learned policy's value is above the logging policy's value; the lower bound of their paired
    difference is above zero.
    """
    gain = learned.minus(logging)
    numbers = (
        f"doubly robust {_interval(learned)}, logging {_interval(logging)}, difference {_interval(gain)}, "
        f"effective sample {learned.effective_sample_size:.0f} of {learned.num_episodes} episodes"
    )
    if learned.effective_sample_size < min_effective_episodes:
        return Verdict("keep_logging", f"too little evidence (at least {min_effective_episodes:.0f} wanted): {numbers}")
    if learned.low > logging.value and gain.low > 0:
        return Verdict("promote", f"the lower bound beats the logging policy: {numbers}")
    return Verdict("keep_logging", f"the lower bound does not beat the logging policy: {numbers}")


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:.4g} ({estimate.low:.4g} to {estimate.high:.4g})"
