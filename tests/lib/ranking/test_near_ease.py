import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lib.ranking.ease import gram_of, pair_counts, weights_at, weights_of
from lib.ranking.near_ease import (
    NearGram,
    at_places,
    near_gram,
    near_matrix,
    near_weights,
    nearest,
    outside,
    said_by_tail,
)

NO_HEAD = np.empty(0, np.int64)


def both_ways(counts: pl.DataFrame) -> pl.DataFrame:
    other_way = counts.filter(pl.col("item") != pl.col("other")).select(
        "num_users", "product", item="other", other="item"
    )
    return pl.concat([counts, other_way.select(counts.columns)])


def gram(known: sp.csr_array, num_neighbours: int, penalty: float) -> NearGram:
    counts = both_ways(pair_counts(known))
    squares = np.asarray(known.multiply(known).sum(axis=0), np.float64).ravel()
    shards = [
        nearest(counts.filter(pl.col("item") % 2 == shard), squares, penalty=penalty, num_neighbours=num_neighbours)
        for shard in range(2)
    ]
    kept, totals = (pl.concat(parts).sort("item", maintain_order=True) for parts in zip(*shards, strict=True))
    return near_gram(kept, totals, known.shape[1])


def approximated(
    known: sp.csr_array, *, num_neighbours: int, penalty: float, min_support: int, head: NDArray[np.int64] = NO_HEAD
) -> sp.csr_array:
    found, num_items = gram(known, num_neighbours, penalty), known.shape[1]
    places = np.arange(num_items)
    entries = pl.concat(
        near_weights(found, places[shard::2], penalty=penalty, min_support=min_support) for shard in range(2)
    )
    counts = gram_of([pair_counts(known[:20, head]), pair_counts(known[20:, head])], len(head))
    others = said_by_tail(found, entries, head)
    among = weights_of(counts, penalty=penalty, min_support=min_support, others=others)
    return near_matrix(outside(entries, head), places, num_items) + at_places(among, head, num_items)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(2, 14), st.sampled_from([1, 2, 4]), st.sampled_from([0.5, 5, 200]))
def test_where_somebody_has_each_pair_and_all_are_neighbours_the_weights_are_those_of_ease(
    seed: int, num_items: int, min_support: int, penalty: float
) -> None:
    rng = np.random.default_rng(seed)
    values = (rng.random((30, num_items)) < 0.3) * rng.choice([1, 0.2], (30, num_items))
    values[0] = 0.2
    known = sp.csr_array(values.astype(np.float32))
    exact = weights_of(gram_of([pair_counts(known)], num_items), penalty=penalty, min_support=min_support)
    found = approximated(known, num_neighbours=num_items, penalty=penalty, min_support=min_support)
    np.testing.assert_allclose(found.toarray(), exact, atol=1e-4)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 5, 200]), st.data())
def test_where_the_weights_of_the_tail_are_those_of_ease_so_are_those_of_the_head(
    seed: int, penalty: float, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    values = (rng.random((30, 9)) < 0.3) * rng.choice([1, 0.2], (30, 9))
    values[0] = 0.2
    known = sp.csr_array(values.astype(np.float32))
    head = np.array(sorted(data.draw(st.sets(st.integers(0, 8)))), np.int64)
    exact = weights_of(gram_of([pair_counts(known)], 9), penalty=penalty, min_support=1)
    found = approximated(known, num_neighbours=9, penalty=penalty, min_support=1, head=head)
    np.testing.assert_allclose(found.toarray(), exact, atol=1e-4)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 3]), st.sets(st.integers(0, 11)))
def test_weights_of_the_tail_are_approximated_and_those_of_the_head_regress_on_what_they_leave_unsaid(
    seed: int, min_support: int, chosen: set[int]
) -> None:
    rng = np.random.default_rng(seed)
    values = ((rng.random((40, 12)) < 0.3) * rng.choice([1, 0.2], (40, 12))).astype(np.float32)
    known, head = sp.csr_array(values), np.array(sorted(chosen), np.int64)
    given_to_both = {"num_neighbours": 3, "penalty": 5, "min_support": min_support}
    near = approximated(known, **given_to_both).toarray()  # type: ignore[arg-type]
    found = approximated(known, **given_to_both, head=head).toarray()  # type: ignore[arg-type]
    tail = np.setdiff1d(np.arange(12), head)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[tail], near[tail])
    np.testing.assert_array_equal(found[:, tail], near[:, tail])
    values, near = values.astype(np.float64), near.astype(np.float64)
    products = gram(known, 3, 5).products.toarray().astype(np.float64)
    together = (values > 0).astype(int).T @ (values > 0)
    for item in head:
        others = head[head != item]
        target = values[:, others].T @ values[:, item] - products[np.ix_(others, tail)] @ near[tail, item]
        expected = np.linalg.solve(values[:, others].T @ values[:, others] + 5 * np.eye(len(others)), target)
        expected[together[others, item] < min_support] = 0
        np.testing.assert_allclose(found[others, item], expected, atol=1e-5)


