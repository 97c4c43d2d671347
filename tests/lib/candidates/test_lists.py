from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.candidates.features import FEATURES
from lib.candidates.lists import Wording, Writer
from lib.candidates.networks import Network, Scaling
from lib.candidates.ranker import Ranker, ordinary
from lib.candidates.rules import Rules
from lib.candidates.sources import best_first, candidates_of
from lib.candidates.trees import Trees, fitted, text_of
from tests.lib.candidates.shop import event, interactions, shop, with_vectors
from tests.lib.candidates.test_ranker import OPTIONS, planted

COLUMNS = ("user_key", "rank", "item_id", "score", "reason")


def lists(
    rows: pl.DataFrame, *, length: int = 3, min_support: int = 1, ranker: Any = None, **more: Any
) -> dict[tuple[str, str], list[tuple[Any, ...]]]:
    users, rules = more.pop("users", {}), more.pop("rules", Rules())
    retrieval, block = shop(rows, num_proposed=max(length, 3), **more)
    block = with_vectors(block, **users)
    writer = Writer(retrieval, ranker, length, Wording("bought", min_support), rules)
    made = writer.lists(block, candidates_of(retrieval, block))
    found = pl.concat([pl.DataFrame(of).with_columns(strategy=pl.lit(strategy)) for strategy, of in made])
    found = found.sort("user_key", "rank")
    keys = found.select("strategy", "question").unique().rows()
    return {key: found.filter(strategy=key[0], question=key[1]).select(COLUMNS).rows() for key in keys}


def bought(user: str, **times: int) -> list[dict[str, Any]]:
    return [event(user, item, 3, num_relevant=number) for item, number in times.items()]


def test_popularity_gives_everyone_the_most_bought_items_and_leaves_out_own_ones_of_the_new() -> None:
    found = lists(interactions(*bought("ann", a=1, b=1), *bought("bob", b=1, c=0), event("zoe", "a", -1)), length=2)
    best = [(1, "b", 2.0, "bought by 2 customers"), (2, "a", 1.0, "bought by 1 customer")]
    assert found["popularity", "all"] == [(user, *row) for user in ("ann", "bob", "zoe") for row in best]
    assert found["popularity", "new"] == [
        ("bob", 1, "a", 1.0, "bought by 1 customer"),
        *(("zoe", *row) for row in best),
    ]


def test_a_reason_tells_of_no_fewer_buyers_than_the_least_support() -> None:
    found = lists(interactions(*bought("ann", a=1, b=1), *bought("bob", b=1)), min_support=2)
    reasons = {row[2]: row[4] for row in found["popularity", "all"]}
    assert reasons == {"b": "bought by 2 customers", "a": "bought by fewer than 2 customers"}


def test_rebuy_lists_own_purchases_by_count_then_popularity_and_nothing_else() -> None:
    found = lists(interactions(*bought("ann", b=1), *bought("bob", a=1, b=1, d=12, e=0), *bought("eve", e=0)))
    assert found["rebuy", "all"] == [
        ("ann", 1, "b", 1.0, "bought once before"),
        ("bob", 1, "d", 12.0, "bought 12 times before"),
        ("bob", 2, "b", 1.0, "bought once before"),
        ("bob", 3, "a", 1.0, "bought once before"),
    ]
    assert ("rebuy", "new") not in found


def test_ease_names_the_own_item_that_speaks_most_for_each() -> None:
    ease = np.array([[0, 0.5, 0.25], [0, 0, 0.75], [1, 0, 0]])
    found = lists(interactions(*bought("ann", a=1, b=1), *bought("bob", c=1)), ease=ease)
    assert found["ease", "all"] == [
        ("ann", 1, "c", 1.0, "often together with Bread"),
        ("ann", 2, "b", 0.5, "often together with Apple"),
        ("bob", 1, "a", 1.0, "often together with Cheese"),
    ]
    assert found["ease", "new"] == [row for row in found["ease", "all"] if row[2] != "b"]


def test_vectors_rank_by_their_dot_product() -> None:
    users = {"als": np.array([[1, 0], [np.nan, np.nan]])}
    found = lists(interactions(*bought("ann", a=1), *bought("bob", b=1)), users=users, als=np.array([[3, 0], [-1, 2]]))
    taste = "close to your taste (ALS)"
    assert found["als", "all"] == [("ann", 1, "a", 3.0, taste), ("ann", 2, "b", -1.0, taste)]
    assert found["als", "new"] == [("ann", 1, "b", -1.0, taste)]


EVENTS = st.lists(
    st.tuples(st.sampled_from(["ann", "bob", "zoe"]), st.sampled_from("abcde"), st.integers(0, 3)),
    min_size=1,
    max_size=10,
)


