from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import ndcg_score

from lib.ranking.metrics import METRICS, ranking_metrics

HITS = hnp.arrays(bool, st.tuples(st.integers(1, 8), st.integers(1, 12)))


def metrics_of(hits: list[int], num_relevant: int) -> dict[str, float]:
    values = ranking_metrics(np.array([hits], dtype=bool), np.array([num_relevant]))
    return {name: float(value[0]) for name, value in values.items()}


def test_metrics_of_one_list_equal_the_values_worked_by_hand() -> None:
    # Hits at ranks 1 and 3 of 4; three relevant items. DCG = 1 + 1/log2(4) = 1.5; ideal = 1 + 1/log2(3) + 1/2.
    assert metrics_of([1, 0, 1, 0], 3) == pytest.approx(
        {
            "ndcg": 1.5 / (1 + 0.6309297535714575 + 0.5),
            "recall": 2 / 3,
            "precision": 2 / 4,
            "map": (1 / 1 + 2 / 3) / 3,
            "mrr": 1.0,
            "hit_rate": 1.0,
        }
    )


def test_the_ideal_list_is_cut_at_k_when_there_are_more_relevant_items() -> None:
    assert metrics_of([1, 1], 5) == pytest.approx(
        {"ndcg": 1.0, "recall": 2 / 5, "precision": 1.0, "map": 1.0, "mrr": 1.0, "hit_rate": 1.0}
    )


def test_the_reciprocal_rank_is_that_of_the_first_hit() -> None:
    assert metrics_of([0, 0, 1, 1], 2)["mrr"] == pytest.approx(1 / 3)


def test_a_user_without_a_list_scores_zero_in_every_metric() -> None:
    assert metrics_of([0, 0, 0], 2) == dict.fromkeys(METRICS, 0.0)


def test_a_user_without_a_relevant_item_is_refused() -> None:
    with pytest.raises(AssertionError, match="needs a relevant item"):
        ranking_metrics(np.zeros((1, 3), dtype=bool), np.array([0]))


def test_ndcg_equals_scikit_learn_where_every_item_is_ranked_or_cut_at_k() -> None:
    rng = np.random.default_rng(0)
    relevant = rng.random((50, 30)) < 0.2
    relevant[:, 0] = True
    scores = rng.random((50, 30))
    order = np.argsort(-scores, axis=1)[:, :10]
    ours = ranking_metrics(np.take_along_axis(relevant, order, axis=1), relevant.sum(axis=1))["ndcg"]
    theirs = [ndcg_score([truth], [score], k=10) for truth, score in zip(relevant, scores, strict=True)]
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_ndcg_and_map_equal_the_evaluation_of_implicit() -> None:
    implicit = pytest.importorskip("implicit")
    import scipy.sparse as sp
    from implicit.evaluation import ranking_metrics_at_k

    rng = np.random.default_rng(1)
    train, test = (sp.csr_matrix(rng.random((40, 60)) < share, dtype=np.float32) for share in (0.1, 0.15))
    model = implicit.nearest_neighbours.CosineRecommender(K=60)
    model.fit(train, show_progress=False)
    theirs = ranking_metrics_at_k(model, train, test, K=10, show_progress=False, num_threads=1)
    users = np.flatnonzero(np.diff(test.indptr))
    lists, _ = model.recommend(users, train[users], N=10)
    hits = np.asarray(test.toarray() > 0)[users[:, None], np.maximum(lists, 0)] & (lists >= 0)
    ours = ranking_metrics(hits, np.diff(test.indptr)[users])
    assert np.mean(ours["ndcg"]) == pytest.approx(theirs["ndcg"], abs=1e-6)
    assert np.mean(ours["map"]) == pytest.approx(theirs["map"], abs=1e-6)


@settings(deadline=None)
@given(HITS, st.integers(1, 20))
def test_every_metric_lies_between_zero_and_one_and_moving_a_hit_up_never_lowers_it(
    hits: np.ndarray, further: int
) -> None:
    num_relevant = hits.sum(axis=1) + further
    before = ranking_metrics(hits, num_relevant)
    best_first = ranking_metrics(-np.sort(-hits.astype(int), axis=1) > 0, num_relevant)
    for name in METRICS:
        assert np.all((before[name] >= 0) & (before[name] <= 1 + 1e-12))
        assert np.all(best_first[name] >= before[name] - 1e-12)


@settings(deadline=None)
@given(HITS, st.randoms())
def test_the_order_of_the_users_does_not_matter(hits: np.ndarray, random: Random) -> None:
    order = list(range(len(hits)))
    random.shuffle(order)
    num_relevant = hits.sum(axis=1) + 1
    whole, shuffled = ranking_metrics(hits, num_relevant), ranking_metrics(hits[order], num_relevant[order])
    for name in METRICS:
        np.testing.assert_array_equal(whole[name][order], shuffled[name])
