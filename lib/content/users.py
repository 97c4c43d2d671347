"""A user's content vector: the mean of the vectors of what the user had, weighed by recency. No user's vector is stored."""

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def mean_of_history(weights: sp.csr_array, items: Floats) -> Floats:
    """(U, D) from each user's weights of items (U, I) and their vectors (I, D); NaN for a user with no item that has one.

    Weights that all are very small, as those of an old history, still have a mean.
    """
    used, column = np.unique(weights.indices, return_inverse=True)  # of one user few, of many all
    items = items[used]
    weights = sp.csr_array((weights.data, column, weights.indptr), shape=(weights.shape[0], len(used)))
    has_vector = ~np.isnan(items[:, 0]) if items.size else np.zeros(len(items), bool)
    known = weights @ sp.diags_array(has_vector.astype(np.float32))
    known.eliminate_zeros()
    largest = np.asarray(known.max(axis=1).todense()).ravel() if known.shape[1] else np.zeros(known.shape[0])
    scaled = sp.diags_array(1 / np.where(largest > 0, largest, 1)) @ known
    total = np.asarray(scaled.sum(axis=1)).ravel()
    sums = scaled @ np.nan_to_num(items)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = sums / total[:, None]
    return np.asarray(np.where(total[:, None] > 0, found, np.nan), np.float32)
