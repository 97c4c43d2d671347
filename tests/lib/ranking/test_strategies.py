from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.ranking.strategies import LIST_SCHEMA, Catalogue, by_vectors, item_to_item, popularity, rebuy

# Item d has no title, so its name is its id; nobody bought e.
CATALOGUE = Catalogue(
    item_ids=pa.array(["a", "b", "c", "d", "e"]),
    names=pa.array(["Apple", "Bread", "Cheese", "d", "Egg"]),
    num_buyers=np.array([2.0, 3.0, 3.0, 1.0, 0.0]),
)
USERS = pa.schema([("user_key", pa.string()), ("items", pa.list_(pa.string())), ("num_relevant", pa.list_(pa.int64()))])


def users(**histories: dict[str, int]) -> pa.RecordBatch:
    """One user a keyword, with the own items and how often each was bought, the latest first."""
    rows = [{"user_key": key, "items": list(own), "num_relevant": list(own.values())} for key, own in histories.items()]
    return pa.RecordBatch.from_pylist(rows, schema=USERS)


def rows_of(lists: list[pa.RecordBatch], question: str) -> list[tuple[Any, ...]]:
    table = pa.Table.from_batches(lists, LIST_SCHEMA)
    columns = ("user_key", "rank", "item_id", "score", "reason")
    return [tuple(row[c] for c in columns) for row in table.to_pylist() if row["question"] == question]


def test_popularity_gives_everyone_the_most_bought_items_with_how_many_bought_them() -> None:
    lists = list(popularity([users(ann={}, bob={"b": 1})], catalogue=CATALOGUE, k=2, verb="bought", min_support=1))
    best = [(1, "b", 3.0, "bought by 3 customers"), (2, "c", 3.0, "bought by 3 customers")]
    assert rows_of(lists, "all") == [(user, *row) for user in ("ann", "bob") for row in best]


def test_popularity_leaves_out_own_items_from_the_new_ones_and_items_that_nobody_bought() -> None:
    lists = list(
        popularity([users(ann={}, bob={"b": 1, "c": 1})], catalogue=CATALOGUE, k=3, verb="viewed", min_support=1)
    )
    assert rows_of(lists, "new") == [
        ("ann", 1, "b", 3.0, "viewed by 3 customers"),
        ("ann", 2, "c", 3.0, "viewed by 3 customers"),
        ("ann", 3, "a", 2.0, "viewed by 2 customers"),
        ("bob", 1, "a", 2.0, "viewed by 2 customers"),
        ("bob", 2, "d", 1.0, "viewed by 1 customer"),
    ]


def test_a_reason_tells_of_no_fewer_buyers_than_the_least_support() -> None:
    lists = list(popularity([users(bob={})], catalogue=CATALOGUE, k=4, verb="bought", min_support=3))
    assert [reason for *_, reason in rows_of(lists, "all")] == [
        "bought by 3 customers",
        "bought by 3 customers",
        "bought by fewer than 3 customers",
        "bought by fewer than 3 customers",
    ]


def test_rebuy_lists_own_purchases_by_count_then_popularity_and_nothing_else() -> None:
    history = {"a": 1, "d": 12, "b": 1, "e": 0}
    lists = list(rebuy([users(ann={}, bob=history, eve={"e": 0})], catalogue=CATALOGUE, k=3, verb="bought"))
    assert rows_of(lists, "all") == [
        ("bob", 1, "d", 12.0, "bought 12 times before"),
        ("bob", 2, "b", 1.0, "bought once before"),
        ("bob", 3, "a", 1.0, "bought once before"),
    ]
    assert rows_of(lists, "new") == []


def test_item_to_item_names_the_own_item_that_speaks_most_for_each() -> None:
    similarity = sp.csr_array(
        np.array(
            [[1, 0.5, 0.25, 0, 0], [0.5, 1, 0, 0, 0], [0.25, 0, 1, 0.75, 0], [0, 0, 0.75, 1, 0], [0, 0, 0, 0, 1.0]]
        )
    )
    batch = users(ann={}, bob={"c": 2, "a": 1}, eve={"e": 1})
    lists = list(item_to_item([batch], catalogue=CATALOGUE, similarity=similarity, k=4))
    assert rows_of(lists, "all") == [
        ("bob", 1, "a", 1.25, "often together with Cheese"),
        ("bob", 2, "c", 1.25, "often together with Apple"),
        ("bob", 3, "d", 0.75, "often together with Cheese"),
        ("bob", 4, "b", 0.5, "often together with Apple"),
        ("eve", 1, "e", 1.0, "one of your own items"),
    ]
    assert rows_of(lists, "new") == [
        ("bob", 1, "d", 0.75, "often together with Cheese"),
        ("bob", 2, "b", 0.5, "often together with Apple"),
    ]


