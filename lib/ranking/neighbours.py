"""Item-to-item neighbours by cosine over users: Gram matrices of shards of users, summed by block of items.

The cosine of two items is the number of users who have both, divided by the geometric mean of the numbers of users who
have each. Items that too few users have together are no neighbours: "often together with" should tell of many people,
not of one person's basket. One sparse product per shard of whole users gives these numbers, and the shards are summed. To be
distributed, the Gram matrix is sent in blocks of consecutive items, each as three flat arrays.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp
from numpy.typing import NDArray

from lib.ranking.topk import incidence

BLOCK_SCHEMA = pa.schema(
    [
        ("block", pa.int32()),
        ("item", pa.list_(pa.int32())),
        ("neighbour", pa.list_(pa.int32())),
        ("num_users", pa.list_(pa.float64())),
    ]
)
NEIGHBOUR_SCHEMA = pa.schema([("item", pa.int32()), ("neighbour", pa.int32()), ("similarity", pa.float64())])
OWNED_SCHEMA = pa.schema([("shard", pa.int32()), ("item", pa.int32())])
MOST_PAIRS = 1 << 24  # of items, whose counts a task hands on when it holds more (some 200 MB)


def gram_parts(
    histories: Iterable[sp.csr_array], num_items: int, *, most_pairs: int = MOST_PAIRS
) -> Iterator[sp.csr_array]:
    """The number of users who have both items of each pair, and on the diagonal each item's users: the sum of X'X.

    It comes in parts to be summed, each handed on as soon as it has more than `most_pairs` entries.

    Args:
        histories: matrices (users, num_items) of 0 and 1, each of whole users.
        num_items: size of the catalogue.
        most_pairs: entries after which a part ends.
    """
    part = empty = sp.csr_array((num_items, num_items), dtype=np.float64)
    for history in histories:
        part = part + sp.csr_array(history.T @ history)
        if part.nnz > most_pairs:
            yield part
            part = empty
    yield part


def shard_blocks(
    batches: Iterable[pa.RecordBatch], *, item_ids: pa.StringArray, items_per_block: int
) -> Iterator[pa.RecordBatch]:
    """A shard's share of the Gram matrix, for `mapInArrow`: batches of users with their `items` -> `BLOCK_SCHEMA`."""
    histories = (incidence(batch["items"], item_ids) for batch in batches)
    for part in gram_parts(histories, len(item_ids)):
        yield from gram_blocks(part, items_per_block=items_per_block)


def gram_blocks(counts: sp.csr_array, *, items_per_block: int) -> Iterator[pa.RecordBatch]:
    """The rows of a Gram matrix in blocks of items that can be summed separately: batches of `BLOCK_SCHEMA`."""
    for block, start in enumerate(range(0, counts.shape[0], items_per_block)):
        entries = counts[start : start + items_per_block].tocoo()
        if entries.nnz:
            lists = (entries.row + start, entries.col, entries.data)
            columns = [pa.array([block]), *(pa.array([values]) for values in lists)]
            yield pa.RecordBatch.from_arrays(columns, names=BLOCK_SCHEMA.names).cast(BLOCK_SCHEMA)


def cosine_neighbours(
    block: pa.Table, *, num_users: NDArray[np.float64], num_neighbours: int, min_support: int
) -> pa.Table:
    """The nearest neighbours of each item of one block, including the item itself, from all shards' rows of that block.

    Args:
        block: rows of `BLOCK_SCHEMA` of one block.
        num_users: (items,), users who have each item.
        num_neighbours: how many to keep per item, by highest cosine; ties by position.
        min_support: distinct users who must have both items; an item is its own neighbour whatever its users.

    Returns:
        Rows of `NEIGHBOUR_SCHEMA`, sorted by item, nearest first.
    """
    item, neighbour, both = (
        np.concatenate([np.asarray(chunk.flatten()) for chunk in block[name].chunks])
        for name in ("item", "neighbour", "num_users")
    )
    first, stop = int(item.min()), int(item.max()) + 1
    counts = sp.csr_array((both, (item - first, neighbour)), shape=(stop - first, len(num_users)))
    counts.sum_duplicates()
    entries = counts.tocoo()
    row, column, support = entries.row + first, entries.col, entries.data
    is_supported = (support >= min_support) | (row == column)
    row, column, support = row[is_supported], column[is_supported], support[is_supported]
    similarity = support / np.sqrt(num_users[row] * num_users[column])
    order = np.lexsort((column, -similarity, row))
    row, column, similarity = row[order], column[order], similarity[order]
    kept = np.arange(len(row)) - np.searchsorted(row, row) < num_neighbours
    return pa.table([row[kept], column[kept], similarity[kept]], names=NEIGHBOUR_SCHEMA.names).cast(NEIGHBOUR_SCHEMA)


def owned_positions(batches: Iterable[pa.RecordBatch], *, item_ids: pa.StringArray) -> Iterator[pa.RecordBatch]:
    """The positions of the items that users have, for `mapInArrow`: batches of `shard` and `items` -> `OWNED_SCHEMA`.

    Each known position comes once a shard and batch.
    """
    for batch in batches:
        position = pc.index_in(batch["items"].flatten(), value_set=item_ids)
        shard = batch["shard"].take(pc.list_parent_indices(batch["items"]))
        owned = pa.table([shard, position], schema=OWNED_SCHEMA).drop_null()
        yield from owned.group_by(OWNED_SCHEMA.names).aggregate([]).to_batches()


def similarity_matrix(neighbours: pa.Table, num_items: int) -> sp.csr_array:
    """Rows of `NEIGHBOUR_SCHEMA` as a sparse (items, items) matrix, row i holding the neighbours of item i."""
    item, neighbour, similarity = (neighbours[name].to_numpy() for name in NEIGHBOUR_SCHEMA.names)
    matrix = sp.csr_array((similarity, (item, neighbour)), shape=(num_items, num_items))
    matrix.sort_indices()
    return matrix


def nearest_own_items(
    histories: sp.csr_array, similarity: sp.csr_array, user: NDArray[np.int64], item: NDArray[np.int64]
) -> NDArray[np.int64]:
    """For each pair of a user and an item, the position of the most similar other item that the user has, or -1.

    Args:
        histories: (users, items), an entry where the user has the item.
        similarity: (items, items), from `similarity_matrix`.
        user: (pairs,), rows of `histories`.
        item: (pairs,), positions.
    """
    lengths = np.diff(histories.indptr)[user]
    pair = np.repeat(np.arange(len(user)), lengths)
    begin = np.repeat(histories.indptr[user] - np.r_[0, np.cumsum(lengths)[:-1]], lengths)
    own = histories.indices[begin + np.arange(len(pair))].astype(np.int64)
    num_items = similarity.shape[1]
    stored = np.repeat(np.arange(similarity.shape[0], dtype=np.int64), np.diff(similarity.indptr)) * num_items
    stored += similarity.indices
    wanted = own * num_items + item[pair]
    place = np.minimum(np.searchsorted(stored, wanted), max(0, len(stored) - 1))
    speaks = (stored[place] == wanted) & (own != item[pair]) if len(stored) else np.zeros(len(pair), dtype=bool)
    pair, own, weight = pair[speaks], own[speaks], similarity.data[place[speaks]]
    order = np.lexsort((own, -weight, pair))
    best, where = np.unique(pair[order], return_index=True)
    nearest = np.full(len(user), -1, dtype=np.int64)
    nearest[best] = own[order][where]
    return nearest
