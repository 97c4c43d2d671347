"""EASE for catalogues whose matrix of all pairs of items would not fit: each item is learned from its nearest items.

The weights of EASE towards an item are a ridge regression of the item on all others (lib/ranking/ease.py). Here it is one on the
items that would explain most of it, each by itself: as fsSLIM does for SLIM (Ning and Karypis 2011, "SLIM: Sparse linear methods
for top-n recommender systems", with the k nearest items of each item). Every item is solved by itself, from the rows of a sparse
Gram matrix that its neighbours have, so items are spread over tasks, and nothing of (items, items) is ever dense.

Of the Gram matrix only each item's strongest pairs are kept. What is not kept is not 0: with zeros in its place a neighbourhood's
matrix is no Gram matrix of anything, and its inverse of no use. In place of a pair that is not kept stands what both items'
remaining sums would give it, if these met by chance; it is right on average in each row. Where all items are neighbours,
everything is kept, and the weights are those of EASE. An item that nobody has together with another is never its neighbour.

The most owned items, the head, are few enough for a dense matrix. The weights between two of them are not approximated, but
learned again from all of the head and from what the weights of the other items, the tail, leave unsaid (lib/ranking/ease.py).
So no item's part is counted twice, and where the weights of the tail are those of EASE, so are those of the head.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import polars as pl
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.linalg import lapack

from lib.ranking.ease import COUNTS

Floats = NDArray[np.float32]
TOTALS = {"item": pl.Int32, "total": pl.Float64}
ENTRIES = {"item": pl.Int32, "other": pl.Int32, "weight": pl.Float32}


class NearGram(NamedTuple):
    """Of a catalogue, what is kept of its Gram matrix, symmetric, (items, items), and each item's neighbours."""

    products: sp.csr_array
    num_users: sp.csr_array  # who have both; stored where products are
    rest: Floats  # (items,): the sum of an item's products that are not kept
    neighbours: NDArray[np.int32]  # those of item i, strongest first, at bounds[i] to bounds[i + 1]
    bounds: NDArray[np.int64]


