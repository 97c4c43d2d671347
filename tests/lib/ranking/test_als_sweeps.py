"""Sweeps over blocks in one task: an exact dense solution, `implicit`'s own ALS, and a gradient of zero."""

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from implicit.cpu.als import AlternatingLeastSquares
from numpy.typing import NDArray

from lib.engines.exchange import Exchange
from lib.ranking.als_factors import first_factors
from lib.ranking.als_sweeps import Block, Side, Solving, gram_of, root_of, sweep
from lib.ranking.als_tasks import median_weight
from tests.lib.engines.gangs import ALONE


def sides(pairs: pl.DataFrame, solving: Solving, exchange: Exchange) -> tuple[Side, Side]:
    """Users and items of one task; the users begin as in a fit."""
    blocks = [
        Block.of(pairs, row=row, column=column, num_shards=1) for row, column in (("user", "item"), ("item", "user"))
    ]
    firsts = [
        first_factors(blocks[0].ids, solving.rank, seed=0),
        np.zeros((len(blocks[1].ids), solving.rank), np.float32),
    ]
    users, items = (
        Side(kind, block, first, solving) for kind, block, first in zip(("user", "item"), blocks, firsts, strict=True)
    )
    users.meet(exchange, items)
    items.meet(exchange, users)
    return users, items


def dense(pairs: pl.DataFrame, users: Side, items: Side) -> NDArray[np.float64]:
    """The confidence of each user (row) and item (column); 0 without a pair."""
    found = np.zeros((len(users.block.ids), len(items.block.ids)))
    places = [{one: place for place, one in enumerate(side.block.ids.to_pylist())} for side in (users, items)]
    for user, item, confidence in pairs.iter_rows():
        found[places[0][user], places[1][item]] = confidence
    return found


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(st.tuples(st.integers(0, 7), st.integers(0, 5)), st.floats(1.01, 20), min_size=1),
    st.integers(1, 9),
)
def test_users_are_the_exact_solution_for_the_items_however_many_pairs_each_has(
    confidences: dict[tuple[int, int], float], rank: int
) -> None:
    rows = [(f"u{user}", f"i{item}", confidence) for (user, item), confidence in confidences.items()]
    pairs = pl.DataFrame(rows, schema=["user", "item", "confidence"], orient="row")
    solving = Solving(rank, regularization=0.1, cg_steps=40)
    with Exchange(ALONE, "token") as exchange:
        users, items = sides(pairs, solving, exchange)
        for number in (1, 2):
            sweep(exchange, users, items, number=number)
    c, y = dense(pairs, users, items), items.factors.astype(float)
    for row, found in zip(c, users.factors, strict=True):
        number = np.count_nonzero(row)
        more = np.where(row > 0, row - 1, 0)
        exact = np.linalg.solve(y.T @ y + (y.T * more) @ y + 0.1 * number * np.eye(rank), y.T @ row)
        np.testing.assert_allclose(found, exact, atol=2e-4)


def test_sweeps_are_those_of_implicit_where_everyone_has_equally_many_pairs() -> None:
    size, number, rank = 40, 6, 8
    rng = np.random.default_rng(0)
    steps = rng.permutation(size)[:number]  # each user has the items so many steps on: each item has as many users
    confidences = rng.uniform(1.5, 9, (size, number)).astype(np.float32)
    rows = [
        (f"u{user:02}", f"i{(user + step) % size:02}", float(confidences[user, place]))
        for user in range(size)
        for place, step in enumerate(steps)
    ]
    pairs = pl.DataFrame(rows, schema=["user", "item", "confidence"], orient="row")
    with Exchange(ALONE, "token") as exchange:
        users, items = sides(pairs, Solving(rank, regularization=0.05, cg_steps=3), exchange)
        theirs = AlternatingLeastSquares(
            factors=rank, regularization=0.05 * number, iterations=5, num_threads=1, dtype=np.float32
        )
        # It begins with its users, from its items; ours with items, from users.
        theirs.item_factors, theirs.user_factors = users.factors.copy(), items.factors.copy()
        for count in range(5):
            sweep(exchange, users, items, number=count)
    theirs.fit(scipy.sparse.csr_matrix(dense(pairs, users, items).T.astype(np.float32)), show_progress=False)
    np.testing.assert_allclose(users.factors, theirs.item_factors, atol=1e-4)
    np.testing.assert_allclose(items.factors, theirs.user_factors, atol=1e-4)
    assert np.abs(users.factors).max() > 0.1


def test_factors_that_are_no_longer_finite_end_the_fit_with_what_to_do() -> None:
    pairs = pl.DataFrame({"user": ["u"], "item": ["i"], "confidence": [float("nan")]})
    with Exchange(ALONE, "token") as exchange:
        users, items = sides(pairs, Solving(2, 0.1, 3), exchange)
        with pytest.raises(ValueError, match="of items are no finite numbers after sweep 1: raise als"):
            sweep(exchange, users, items, number=1)


@pytest.mark.parametrize("rows", [2, 9])
def test_a_root_has_the_gram_matrix_of_factors_be_it_of_lower_rank(rows: int) -> None:
    factors = np.random.default_rng(0).normal(size=(rows, 4)).astype(np.float32)
    gram = factors.astype(float).T @ factors.astype(float)
    np.testing.assert_allclose(gram_of(factors), gram)
    root = root_of(gram).astype(float)
    np.testing.assert_allclose(root.T @ root, gram, atol=1e-5)


def test_factors_begin_as_directions_that_each_id_has_by_itself() -> None:
    ids = [f"id{number}" for number in range(1300)]
    factors = first_factors(pa.array(ids), 3, seed=0)
    np.testing.assert_allclose(np.linalg.norm(factors, axis=1), 1, rtol=1e-5)
    assert factors.min() >= 0
    np.testing.assert_allclose(factors.mean(axis=0), [0.5] * 3, atol=0.03)  # of an octant: half
    np.testing.assert_array_equal(first_factors(pa.array(ids[700:600:-1]), 3, seed=0), factors[700:600:-1])
    assert np.abs(first_factors(pa.array(ids), 3, seed=1) - factors).max() > 0.5


def test_the_median_weight_is_the_lower_of_two_in_the_middle() -> None:
    counts = [(0.2, 3), (1.0, 1), (0.2, 1), (5.0, 3)]  # 4 of 0.2, then 1, 5, 5, 5
    assert median_weight(pl.DataFrame(counts, schema=["weight", "number"], orient="row")) == 0.2
    assert median_weight(pl.DataFrame([(0.2, 3), (1.0, 1), (5.0, 3)], schema=["weight", "number"], orient="row")) == 1.0
