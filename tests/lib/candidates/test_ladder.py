"""A test for each rung: one with a history, one with tags, one in a category, nobody at all."""

import numpy as np
import polars as pl
import pytest

from lib.candidates.catalogue import catalogue_of, with_untouched
from lib.candidates.histories import Histories, histories_of
from lib.candidates.known import added_items, item_sums, known_pairs, known_users
from lib.candidates.ladder import Visitor, answer, below
from lib.candidates.sources import CONTENT, Retrieval
from tests.lib.candidates.shop import NOW, TITLES, event, interactions

# Bread is bought lately, cheese long ago by more, egg by one; nobody has touched the apple.
ROWS = interactions(
    *(event(user, "b", 3) for user in ("ann", "bob")),
    *(event(user, "c", 90) for user in ("ann", "cid", "dan")),
    event("ann", "e", 2),
)
EASE = np.array([[0, 0.2, 0.5], [0.2, 0, 0], [0.5, 0, 0]], np.float32)  # of b, c, e
VECTORS = np.array([[0, 1], [0.6, 0.8], [-1, 0], [1, 0]], np.float32)  # of b, c, e, a


def retrieval(*, with_content: bool = True, ease: np.ndarray = EASE) -> Retrieval:
    sums = with_untouched(added_items(item_sums(known_pairs(ROWS, as_of=NOW))), pl.Series(["a"]))
    vectors = {CONTENT: VECTORS} if with_content else {}
    return Retrieval(NOW, catalogue_of(sums, TITLES), ease, vectors, num_proposed=3)


def history(user: str, known: Retrieval) -> Histories:
    pairs, asked = known_pairs(ROWS, as_of=NOW), pl.DataFrame({"user_key": [user]})
    users = asked.join(known_users(ROWS, as_of=NOW), on="user_key", how="left")
    return histories_of(pairs, users, known.catalogue, vectors={})


def names(known: Retrieval, visitor: Visitor, length: int = 4, **given: object) -> list[tuple[str, str]]:
    found = answer(known, visitor, length=length, **given)  # type: ignore[arg-type]
    ids = known.catalogue.item_ids.to_pylist()
    return [(ids[item], rung) for item, rung in zip(found.items, found.rungs, strict=True)]


def test_one_with_a_history_gets_what_the_ranker_puts_first() -> None:
    known = retrieval()
    visitor = Visitor(history("bob", known))
    # The ranker of this test likes later candidates: b, c, e, a stand in this order.
    assert names(known, visitor, 2, score=lambda features: np.arange(len(features))) == [
        ("a", "ranked"),
        ("e", "ranked"),
    ]


def test_without_a_ranker_one_with_a_history_gets_what_goes_with_it_then_what_is_like_it() -> None:
    known = retrieval()
    assert names(known, Visitor(history("bob", known), new_only=True)) == [
        ("e", "ranked"),  # EASE: .5 beside bread
        ("c", "ranked"),  # EASE: .2
        ("a", "ranked"),  # content, behind cheese, which is there already
    ]


def test_one_with_tags_alone_gets_what_is_near_them_and_what_nobody_has_touched() -> None:
    found = names(retrieval(), Visitor(tags={("food", "fruit"): 1.0}), 3)
    assert found == [("a", "tags"), ("c", "tags"), ("b", "tags")]


def test_without_content_vectors_tags_are_answered_by_what_is_popular_in_them_by_their_weights() -> None:
    tags = {("food", "bakery"): 1.0, ("food", "dairy"): 5.0}
    # Nobody bought cheese lately, so bread is first whatever its weight; what is left is filled from below.
    assert names(retrieval(with_content=False), Visitor(tags=tags)) == [("b", "tags"), ("c", "tags"), ("e", "popular")]


def test_nobody_known_in_a_category_gets_what_is_popular_there_then_everywhere() -> None:
    found = names(retrieval(), Visitor(category=("food", "dairy")))
    assert found == [("c", "category"), ("b", "popular"), ("e", "popular")]


def test_nobody_known_gets_what_was_bought_lately_then_ever_and_never_what_nobody_bought() -> None:
    assert names(retrieval(), Visitor()) == [("b", "popular"), ("e", "popular"), ("c", "popular")]
    assert names(retrieval(), Visitor(), 1) == [("b", "popular")]


@pytest.mark.parametrize("visitor", [Visitor(tags={("toys",): 1.0}), Visitor(category=("toys",))])
def test_a_rung_without_an_item_is_passed_over(visitor: Visitor) -> None:
    assert {rung for _, rung in names(retrieval(), visitor)} == {"popular"}


def test_one_whose_history_says_nothing_falls_to_the_next_rung() -> None:
    known = retrieval(with_content=False, ease=np.zeros((0, 0), np.float32))
    assert names(known, Visitor(history("bob", known), new_only=True)) == [("e", "popular"), ("c", "popular")]


def test_what_is_below_a_category_is_in_it_and_an_item_without_one_is_in_none() -> None:
    known = retrieval()
    assert below(known.catalogue, ("food",)).tolist() == [True, True, False, True]  # b, c, e, a
    assert below(known.catalogue, ("food", "bakery")).tolist() == [True, False, False, False]
