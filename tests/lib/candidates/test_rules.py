import numpy as np

from lib.candidates.rules import Rules, best_places, explored, number_in_group
from lib.candidates.sources import Proposed
from lib.ranking.topk import best_order
from tests.lib.candidates.shop import event, interactions, shop


def test_the_number_in_a_group_counts_those_before() -> None:
    assert number_in_group(np.array([5, 3, 5, 5, 3])).tolist() == [0, 0, 1, 2, 1]


def test_a_cap_puts_what_is_beyond_it_after_all_others_of_the_user() -> None:
    rows = interactions(*(event("ann", item, 3) for item in "abcde"))
    retrieval, _ = shop(rows)
    catalogue = retrieval.catalogue
    catalogue.tag[:] = [0, 0, 0, 1, catalogue.num_tags - 1]
    user, item = np.zeros(5, np.int64), np.arange(5)
    order = best_order(user, np.array([5.0, 4, 3, 2, 1]))

    def listed(cap: int | None, length: int = 5) -> list[int]:
        place, rank = best_places(order, user, item, catalogue, length=length, max_per_category=cap)
        assert rank.tolist() == list(range(1, len(place) + 1))
        return item[place].tolist()

    assert listed(None) == [0, 1, 2, 3, 4]
    assert listed(1) == [0, 3, 4, 1, 2]
    assert listed(2, length=3) == [0, 1, 3]


def test_the_last_places_go_to_new_items_that_the_user_does_not_have_and_all_new_items_are_drawn() -> None:
    old = [event("ann", item, 90) for item in "abc"]
    new = [event(f"u{number:03}", item, 5) for number in range(200) for item in "xyz"[number % 3]]
    retrieval, block = shop(interactions(*old, *new))
    items = retrieval.catalogue.item_ids.to_pylist()
    users = np.arange(len(block.user_keys))
    listed = Proposed(
        np.repeat(users, 3),
        np.tile([0, 1, 2], len(users)),
        np.tile(np.arange(1, 4, dtype=np.int32), len(users)),
        np.tile([3.0, 2, 1], len(users)),
    )
    found, is_drawn = explored(block, retrieval.catalogue, listed, Rules(num_explored=1), 3)
    own = set(zip(block.pairs.user.tolist(), block.pairs.item.tolist(), strict=True))
    drawn = [(user, item) for user, item, chosen in zip(found.user, found.item, is_drawn, strict=True) if chosen]
    assert not own & set(drawn)
    assert {items[item] for _, item in drawn} == {"x", "y", "z"}
    assert 100 < len(drawn) < 180  # one in three draws is an item that the user has
    assert all(found.rank[is_drawn] == 3)
    assert found.rank.tolist() == [1, 2, 3] * len(users)
    same, _ = explored(block, retrieval.catalogue, listed, Rules(), 3)
    assert same is listed


def test_rules_are_off_by_default() -> None:
    assert not Rules().are_on
    assert Rules(max_per_category=2).are_on and Rules(num_explored=1).are_on
