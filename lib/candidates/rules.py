"""What a shop may ask of a ranked list beside its order: a cap for each category, and places for items that are new in the shop."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lib.candidates.catalogue import Catalogue
from lib.candidates.histories import Histories
from lib.candidates.sources import Proposed
from lib.ranking.topk import ranks_of
from lib.statistics.bootstrap import splitmix64

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Rules:
    """Rules of ranked lists; as they stand here none is on."""

    max_per_category: int | None = None  # of a list's items, while others are left
    num_explored: int = 0  # last places of a list that are given to new items
    explored_days: float = 28  # the age up to which an item is new
    seed: int = 0  # of the draw

    @property
    def are_on(self) -> bool:
        """Whether a list may differ from the ranker's order."""
        return self.max_per_category is not None or self.num_explored > 0


def best_places(
    order: Ints, user: Ints, item: Ints, catalogue: Catalogue, *, length: int, max_per_category: int | None
) -> tuple[Ints, NDArray[np.int32]]:
    """Which entries are in each user's list, by user and rank, and their ranks.

    The first in the order. With a cap the items of a category beyond it come after all others of the user.

    Args:
        order: of entries, all or some, by user, the best first.
        user: (N,).
        item: (N,), positions.
        catalogue: knows the items' categories; those without one are never beyond a cap.
        length: of the lists.
        max_per_category: None: no cap.
    """
    if max_per_category is not None:
        tag = catalogue.tag[item[order]].astype(np.int64)
        number = number_in_group(user[order] * catalogue.num_tags + tag)
        beyond = (number >= max_per_category) & (tag != catalogue.num_tags - 1)
        order = order[np.lexsort((beyond, user[order]))]
    rank = ranks_of(user[order])
    listed = rank <= length
    return order[listed], rank[listed]


def number_in_group(group: Ints) -> Ints:
    """How many entries before have the same group, in the order in which they stand."""
    order = np.argsort(group, kind="stable")
    in_order = group[order]
    number = np.empty(len(group), np.int64)
    number[order] = np.arange(len(group)) - np.searchsorted(in_order, in_order)
    return number


def explored(
    block: Histories, catalogue: Catalogue, listed: Proposed, rules: Rules, length: int
) -> tuple[Proposed, NDArray[np.bool_]]:
    """The lists with their last places given to items that are new in the shop, each drawn with equal chance, and which these are.

    A draw that the user has had, that is in the list or that was drawn before leaves the place to the ranker. A drawn item has the
    score of the last ranked one.
    """
    fresh = np.flatnonzero(catalogue.sums["age_days"].to_numpy() < rules.explored_days)
    if not rules.num_explored or not len(fresh) or not len(listed.user):
        return listed, np.zeros(len(listed.user), bool)
    keys = pl.Series(block.user_keys).hash(seed=rules.seed).to_numpy()
    draws = splitmix64(keys[:, None] ^ splitmix64(np.arange(rules.num_explored, dtype=np.uint64))[None, :])
    user = np.repeat(np.arange(len(keys)), rules.num_explored)
    item = fresh[(draws.ravel() % np.uint64(len(fresh))).astype(np.int64)]
    width = len(catalogue)
    taken = np.concatenate([listed.user * width + listed.item, block.pairs.user * width + block.pairs.item])
    cell = user * width + item
    accepted = ~np.isin(cell, taken) & (number_in_group(cell) == 0) & np.isin(user, listed.user)
    user, item = user[accepted], item[accepted]
    num_drawn = np.bincount(user, minlength=len(keys))
    kept = listed.where(listed.rank <= np.maximum(length - num_drawn[listed.user], 1))
    num_kept = np.bincount(kept.user, minlength=len(keys))
    lowest = np.full(len(keys), np.inf)
    np.minimum.at(lowest, kept.user, kept.score)
    rank = num_kept[user] + number_in_group(user) + 1
    drawn = Proposed(user, item, rank.astype(np.int32), lowest[user]).where(rank <= length)
    order = np.lexsort((np.concatenate([kept.rank, drawn.rank]), np.concatenate([kept.user, drawn.user])))
    both = Proposed(
        np.concatenate([kept.user, drawn.user])[order],
        np.concatenate([kept.item, drawn.item])[order],
        np.concatenate([kept.rank, drawn.rank])[order],
        np.concatenate([kept.score, drawn.score])[order],
    )
    return both, order >= len(kept.user)
