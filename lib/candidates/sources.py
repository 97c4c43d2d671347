"""The retrievers: what each proposes for a block of users, by exact multiplication with all items.

A retriever proposes items that the user did not have; those that the user had are all candidates, proposed by `own`. So one
pass answers both questions: the best of all items are among these and the retriever's first few.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from lib.candidates.catalogue import Catalogue
from lib.candidates.histories import Histories
from lib.candidates.known import counted
from lib.candidates.wide import (
    Groups,
    GroupScores,
    Index,
    Scores,
    VectorScores,
    WeightScores,
    cells_of,
    grouped,
    places_in,
)
from lib.content.users import mean_of_history
from lib.ranking.ease import Weights
from lib.ranking.topk import best_of_each, best_order, ranks_of

Floats = NDArray[np.float32]
OWN, POPULAR, POPULAR_IN_CATEGORY = "own", "popular", "popular_in_category"
EASE, EASE_RECENT = "ease", "ease_recent"
ALS, TWO_TOWER, SEQUENCE = "als", "two_tower", "sequence"
MODELS = (ALS, TWO_TOWER, SEQUENCE)  # whose vectors stand in gold/vectors
COUNTING = (EASE, EASE_RECENT, POPULAR_IN_CATEGORY)  # say nothing of an item by a score that is not above 0
CONTENT = "content"  # has vectors of items there; a user's is the mean of the items' in the history
WIDE_USERS_AT_ONCE = 512
CELLS_AT_ONCE = 1 << 22  # scores of a source in memory at a time (16 MB), few enough for a cache


@dataclass(frozen=True)
class Retrieval:
    """All that retrieval needs to know at a moment."""

    as_of: datetime
    catalogue: Catalogue
    ease: Weights  # dense of the first items or sparse of all, see lib/ranking/ease.py
    vectors: Mapping[str, Floats]  # model -> (items, d), NaN for an item without one
    num_proposed: int  # items by each retriever for a user
    left_out: frozenset[str] = frozenset()  # retrievers that propose nothing
    indexes: Mapping[str, Index] | None = (
        None  # model -> that of its items' vectors; None: exact, by scores of all items
    )

    @property
    def users_at_once(self) -> int:
        """Users in a block."""
        if self.indexes is not None:
            return WIDE_USERS_AT_ONCE
        return max(1, CELLS_AT_ONCE // max(1, len(self.catalogue)))

    @property
    def recent_buyers(self) -> NDArray[np.int64]:
        """(items,): who bought each item in the last days."""
        return self.catalogue.sums["num_recent_buyers"].to_numpy()

    @cached_property
    def popular_lately(self) -> "Popular":
        """The items by who bought each in the last days."""
        return by_popularity(self.recent_buyers)

    @cached_property
    def filled(self) -> Mapping[str, tuple[Floats, NDArray[np.bool_]]]:
        """Model -> the items' vectors with zeros for those without one, and which items these are."""
        return {model: (np.nan_to_num(items), np.isnan(items[:, 0])) for model, items in self.vectors.items()}

    @cached_property
    def by_category(self) -> tuple[Floats, Groups]:
        """(items,): which share of the buyers of the last days in its category bought an item, 0 without a category; and the best items of each."""
        lately, tag = self.recent_buyers.astype(np.float32), self.catalogue.tag
        lately[tag == self.catalogue.num_tags - 1] = 0
        in_tag = np.bincount(tag, weights=lately, minlength=self.catalogue.num_tags)[tag]
        value = (lately / np.maximum(in_tag, 1)).astype(np.float32)
        return value, grouped(tag, value, self.catalogue.num_tags)


class Proposed(NamedTuple):
    """What a retriever proposes, sorted by user and rank; every array is (entries,)."""

    user: NDArray[np.int64]
    item: NDArray[np.int64]
    rank: NDArray[np.int32]  # from 1
    score: NDArray[np.float64]

    def where(self, chosen: NDArray[np.bool_]) -> "Proposed":
        """Some of the entries."""
        return Proposed(self.user[chosen], self.item[chosen], self.rank[chosen], self.score[chosen])


class Popular(NamedTuple):
    """Items by how popular they are."""

    value: NDArray[Any]  # (items,)
    order: NDArray[np.int64]  # those above 0, the most popular first, ties by position


class Candidates(NamedTuple):
    """The candidates of a block of users, sorted by user and item, with every retriever's score of each."""

    user: NDArray[np.int64]  # (N,)
    item: NDArray[np.int64]  # (N,)
    pair: NDArray[np.int64]  # (N,), the row of the block's pairs, or -1 where the user did not have the item
    scores: Mapping[str, Floats]  # source -> (N,), NaN where it says nothing
    proposed: Mapping[str, Proposed]  # source -> what it proposes