def test_what_an_item_of_the_tail_says_is_not_said_again_by_the_head_worked_by_hand() -> None:
    # Everyone who has c of the tail has a and b of the head: [[3, 2, 2], [2, 3, 2], [2, 2, 2]]. Towards a, c alone speaks, with
    # 2 / (2 + 1). Of the two that a and b have in common, b is left 2 - 2 * 2 / 3, over 3 + 1: 1 / 6, and not 2 / 4.
    known = sp.csr_array(np.array([[1, 1, 1], [1, 1, 1], [1, 0, 0], [0, 1, 0]], np.float32))
    found = approximated(known, num_neighbours=1, penalty=1, min_support=1, head=np.array([0, 1]))
    np.testing.assert_allclose(found.toarray(), [[0, 1 / 6, 1 / 2], [1 / 6, 0, 0], [2 / 3, 2 / 3, 0]], rtol=1e-5)


def test_the_strongest_neighbour_alone_is_a_ridge_regression_on_it_worked_by_hand() -> None:
    # b stands with a three times of its four, c with a twice of its two: 9 / (4 + 1) is more than 4 / (2 + 1).
    known = sp.csr_array(np.array([[1, 1, 0], [1, 1, 0], [1, 1, 1], [0, 1, 0], [1, 0, 1]], np.float32))
    found = gram(known, 1, penalty=1)
    assert found.neighbours.tolist() == [1, 0, 0]
    # What a and b, a and c have together is kept; b and c have one user together, which neither keeps.
    np.testing.assert_array_equal(found.products.toarray(), [[4, 3, 2], [3, 4, 0], [2, 0, 2]])
    assert found.rest.tolist() == [0, 1, 1]
    weights = approximated(known, num_neighbours=1, penalty=1, min_support=1)
    np.testing.assert_allclose(weights.toarray(), [[0, 3 / 5, 2 / 5], [3 / 5, 0, 0], [0, 0, 0]], rtol=1e-6)
    supported = approximated(known, num_neighbours=1, penalty=1, min_support=3)
    np.testing.assert_allclose(supported.toarray(), [[0, 3 / 5, 0], [3 / 5, 0, 0], [0, 0, 0]], rtol=1e-6)


def test_a_pair_that_is_not_kept_counts_what_both_rests_would_give_it_by_chance() -> None:
    # d's neighbours are a and b, whose pair neither keeps. Their rests, and no others', are 2 and 6, of 8 in all.
    products = np.array([[9, 0, 0, 3], [0, 9, 0, 3], [0, 0, 1, 0], [3, 3, 0, 9]], np.float32)
    stored = sp.csr_array(products)
    found = near_weights(
        NearGram(
            stored, stored, np.array([2, 6, 0, 0], np.float32), np.array([0, 1], np.int32), np.array([0, 0, 0, 0, 2])
        ),
        np.array([3]),
        penalty=1,
        min_support=1,
    )
    expected = np.linalg.solve([[10, 2 * 6 / 8], [2 * 6 / 8, 10]], [3, 3])
    assert found.select("item", "other").rows() == [(0, 3), (1, 3)]
    np.testing.assert_allclose(found["weight"], expected, rtol=1e-6)


def test_a_neighbourhood_that_is_no_gram_matrix_is_drawn_to_its_diagonal_and_solved() -> None:
    stored = sp.csr_array(np.array([[1, 7, 2], [7, 1, 2], [2, 2, 1]], np.float32))
    found = near_weights(
        NearGram(stored, stored, np.zeros(3, np.float32), np.array([0, 1], np.int32), np.array([0, 0, 0, 2])),
        np.array([2]),
        penalty=1,
        min_support=1,
    )
    # 7 and 3.5 are too much for a diagonal of 2, 1.75 is not.
    np.testing.assert_allclose(found["weight"], np.linalg.solve([[2, 1.75], [1.75, 2]], [2, 2]), rtol=1e-6)


def test_fewer_neighbours_come_near_to_what_ease_finds() -> None:
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 6, 400)
    chance = np.where(groups[:, None] == np.arange(60) % 6, 0.5, 0.05)
    known = sp.csr_array((rng.random((400, 60)) < chance).astype(np.float32))
    exact = weights_of(gram_of([pair_counts(known)], 60), penalty=20, min_support=1)
    found = approximated(known, num_neighbours=15, penalty=20, min_support=1).toarray()
    assert (np.count_nonzero(found, axis=0) <= 15).all()
    assert np.corrcoef(exact[found != 0], found[found != 0])[0, 1] > 0.97
    scores, wanted = known @ found, known @ exact
    agreed = [len({*np.argsort(-a)[:10]} & {*np.argsort(-b)[:10]}) for a, b in zip(scores, wanted, strict=True)]
    assert np.mean(agreed) > 8


@pytest.mark.parametrize("is_sparse", [False, True])
def test_weights_are_looked_up_and_those_of_unknown_items_are_none(is_sparse: bool) -> None:
    dense = np.array([[0, 0.5], [0.25, 0]], np.float32)
    weights = sp.csr_array(dense) if is_sparse else dense
    items, others = np.array([0, 1, 0, 2, 1]), np.array([1, 0, 0, 1, 7])
    assert weights_at(weights, items, others).tolist() == [0.5, 0.25, 0, 0, 0]
    assert weights_at(weights[:0, :0], items, others).tolist() == [0] * 5
