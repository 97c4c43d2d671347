"""The values of policies on the same logged decisions, and the verdict whether a learned one may serve."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rl.dataset.decisions import Decisions
from rl.ope.bootstrap import NUM_RESAMPLES, Bootstrap, Estimate
from rl.ope.estimators import doubly_robust, mean_return, per_decision_wis
from rl.ope.fitted_q import cross_fitted_q
from rl.ope.target import TargetPolicy
from rl.ope.weights import clipped


class Verdict(NamedTuple):
    """Whether a learned policy may serve, and why, with the numbers."""

    verdict: str  # promote or keep_logging
    reason: str
    incumbent: str | None = None  # the logging policy that it was compared with


@dataclass(frozen=True)
class Valuation:
    """Estimates on one set of logged decisions; all share one bootstrap, so that their differences are paired."""

    decisions: Decisions
    discount: float
    bootstrap: Bootstrap

    @classmethod
    def on(
        cls, decisions: Decisions, *, discount: float, num_resamples: int = NUM_RESAMPLES, seed: int = 0
    ) -> "Valuation":
        """Draw the bootstrap for these decisions."""
        draws = Bootstrap(decisions.episode_users, num_resamples=num_resamples, seed=seed)
        return cls(decisions, discount, draws)

    def num_rewarded(self, policy: str | None = None) -> int:
        """Decisions with a reward above zero, of all episodes or of those that one logging policy decided alone."""
        is_rewarded = self.decisions.rewards > 0
        if policy is not None:
            is_rewarded &= (self.decisions.episode_policies == policy)[self.decisions.episodes]
        return int(is_rewarded.sum())

    def logging(self) -> Estimate:
        """The value of the mixture of all logging policies: the mean return."""
        rewards = self.decisions.by_step(self.decisions.rewards, fill=0.0)
        return mean_return(rewards, self.bootstrap, discount=self.discount)

    def logging_policies(self) -> dict[str, Estimate]:
        """The value of each logging policy, by name: the mean return of the episodes in which it decided alone.

        An episode in which several decided counts for a policy of its own, named after them (`a+b`). The values are comparable
        where the shop chose at random which policy serves whom.
        """
        rewards = self.decisions.by_step(self.decisions.rewards, fill=0.0)
        names = self.decisions.episode_policies
        return {
            name: mean_return(rewards, self.bootstrap, discount=self.discount, among=names == name)
            for name in sorted(set(names))
        }

    def target(self, target: TargetPolicy, *, seed: int = 0) -> dict[str, Estimate]:
        """A target policy's value, per-decision self-normalised and doubly robust, with weights truncated at sqrt(episodes)."""
        log = self.decisions
        q_values = cross_fitted_q(log, target, discount=self.discount, seed=seed)
        rewards, ratios = log.by_step(log.rewards, fill=0.0), log.by_step(target.ratios, fill=1.0)
        q_logged = log.by_step(q_values[np.arange(len(log)), log.actions], fill=0.0)
        v_target = log.by_step(target.expectation(q_values), fill=0.0)
        discount, shape = self.discount, clipped(math.sqrt(log.num_episodes))
        return {
            "pdis": per_decision_wis(rewards, ratios, self.bootstrap, discount=discount, shape=shape),
            "dr": doubly_robust(rewards, ratios, q_logged, v_target, self.bootstrap, discount=discount, shape=shape),
        }


def verdict(
    learned: Estimate, logging: Mapping[str, Estimate], *, incumbent: str | None, min_effective_episodes: float
) -> Verdict:
    """Promote a learned policy only where the evidence is large enough and says that it is better than the incumbent.

    The incumbent is the logging policy of that name, else the best of `logging` (`Valuation.logging_policies`) with at least
    `min_effective_episodes` episodes of its own: one with few may be the best by chance, and no interval could beat it.
    Three conditions must hold: the learned policy's effective sample is at least as large, since a bootstrap of fewer says
    little; the lower bound of its value is above the incumbent's value; the lower bound of their paired difference is above
    zero.
    """
    enough = [name for name, estimate in logging.items() if estimate.num_episodes >= min_effective_episodes]
    name = incumbent or max(enough, key=lambda name: logging[name].value, default=None)
    too_little = f"too little evidence (at least {min_effective_episodes:.0f} episodes wanted)"
    evidence = f"effective sample {learned.effective_sample_size:.0f} of {learned.num_episodes} episodes"
    if name is None or name not in logging:
        who = "no logging policy decided so many alone" if name is None else f"the incumbent {name} decided none alone"
        return Verdict("keep_logging", f"{too_little}: {who}; {evidence}", name)
    own = logging[name]
    gain = learned.minus(own)
    numbers = (
        f"doubly robust {_interval(learned)}, incumbent {name} {_interval(own)} on its own {own.num_episodes} episodes, "
        f"paired difference {_interval(gain)}, {evidence}"
    )
    if min(learned.effective_sample_size, own.num_episodes) < min_effective_episodes:
        return Verdict("keep_logging", f"{too_little}: {numbers}", name)
    if learned.low > own.value and gain.low > 0:
        return Verdict("promote", f"the lower bound beats the incumbent: {numbers}", name)
    return Verdict("keep_logging", f"the lower bound does not beat the incumbent: {numbers}", name)


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:.4g} ({estimate.low:.4g} to {estimate.high:.4g})"
