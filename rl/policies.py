"""The policy that would serve: (1 - epsilon) softmax(Q / temperature) + epsilon logging."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rl.dataset.decisions import Flags, Floats

Matrix = npt.NDArray[np.float64]


class ActionValues(Protocol):
    """What tabular Q-learning and DQN both provide."""

    def action_values(self, states: Floats, candidates: Floats, mask: Flags) -> Floats:
        """Q of each candidate, [n, k]: states [n, d], candidates [n, k, c], mask [n, k]; -inf where the mask is false."""
        ...


def softmax(values: Floats, temperature: float) -> Matrix:
    """Probabilities [n, k] proportional to exp(value / temperature), 0 where the value is -inf; each row needs a finite value."""
    scaled = np.asarray(values, dtype=np.float64) / temperature
    weights = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    probabilities: Matrix = weights / weights.sum(axis=1, keepdims=True)
    return probabilities


@dataclass(frozen=True)
class ServedPolicy:
    """A softmax over learned action values, mixed with the logging policy so that every logged choice stays possible."""

    values: ActionValues
    temperature: float
    epsilon: float

    def learned_part(self, states: Floats, candidates: Floats, mask: Flags) -> Matrix:
        """softmax(Q / temperature), [n, k]."""
        return softmax(self.values.action_values(states, candidates, mask), self.temperature)

    def __call__(self, states: Floats, candidates: Floats, logging: Floats) -> Matrix:
        """The whole policy's probabilities [n, k], given the logging policy's, `logging` [n, k], which are known in serving.

        A candidate that the logging policy never shows (probability 0) has probability 0.
        """
        learned = self.learned_part(states, candidates, np.asarray(logging) > 0)
        return (1 - self.epsilon) * learned + self.epsilon * np.asarray(logging, dtype=np.float64)