def test_vectors_rank_by_their_dot_product() -> None:
    batch = users(ann={"a": 1}, bob={})
    values = pa.array([[1.0, 0.0], [0.0, -1.0]], pa.list_(pa.float32()))
    batch = pa.RecordBatch.from_arrays([*batch.columns, values], names=[*USERS.names, "values"])
    item_vectors = np.array([[3, 0], [2, 2], [1, 1], [0, 0.5], [-1, 0]], np.float32)
    lists = list(by_vectors([batch], catalogue=CATALOGUE, item_vectors=item_vectors, k=2, reason="to your taste"))
    assert rows_of(lists, "all") == [
        ("ann", 1, "a", 3.0, "to your taste"),
        ("ann", 2, "b", 2.0, "to your taste"),
        ("bob", 1, "a", 0.0, "to your taste"),
        ("bob", 2, "e", 0.0, "to your taste"),
    ]
    assert rows_of(lists, "new")[:2] == [("ann", 1, "b", 2.0, "to your taste"), ("ann", 2, "c", 1.0, "to your taste")]


HISTORIES = st.lists(st.dictionaries(st.sampled_from("abcdex"), st.integers(0, 3)), max_size=6)


@settings(deadline=None)
@given(HISTORIES, st.integers(1, 7))
def test_no_strategy_lists_an_item_twice_or_an_own_one_as_new_whatever_the_batches(
    histories: list[dict[str, int]], k: int
) -> None:
    similarity = sp.csr_array(np.eye(5) + 0.1)
    people = {f"user{number}": own for number, own in enumerate(histories)}
    for strategy in (
        lambda batches: popularity(batches, catalogue=CATALOGUE, k=k, verb="bought", min_support=1),
        lambda batches: rebuy(batches, catalogue=CATALOGUE, k=k, verb="bought"),
        lambda batches: item_to_item(batches, catalogue=CATALOGUE, similarity=similarity, k=k),
    ):
        whole = list(strategy([users(**people)]))
        apart = list(strategy([users(**{key: own}) for key, own in people.items()]))
        for question in ("all", "new"):
            rows = rows_of(whole, question)
            assert rows == rows_of(apart, question)
            pairs = [(user, item) for user, _, item, _, _ in rows]
            assert len(pairs) == len(set(pairs))
            assert all(rank <= k for _, rank, _, _, _ in rows)
            if question == "new":
                assert not any(item in people[user] for user, item in pairs)


def test_a_catalogue_keeps_its_columns_together() -> None:
    taken = CATALOGUE.take(np.array([3, 0]))
    assert taken.item_ids.to_pylist() == ["d", "a"]
    assert taken.names.to_pylist() == ["d", "Apple"]
    assert taken.num_buyers.tolist() == [1.0, 2.0]


def test_item_to_item_equals_the_recommendations_of_implicit() -> None:
    implicit = pytest.importorskip("implicit")
    rng = np.random.default_rng(0)
    histories = sp.csr_array((rng.random((60, 30)) < 0.2).astype(float))
    model = implicit.nearest_neighbours.CosineRecommender(K=10)
    model.fit(sp.csr_matrix(histories), show_progress=False)
    ids = [f"{number:02}" for number in range(30)]
    catalogue = Catalogue(pa.array(ids), pa.array(ids), np.ones(30))
    people = {f"{user:02}": {ids[i]: 1 for i in histories[[user]].indices} for user in range(60)}
    similarity = sp.csr_array(model.similarity)
    lists = list(item_to_item([users(**people)], catalogue=catalogue, similarity=similarity, k=5))
    for question, is_new in (("all", False), ("new", True)):
        _, theirs = model.recommend(np.arange(60), sp.csr_matrix(histories), N=5, filter_already_liked_items=is_new)
        ours = np.zeros((60, 5))
        for user, rank, _, score, _ in rows_of(lists, question):
            ours[int(user), rank - 1] = score
        np.testing.assert_allclose(ours, np.maximum(theirs, 0), atol=1e-6)
