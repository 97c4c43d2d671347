"""The Q-network: a small network that scores each candidate of a decision from (state, candidate). Plain torch, no Ray."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lib.runs.weights import load_weights, save_weights
from rl.dataset.decisions import Flags, Floats

BLOCK = 20_000  # decisions scored at once


class CandidateQNet(nn.Module):
    """Q(state, candidate) with weights shared by all candidates, so that the catalogue may have any size.

    Every candidate is scored on its own: permuted candidates get permuted scores, and padding changes nothing. Features are
    standardised by buffers (`fit_scaling`), which are saved with the weights.
    """

    state_mean: Tensor
    state_scale: Tensor
    candidate_mean: Tensor
    candidate_scale: Tensor

    def __init__(self, state_dim: int, candidate_dim: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.dims = (state_dim, candidate_dim, tuple(hidden))
        self.register_buffer("state_mean", torch.zeros(state_dim))
        self.register_buffer("state_scale", torch.ones(state_dim))
        self.register_buffer("candidate_mean", torch.zeros(candidate_dim))
        self.register_buffer("candidate_scale", torch.ones(candidate_dim))
        # The first layer of an MLP over [state, candidate], split so that the state's part is computed once for all candidates.
        self.from_state = nn.Linear(state_dim, hidden[0])
        self.from_candidate = nn.Linear(candidate_dim, hidden[0], bias=False)
        layers: list[nn.Module] = [nn.ReLU()]
        for narrow, wide in zip(hidden[1:], hidden[:-1], strict=True):
            layers += [nn.Linear(wide, narrow), nn.ReLU()]
        self.score = nn.Sequential(*layers, nn.Linear(hidden[-1], 1))

    def forward(self, states: Tensor, candidates: Tensor, mask: Tensor) -> Tensor:
        """Q values [n, k] of states [n, d] and candidates [n, k, c]; exactly -inf where mask [n, k] is 0."""
        assert states.ndim == 2, f"states must be [n, d], got {tuple(states.shape)}"
        assert candidates.shape[:2] == mask.shape, f"candidates {tuple(candidates.shape)}, mask {tuple(mask.shape)}"
        state = (states - self.state_mean) / self.state_scale
        candidate = (candidates - self.candidate_mean) / self.candidate_scale
        hidden = self.from_state(state).unsqueeze(1) + self.from_candidate(candidate)
        scores: Tensor = self.score(hidden).squeeze(-1)
        return scores.masked_fill(mask < 0.5, -torch.inf)

    def fit_scaling(self, states: Floats, candidates: Floats, mask: Flags) -> None:
        """Fit the standardisation to decisions: states [n, d], candidates [n, k, c] where mask [n, k] is true."""
        for name, vectors in (("state", states), ("candidate", candidates[mask])):
            mean, scale = vectors.mean(axis=0), vectors.std(axis=0)
            getattr(self, f"{name}_mean").copy_(torch.as_tensor(mean, dtype=torch.float32))
            getattr(self, f"{name}_scale").copy_(torch.as_tensor(np.where(scale < 1e-6, 1.0, scale)))

    @torch.no_grad()
    def action_values(self, states: Floats, candidates: Floats, mask: Flags) -> Floats:
        """Q of each candidate as an array [n, k]; -inf where the mask is false. An `ActionValues`."""
        device = next(self.parameters()).device
        blocks = [np.zeros(mask.shape, dtype=np.float32)[:0]]
        for start in range(0, len(states), BLOCK):
            rows = slice(start, start + BLOCK)
            parts = (states[rows], candidates[rows], mask[rows])
            tensors = (torch.as_tensor(part, dtype=torch.float32, device=device) for part in parts)
            blocks.append(self(*tensors).cpu().numpy())
        return np.concatenate(blocks)


def save(network: CandidateQNet, path: Path, *, tables: Mapping[str, int], **served: float) -> None:
    """Write the network to one file, with what serving needs in addition (temperature, epsilon) and the table versions trained on."""
    state_dim, candidate_dim, hidden = network.dims
    dims = {"state_dim": state_dim, "candidate_dim": candidate_dim, "hidden": list(hidden)}
    save_weights(path, network.state_dict(), **dims, served=served, tables=tables)


def load(path: Path) -> tuple[CandidateQNet, dict[str, float]]:
    """Read a file that `save` wrote: the network, and what serving needs in addition."""
    weights, known = load_weights(path)
    network = CandidateQNet(known["state_dim"], known["candidate_dim"], tuple(known["hidden"]))
    network.load_state_dict(weights)
    return network, known["served"]
