from datetime import timedelta

import polars as pl
import pytest

from lib.candidates.known import ITEM_SUMS, added_items, item_sums, known_pairs, known_users
from tests.lib.candidates.shop import NOW, event, interactions


def test_a_pair_sums_what_happened_before_the_moment_with_its_ages_in_days() -> None:
    looked = event("ann", "a", 60, num_relevant=0, weight=0.5)
    rows = interactions(looked, event("ann", "a", 14), event("ann", "a", 28, num_relevant=2), event("ann", "a", 0))
    (pair,) = known_pairs(rows, as_of=NOW).rows(named=True)
    assert (pair["weight"], pair["num_relevant"], pair["num_orders"]) == (2.5, 3, 2)
    assert (pair["first_days"], pair["last_days"], pair["bought_days"], pair["first_bought_days"]) == (60, 14, 14, 28)
    assert pair["bought_14"] == pytest.approx(1 / 2 + 2 / 4)
    assert pair["weight_60"] == pytest.approx(0.5 / 2 + 2 ** (-14 / 60) + 2 ** (-28 / 60))


def test_a_pair_without_positive_weight_is_not_known_and_one_never_bought_has_no_age_of_that() -> None:
    returned = event("ann", "b", 5, weight=0.0, num_relevant=0)
    (pair,) = known_pairs(interactions(returned, event("bob", "b", 5, num_relevant=0)), as_of=NOW).rows(named=True)
    assert (pair["user_key"], pair["bought_days"], pair["num_orders"]) == ("bob", None, 0)


def test_users_count_the_moments_of_their_purchases() -> None:
    rows = interactions(
        event("ann", "a", 3), event("ann", "b", 3), event("ann", "a", 9, num_relevant=0), event("bob", "a", -1)
    )
    assert known_users(rows, as_of=NOW).rows() == [("ann", 1, 3.0, 9.0)]


def test_items_are_summed_whatever_the_shards() -> None:
    rows = interactions(
        event("ann", "a", 3), event("bob", "a", 40), event("bob", "c", 2, num_relevant=0), event("cid", "a", 1)
    )
    sums = [
        item_sums(known_pairs(rows.filter(pl.col("user_key") == user), as_of=NOW)) for user in ("cid", "ann", "bob")
    ]
    whole = added_items(item_sums(known_pairs(rows, as_of=NOW)))
    assert added_items(pl.concat(sums)).equals(whole)
    of_a, of_c = whole.rows(named=True)
    assert whole.columns == [*ITEM_SUMS]
    assert (of_a["num_users"], of_a["num_buyers"], of_a["num_recent_buyers"]) == (3, 3, 2)
    assert (of_a["age_days"], of_a["silence_days"]) == (40, 1)
    assert (of_c["num_users"], of_c["num_buyers"], of_c["bought_60"]) == (1, 0, 0)


def test_nothing_from_the_moment_on_counts() -> None:
    past = [event("ann", "a", 3), event("bob", "b", 1)]
    future = [event("ann", "b", 0), event("bob", "b", -2), event("cid", "z", -1)]
    for known in (known_pairs, known_users):
        assert known(interactions(*past, *future), as_of=NOW).equals(known(interactions(*past), as_of=NOW))
    later = known_pairs(interactions(*past, *future), as_of=NOW + timedelta(days=3))
    assert len(later) == 4
