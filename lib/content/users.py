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
    num_users = weights.shape[0]
    has_vector = ~np.isnan(items[:, 0]) if items.size else np.zeros(len(items), bool)
    user = np.repeat(np.arange(num_users), np.diff(weights.indptr))
    known = np.where(has_vector[column], weights.data, 0) if len(column) else weights.data
    largest = np.zeros(num_users, np.float32)
    np.maximum.at(largest, user, known)
    scaled = known / np.where(largest > 0, largest, 1)[user]
    total = np.bincount(user, weights=scaled, minlength=num_users)
    sums = sp.csr_array((scaled, column, weights.indptr), shape=(num_users, len(used))) @ np.nan_to_num(items)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = sums / total[:, None]
    return np.asarray(np.where(total[:, None] > 0, found, np.nan), np.float32)
