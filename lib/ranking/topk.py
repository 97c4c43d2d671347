"""The k best items of each user, by blocked matrix multiplication over Arrow batches with NumPy, SciPy and PyArrow.

Items are identified by their position in one sorted array of item ids, users by their row in a batch. Ties go by item
position, so a list does not depend on the blocks. The functions hold no state: a Spark task can call them in
`mapInArrow` with the item matrix as a broadcast value, and a service can call them for one user.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp
from numpy.typing import NDArray

Scores = NDArray[np.floating[Any]]
ScoreBlock = Callable[[slice], Scores]

MANY_EQUAL = 0.25  # share of the scores that are -inf
_CELLS_AT_ONCE = 1 << 24  # scores in memory at a time (64 MB as floats)


@dataclass(frozen=True)
class Ranked:
    """The lists of all users, one entry per listed item, sorted by user and rank; every array is (entries,).

    `user` is the row of the user in the batch, `rank` counts from 1, `item` is the item's position.
    """

    user: NDArray[np.int64]
    rank: NDArray[np.int32]
    item: NDArray[np.int64]
    score: NDArray[np.float64]


def top_k(scores: Scores, k: int) -> NDArray[np.int64]:
    """Positions of the k best items of each row, best first; ties by position.

    Args:
        scores: (users, items); -inf where an item must not be listed.
        k: length of the lists.

    Returns:
        (users, min(k, items)); if fewer items may be listed, the row ends with items that score -inf.
    """
    num_items = scores.shape[1]
    k = min(k, num_items)
    if k == num_items:
        return np.argsort(-scores, axis=1, kind="stable")
    # Values are partitioned in half the time of their places, but not where many are the same.
    if np.count_nonzero(scores == -np.inf) < scores.size * MANY_EQUAL:
        return _by_least(scores, k)
    best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    best_scores = np.take_along_axis(scores, best, axis=1)
    # A partition keeps arbitrary items among those that tie for the last place, so such rows are sorted completely.
    worst = best_scores.min(axis=1, keepdims=True)
    tied = np.flatnonzero((scores >= worst).sum(axis=1) > k)
    best[tied] = np.argsort(-scores[tied], axis=1, kind="stable")[:, :k]
    best_scores[tied] = np.take_along_axis(scores[tied], best[tied], axis=1)
    order = np.lexsort((best, -best_scores), axis=1)
    return np.take_along_axis(best, order, axis=1)


def _by_least(scores: Scores, k: int) -> NDArray[np.int64]:
    """The same by the k-th largest value of each row; k is less than the number of items."""
    place = scores.shape[1] - k
    least = np.partition(scores, place, axis=1)[:, place : place + 1]
    chosen = scores >= least
    tied = np.flatnonzero(np.count_nonzero(chosen, axis=1) > k)
    if len(tied):  # of those that tie for the last place, the first
        above = scores[tied] > least[tied]
        equal = chosen[tied] & ~above
        num_equal = k - np.count_nonzero(above, axis=1)
        chosen[tied] = above | (equal & (np.cumsum(equal, axis=1, dtype=np.int32) <= num_equal[:, None]))
    best = np.nonzero(chosen)[1].reshape(len(scores), k)
    order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
    return np.take_along_axis(best, order, axis=1)


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
        return Ranked(np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.float64))
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
    best = top_k(scores, k)
    best_scores = np.take_along_axis(scores, best, axis=1)
    listed = best_scores > -np.inf  # a prefix of each row
    user, place = np.nonzero(listed)
    return Ranked(
        user=user.astype(np.int64) + rows.start,
        rank=(place + 1).astype(np.int32),
        item=best[listed],
        score=best_scores[listed].astype(np.float64),
    )


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
