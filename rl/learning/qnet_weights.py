"""The Q-network's values from its weights, in NumPy alone, so that a server needs no torch.

The function is CandidateQNet's forward pass (rl/learning/qnet.py); a test holds them equal.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.runs.weights import load_arrays, save_arrays

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class QWeights:
    """A fit: `arrays` is the module's state, `known` what stands beside it in its file."""

    arrays: Mapping[str, Floats]
    known: Mapping[str, Any]

    @property
    def dims(self) -> tuple[int, int]:
        """Widths of a state and of a candidate's features."""
        return len(self.arrays["state_mean"]), len(self.arrays["candidate_mean"])

    def values(self, state: Floats, candidates: Floats) -> Floats:
        """Q (n,) of the candidates (n, F) in a state (S,)."""
        arrays = self.arrays
        scaled = (state - arrays["state_mean"]) / arrays["state_scale"]
        each = (candidates - arrays["candidate_mean"]) / arrays["candidate_scale"]
        of_state = arrays["from_state.weight"] @ scaled + arrays["from_state.bias"]
        found: NDArray[Any] = of_state + each @ arrays["from_candidate.weight"].T
        layers = sorted(
            int(name.split(".")[1]) for name in arrays if name.startswith("score.") and name.endswith("weight")
        )
        for layer in layers:
            found = np.maximum(found, np.float32(0)) @ arrays[f"score.{layer}.weight"].T + arrays[f"score.{layer}.bias"]
        return np.asarray(found[:, 0], np.float32)


def load(path: Path) -> QWeights:
    """What rl/learning/qnet.py or `save` wrote.

    Raises:
        OSError: there is no such file.
        ValueError: it is another kind of file, or not whole.
    """
    arrays, known = load_arrays(path)
    return QWeights(arrays, known)


def save(weights: QWeights, path: Path) -> None:
    """Write them to one file."""
    save_arrays(path, weights.arrays, **weights.known)
