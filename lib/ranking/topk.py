"""The k best items of each user, by blocked matrix multiplication over Arrow batches with NumPy, SciPy and PyArrow.

Items are identified by their position in one sorted array of item ids, users by their row in a batch. Ties go by item
position, so a list does not depend on the blocks. The functions hold no state: a Spark task can call them in
`mapInArrow` with the item matrix as a broadcast value, and a service can call them for one user.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp
from numpy.typing import NDArray

Scores = NDArray[np.floating[Any]]
ScoreBlock = Callable[[slice], Scores]

_CELLS_AT_ONCE = 1 << 24  # scores in memory at a time (64 MB as floats)
_GROUPS_A_PLACE = 8
_LARGEST_GROUP = 256


@dataclass(frozen=True)
class Ranked:
    """The lists of all users, one entry per listed item, sorted by user and rank; every array is (entries,).

    `user` is the row of the user in the batch, `rank` counts from 1, `item` is the item's position.
    """

    user: NDArray[np.int64]
    rank: NDArray[np.int32]
    item: NDArray[np.int64]
    score: NDArray[np.float64]


NO_LISTS = Ranked(np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.float64))


def best_of_each(scores: Scores, k: int, *, above: float = -np.inf) -> Ranked:
    """The k best items of each row that score more than a number, best first; ties by position.

    Most scores are only compared with what the k-th best is at least.

    Args:
        scores: (users, items), no NaN; -inf where an item must not be listed.
        k: length of the lists.
        above: the number.
    """
    num_items = scores.shape[1]
    k = min(k, num_items)
    if not scores.size or k < 1:
        return NO_LISTS
    least = np.nextafter(scores.dtype.type(above), scores.dtype.type(np.inf))
    cell = np.flatnonzero(scores >= np.maximum(_bound(scores, k), least)[:, None])
    user, item = np.divmod(cell, num_items)
    score = scores[user, item]
    order = best_order(user, score)  # items stand in their order
    user, item, score = user[order], item[order], score[order]
    rank = ranks_of(user)
    kept = rank <= k
    return Ranked(user[kept], rank[kept], item[kept], score[kept].astype(np.float64))


def best_order(group: NDArray[np.int64], score: Scores) -> NDArray[np.int64]:
    """The order of entries by group, the highest score first, ties as they stand, in a third of the time of `np.lexsort`.

    NumPy sorts fast what need not stay in order: first the scores, then one whole number for group, place and entry.

    Args:
        group: (entries,), numbers from 0.
        score: (entries,), no NaN.
    """
    num_entries = len(score)
    if not num_entries or (int(group.max()) + 1) * num_entries**2 >= 1 << 63:
        return np.lexsort((-score, group))
    falling = np.argsort(-score)
    in_order = score[falling]
    place = np.cumsum(np.append(False, in_order[1:] != in_order[:-1]))  # of equal scores the same
    return np.sort((group[falling] * num_entries + place) * num_entries + falling) % num_entries


def ranks_of(user: NDArray[np.int64]) -> NDArray[np.int32]:
    """The rank of each entry among those of its user, from 1, of entries that are sorted by user and then best first."""
    return (np.arange(1, len(user) + 1) - np.searchsorted(user, user)).astype(np.int32)


def _bound(scores: Scores, k: int) -> Scores:
    """What the k-th best of each row is at least, (users,): the k-th best of the maxima of groups of items, most of which hold one of the best."""
    num_items = scores.shape[1]
    num_groups = max(min(_GROUPS_A_PLACE * k, num_items), num_items // _LARGEST_GROUP)
    highest = scores[:, :num_groups].copy()
    for start in range(num_groups, num_items - num_groups + 1, num_groups):
        np.maximum(highest, scores[:, start : start + num_groups], out=highest)
    return np.asarray(np.partition(highest, num_groups - k, axis=1)[:, num_groups - k])


def rank_users(
    score_block: ScoreBlock, *, num_users: int, num_items: int, k: int, excluded: sp.csr_array | None = None
) -> Ranked:
    """Every user's list of at most k items, scored in blocks of users that fit in memory.

    Args:
        score_block: rows of users -> (rows, num_items) scores, in an array that may be written to; -inf where an item
            must not be listed.
        num_users: number of rows.
        num_items: number of items.
        k: length of the lists.
        excluded: (num_users, num_items), an entry where an item must not be listed for a user, such as one that the
            user knows already.
    """
    step = max(1, _CELLS_AT_ONCE // max(1, num_items))
    parts = [_rank_block(score_block, slice(start, min(start + step, num_users)), k, excluded)
             for start in range(0, num_users, step)]  # fmt: skip
    if not parts:
        return NO_LISTS
    return Ranked(
        user=np.concatenate([p.user for p in parts]),
        rank=np.concatenate([p.rank for p in parts]),
        item=np.concatenate([p.item for p in parts]),
        score=np.concatenate([p.score for p in parts]),
    )


def _rank_block(score_block: ScoreBlock, rows: slice, k: int, excluded: sp.csr_array | None) -> Ranked:
    scores = score_block(rows)
    assert scores.shape[0] == rows.stop - rows.start, (scores.shape, rows)
    if excluded is not None:
        users, items = excluded[rows].nonzero()
        scores[users, items] = -np.inf
    best = best_of_each(scores, k)
    return replace(best, user=best.user + rows.start)


def dot_products(user_vectors: NDArray[np.float32], item_vectors: NDArray[np.float32]) -> ScoreBlock:
    """Scores by the dot products of (users, d) and (items, d): one GEMM per block."""
    return lambda rows: user_vectors[rows] @ item_vectors.T


def vectors(column: pa.ListArray | pa.FixedSizeListArray) -> NDArray[np.float32]:
    """A column of equally long lists of floats as (rows, d); not copied if Arrow holds it as float32.

    Raises:
        ValueError: the lists are not equally long, or hold a null.
    """
    flat = column.flatten()
    if len(column) == 0:
        return np.empty((0, 0), np.float32)
    width = len(flat) // len(column)
    lengths = pc.list_value_length(column)
    if column.null_count or flat.null_count or not pc.all(pc.equal(lengths, width)).as_py():
        raise ValueError("vectors must have equal lengths and no nulls")
    return np.asarray(flat.to_numpy(zero_copy_only=False), dtype=np.float32).reshape(len(column), width)


def incidence(lists: pa.ListArray, item_ids: pa.StringArray, values: NDArray[np.float32] | None = None) -> sp.csr_array:
    """Lists of item ids, one per user, as a sparse (users, items) matrix; an id that is not in `item_ids` is ignored.

    Args:
        lists: one list of distinct item ids per user.
        item_ids: the id at each position, distinct.
        values: one number for each id of `lists.flatten()`; default 1.
    """
    flat = lists.flatten()
    users = np.repeat(np.arange(len(lists)), _lengths(lists))
    positions = pc.index_in(flat, value_set=item_ids)
    known = positions.is_valid().to_numpy(zero_copy_only=False)
    items = positions.drop_null().to_numpy()
    numbers = np.ones(len(items), np.float32) if values is None else values[known]
    return sp.csr_array((numbers, (users[known], items)), shape=(len(lists), len(item_ids)))


def _lengths(lists: pa.ListArray) -> NDArray[np.int64]:
    return np.asarray(pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False), dtype=np.int64)
