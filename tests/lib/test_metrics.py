from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import ndcg_score

from lib.metrics import (
    METRICS,
    coverage,
    mean_interval,
    paired_difference_interval,
    percentile_interval,
    ranking_metrics,
    resample_weights,
    resampled_sums,
)

HITS = hnp.arrays(bool, st.tuples(st.integers(1, 8), st.integers(1, 12)))


def metrics_of(hits: list[int], num_relevant: int) -> dict[str, float]:
    values = ranking_metrics(np.array([hits], dtype=bool), np.array([num_relevant]))
    return {name: float(value[0]) for name, value in values.items()}


def test_metrics_of_one_list_equal_the_values_worked_by_hand():
    # Hits at ranks 1 and 3 of 4; three relevant items. DCG = 1 + 1/log2(4) = 1.5; ideal = 1 + 1/log2(3) + 1/2.
    assert metrics_of([1, 0, 1, 0], 3) == pytest.approx(
        {
            "ndcg": 1.5 / (1 + 0.6309297535714575 + 0.5),
            "recall": 2 / 3,
            "precision": 2 / 4,
            "map": (1 / 1 + 2 / 3) / 3,
            "hit_rate": 1.0,
        }
    )


def test_the_ideal_list_is_cut_at_k_when_there_are_more_relevant_items():
    assert metrics_of([1, 1], 5) == pytest.approx(
        {"ndcg": 1.0, "recall": 2 / 5, "precision": 1.0, "map": 1.0, "hit_rate": 1.0}
    )


def test_a_user_without_a_list_scores_zero_in_every_metric():
    assert metrics_of([0, 0, 0], 2) == dict.fromkeys(METRICS, 0.0)


def test_a_user_without_a_relevant_item_is_refused():
    with pytest.raises(AssertionError, match="not in the population"):
        ranking_metrics(np.zeros((1, 3), dtype=bool), np.array([0]))


def test_ndcg_equals_scikit_learn_where_every_item_is_ranked_or_cut_at_k():
    rng = np.random.default_rng(0)
    relevant = rng.random((50, 30)) < 0.2
    relevant[:, 0] = True
    scores = rng.random((50, 30))
    order = np.argsort(-scores, axis=1)[:, :10]
    ours = ranking_metrics(np.take_along_axis(relevant, order, axis=1), relevant.sum(axis=1))["ndcg"]
    theirs = [ndcg_score([truth], [score], k=10) for truth, score in zip(relevant, scores, strict=True)]
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_ndcg_and_map_equal_the_evaluation_of_implicit():
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
def test_every_metric_lies_between_zero_and_one_and_moving_a_hit_up_never_lowers_it(hits, further):
    num_relevant = hits.sum(axis=1) + further
    before = ranking_metrics(hits, num_relevant)
    best_first = ranking_metrics(-np.sort(-hits.astype(int), axis=1) > 0, num_relevant)
    for name in METRICS:
        assert np.all((before[name] >= 0) & (before[name] <= 1 + 1e-12))
        assert np.all(best_first[name] >= before[name] - 1e-12)


@settings(deadline=None)
@given(HITS, st.randoms())
def test_the_order_of_the_users_does_not_matter(hits, random):
    order = list(range(len(hits)))
    random.shuffle(order)
    num_relevant = hits.sum(axis=1) + 1
    whole, shuffled = ranking_metrics(hits, num_relevant), ranking_metrics(hits[order], num_relevant[order])
    for name in METRICS:
        np.testing.assert_array_equal(whole[name][order], shuffled[name])


def test_coverage_counts_each_recommended_item_once():
    assert coverage(np.array([["a", "b"], ["b", "a"], ["c", "b"]]), num_items=12) == 3 / 12
    assert coverage(np.array([], dtype=str), num_items=12) == 0.0


def test_resample_weights_are_independent_poisson_counts():
    weights = resample_weights(np.arange(2000, dtype=np.uint64), num_resamples=500, seed=3)
    observed = np.bincount(weights.ravel(), minlength=5)[:5] / weights.size
    np.testing.assert_allclose(observed, np.exp(-1) / np.array([1, 1, 2, 6, 24]), atol=0.002)
    neighbours = [np.corrcoef(a, b)[0, 1] for a, b in [*pairwise(weights[:20]), *pairwise(weights.T[:20])]]
    assert np.abs(neighbours).max() < 0.2
    assert not np.array_equal(weights, resample_weights(np.arange(2000, dtype=np.uint64), num_resamples=500, seed=4))


def test_sums_of_two_shards_of_users_add_up_to_those_of_both():
    rng = np.random.default_rng(0)
    values, keys = rng.random((300, 2)), rng.integers(0, 2**63, 300).astype(np.uint64)
    drawing = {"num_resamples": 50, "seed": 9}
    whole = resampled_sums(values, keys, **drawing)
    parts = resampled_sums(values[:120], keys[:120], **drawing) + resampled_sums(values[120:], keys[120:], **drawing)
    np.testing.assert_allclose(whole, parts, rtol=1e-12)


def test_the_interval_of_a_mean_is_as_wide_as_its_standard_error_says():
    values = np.random.default_rng(0).exponential(size=4000)
    value, low, high = mean_interval(values, seed=0, num_resamples=2000)
    standard_error = values.std(ddof=1) / np.sqrt(len(values))
    assert value == values.mean()
    assert (value - low, high - value) == pytest.approx((1.96 * standard_error,) * 2, rel=0.1)


def test_about_95_of_100_intervals_cover_the_true_mean():
    rng = np.random.default_rng(5)
    covered = 0
    for seed in range(200):
        _, low, high = mean_interval((rng.random(150) < 0.3).astype(float), seed=seed, num_resamples=400)
        covered += low <= 0.3 <= high
    assert 180 <= covered <= 199


def test_the_memory_chunks_do_not_change_the_interval(monkeypatch):
    values = np.random.default_rng(2).random(500)
    whole = mean_interval(values, seed=1, num_resamples=100)
    monkeypatch.setattr("lib.metrics._CELLS_AT_ONCE", 700)
    assert mean_interval(values, seed=1, num_resamples=100) == pytest.approx(whole, rel=1e-12)


def test_a_paired_difference_is_far_narrower_than_the_users_differ():
    rng = np.random.default_rng(0)
    b = rng.random(400)
    value, low, high = paired_difference_interval(b + 0.01, b, seed=0)
    assert (value, low, high) == pytest.approx((0.01, 0.01, 0.01))


def test_intervals_without_users_or_with_different_users_are_refused():
    with pytest.raises(ValueError, match="at least one user"):
        mean_interval(np.array([]), seed=0)
    with pytest.raises(ValueError, match="the same users on both sides; got 2 and 3"):
        paired_difference_interval(np.zeros(2), np.zeros(3), seed=0)


def test_a_resample_that_drew_nobody_is_left_out():
    assert percentile_interval(np.array([0.0, 1.0, 1.0]), np.array([0.0, 1.0, 1.0])) == (1.0, 1.0)
