"""How the retrievers score a catalogue that is too wide for a score of every item for every user.

Each kind of scores gives, for a block of users, the entries among which the best items of each are, and the score of any entry:
of a history's weights as they are stored, of vectors by an index, of popularity by category from the best of each.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
CELLS_AT_ONCE = 1 << 22  # numbers of vectors that are gathered at a time (16 MB a side)


class Entries(NamedTuple):
    """Scores of items for users, every array is (entries,)."""

    user: Ints
    item: Ints
    score: Floats

    def where(self, chosen: NDArray[np.bool_]) -> "Entries":
        """Some of the entries."""
        return Entries(self.user[chosen], self.item[chosen], self.score[chosen])


class Scores(Protocol):
    """What a retriever says of a block of users."""

    def best(self, num_asked: Ints) -> Entries:
        """Entries without NaN, in any order, with the best items of each user, about `num_asked` (U,) of them at least."""
        ...

    def at(self, user: Ints, item: Ints) -> Floats:
        """The score of each entry, NaN where nothing is said."""
        ...


@dataclass(frozen=True)
class WeightScores:
    """What a history's weights sum up to, (users, items); nothing is said below what is above 0."""

    sums: sp.csr_array

    def best(self, num_asked: Ints) -> Entries:
        """Exactly the best, and what ties with the last of them."""
        items, scores = [], []
        for place, asked in enumerate(num_asked.tolist()):
            row = slice(self.sums.indptr[place], self.sums.indptr[place + 1])
            values, found = self.sums.data[row], self.sums.indices[row]
            least = np.partition(values, -asked)[-asked] if asked < len(values) else 0
            chosen = (values >= least) & (values > 0)
            items.append(found[chosen])
            scores.append(values[chosen])
        if not items:
            return Entries(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
        user = np.repeat(np.arange(len(items)), np.array([len(one) for one in items]))
        return Entries(user, np.concatenate(items).astype(np.int64), np.concatenate(scores).astype(np.float32))

    def at(self, user: Ints, item: Ints) -> Floats:
        found = np.asarray(self.sums[user, item], np.float32).ravel() if len(user) else np.empty(0, np.float32)
        return np.where(found > 0, found, np.float32(np.nan))


class Index(Protocol):
    """Finds most of the items with the largest dot products (lib/ranking/ann.py)."""

    def nearest(self, queries: Floats, num_asked: Ints) -> tuple[Ints, Ints]: ...


@dataclass(frozen=True)
class VectorScores:
    """Dot products of vectors of users (U, d) and items (I, d); NaN for one without."""

    users: Floats
    items: Floats
    index: Index

    def best(self, num_asked: Ints) -> Entries:
        """Most of the best, by the index."""
        asked = np.flatnonzero(~np.isnan(self.users[:, 0]))
        query, item = self.index.nearest(self.users[asked], num_asked[asked])
        user = asked[query]
        return Entries(user, item, self.at(user, item))

    def at(self, user: Ints, item: Ints) -> Floats:
        found = np.empty(len(user), np.float32)
        step = max(1, CELLS_AT_ONCE // max(1, self.items.shape[1]))
        for start in range(0, len(user), step):
            rows = slice(start, start + step)
            found[rows] = np.einsum("nd,nd->n", self.users[user[rows]], self.items[item[rows]])
        return found


class Groups(NamedTuple):
    """The items with a value above 0 by group, in each the best first, ties by position."""

    items: Ints
    bounds: Ints  # (groups + 1,)


def grouped(group: NDArray[np.int32], value: Floats, num_groups: int) -> Groups:
    """The items of each group by their values (items,)."""
    known = np.flatnonzero(value > 0)
    order = known[np.lexsort((known, -value[known], group[known]))]
    return Groups(order, np.searchsorted(group[order], np.arange(num_groups + 1)))


@dataclass(frozen=True)
class GroupScores:
    """A share of each user in an item's group (U, groups) times the item's value (items,); nothing is said below what is above 0."""

    shares: Floats
    group: NDArray[np.int32]  # (items,)
    value: Floats
    groups: Groups

    def best(self, num_asked: Ints) -> Entries:
        """Exactly the best: so many of each group that a user has a share in."""
        user, group = np.nonzero(self.shares > 0)
        begin, end = self.groups.bounds[group], self.groups.bounds[group + 1]
        length = np.minimum(num_asked[user], end - begin)
        place = np.arange(length.sum()) + np.repeat(begin - (np.cumsum(length) - length), length)
        user, item = np.repeat(user, length), self.groups.items[place]
        score = self.at(user, item)
        return Entries(user, item, score).where(~np.isnan(score))

    def at(self, user: Ints, item: Ints) -> Floats:
        found = self.shares[user, self.group[item]] * self.value[item]
        return np.where(found > 0, found, np.float32(np.nan)).astype(np.float32)


def cells_of(user: Ints, item: Ints, num_items: int) -> Ints:
    """A number for each entry, by user and item."""
    return user * num_items + item


def places_in(cells: Ints, among: Ints) -> Ints:
    """Where each cell stands among others, which are sorted; -1 where it does not."""
    if not len(among):
        return np.full(len(cells), -1)
    at = np.minimum(np.searchsorted(among, cells), len(among) - 1)
    return np.where(among[at] == cells, at, -1)
