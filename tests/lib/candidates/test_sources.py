import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.candidates.known import BROWSING
from lib.candidates.sources import by_popularity, candidates_of, popular_new
from tests.lib.candidates.shop import TITLES, event, interactions, shop, with_vectors

ITEMS = "abcde"
EVENTS = st.lists(
    st.tuples(st.sampled_from(["ann", "bob", "cid"]), st.sampled_from(ITEMS), st.integers(1, 60), st.integers(0, 2)),
    min_size=1,
    max_size=12,
)


def entries(proposed: object) -> list[tuple[int, int, int, float]]:
    user, item, rank, score = proposed
    return list(zip(user.tolist(), item.tolist(), rank.tolist(), score.tolist(), strict=True))


def test_own_items_are_proposed_by_how_often_they_were_bought_and_others_by_each_retriever() -> None:
    rows = interactions(event("ann", "a", 9), event("ann", "b", 5, num_relevant=3), event("bob", "c", 2))
    ease = np.array([[0, 0, 0.5], [0, 0, 0.25], [0.5, -0.1, 0]])
    retrieval, block = shop(rows, ease=ease, als=np.array([[1, 0], [0, 1], [np.nan, np.nan]]))
    found = candidates_of(retrieval, with_vectors(block, als=np.array([[np.nan, np.nan], [2, -3]])))
    assert entries(found.proposed["own"]) == [(0, 1, 1, 3.0), (0, 0, 2, 1.0), (1, 2, 1, 1.0)]
    assert entries(found.proposed["ease"]) == [(0, 2, 1, 0.75), (1, 0, 1, 0.5)]
    assert entries(found.proposed["als"]) == [(1, 0, 1, 2.0), (1, 1, 2, -3.0)]  # ann has no vector, nor has c
    assert entries(found.proposed["popular"]) == [(0, 2, 1, 1.0), (1, 0, 1, 1.0), (1, 1, 2, 1.0)]
    assert list(zip(found.user, found.item, strict=True)) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert found.pair.tolist() == [0, 1, -1, -1, -1, 2]
    np.testing.assert_allclose(found.scores["als"], [np.nan] * 3 + [2, -3, np.nan])
    assert found.scores["ease"][2] == np.float32(0.75)


def test_a_recent_history_weighs_more_in_its_retriever() -> None:
    rows = interactions(event("ann", "a", 120), event("ann", "b", 60), event("bob", "c", 2))
    ease = np.array([[0, 0, 0.5], [0, 0, 0.25], [0, 0, 0]])
    retrieval, block = shop(rows, ease=ease)
    (proposed,) = entries(candidates_of(retrieval, block).proposed["ease_recent"])
    assert proposed[:3] == (0, 2, 1)
    assert proposed[3] == pytest.approx(0.5 / 4 + 0.25 / 2)


@settings(deadline=None, max_examples=60)
@given(EVENTS, st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_each_retriever_proposes_the_best_of_a_whole_sort_of_what_the_user_did_not_have(
    events: list[tuple[str, str, int, int]], num_proposed: int, seed: int
) -> None:
    rows = interactions(*(event(user, item, days, num_relevant=n, weight=1.0) for user, item, days, n in events))
    rng = np.random.default_rng(seed)
    num_items = rows["item_id"].n_unique()
    ease = rng.integers(-1, 3, (num_items, num_items)) / 4  # few values, so that ties are the rule
    retrieval, block = shop(rows, num_proposed=num_proposed, ease=ease)
    found = candidates_of(retrieval, block)
    own = block.matrix(np.ones(len(block.pairs)), num_items).toarray() > 0
    bought = block.matrix(block.pairs.num_relevant, num_items).toarray() > 0
    scores = np.where(bought, 1, np.where(own, BROWSING, 0)).astype(np.float32) @ ease.astype(np.float32)
    for user in range(len(block.user_keys)):
        listed = [item for u, item, *_ in entries(found.proposed["ease"]) if u == user]
        wanted = [i for i in np.argsort(-scores[user], kind="stable") if scores[user, i] > 0 and not own[user, i]]
        assert listed == wanted[:num_proposed]
        popular = [item for u, item, *_ in entries(found.proposed["popular"]) if u == user]
        buyers = retrieval.catalogue.sums["num_recent_buyers"].to_numpy()
        assert (
            popular == [i for i in np.argsort(-buyers, kind="stable") if buyers[i] and not own[user, i]][:num_proposed]
        )
        mine = {item for u, item in zip(found.user, found.item, strict=True) if u == user}
        assert mine == {
            *np.flatnonzero(own[user]),
            *listed,
            *popular,
            *(i for u, i, *_ in entries(found.proposed["ease_recent"]) if u == user),
        }


def test_somebody_who_is_not_known_gets_what_is_popular() -> None:
    rows = interactions(event("ann", "a", 9), event("bob", "a", 9), event("bob", "b", 9), event("zoe", "a", -1))
    retrieval, block = shop(rows)
    zoe = block.user_keys.to_pylist().index("zoe")
    by_buyers = popular_new(by_popularity(retrieval.catalogue.num_buyers), block, 2)
    assert [(i, s) for u, i, _, s in entries(by_buyers) if u == zoe] == [(0, 2.0), (1, 1.0)]
    found = candidates_of(retrieval, block)
    assert [(i, p) for u, i, p in zip(found.user, found.item, found.pair, strict=True) if u == zoe] == [
        (0, -1),
        (1, -1),
    ]


def test_what_is_popular_in_the_users_categories_is_weighed_by_how_much_the_user_takes_of_each() -> None:
    # Ann takes thrice as much of bakery as of dairy; in dairy two of three buyers of late bought cheese, the third milk.
    rows = interactions(
        event("ann", "b", 1, weight=3.0),
        event("ann", "m", 1),
        *(event(user, "c", 2) for user in ("bob", "cid")),
        event("dan", "r", 2),
        event("eve", "e", 2),
        event("fay", "m", 90),
    )
    described = {"m": ("Milk", ["food", "dairy"]), "r": ("Roll", ["food", "bakery"])}
    extra = pa.table(
        {
            "item_id": list(described),
            "title": [title for title, _ in described.values()],
            "category": [category for _, category in described.values()],
            "price": [1.0, 1.0],
        }
    )
    retrieval, block = shop(rows, titles=pa.concat_tables([TITLES, extra]))
    ids = retrieval.catalogue.item_ids.to_pylist()
    found = candidates_of(retrieval, block).proposed["popular_in_category"]
    by_user = {block.user_keys[user].as_py(): [] for user in range(len(block.user_keys))}  # type: ignore[var-annotated]
    for user, item, _, score in entries(found):
        by_user[block.user_keys[user].as_py()].append((ids[item], pytest.approx(score)))
    assert by_user["ann"] == [("r", 3 / 4 * 1 / 2), ("c", 1 / 4 * 2 / 3)]
    assert by_user["bob"] == [("m", 1 / 3)]
    assert by_user["eve"] == []  # an egg is in no category
    assert by_user["fay"] == [("c", 2 / 3)]
