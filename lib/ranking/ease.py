"""EASE: the closed-form linear autoencoder over the item Gram matrix (Steck 2019, "Embarrassingly shallow autoencoders").

Each column of B minimises |X - X B|^2 + penalty |B|^2 with a zero diagonal: B = I - P / diag(P), P = (X'X + penalty I)^-1
(eq. 8). X is (users, items) of numbers from 0 to 1, what having an item counts. The Gram matrix X'X is summed over shards of users.

It is solved for at most `MAX_ITEMS` items: a dense matrix of (items, items), whose inverse costs items^3 operations
(3 s for 5,000 items on one core, some 3 minutes and 3.2 GB for 20,000). Of a larger catalogue's items only the most owned have such
weights among themselves, given what the others say; these are approximated: lib/ranking/near_ease.py.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import polars as pl
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.linalg import lapack

MAX_ITEMS = 20_000
COUNTS = {"item": pl.Int32, "other": pl.Int32, "num_users": pl.Int32, "product": pl.Float64}
_USERS_AT_ONCE = 4096
Weights = NDArray[np.float32] | sp.csr_array  # B, dense of the first items of a catalogue or sparse of all


def weights_at(weights: Weights, item: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.float32]:
    """(N,): how much having each `item` speaks for the `other` beside it; 0 where B does not know one of them."""
    found = np.zeros(len(item), np.float32)
    known = np.maximum(item, other) < weights.shape[0]
    if known.any():
        found[known] = weights[item[known], other[known]]
    return found


def pair_counts(known: sp.csr_array) -> pl.DataFrame:
    """How many users have both items of each pair, and the sum of the products: rows of COUNTS with item <= other, only pairs that somebody has.

    Args:
        known: (users, items), an entry above 0 where the user has the item: what that counts.
    """
    ones = sp.csr_array((np.ones(known.nnz, known.dtype), known.indices, known.indptr), shape=known.shape)
    num_users = _products(ones)
    products = num_users if (known.data == 1).all() else _products(known)
    columns = {"item": num_users.row, "other": num_users.col, "num_users": num_users.data, "product": products.data}
    return pl.DataFrame(columns).cast(pl.Schema(COUNTS))


def _products(known: sp.csr_array) -> sp.coo_array:
    """The upper triangle of known' known, entries by row and column."""
    total = sp.csr_array((known.shape[1], known.shape[1]), dtype=np.float64)
    for start in range(0, known.shape[0], _USERS_AT_ONCE):
        part = known[start : start + _USERS_AT_ONCE]
        total = sp.csr_array(total + sp.triu(part.T @ part, format="csr"))
    total.sort_indices()
    return total.tocoo()


class Gram(NamedTuple):
    """Of the items of a catalogue, (items, items); what stands below the diagonal is not read."""

    products: NDArray[np.float32]
    num_users: NDArray[np.float32]  # who have both


def gram_of(counts: Iterable[pl.DataFrame], num_items: int) -> Gram:
    """The Gram matrix from the counts of shards of users."""
    products, num_users = (np.zeros((num_items, num_items), np.float32) for _ in Gram._fields)
    for part in counts:
        cell = part["item"].to_numpy().astype(np.int64) * num_items + part["other"].to_numpy()
        products.ravel()[cell] += part["product"].to_numpy()
        num_users.ravel()[cell] += part["num_users"].to_numpy()
    return Gram(products, num_users)


def weights_of(
    gram: Gram, *, penalty: float, min_support: int, others: sp.csr_array | None = None
) -> NDArray[np.float32]:
    """B, (items, items): how much having the row's item speaks for the column's.

    With `others`, each column is learned from what they leave unsaid: it minimises |x - Y w - X b|^2 + penalty |b|^2, b 0 for the
    column's own item, where w are the given weights of other items Y. With C = P others it is B (1 - diag(C)) - C beside the
    diagonal, where B are the weights without them.

    Weights of items that fewer than `min_support` users have together are set to 0 after the solution, so that nothing is
    recommended, and no reason given, by what a few people did.

    Args:
        gram: of the items.
        penalty: of the squared weights.
        min_support: users.
        others: (items, items), what the scores of each column's item by other items have in common with the row's: X'Y w.

    Raises:
        ValueError: the catalogue is larger than MAX_ITEMS, or the penalty is not above 0.
    """
    num_items = len(gram.products)
    if num_items > MAX_ITEMS or penalty <= 0:
        raise ValueError(f"EASE: {num_items:,} items (at most {MAX_ITEMS:,}), penalty {penalty} (above 0)")
    if not num_items:
        return np.zeros((0, 0), np.float32)
    weights = _inverse(gram.products, penalty)
    said = None if others is None else weights @ others.toarray()
    weights /= -weights.diagonal()
    if said is not None:
        weights *= 1 - said.diagonal()
        weights -= said
    few = np.triu(gram.num_users < min_support, 1)
    weights[few] = 0
    weights.T[few] = 0
    np.fill_diagonal(weights, 0)
    return weights


def _inverse(products: NDArray[np.float32], penalty: float) -> NDArray[np.float32]:
    """P, of which both triangles are filled."""
    system = products.copy()
    np.fill_diagonal(system, system.diagonal() + np.float32(penalty))
    factor, failed = lapack.spotrf(
        system.T, lower=1, overwrite_a=1
    )  # LAPACK counts by columns: what is below is above here
    assert not failed, "a Gram matrix with a penalty is positive definite"
    inverse, failed = lapack.spotri(factor, lower=1, overwrite_c=1)
    assert not failed, "a positive definite matrix has an inverse"
    upper = inverse.T  # and zeros below
    np.fill_diagonal(upper, upper.diagonal() / 2)
    both: NDArray[np.float32] = np.add(upper, upper.T, order="C")
    return both
