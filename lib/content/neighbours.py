"""Nearest neighbours of items by their vectors, and how often a neighbour is of the same kind."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.ranking.topk import best_of_each

ROWS_AT_ONCE = 1024


def nearest(vectors: Any, number: int) -> NDArray[np.int64]:
    """The nearest other rows of each row by dot product, nearest first: (N, number), or (N, N - 1).

    `vectors` are (N, D), dense or sparse, with rows of length 1.
    """
    found = []
    for start in range(0, vectors.shape[0], ROWS_AT_ONCE):
        product = vectors[start : start + ROWS_AT_ONCE] @ vectors.T
        scores = np.array(product.todense() if hasattr(product, "todense") else product, dtype=np.float32)
        scores[np.arange(len(scores)), start + np.arange(len(scores))] = -np.inf
        found.append(best_of_each(scores, number).item.reshape(len(scores), -1))
    return np.concatenate(found)


def agreement(neighbours: NDArray[np.int64], kinds: Sequence[str]) -> NDArray[np.float64]:
    """The share of each row's neighbours (N, k) that are of its kind: (N,)."""
    kind = np.asarray(kinds)
    return np.asarray((kind[neighbours] == kind[:, None]).mean(axis=1))
