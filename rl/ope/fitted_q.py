"""The Q model of the doubly robust estimate: fitted Q evaluation by ridge regression, cross-fitted over users."""

from dataclasses import dataclass

import numpy as np

from rl.dataset.decisions import Decisions, Floats, Ints
from rl.ope.bootstrap import Matrix
from rl.ope.target import TargetPolicy

BLOCK = 20_000  # rows whose products of features are in memory at once


@dataclass(frozen=True)
class _Features:
    """1, s, c and the products s x c of standardised state and candidate features: Q is linear in them."""

    states: Matrix  # [n, 1 + d], a column of ones first
    candidates: Matrix  # [n, k, 1 + c], ones first; zeros where padded

    @classmethod
    def of(cls, decisions: Decisions) -> "_Features":
        states = _standardised(decisions.states, np.ones(len(decisions), dtype=bool))
        candidates = _standardised(decisions.candidates, decisions.mask)
        ones = decisions.mask[:, :, None].astype(np.float64)
        return cls(np.hstack([np.ones((len(decisions), 1)), states]), np.concatenate([ones, candidates * ones], axis=2))

    @property
    def size(self) -> int:
        """(1 + d) (1 + c)."""
        return int(self.states.shape[1] * self.candidates.shape[2])

    def logged(self, rows: Ints, actions: Ints) -> Matrix:
        """[m, (1 + d) (1 + c)] features of the logged action of m rows."""
        chosen = self.candidates[rows, actions[rows]]
        return (self.states[rows, :, None] * chosen[:, None, :]).reshape(len(rows), -1)

    def predict(self, coefficients: Matrix, rows: Ints) -> Matrix:
        """[m, k] Q of the candidates of m rows: s' M c, without the products in memory."""
        matrix = coefficients.reshape(self.states.shape[1], self.candidates.shape[2])
        values: Matrix = np.einsum("nc,nkc->nk", self.states[rows] @ matrix, self.candidates[rows])
        return values


def _standardised(vectors: Floats, mask: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> Matrix:
    known = vectors[mask].astype(np.float64)
    scale = known.std(axis=0)
    return np.asarray((vectors - known.mean(axis=0)) / np.where(scale < 1e-6, 1.0, scale), dtype=np.float64)


def cross_fitted_q(
    decisions: Decisions,
    target: TargetPolicy,
    *,
    discount: float,
    num_folds: int = 3,
    ridge: float = 10.0,
    seed: int = 0,
) -> Matrix:
    """Qhat [n, k] of the target policy for every candidate (0 where padded); each row is predicted by a model of other users.

    Fitted Q evaluation (Le, Voloshin & Yue 2019, "Batch policy learning under constraints", alg. 3): Q is regressed on
    r + discount E_pi[Q(s', .)], as often as the longest episode has decisions. Users are assigned to folds at random; `ridge`
    is the penalty. With a single user there is no other to fit on, and Qhat is 0.
    """
    features = _Features.of(decisions)
    following = decisions.next_rows
    known, has_next = decisions.is_transition, following >= 0
    num_users = int(decisions.users.max(initial=-1)) + 1
    fold = np.random.default_rng(seed).integers(num_folds, size=num_users)[decisions.users]
    q_values = np.zeros(decisions.mask.shape)
    every_row = np.arange(len(decisions))
    for held_out in np.unique(fold):
        fitted = np.flatnonzero((fold != held_out) & known)
        if len(fitted) == 0:
            continue
        blocks = np.array_split(fitted, -(-len(fitted) // BLOCK))
        penalty = ridge * np.eye(features.size)
        penalty[0, 0] = 1e-6
        gram = penalty + sum(x.T @ x for x in (features.logged(rows, decisions.actions) for rows in blocks))
        v_next = np.zeros(len(decisions))
        for _ in range(decisions.horizon):
            targets = decisions.rewards + discount * v_next
            moments = sum(features.logged(rows, decisions.actions).T @ targets[rows] for rows in blocks)
            coefficients = np.asarray(np.linalg.solve(gram, moments), dtype=np.float64)
            expected = target.expectation(features.predict(coefficients, every_row))
            v_next = np.where(has_next, expected[following], 0.0)
        rows = np.flatnonzero(fold == held_out)
        q_values[rows] = features.predict(coefficients, rows)
    return q_values
