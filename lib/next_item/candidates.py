"""The items that any strategy names for a prefix, with what each strategy says of them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from lib.next_item.scores import Floats
from lib.next_item.visits import Ints
from lib.ranking.topk import best_order

NEVER = 1 << 30  # the rank of an item that is not named


@dataclass(frozen=True)
class Candidates:
    """Items by prefix, those of a prefix together and in the order of their indices."""

    names: tuple[str, ...]  # of the strategies
    row: Ints  # [candidates] the prefix
    item: Ints  # [candidates]
    shares: Floats  # [candidates, strategies] zero where a strategy does not name the item
    starts: Ints  # [prefixes + 1]

    @classmethod
    def of(cls, scores: Mapping[str, sparse.csr_array]) -> "Candidates":
        """Those of some strategies, in their order."""
        matrices = list(scores.values())
        num_rows, num_columns = matrices[0].shape
        keys = [
            np.repeat(np.arange(num_rows), np.diff(matrix.indptr)) * num_columns + matrix.indices for matrix in matrices
        ]
        named, place = np.unique(np.concatenate(keys), return_inverse=True)
        shares = np.zeros((len(named), len(matrices)))
        end = 0
        for column, matrix in enumerate(matrices):
            shares[place[end : end + matrix.nnz], column] = matrix.data
            end += matrix.nnz
        row = named // num_columns
        starts = np.searchsorted(row, np.arange(num_rows + 1)).astype(np.int64)
        return cls(tuple(scores), row, named % num_columns, shares, starts)

    def place_of(self, items: Ints) -> Ints:
        """[prefixes] where an item of each prefix stands among the candidates; -1 where it is none of them."""
        num_rows = len(self.starts) - 1
        place = np.full(num_rows, -1, dtype=np.int64)
        is_it = self.item == items[self.row]
        place[self.row[is_it]] = np.flatnonzero(is_it)
        return place

    def ranks_of(self, place: Ints, score: Floats) -> Ints:
        """[prefixes] the rank, from 1, by a score of the candidate at each place; NEVER without one, or with a score of zero.

        Of equal scores the item with the smaller index comes first.
        """
        num_rows = len(self.starts) - 1
        is_named = (place >= 0) & (score[place] > 0)
        own = np.where(is_named, score[place], np.inf)[self.row]
        is_before = (score > own) | ((score == own) & (np.arange(len(score)) < place[self.row]))
        return np.where(is_named, 1 + np.bincount(self.row[is_before], minlength=num_rows), NEVER)

    def ranks(self, score: Floats) -> Ints:
        """[candidates] the rank of each among those of its prefix."""
        order = best_order(self.row, score)
        ranks = np.empty(len(score), dtype=np.int64)
        ranks[order] = np.arange(len(score)) - self.starts[self.row[order]] + 1
        return ranks

    def taken(self, keep: Ints) -> "Candidates":
        """Those at some places, which are in order."""
        starts = np.searchsorted(keep, self.starts).astype(np.int64)
        return Candidates(self.names, self.row[keep], self.item[keep], self.shares[keep], starts)