def candidates_of(retrieval: Retrieval, block: Histories) -> Candidates:
    """Own items and the first `num_proposed` of each retriever."""
    if retrieval.indexes is not None:
        return _wide_candidates(retrieval, block, retrieval.indexes)
    catalogue, num_users = retrieval.catalogue, len(block.user_keys)
    own = block.pairs.user, block.pairs.item
    pair = np.full((num_users, len(catalogue)), -1, np.int32)
    pair[own] = np.arange(len(own[0]))
    scores = _scores(retrieval, block)
    is_candidate = pair >= 0
    proposed = {OWN: _own_items(block)}
    for source, of_source in scores.items():
        above = 0 if source in COUNTING else -np.inf
        proposed[source] = _best_new(of_source, own, retrieval.num_proposed, above)
        is_candidate[proposed[source].user, proposed[source].item] = True
    if POPULAR not in retrieval.left_out:
        proposed[POPULAR] = popular_new(retrieval.popular_lately, block, retrieval.num_proposed)
        is_candidate[proposed[POPULAR].user, proposed[POPULAR].item] = True
    user, item = np.divmod(np.flatnonzero(is_candidate), len(catalogue))
    at_candidates = {source: of_source[user, item] for source, of_source in scores.items()}
    for source, of_source in at_candidates.items():
        of_source[of_source <= 0 if source in COUNTING else np.isneginf(of_source)] = np.nan
    return Candidates(user, item, pair[user, item].astype(np.int64), at_candidates, proposed)


