import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp

from lib.ranking.ease import COUNTS, MAX_ITEMS, Gram, gram_of, pair_counts, weights_of


def known_of(seed: int, num_users: int = 50, num_items: int = 12) -> sp.csr_array:
    return sp.csr_array((np.random.default_rng(seed).random((num_users, num_items)) < 0.3).astype(np.float32))


def test_two_items_that_one_of_three_users_has_together_have_the_weights_worked_by_hand() -> None:
    known = sp.csr_array(np.array([[1, 1], [1, 0], [0, 0]], np.float32))
    counts = pair_counts(known)
    assert counts.sort("item", "other").rows() == [(0, 0, 2, 2.0), (0, 1, 1, 1.0), (1, 1, 1, 1.0)]
    gram = gram_of([counts], 2)
    assert gram.products.tolist() == gram.num_users.tolist() == [[2, 1], [0, 1]]
    # With penalty 1 the inverse of [[3, 1], [1, 2]] is [[2, -1], [-1, 3]] / 5, and B = -P / diag(P) by columns.
    np.testing.assert_allclose(weights_of(gram, penalty=1, min_support=1), [[0, 1 / 3], [1 / 2, 0]], rtol=1e-6)
    assert not weights_of(gram, penalty=1, min_support=2).any()


def test_what_was_only_looked_at_counts_for_less_and_is_a_user_all_the_same() -> None:
    known = sp.csr_array(np.array([[1, 0.5], [1, 0.5], [0.25, 1]], np.float32))
    gram = gram_of([pair_counts(known[:1]), pair_counts(known[1:])], 2)
    assert gram.num_users.tolist() == [[3, 3], [0, 3]]
    assert gram.products.tolist() == [[2.0625, 1.25], [0, 1.5]]
    assert weights_of(gram, penalty=1, min_support=3)[0, 1] == pytest.approx(1.25 / 3.0625)  # ridge of one item on one
    assert not weights_of(gram, penalty=1, min_support=4).any()


@pytest.mark.parametrize("num_shards", [1, 3])
@pytest.mark.parametrize("is_weighed", [False, True])
def test_the_weights_are_those_of_the_least_squares_that_they_solve_whatever_the_shards(
    num_shards: int, is_weighed: bool
) -> None:
    known = known_of(0)
    if is_weighed:
        known.data *= np.random.default_rng(1).choice([1, 0.2], known.nnz).astype(np.float32)
    weights = weights_of(
        gram_of((pair_counts(known[s::num_shards]) for s in range(num_shards)), 12), penalty=5, min_support=1
    )
    X = known.toarray().astype(float)
    for item in range(12):
        others = np.delete(np.arange(12), item)
        A = X[:, others].T @ X[:, others] + 5 * np.eye(11)
        expected = np.linalg.solve(A, X[:, others].T @ X[:, item])  # ridge regression of the item on all others
        supported = ((X[:, others] > 0).T @ (X[:, item] > 0)) >= 1
        np.testing.assert_allclose(weights[others, item], np.where(supported, expected, 0), atol=1e-5)
    assert not np.diag(weights).any()


def test_no_items_have_no_weights_and_too_many_are_refused() -> None:
    assert weights_of(gram_of([pl.DataFrame(schema=COUNTS)], 0), penalty=1, min_support=1).shape == (0, 0)
    with pytest.raises(ValueError, match="EASE: 20,001 items"):
        weights_of(Gram(*[np.broadcast_to(np.float32(0), (MAX_ITEMS + 1, 1))] * 2), penalty=1, min_support=1)
    with pytest.raises(ValueError, match="penalty 0"):
        weights_of(Gram(*[np.zeros((2, 2), np.float32)] * 2), penalty=0, min_support=1)