@settings(deadline=None, max_examples=40)
@given(EVENTS, st.integers(1, 7))
def test_no_strategy_lists_an_item_twice_or_an_own_one_as_new(events: list[tuple[str, str, int]], length: int) -> None:
    rows = interactions(*(event(user, item, 3, num_relevant=number) for user, item, number in events))
    num_items = rows["item_id"].n_unique()
    found = lists(
        rows, length=length, ease=np.full((num_items, num_items), 0.5) - 0.5 * np.eye(num_items), ranker=RANKER
    )
    own = set(rows.select("user_key", "item_id").rows())
    assert {"popularity", "ranked", "ease"} >= {strategy for strategy, question in found if question == "new"}
    for (_, question), listed in found.items():
        pairs = [(user, item) for user, _, item, _, _ in listed]
        assert len(pairs) == len(set(pairs))
        assert question == "all" or not own & set(pairs)
        for user in {user for user, *_ in listed}:
            of_user = [row for row in listed if row[0] == user]
            assert [rank for _, rank, *_ in of_user] == list(range(1, len(of_user) + 1))
            assert len(of_user) <= length
            assert [row[3] for row in of_user] == sorted((row[3] for row in of_user), reverse=True)


RANKER = Ranker("v", Trees(text_of(fitted(planted(0), num_trees=10, options=OPTIONS))), ordinary(planted(0).features))


def test_ranked_orders_all_candidates_and_says_what_moved_each() -> None:
    rows = interactions(*bought("ann", a=5), *bought("bob", b=1, c=1), event("zoe", "a", -1))
    found = lists(rows, ranker=RANKER, ease=np.array([[0, 0, 0.95], [0, 0, 0], [0, 0, 0]]))
    ann = {item: reason for user, _, item, _, reason in found["ranked", "all"] if user == "ann"}
    assert ann["a"] == "bought 5 times before"
    assert ann["c"] == "often together with Apple"
    assert {user for user, *_ in found["ranked", "new"]} == {"ann", "bob", "zoe"}
    assert next(row[2] for row in found["ranked", "new"] if row[0] == "ann") == "c"


def test_a_network_orders_candidates_by_its_own_vectors_and_says_so() -> None:
    rows = interactions(*bought("ann", a=5), *bought("bob", b=1, c=1), event("zoe", "a", -1))
    scaling = Scaling(*np.zeros((3, len(FEATURES)), np.float32))
    of_item = np.eye(1, 2 + len(FEATURES), 1, dtype=np.float32)  # the score is the number that is the item's vector
    layers = {"0.weight": of_item, "0.bias": np.zeros(1, np.float32)}
    network = Network(scaling, layers, pa.array(["c", "gone", "a"]), np.array([[2], [9], [1]], np.float32))
    found = lists(rows, ranker=Ranker("v", network, ordinary(planted(0).features)))
    ann = [row[2:] for row in found["ranked", "all"] if row[0] == "ann"]
    assert ann[:2] == [("c", 2.0, "close to your taste"), ("a", 1.0, "close to your taste")]
    assert [row[1:2] for row in ann[2:]] == [(0.0,)]  # b, which it does not know
    assert [row[2] for row in found["ranked", "new"] if row[0] == "ann"] == ["c", "b"]


def test_with_rules_the_lists_without_them_stand_beside_so_that_their_price_can_be_told() -> None:
    rows = interactions(*(event(f"u{number}", f"i{number}", 3) for number in range(30)))
    plain = lists(rows, ranker=RANKER)
    found = lists(rows, ranker=RANKER, rules=Rules(num_explored=1))
    for question in ("all", "new"):
        assert found["ranked_without_rules", question] == plain["ranked", question]
        assert {rank for _, rank, *_, reason in found["ranked", question] if reason == "new in the shop"} == {3}
    assert not any(strategy == "ranked_without_rules" for strategy, _ in plain)


def test_ties_go_by_the_tie_break_then_by_position() -> None:
    user, item = np.array([1, 0, 0, 0]), np.array([0, 2, 1, 0])
    best = best_first(user, item, np.ones(4), 2, tie_break=np.array([1.0, 1.0, 5.0]))
    assert list(zip(best.user, best.item, best.rank, strict=True)) == [(0, 2, 1), (0, 0, 2), (1, 0, 1)]


@pytest.mark.parametrize("ranker", [None, RANKER])
def test_one_user_and_one_item_are_enough(ranker: Any) -> None:
    found = lists(interactions(*bought("ann", a=1)), ease=np.zeros((1, 1)), ranker=ranker)
    assert [row[:3] for row in found["popularity", "all"]] == [("ann", 1, "a")]
    assert found.get(("popularity", "new"), []) == []
