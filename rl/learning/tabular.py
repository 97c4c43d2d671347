"""Tabular Q-learning, the readable baseline: states and candidates are grouped into cells, and Q is a table over cells."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rl.dataset.decisions import Decisions, Flags, Floats, Ints

BLOCK = 100_000  # rows whose distances to all centres are in memory at once
MAX_FITTED = 20_000  # rows to which the centres are fitted
NUM_SWEEPS = 50
PRIOR_VISITS = 20.0


@dataclass(frozen=True)
class Cells:
    """A partition of vectors by the nearest centre (vector quantisation); each feature is standardised."""

    mean: npt.NDArray[np.float64]  # [d]
    scale: npt.NDArray[np.float64]  # [d]
    centres: npt.NDArray[np.float64]  # [cells, d]

    @classmethod
    def fit(cls, vectors: Floats, *, num_cells: int, seed: int) -> "Cells":
        """Fit cells to vectors [n, d]: one for each distinct vector if there are at most `num_cells` of them, else by k-means."""
        rng = np.random.default_rng(seed)
        chosen = vectors[rng.permutation(len(vectors))[:MAX_FITTED]].astype(np.float64)
        mean, scale = chosen.mean(axis=0), chosen.std(axis=0)
        scale[scale < 1e-9] = 1.0
        distinct = np.unique((chosen - mean) / scale, axis=0)
        if len(distinct) <= num_cells:
            return cls(mean, scale, distinct)
        from sklearn.cluster import KMeans  # noqa: PLC0415 - seconds that a training worker does without

        fitted = KMeans(num_cells, n_init=1, max_iter=50, random_state=seed).fit((chosen - mean) / scale)
        return cls(mean, scale, fitted.cluster_centers_)

    def of(self, vectors: Floats) -> Ints:
        """The cell of each vector, [n]."""
        cells = np.empty(len(vectors), dtype=np.int64)
        norms = np.square(self.centres).sum(axis=1)
        for start in range(0, len(vectors), BLOCK):
            scaled = (vectors[start : start + BLOCK] - self.mean) / self.scale
            cells[start : start + BLOCK] = np.argmin(norms - 2 * scaled @ self.centres.T, axis=1)
        return cells


@dataclass(frozen=True)
class TabularQ:
    """Q[state cell, candidate cell]; an `ActionValues`."""

    state_cells: Cells
    candidate_cells: Cells
    table: npt.NDArray[np.float64]  # [state cells, candidate cells]

    def action_values(self, states: Floats, candidates: Floats, mask: Flags) -> Floats:
        """Q of each candidate, [n, k]; -inf where the mask is false."""
        values = np.full(mask.shape, -np.inf)
        rows = np.nonzero(mask)[0]
        values[mask] = self.table[self.state_cells.of(states)[rows], self.candidate_cells.of(candidates[mask])]
        return values


def fit_tabular(
    decisions: Decisions,
    *,
    discount: float,
    num_state_cells: int,
    num_candidate_cells: int,
    prior_visits: float = PRIOR_VISITS,
    seed: int,
) -> TabularQ:
    """Q-learning (Watkins & Dayan 1992) on logged transitions, in sweeps over the whole log.

    Each sweep sets every cell to the mean of its targets r + discount max_a' Q(s', a') and of `prior_visits` imagined visits
    with the mean target of the state's cell, so that a rarely shown cell stays near the others of its state. A decision whose
    successor is unknown, because the log ended first, is left out.
    """
    if len(decisions) == 0:
        raise ValueError("Q-learning needs logged decisions, and there are none")
    state_cells = Cells.fit(decisions.states, num_cells=num_state_cells, seed=seed)
    candidate_cells = Cells.fit(decisions.candidates[decisions.mask], num_cells=num_candidate_cells, seed=seed)
    states = state_cells.of(decisions.states)
    candidates = np.zeros(decisions.mask.shape, dtype=np.int64)
    candidates[decisions.mask] = candidate_cells.of(decisions.candidates[decisions.mask])

    known = np.flatnonzero(decisions.is_transition)
    following = decisions.next_rows[known]
    state, action = states[known], candidates[known, decisions.actions[known]]
    table = np.zeros((len(state_cells.centres), len(candidate_cells.centres)))
    visits, state_visits = np.zeros_like(table), np.bincount(state, minlength=len(table))
    np.add.at(visits, (state, action), 1)
    for _ in range(NUM_SWEEPS):
        q_next = np.where(decisions.mask[following], table[states[following][:, None], candidates[following]], -np.inf)
        target = decisions.rewards[known] + discount * np.where(following >= 0, q_next.max(axis=1), 0.0)
        sums = np.zeros_like(table)
        np.add.at(sums, (state, action), target)
        prior = sums.sum(axis=1) / np.maximum(state_visits, 1)
        table = (sums + prior_visits * prior[:, None]) / np.maximum(visits + prior_visits, 1e-12)
    return TabularQ(state_cells, candidate_cells, table)
