"""Ranking metrics of one list per user, in NumPy.

Relevance is binary. `hits[u, i]` says whether the item at rank i + 1 of user u's list is relevant; a shorter or
missing list is padded with False, so that a user without predictions scores 0 and is counted.
"""

import numpy as np
from numpy.typing import NDArray

from lib.statistics.bootstrap import Floats

METRICS = ("ndcg", "recall", "precision", "map", "mrr", "hit_rate")


def ndcg(hits: NDArray[np.bool_], num_relevant: NDArray[np.int64]) -> Floats:
    """Normalised discounted cumulative gain at k, binary gains, one value per user in 0..1.

    DCG@k = sum over ranks i of hit_i / log2(i + 1), divided by the DCG of the ideal list, which has min(k,
    num_relevant) hits at its top (Järvelin and Kekäläinen 2002).

    Args:
        hits: (users, k).
        num_relevant: (users,), each user's relevant items, at least 1, including those not in the list.
    """
    k = hits.shape[1]
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    ideal = np.cumsum(discounts)[np.minimum(num_relevant, k) - 1]
    return np.asarray((hits * discounts).sum(axis=1) / ideal)


def recall(hits: NDArray[np.bool_], num_relevant: NDArray[np.int64]) -> Floats:
    """Share of the user's relevant items that the list holds; always below 1 if there are more than k of them."""
    return np.asarray(hits.sum(axis=1) / num_relevant)


def precision(hits: NDArray[np.bool_]) -> Floats:
    """Share of the k places that hold a relevant item; a list shorter than k is still divided by k."""
    return np.asarray(hits.sum(axis=1) / hits.shape[1])


def average_precision(hits: NDArray[np.bool_], num_relevant: NDArray[np.int64]) -> Floats:
    """Average precision at k: the sum over hit ranks i of precision@i, divided by min(k, num_relevant).

    Its mean over users is MAP@k as TREC truncates it: an ideal list scores 1 for any number of relevant items.
    """
    k = hits.shape[1]
    precision_at = np.cumsum(hits, axis=1) / np.arange(1, k + 1)
    return np.asarray((precision_at * hits).sum(axis=1) / np.minimum(num_relevant, k))


def reciprocal_rank(hits: NDArray[np.bool_]) -> Floats:
    """One divided by the rank of the first relevant item, 0 without one; its mean over users is MRR@k."""
    first = np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, np.inf)
    return np.asarray(1.0 / first)


def hit_rate(hits: NDArray[np.bool_]) -> Floats:
    """1 for a user whose list holds any relevant item, else 0."""
    return np.asarray(hits.any(axis=1), dtype=np.float64)


def ranking_metrics(hits: NDArray[np.bool_], num_relevant: NDArray[np.int64]) -> dict[str, Floats]:
    """Every metric of METRICS at k for each user.

    Args:
        hits: (users, k).
        num_relevant: (users,), each at least 1 and at least the user's hits.

    Returns:
        Metric name -> (users,), each value in 0..1.
    """
    assert hits.ndim == 2 and num_relevant.shape == hits.shape[:1], (hits.shape, num_relevant.shape)
    assert np.all(num_relevant >= 1), "every user needs a relevant item"
    assert np.all(hits.sum(axis=1) <= num_relevant), "more hits than relevant items: is an item listed twice?"
    return {
        "ndcg": ndcg(hits, num_relevant),
        "recall": recall(hits, num_relevant),
        "precision": precision(hits),
        "map": average_precision(hits, num_relevant),
        "mrr": reciprocal_rank(hits),
        "hit_rate": hit_rate(hits),
    }
