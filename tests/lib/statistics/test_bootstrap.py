from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lib.statistics.bootstrap import mean_interval, percentile_interval, resample_weights, resampled_sums


def test_resample_weights_are_independent_poisson_counts() -> None:
    weights = resample_weights(np.arange(2000, dtype=np.uint64), num_resamples=500, seed=3)
    observed = np.bincount(weights.ravel(), minlength=5)[:5] / weights.size
    np.testing.assert_allclose(observed, np.exp(-1) / np.array([1, 1, 2, 6, 24]), atol=0.002)
    neighbours = [np.corrcoef(a, b)[0, 1] for a, b in [*pairwise(weights[:20]), *pairwise(weights.T[:20])]]
    assert np.abs(neighbours).max() < 0.2
    assert not np.array_equal(weights, resample_weights(np.arange(2000, dtype=np.uint64), num_resamples=500, seed=4))


def test_sums_of_two_shards_of_users_add_up_to_those_of_both() -> None:
    rng = np.random.default_rng(0)
    values, keys = rng.random((300, 2)), rng.integers(0, 2**63, 300).astype(np.uint64)
    drawing = {"num_resamples": 50, "seed": 9}
    whole = resampled_sums(values, keys, **drawing)
    parts = resampled_sums(values[:120], keys[:120], **drawing) + resampled_sums(values[120:], keys[120:], **drawing)
    np.testing.assert_allclose(whole, parts, rtol=1e-12)


def test_the_interval_of_a_mean_is_as_wide_as_its_standard_error_says() -> None:
    values = np.random.default_rng(0).exponential(size=4000)
    value, low, high = mean_interval(values, seed=0, num_resamples=2000)
    standard_error = values.std(ddof=1) / np.sqrt(len(values))
    assert value == values.mean()
    assert (value - low, high - value) == pytest.approx((1.96 * standard_error,) * 2, rel=0.1)


def test_about_95_of_100_intervals_cover_the_true_mean() -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for seed in range(200):
        _, low, high = mean_interval((rng.random(150) < 0.3).astype(float), seed=seed, num_resamples=400)
        covered += low <= 0.3 <= high
    assert 180 <= covered <= 199


def test_the_memory_chunks_do_not_change_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(2).random(500)
    whole = mean_interval(values, seed=1, num_resamples=100)
    monkeypatch.setattr("lib.statistics.bootstrap._CELLS_AT_ONCE", 700)
    assert mean_interval(values, seed=1, num_resamples=100) == pytest.approx(whole, rel=1e-12)


def test_an_interval_without_users_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one user"):
        mean_interval(np.array([]), seed=0)


def test_a_resample_that_drew_nobody_is_left_out() -> None:
    assert percentile_interval(np.array([0.0, 1.0, 1.0]), np.array([0.0, 1.0, 1.0])) == (1.0, 1.0)


@settings(deadline=None, max_examples=40)
@given(
    arrays.arrays(np.float64, st.integers(1, 40), elements=st.floats(-1e100, 1e100)),
    st.integers(0, 2**70),
    st.integers(100, 120),
)
def test_whatever_the_values_their_interval_lies_among_them(values: np.ndarray, seed: int, num_resamples: int) -> None:
    value, low, high = mean_interval(values, seed=seed, num_resamples=num_resamples)
    room = 1e-9 * np.abs(values).max()
    assert values.min() - room <= low <= high <= values.max() + room
    assert values.min() - room <= value <= values.max() + room


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20, unique=True), st.integers(0, 2**70), st.randoms())
def test_how_often_a_user_is_drawn_depends_on_no_other(keys: list[int], seed: int, order: Random) -> None:
    shuffled = order.sample(keys, len(keys))

    def drawn(users: list[int]) -> dict[int, list[int]]:
        weights = resample_weights(np.array(users, dtype=np.uint64), num_resamples=20, seed=seed)
        return dict(zip(users, weights.tolist(), strict=True))

    assert drawn(keys) == drawn(shuffled)
    assert drawn(keys[:1]) == {keys[0]: drawn(keys)[keys[0]]}
