from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse as sp

from lib.content.judging import (
    ALL,
    COLD,
    Window,
    counted_users,
    judged_by,
    popularity_of_cold,
    recall_of_cold,
    same_for_all,
    window_of,
)
from lib.content.neighbours import agreement, nearest
from lib.content.users import mean_of_history

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def history(user: str, item: str, days_ago: float) -> dict[str, object]:
    return {
        "user_key": user,
        "item_id": item,
        "event_time": NOW - timedelta(days=days_ago),
        "weight": 1.0,
        "num_relevant": 1,
    }


def window(wanted: dict[str, list[str]], *events: dict[str, object], item_ids: str = "abcd") -> Window:
    rows = pl.DataFrame(list(events), schema_overrides={"event_time": pl.Datetime("us", "UTC")})
    asked = pa.table({"user_key": list(wanted), "items": pa.array(list(wanted.values()), pa.list_(pa.string()))})
    ids = pa.array(list(item_ids))
    return window_of(rows, asked, as_of=NOW, item_ids=ids, num_users=counted_users(rows, ids))


def test_a_users_vector_is_the_mean_of_what_the_user_had_and_what_has_no_vector_counts_nowhere() -> None:
    items = np.array([[1, 0], [0, 1], [np.nan, np.nan]], np.float32)
    weights = sp.csr_array(np.array([[1, 3, 5], [0, 0, 2], [0, 0, 0], [1e-30, 1e-30, 0]], np.float32))
    found = mean_of_history(weights, items)
    np.testing.assert_allclose(found[0], [0.25, 0.75])
    assert np.isnan(found[1:3]).all()
    np.testing.assert_allclose(found[3], [0.5, 0.5])


def test_cold_items_are_found_by_what_is_like_the_history_and_a_user_without_one_is_counted() -> None:
    asked = window({"ann": ["c"], "bob": ["d"], "new": ["c"]}, history("ann", "a", 1), history("bob", "b", 1))
    assert asked.is_cold.tolist() == [False, False, True, True]
    vectors = np.array([[1, 0], [0, 1], [1, 0], [0, 1]], np.float32)
    found = judged_by(asked, vectors)
    # Ann finds c behind her own a, as bob finds d; the new user has no vector.
    assert found[ALL].tolist() == [pytest.approx(1 / np.log2(3)), pytest.approx(1 / np.log2(3)), 0]
    assert found[COLD].tolist() == [1, 1, 0]


def test_an_item_wanted_that_is_not_cold_asks_nothing_of_the_cold_ones() -> None:
    asked = window({"ann": ["b"], "bob": ["c", "d"]}, history("ann", "a", 1), history("bob", "b", 1))
    order = same_for_all(np.array([3.0, 2.0, 1.0, 0.0]), 2)
    assert recall_of_cold(asked, order).tolist() == [1.0]  # of bob alone, who finds both of two cold items
    assert recall_of_cold(asked, order, among_all=True).tolist() == [1.0]


def test_popularity_ranks_cold_items_by_their_categorys_and_draws_ties() -> None:
    asked = window(
        {"ann": ["c"]}, history("ann", "a", 1), history("bob", "a", 2), history("bob", "b", 1), item_ids="abcdef"
    )
    tags = np.array([0, 1, 1, 0, -1, -1])
    place = popularity_of_cold(asked, tags, seed=0)
    assert place[0] > place[1]  # two users had a, one had b
    assert place[3] > place[2] > max(place[4], place[5])  # d is like a, c like b, e and f like nothing
    orders = {tuple(popularity_of_cold(asked, None, seed=seed)[2:].argsort()) for seed in range(20)}
    assert len(orders) > 5


def test_agreement_is_the_share_of_neighbours_of_the_same_kind() -> None:
    vectors = np.array([[1, 0], [0.8, 0.6], [0, 1], [0.6, 0.8]])
    found = nearest(vectors, 2)
    assert found.tolist() == [[1, 3], [3, 0], [3, 1], [1, 2]]
    assert agreement(found, ["x", "x", "y", "y"]).tolist() == [0.5, 0.5, 0.5, 0.5]
    assert nearest(sp.csr_array(vectors), 2).tolist() == found.tolist()
