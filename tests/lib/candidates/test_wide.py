"""A catalogue that is too wide for a score of every item: the same candidates as by the exact way, where the index looks at all lists."""

import pickle
from dataclasses import replace

import numpy as np
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.candidates.sources import Candidates, Retrieval, best_first, candidates_of
from lib.candidates.wide import Entries, WeightScores
from lib.ranking import ann
from tests.lib.candidates.shop import event, interactions, shop, with_vectors
from tests.lib.candidates.test_sources import entries

EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["ann", "bob", "cid"]), st.sampled_from("abcdefgh"), st.integers(1, 60), st.integers(0, 2)
    ),
    min_size=1,
    max_size=25,
)


def indexed(retrieval: Retrieval, num_probes: int = 1000) -> Retrieval:
    indexes = {model: ann.built(items, num_probes=num_probes) for model, items in retrieval.vectors.items()}
    return replace(retrieval, indexes=indexes)


def assert_same(found: Candidates, exact: Candidates) -> None:
    assert found.user.tolist() == exact.user.tolist()
    assert found.item.tolist() == exact.item.tolist()
    assert found.pair.tolist() == exact.pair.tolist()
    assert list(found.scores) == list(exact.scores)
    assert set(found.proposed) == set(exact.proposed)
    for source, scores in exact.scores.items():
        np.testing.assert_allclose(found.scores[source], scores, rtol=1e-5, atol=1e-6)
    for source, proposed in exact.proposed.items():
        assert [row[:3] for row in entries(found.proposed[source])] == [row[:3] for row in entries(proposed)]
        np.testing.assert_allclose(found.proposed[source].score, proposed.score, rtol=1e-5, atol=1e-6)


@settings(deadline=None, max_examples=60)
@given(EVENTS, st.integers(1, 6), st.integers(0, 2**32 - 1), st.booleans(), st.integers(0, 3))
def test_with_an_index_that_looks_at_all_lists_the_candidates_and_their_scores_are_the_exact_ones(
    events: list[tuple[str, str, int, int]], num_proposed: int, seed: int, is_sparse: bool, num_unknown: int
) -> None:
    rows = interactions(*(event(user, item, days, num_relevant=n) for user, item, days, n in events))
    rng = np.random.default_rng(seed)
    num_items = rows["item_id"].n_unique()
    ease = rng.integers(-1, 3, (num_items, num_items)) / 4  # few values, so that ties are the rule
    vectors = {model: rng.normal(size=(num_items, 3)) for model in ("als", "content")}
    vectors["als"][rng.permutation(num_items)[:num_unknown]] = np.nan
    retrieval, block = shop(rows, num_proposed=num_proposed, ease=ease, **vectors)
    users = rng.normal(size=(len(block.user_keys), 3))
    users[rng.random(len(users)) < 0.3] = np.nan
    block = with_vectors(block, als=users)
    if is_sparse:
        retrieval = replace(retrieval, ease=sp.csr_array(retrieval.ease))
    exact = candidates_of(retrieval, block)
    assert_same(candidates_of(indexed(retrieval), block), exact)


def test_the_index_finds_most_of_the_best_whatever_is_asked_together_and_is_built_again_the_same() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, 16))
    items = (centres[rng.integers(0, 40, 3000)] + 0.5 * rng.normal(size=(3000, 16))).astype(np.float32)
    items[5] = np.nan
    queries = (centres[:20] + 0.5 * rng.normal(size=(20, 16))).astype(np.float32)
    index = ann.built(items, num_probes=40)
    asked = np.arange(20) + 20
    query, item = index.nearest(queries, asked)
    exact = np.argsort(-np.nan_to_num(queries @ items.T, nan=-np.inf), axis=1)
    found = [item[query == number] for number in range(20)]
    assert all(len(mine) >= number for mine, number in zip(found, asked, strict=True))
    shares = [np.isin(exact[n, : asked[n]], found[n]).mean() for n in range(20)]
    assert 0.9 < np.mean(shares) <= 1
    again = pickle.loads(pickle.dumps(ann.built(items, num_probes=40)))
    for number in range(20):
        _, alone = again.nearest(queries[[number]], asked[[number]])
        assert alone.tolist() == found[number].tolist()
    assert 5 not in item
    few = ann.built(items, num_probes=1).nearest(queries, asked)
    assert np.mean([np.isin(exact[n, : asked[n]], few[1][few[0] == n]).mean() for n in range(20)]) < np.mean(shares)


def test_an_index_of_no_vectors_finds_nothing_and_of_fewer_than_are_asked_for_all() -> None:
    nothing = np.full((3, 2), np.nan, np.float32)
    query, item = ann.built(nothing, num_probes=8).nearest(np.ones((2, 2), np.float32), np.array([1, 5]))
    assert len(query) == len(item) == 0
    nothing[1] = 1, 2
    query, item = ann.built(nothing, num_probes=8).nearest(np.ones((2, 2), np.float32), np.array([1, 5]))
    assert (query.tolist(), item.tolist()) == ([0, 1], [1, 1])


def test_the_best_of_stored_weights_are_those_above_nothing_with_all_that_tie_for_the_last_place() -> None:
    sums = sp.csr_array(np.array([[0, 3, 1, 3, 2], [-1, 0, 0, 0, 0]], np.float32))
    best = WeightScores(sums).best(np.array([1, 2]))
    assert [one.tolist() for one in best] == [[0, 0], [1, 3], [3, 3]]
    np.testing.assert_array_equal(WeightScores(sums).at(np.array([0, 0, 1]), np.array([4, 0, 0])), [2, np.nan, np.nan])


def test_entries_are_ranked_by_score_and_ties_by_item() -> None:
    entries_of = Entries(np.array([1, 0, 1, 1]), np.array([4, 0, 2, 3]), np.array([5, 1, 5, 9], np.float32))
    best = best_first(*entries_of, 2)
    assert [one.tolist() for one in (best.user, best.item, best.score)] == [[0, 1, 1], [0, 3, 2], [1, 9, 5]]
    assert best.rank.tolist() == [1, 1, 2]
    best = best_first(*entries_of.where(np.array([True, True, True, False])), 2)
    assert best.item.tolist() == [0, 2, 4]
