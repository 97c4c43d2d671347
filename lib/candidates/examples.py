"""What rankers learn from and are judged by: candidates as they were when a window began, and what the user bought in it.

A user's candidates are a group, and those that the user bought in the window are relevant. One ranker answers both
questions; NDCG@10 of each is taken over the items that the user bought, whether retrieved or not.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
from numpy.typing import NDArray

from lib.candidates.catalogue import Catalogue
from lib.candidates.histories import Histories
from lib.candidates.sources import Candidates
from lib.ranking.metrics import ndcg
from lib.statistics.bootstrap import Floats as Doubles

Floats = NDArray[np.float32]
LENGTH = 10  # of the lists that are judged
UNSEEN_FRAC = 0.25


class Pairs(NamedTuple):
    """Who and what N candidates are, for a ranker that has vectors of its own."""

    item_ids: pa.StringArray  # (I,)
    user: NDArray[np.int64]  # (N,), a row of `history`
    item: NDArray[np.int64]  # (N,), a place in `item_ids`, or -1 for another item
    history: sp.csr_array  # (U, I), what each user had, weighed

    def where(self, chosen: NDArray[np.int64]) -> "Pairs":
        """Some of the candidates."""
        return self._replace(user=self.user[chosen], item=self.item[chosen])

    def unknown(self) -> "Pairs":
        """The same candidates of people without a history, and of items that nobody knows."""
        num_users, num_items = len(self.history.indptr) - 1, len(self.item_ids)
        return self._replace(item=np.full_like(self.item, -1), history=no_history(num_users, num_items))


def no_history(num_users: int, num_items: int) -> sp.csr_array:
    """That of people who had nothing."""
    none = np.zeros(0, np.int64)
    return sp.csr_array((np.zeros(0, np.float32), (none, none)), shape=(num_users, num_items))


def pairs_of(candidates: Candidates, block: Histories, catalogue: Catalogue) -> Pairs:
    """Who and what the candidates of a block are."""
    history = block.matrix(block.pairs.weight_60, len(catalogue))
    return Pairs(catalogue.item_ids, candidates.user, candidates.item, history)


class Examples(NamedTuple):
    """Candidates of G users, each user's together, with what they bought in a window."""

    features: Floats  # (N, len(FEATURES))
    label: NDArray[np.int8]  # (N,), 1 if the user bought it in the window
    is_new: NDArray[np.bool_]  # (N,), whether the user had not had it before
    group: NDArray[np.int64]  # (N,), ascending from 0 without gaps
    num_wanted: NDArray[np.int64]  # (G, 2), items that the user bought in the window: all of them, and new ones
    pairs: Pairs | None = None  # whose users are the groups

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Candidates of each user, (G,)."""
        return np.bincount(self.group, minlength=len(self.num_wanted))

    def of_users(self, chosen: NDArray[np.bool_]) -> "Examples":
        """Those of some of the users, (G,)."""
        rows = np.flatnonzero(chosen[self.group])
        group = (np.cumsum(chosen) - 1)[self.group[rows]]
        pairs = self.pairs
        if pairs is not None:
            pairs = pairs._replace(user=group, item=pairs.item[rows], history=pairs.history[np.flatnonzero(chosen)])
        return Examples(self.features[rows], self.label[rows], self.is_new[rows], group, self.num_wanted[chosen], pairs)


def mostly_known(examples: Examples) -> Examples:
    """The examples of users who had something, and of a few who had nothing: at most UNSEEN_FRAC as many; of all, where nobody had.

    Somebody unseen has the popular items alone as candidates. Where most are unseen, a ranker would learn little else than to order these.
    """
    is_known = np.bincount(examples.group, weights=~examples.is_new, minlength=len(examples.num_wanted)) > 0
    if not is_known.any():
        return examples
    kept = np.cumsum(~is_known) <= UNSEEN_FRAC * np.count_nonzero(is_known)  # the first by their keys, which are a draw
    return examples.of_users(is_known | kept)


def joined(parts: list[Examples]) -> Examples:
    """The users of all parts, which name items alike."""
    starts = np.cumsum([0, *(len(part.num_wanted) for part in parts)])
    shifted = [part.group + start for part, start in zip(parts, starts, strict=False)]
    group = np.concatenate(shifted)
    pairs = [part.pairs for part in parts if part.pairs is not None]
    together = None
    if len(pairs) == len(parts):
        history = sp.csr_array(sp.vstack([one.history for one in pairs], format="csr"))
        together = Pairs(pairs[0].item_ids, group, np.concatenate([one.item for one in pairs]), history)
    return Examples(
        np.concatenate([part.features for part in parts]),
        np.concatenate([part.label for part in parts]),
        np.concatenate([part.is_new for part in parts]),
        group,
        np.concatenate([part.num_wanted for part in parts]),
        together,
    )


def ndcg_of(scores: Doubles, examples: Examples) -> Doubles:
    """NDCG@10 of each user, (G, 2): of all items and of new ones; NaN where none was wanted."""
    found = np.full(examples.num_wanted.shape, np.nan)
    for question, shown in enumerate((np.ones(len(scores), bool), examples.is_new)):
        group, score, label = examples.group[shown], scores[shown], examples.label[shown]
        order = np.lexsort((-score, group))
        group, label = group[order], label[order]
        rank = np.arange(len(group)) - np.searchsorted(group, group)
        top = rank < LENGTH
        hits = np.zeros((len(found), LENGTH), bool)
        hits[group[top], rank[top]] = label[top] > 0
        wanted = examples.num_wanted[:, question]
        asked = wanted > 0
        found[asked, question] = ndcg(hits[asked], wanted[asked])
    return found
