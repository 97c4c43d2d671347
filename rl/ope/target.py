"""A policy on logged decisions, as off-policy evaluation needs it, and the choice of its temperature."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rl.dataset.decisions import Decisions, Floats, Ints
from rl.ope.bootstrap import Matrix, effective_sample_size
from rl.ope.weights import clipped, cumulative
from rl.policies import ActionValues, ServedPolicy, softmax

NUM_TEMPERATURES = 97


@dataclass(frozen=True)
class TargetPolicy:
    """A policy on one set of logged decisions, as off-policy evaluation needs it.

    The log holds mu only for the candidate that was shown. That is enough for the ratio of the logged action,
    rho = (1 - epsilon) learned(a) / mu(a) + epsilon. The expectation of Qhat under the policy contains its expectation under
    mu, which Qhat of the logged action estimates without bias: its weight in the doubly robust sum is then zero.
    """

    learned: Matrix  # [n, k] probabilities of the learned part
    epsilon: float
    actions: Ints  # [n]
    propensities: npt.NDArray[np.floating]  # [n]

    @property
    def ratios(self) -> Matrix:
        """[n] probability of the logged action under this policy over its logged propensity."""
        chosen = self.learned[np.arange(len(self.actions)), self.actions]
        return (1 - self.epsilon) * chosen / self.propensities + self.epsilon

    def expectation(self, q_values: Matrix) -> Matrix:
        """[n] unbiased estimate of sum_a pi(a | s) Qhat(s, a) from `q_values` [n, k] (anything finite where padded)."""
        logged = q_values[np.arange(len(self.actions)), self.actions]
        expected: Matrix = (1 - self.epsilon) * (self.learned * q_values).sum(axis=1) + self.epsilon * logged
        return expected


def on_log(policy: ServedPolicy, decisions: Decisions) -> TargetPolicy:
    """A served policy on the candidates of logged decisions."""
    learned = policy.learned_part(decisions.states, decisions.candidates, decisions.mask)
    return TargetPolicy(learned, policy.epsilon, decisions.actions, decisions.propensities)


@dataclass(frozen=True)
class Temperature:
    """A temperature, in the unit of Q, and the effective sample size that it leaves, as a share of the episodes."""

    value: float
    effective_frac: float
    of_spread: float  # value over the spread of the Q that it was chosen for

    def for_values(self, values: ActionValues, decisions: Decisions) -> float:
        """The temperature that makes other action values as greedy: in the same proportion to their spread."""
        return self.of_spread * spread(action_values(values, decisions))


def action_values(values: ActionValues, decisions: Decisions) -> Floats:
    """Q [n, k] of the candidates of logged decisions; -inf where padded."""
    return values.action_values(decisions.states, decisions.candidates, decisions.mask)


def spread(q_values: Floats) -> float:
    """The typical spread of Q [n, k] among the candidates of a decision: the mean of their standard deviations."""
    return max(float(np.nanmean(np.nanstd(np.where(np.isfinite(q_values), q_values, np.nan), axis=1))), 1e-8)


def choose_temperature(
    values: ActionValues, decisions: Decisions, *, epsilon: float, min_effective_frac: float
) -> Temperature:
    """The lowest temperature whose importance weights keep an effective sample of `min_effective_frac` of the episodes.

    Temperatures are tried from high (nearly uniform) to low, from 100 to 0.01 times the typical spread of Q among candidates, 24
    per decade. Once one is accepted, the search ends at the first that is not. Where none is accepted, the one with the largest
    effective sample is returned.

    Raises:
        ValueError: there is no episode to choose on.
    """
    if len(decisions) == 0:
        raise ValueError("a temperature must be chosen on logged episodes, and there are none")
    q_values = action_values(values, decisions)
    unit = spread(q_values)
    nearest, chosen = Temperature(np.inf, -1.0, np.inf), None
    for of_spread in np.logspace(2, -2, NUM_TEMPERATURES):
        value = float(unit * of_spread)
        target = TargetPolicy(softmax(q_values, value), epsilon, decisions.actions, decisions.propensities)
        tried = Temperature(value, effective_frac(target.ratios, decisions), float(of_spread))
        if tried.effective_frac >= min_effective_frac:
            chosen = tried
        elif chosen is not None:
            break
        nearest = max(nearest, tried, key=lambda temperature: temperature.effective_frac)
    return chosen or nearest


def effective_frac(ratios: Matrix, decisions: Decisions) -> float:
    """Effective sample size of the truncated weights of the episodes, as a share of their number; ratios are [n]."""
    matrix = decisions.by_step(ratios, fill=1.0)
    weights = clipped(math.sqrt(decisions.num_episodes))(cumulative(matrix))[:, -1]
    return effective_sample_size(weights) / decisions.num_episodes