def nearest(
    counts: pl.DataFrame, diagonal: NDArray[np.float64], *, penalty: float, num_neighbours: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Of rows of COUNTS the strongest of each item, strongest first, beside each item with itself; and rows of TOTALS, the sums over all others.

    The strength of a neighbour i of item j is g_ij^2 / (g_ii + penalty): by how much a ridge regression of j on i alone lowers
    the squared error. Ties by position.

    Args:
        counts: of some items, each with itself and all others that somebody has with it; rows of a pair are added up.
        diagonal: (items,), the Gram matrix' own, exactly or nearly: only the choice depends on it.
        penalty: of the squared weights.
        num_neighbours: how many are kept at most.
    """
    items, other = counts["item"].unique().sort().to_numpy(), counts["other"].to_numpy()
    row = np.searchsorted(items, counts["item"].to_numpy()).astype(np.int32)
    # Both sums at once, as the parts of complex numbers; rounded, so that the order of shards does not matter.
    pair = counts["product"].to_numpy() + 1j * counts["num_users"].to_numpy()
    added = sp.coo_array((pair, (row, other)), shape=(len(items), len(diagonal))).tocsr()
    added.sort_indices()
    product, lengths = added.data.real.round(6), np.diff(added.indptr)
    itself = added.indices == np.repeat(items, lengths)
    strength = np.where(itself, np.inf, product**2 / (diagonal[added.indices] + penalty))
    chosen = np.concatenate(
        [start + _strongest(strength[start:end], num_neighbours + 1) for start, end in pairwise(added.indptr.tolist())]
        or [np.empty(0, np.int64)]
    )
    kept = {
        "item": np.repeat(items, np.minimum(lengths, num_neighbours + 1)),
        "other": added.indices[chosen],
        "num_users": added.data.imag[chosen],
        "product": product[chosen],
    }
    sums = sp.csr_array((np.where(itself, 0, product), added.indices, added.indptr), shape=added.shape).sum(axis=1)
    return (
        pl.DataFrame(kept).cast(pl.Schema(COUNTS)),
        pl.DataFrame({"item": items, "total": np.asarray(sums).round(6)}).cast(pl.Schema(TOTALS)),
    )


def _strongest(strength: NDArray[np.float64], number: int) -> NDArray[np.int64]:
    """The places of the largest values, largest first, ties by place."""
    if len(strength) > number:
        least = np.partition(strength, -number)[-number]
        places = np.flatnonzero(strength >= least)
    else:
        places = np.arange(len(strength))
    return places[np.argsort(-strength[places], kind="stable")][:number]


def near_gram(kept: pl.DataFrame, totals: pl.DataFrame, num_items: int) -> NearGram:
    """The Gram matrix of what `nearest` gave of all items: a pair is in it that one of both items keeps.

    Args:
        kept: sorted by item.
        totals: of all items that somebody has.
        num_items: of the catalogue.
    """
    bounds = np.searchsorted(kept["item"].to_numpy(), np.arange(num_items + 1))
    others, shape = kept["other"].to_numpy(), (num_items, num_items)
    products, num_users = (
        _of_either(sp.csr_array((kept[name].cast(pl.Float32).to_numpy(), others, bounds), shape=shape))
        for name in ("product", "num_users")
    )
    rest = products.diagonal().astype(np.float64) - products.sum(axis=1, dtype=np.float64)
    rest[totals["item"].to_numpy()] += totals["total"].to_numpy()
    is_apart = kept["item"].to_numpy() != others
    return NearGram(
        products,
        num_users,
        np.where(rest > 1e-3, rest, 0).astype(np.float32),  # less is what rounding left
        others[is_apart],
        np.r_[0, np.cumsum(is_apart)][bounds],
    )


def _of_either(kept: sp.csr_array) -> sp.csr_array:
    """What is kept of a pair by one of its items, at both."""
    found = sp.csr_array(kept.maximum(kept.T.tocsr()))
    found.sort_indices()
    return found


def near_weights(gram: NearGram, items: NDArray[np.int64], *, penalty: float, min_support: int) -> pl.DataFrame:
    """Rows of ENTRIES: how much having `item` speaks for `other`, which is one of `items`.

    Weights of items that fewer than `min_support` users have together are left out after the solution, as in EASE.
    """
    place = np.full(gram.products.shape[0], -1, np.int32)
    scale = 1 / max(float(gram.rest.sum(dtype=np.float64)), 1e-9)
    found = []
    for item in items.tolist():
        near = np.sort(gram.neighbours[gram.bounds[item] : gram.bounds[item + 1]])
        row = slice(gram.products.indptr[item], gram.products.indptr[item + 1])
        at = np.searchsorted(gram.products.indices[row], near)
        supported = gram.num_users.data[row][at] >= min_support
        if not supported.any():
            continue
        among = _products_among(gram, near, place, scale)
        solution = _ridge(among, gram.products.data[row][at], penalty)
        chosen = supported & (solution != 0)
        found.append((near[chosen], np.full(np.count_nonzero(chosen), item, np.int32), solution[chosen]))
    if not found:
        return pl.DataFrame(schema=ENTRIES)
    columns = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return pl.DataFrame(dict(zip(ENTRIES, columns, strict=True)), schema=ENTRIES)


def near_matrix(entries: pl.DataFrame, places: NDArray[np.int64], num_items: int) -> sp.csr_array:
    """Rows of ENTRIES of the items at some places of a catalogue, as B of the catalogue, (items, items)."""
    cells = places[entries["item"].to_numpy()], places[entries["other"].to_numpy()]
    found = sp.csr_array((entries["weight"].to_numpy(), cells), shape=(num_items, num_items))
    found.sort_indices()
    return found


def said_by_tail(gram: NearGram, entries: pl.DataFrame, head: NDArray[np.int64]) -> sp.csr_array:
    """(head, head): of what is kept, the products of the row's item with the score of the column's by all items outside the head.

    Args:
        gram: of all items.
        entries: rows of ENTRIES, between all items.
        head: items, sorted.
    """
    place = np.full(gram.products.shape[0], -1)
    place[head] = np.arange(len(head))
    item, other, weight = (entries[name].to_numpy() for name in ENTRIES)
    is_said = (place[item] < 0) & (place[other] >= 0)
    cells = item[is_said], place[other[is_said]]
    return gram.products[head] @ sp.csr_array((weight[is_said], cells), shape=(len(place), len(head)))


def outside(entries: pl.DataFrame, head: NDArray[np.int64]) -> pl.DataFrame:
    """Rows of ENTRIES, without those between two items of the head."""
    known = pl.Series(head, dtype=pl.Int32).implode()
    return entries.filter(~(pl.col("item").is_in(known) & pl.col("other").is_in(known)))


def at_places(among: Floats, places: NDArray[np.int64], num_items: int) -> sp.csr_array:
    """Weights among the items at some places of a catalogue, sorted, as B of the catalogue, (items, items)."""
    found = sp.csr_array(among)
    bounds = found.indptr[np.searchsorted(places, np.arange(num_items + 1))]
    return sp.csr_array((found.data, places.astype(np.int32)[found.indices], bounds), shape=(num_items, num_items))


def _products_among(gram: NearGram, near: NDArray[np.int32], place: NDArray[np.int32], scale: float) -> Floats:
    """The Gram matrix among some items, sorted, (n, n); `place` is -1 everywhere, and so again afterwards."""
    place[near] = np.arange(len(near))
    begin = gram.products.indptr[near]
    length = gram.products.indptr[near + 1] - begin
    entry = np.arange(length.sum()) + np.repeat(begin - (np.cumsum(length) - length), length)
    column = place[gram.products.indices[entry]]
    place[near] = -1
    inside = column >= 0
    among = np.outer(gram.rest[near] * np.float32(scale), gram.rest[near])
    among[np.repeat(np.arange(len(near)), length)[inside], column[inside]] = gram.products.data[entry[inside]]
    return among


def _ridge(gram: Floats, target: Floats, penalty: float) -> Floats:
    """(gram + penalty I)^-1 target; where that is not positive definite, what lies beside the diagonal is halved until it is."""
    diagonal = gram.diagonal() + np.float32(penalty)
    while True:
        np.fill_diagonal(gram, diagonal)
        _, solution, failed = lapack.sposv(gram, target)
        if not failed:
            return np.asarray(solution, np.float32).ravel()
        gram = gram * np.float32(0.5)
