import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lib.ranking.topk import (
    Ranked,
    best_of_each,
    best_order,
    dot_products,
    incidence,
    rank_users,
    vectors,
)

INF = np.inf
# Few distinct values, so that ties are the rule.
SCORES = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.integers(1, 9)),
    elements=st.sampled_from([-INF, 0.0, 1.0, 2.0]),
)


def as_rows(ranked: Ranked) -> list[tuple[int, int, int, float]]:
    columns = (ranked.user, ranked.rank, ranked.item, ranked.score)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def test_the_best_items_come_first_and_equal_scores_go_by_position() -> None:
    scores = np.array([[1.0, 3.0, 2.0, 3.0, 0.0], [5.0, 5.0, 5.0, 5.0, 5.0], [0.0, 1.0, 1.0, 2.0, 1.0]])
    assert best_of_each(scores, 3).item.reshape(3, 3).tolist() == [[1, 3, 2], [0, 1, 2], [3, 1, 2]]


@settings(deadline=None)
@given(SCORES, st.integers(1, 12), st.sampled_from([-INF, 0.0, 1.0]), st.integers(1, 3), st.integers(1, 4))
def test_the_best_k_are_those_of_a_whole_stable_sort_in_groups_of_any_size(
    scores: np.ndarray, k: int, above: float, groups: int, largest: int
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("lib.ranking.topk._GROUPS_A_PLACE", groups)
        patched.setattr("lib.ranking.topk._LARGEST_GROUP", largest)
        found = as_rows(best_of_each(scores, k, above=above))
    expected = []
    for user, row in enumerate(scores):
        listed = [item for item in np.argsort(-row, kind="stable") if row[item] > above][:k]
        expected += [(user, rank, int(item), float(row[item])) for rank, item in enumerate(listed, start=1)]
    assert found == expected


def test_a_list_is_shorter_when_fewer_items_may_be_listed() -> None:
    scores = np.array([[0.5, -INF, 2.0], [-INF, -INF, -INF], [1.0, 1.0, 1.0]])
    excluded = sp.csr_array(np.array([[0, 0, 1], [0, 0, 0], [1, 0, 0]]))
    ranked = rank_users(lambda rows: scores[rows].copy(), num_users=3, num_items=3, k=2, excluded=excluded)
    assert as_rows(ranked) == [(0, 1, 0, 0.5), (2, 1, 1, 1.0), (2, 2, 2, 1.0)]


@pytest.mark.parametrize("with_excluded", [False, True])
def test_blocks_of_one_user_give_the_lists_of_one_block(monkeypatch: pytest.MonkeyPatch, with_excluded: bool) -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 5, (20, 30)).astype(float)
    excluded = sp.csr_array(rng.random((20, 30)) < 0.4) if with_excluded else None
    ask = {"num_users": 20, "num_items": 30, "k": 7, "excluded": excluded}
    whole = rank_users(lambda rows: scores[rows].copy(), **ask)
    monkeypatch.setattr("lib.ranking.topk._CELLS_AT_ONCE", 40)
    assert as_rows(rank_users(lambda rows: scores[rows].copy(), **ask)) == as_rows(whole)


def test_no_user_gives_no_list() -> None:
    assert as_rows(rank_users(lambda rows: np.empty((0, 3)), num_users=0, num_items=3, k=2)) == []


def test_dot_products_rank_like_the_whole_matrix_product() -> None:
    rng = np.random.default_rng(0)
    users, items = rng.normal(size=(9, 4)).astype(np.float32), rng.normal(size=(25, 4)).astype(np.float32)
    ranked = rank_users(dot_products(users, items), num_users=9, num_items=25, k=5)
    np.testing.assert_array_equal(ranked.item.reshape(9, 5), np.argsort(-(users @ items.T), axis=1)[:, :5])
    np.testing.assert_allclose(ranked.score, (users @ items.T)[ranked.user, ranked.item], rtol=1e-6)


def test_a_column_of_lists_becomes_a_matrix_and_uneven_lists_are_refused() -> None:
    column = pa.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], pa.list_(pa.float32()))
    assert vectors(column.slice(1)).tolist() == [[3.0, 4.0], [5.0, 6.0]]
    assert vectors(column.slice(0, 0)).shape == (0, 0)
    for uneven in ([[1.0], [2.0, 3.0], [4.0, 5.0, 6.0]], [[1.0, None]], [[1.0], None]):
        with pytest.raises(ValueError, match="equal lengths"):
            vectors(pa.array(uneven, pa.list_(pa.float32())))


def test_lists_of_ids_become_a_sparse_matrix_and_foreign_ids_are_passed_over() -> None:
    lists = pa.array([["x"], ["b", "gone", "a"], None, [], ["c"]], pa.list_(pa.string())).slice(1)
    ids = pa.array(["a", "b", "c"])
    assert incidence(lists, ids).toarray().tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 0], [0, 0, 1]]
    values = np.array([5, 6, 7, 8], np.float32)
    assert incidence(lists, ids, values).toarray().tolist() == [[7, 5, 0], [0, 0, 0], [0, 0, 0], [0, 0, 8]]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([-INF, -1.0, -0.0, 0.0, 1e-30, 2.5])), max_size=30))
def test_entries_are_ordered_by_group_then_the_highest_score_and_ties_stay_as_they_stand(
    entries: list[tuple[int, float]],
) -> None:
    group = np.array([of for of, _ in entries], np.int64)
    score = np.array([value for _, value in entries])
    expected = sorted(range(len(entries)), key=lambda place: (entries[place][0], -entries[place][1]))
    assert best_order(group, score).tolist() == expected
    assert best_order(group, score.astype(np.float32)).tolist() == expected


def test_entries_of_groups_whose_numbers_are_too_large_to_multiply_are_ordered_too() -> None:
    group = np.array([1 << 61, 0, 1 << 61, 0])
    assert best_order(group, np.array([1.0, 2.0, 3.0, 2.0])).tolist() == [1, 3, 2, 0]