def _wide_candidates(retrieval: Retrieval, block: Histories, indexes: Mapping[str, Index]) -> Candidates:
    """The same without a score of every item for every user; by vectors most of the best, see lib/ranking/ann.py."""
    num_items = len(retrieval.catalogue)
    own = cells_of(block.pairs.user, block.pairs.item, num_items)
    num_asked = retrieval.num_proposed + np.bincount(own // num_items, minlength=len(block.user_keys))
    proposed = {OWN: _own_items(block)}
    scores = _wide_scores(retrieval, block, indexes)
    for source, of_source in scores.items():
        entries = of_source.best(num_asked)
        new = entries.where(places_in(cells_of(entries.user, entries.item, num_items), own) < 0)
        proposed[source] = best_first(new.user, new.item, new.score, retrieval.num_proposed)
    if POPULAR not in retrieval.left_out:
        proposed[POPULAR] = popular_new(retrieval.popular_lately, block, retrieval.num_proposed)
    cells = np.unique(np.concatenate([cells_of(one.user, one.item, num_items) for one in proposed.values()]))
    user, item = np.divmod(cells, num_items)
    at_candidates = {source: of_source.at(user, item) for source, of_source in scores.items()}
    return Candidates(user, item, places_in(cells, own), at_candidates, proposed)


def _wide_scores(retrieval: Retrieval, block: Histories, indexes: Mapping[str, Index]) -> dict[str, Scores]:
    """Source -> what it says; sources without a model are left out."""
    num_items = len(retrieval.catalogue)
    scores: dict[str, Scores] = {}
    recent = block.matrix(block.pairs.weight_60, num_items)
    if retrieval.ease.size:
        num_known = retrieval.ease.shape[0]
        bought = block.matrix(counted(block.pairs.num_relevant), num_items)
        for source, history in ((EASE, bought), (EASE_RECENT, recent)):
            scores[source] = WeightScores(_widened(history[:, :num_known] @ retrieval.ease, num_items))
    if POPULAR_IN_CATEGORY not in retrieval.left_out:
        catalogue = retrieval.catalogue
        value, groups = retrieval.by_category
        if len(groups.items):
            shares = np.nan_to_num(block.tag_shares(block.pairs.weight_60, catalogue))
            scores[POPULAR_IN_CATEGORY] = GroupScores(shares, catalogue.tag, value, groups)
    of_users = dict(block.vectors)
    if CONTENT in retrieval.vectors:
        of_users[CONTENT] = mean_of_history(recent, retrieval.vectors[CONTENT])
    for model, items in retrieval.vectors.items():
        if model in of_users and of_users[model].shape[1] == items.shape[1]:
            scores[model] = VectorScores(of_users[model], items, indexes[model])
    return scores


def _widened(found: sp.csr_array | Floats, num_items: int) -> sp.csr_array:
    """Sums of the first items as those of all."""
    sums = sp.csr_array(found)
    sums.sort_indices()
    return sp.csr_array((sums.data, sums.indices, sums.indptr), shape=(sums.shape[0], num_items))


def best_first(
    user: NDArray[np.int64],
    item: NDArray[np.int64],
    score: Floats | NDArray[np.float64],
    length: int,
    *,
    tie_break: NDArray[np.float64] | None = None,
) -> Proposed:
    """The best `length` entries of each user by score; ties by `tie_break` (items,), highest first, then by position."""
    standing = item if tie_break is None else np.argsort(np.argsort(-tie_break, kind="stable"))[item]
    by_tie = np.argsort(standing)
    order = by_tie[best_order(user[by_tie], score[by_tie])]
    user, item, score = user[order], item[order], score[order]
    rank = ranks_of(user)
    listed = rank <= length
    return Proposed(user[listed], item[listed], rank[listed], score[listed].astype(np.float64))


def by_popularity(value: NDArray[Any]) -> Popular:
    """The items by a number each, (items,); one with 0 is left out."""
    return Popular(value, np.argsort(-value, kind="stable")[: np.count_nonzero(value > 0)])


def popular_new(popular: Popular, block: Histories, num_proposed: int) -> Proposed:
    """The most popular items that each user did not have, `num_proposed` for a user."""
    user, item = block.pairs.user, block.pairs.item
    num_users, popularity = len(block.user_keys), popular.value
    order = popular.order[: num_proposed + int(np.bincount(user, minlength=1).max())]
    place = np.full(len(popularity), -1)
    place[order] = np.arange(len(order))
    is_new = np.ones((num_users, len(order)), bool)
    looked_at = place[item] >= 0
    is_new[user[looked_at], place[item[looked_at]]] = False
    rank = np.cumsum(is_new, axis=1)
    at_user, at = np.nonzero(is_new & (rank <= num_proposed))
    return Proposed(at_user, order[at], rank[at_user, at].astype(np.int32), popularity[order[at]].astype(np.float64))


def _scores(retrieval: Retrieval, block: Histories) -> dict[str, Floats]:
    """Source -> (users, items), -inf where it says nothing, as not above 0 where it counts; sources without a model are left out."""
    num_items = len(retrieval.catalogue)
    scores: dict[str, Floats] = {}
    if retrieval.ease.size:
        scores |= _by_ease(retrieval, block)
    if POPULAR_IN_CATEGORY not in retrieval.left_out:
        scores |= _popular_in_category(retrieval, block)
    of_users = dict(block.vectors)
    if CONTENT in retrieval.vectors:
        weights = block.matrix(block.pairs.weight_60, num_items)
        of_users[CONTENT] = mean_of_history(weights, retrieval.vectors[CONTENT])
    for model, items in retrieval.vectors.items():
        if model not in of_users or of_users[model].shape[1] != items.shape[1]:
            continue
        users, (filled, has_none) = of_users[model], retrieval.filled[model]
        scores[model] = np.nan_to_num(users) @ filled.T
        scores[model][np.isnan(users[:, 0])] = -np.inf
        scores[model][:, has_none] = -np.inf
    return scores


def _by_ease(retrieval: Retrieval, block: Histories) -> dict[str, Floats]:
    """What EASE's weights say by all that a user had and by what is recent: one row after the other, since both read the same weights."""
    num_items, num_known = len(retrieval.catalogue), retrieval.ease.shape[0]
    values = np.column_stack([counted(block.pairs.num_relevant), block.pairs.weight_60]).astype(np.float32)
    row = 2 * block.pairs.user[:, None] + np.arange(2)
    entries = values.ravel(), (row.ravel(), np.repeat(block.pairs.item, 2))
    history = sp.csr_array(entries, shape=(2 * len(block.user_keys), num_items))
    found = history[:, :num_known] @ retrieval.ease
    speaks = found.toarray() if sp.issparse(found) else found
    if num_known < num_items:
        speaks = np.pad(speaks, ((0, 0), (0, num_items - num_known)))
    return {EASE: speaks[0::2], EASE_RECENT: speaks[1::2]}


def _popular_in_category(retrieval: Retrieval, block: Histories) -> dict[str, Floats]:
    """How likely a buyer of the last days in one of the user's categories bought an item, by how much the user takes of each category.

    Nothing where the log has no categories.
    """
    catalogue, (value, groups) = retrieval.catalogue, retrieval.by_category
    if not len(groups.items):
        return {}
    shares = np.nan_to_num(block.tag_shares(block.pairs.weight_60, catalogue))
    found = np.take(shares, catalogue.tag, axis=1)
    found *= value
    return {POPULAR_IN_CATEGORY: found}


def _best_new(
    scores: Floats, own: tuple[NDArray[np.int64], NDArray[np.int64]], num_proposed: int, above: float
) -> Proposed:
    """The best items that the user did not have, of those that score more than a number."""
    kept = scores[own]
    scores[own] = -np.inf
    best = best_of_each(scores, num_proposed, above=above)
    scores[own] = kept
    return Proposed(best.user, best.item, best.rank, best.score)


def _own_items(block: Histories) -> Proposed:
    """The items that the user had, by how often they were bought, then by how lately something was done with them."""
    pairs = block.pairs
    order = np.lexsort((pairs.item, pairs.last_days, -pairs.num_relevant, pairs.user))
    user, item = pairs.user[order], pairs.item[order]
    return Proposed(user, item, ranks_of(user), pairs.num_relevant[order].astype(np.float64))
