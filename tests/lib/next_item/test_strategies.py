"""What each strategy says, worked by hand on a few visits."""

import numpy as np
import pytest

from lib.next_item.strategies import STRATEGIES, Learnt
from lib.next_item.visits import NOTHING, Prefixes, Visits

A, B, C, D, UNKNOWN = range(5)
# a b, a b, a c, d d
LEARNT = Learnt.from_visits(Visits(np.array([A, B, A, B, A, C, D, D]), np.array([0, 2, 4, 6, 8])), 4)


def said(*events: int) -> dict[str, dict[int, float]]:
    """What each strategy says after these events."""
    newest = [*reversed(events)] or [NOTHING]
    scores = LEARNT.scores(Prefixes(np.array([newest]), np.array([len(events)])), 5)
    return {
        name: dict(zip(matrix.indices.tolist(), matrix.data.tolist(), strict=True)) for name, matrix in scores.items()
    }


def test_popularity_counts_visits_that_hold_an_item() -> None:
    assert said(UNKNOWN)["popularity"] == pytest.approx({A: 3 / 7, B: 2 / 7, C: 1 / 7, D: 1 / 7})


def test_what_is_trending_is_what_the_latest_visits_hold() -> None:
    assert said(A)["trending"] == {D: 1.0}  # a tenth of the visits is the last one


def test_the_successors_of_the_last_item_are_what_came_after_it() -> None:
    assert said(B, A)["successor"] == pytest.approx({B: 2 / 3, C: 1 / 3})
    assert said(A, B)["successor"] == {}  # nothing came after b


def test_an_item_is_no_successor_of_itself_but_the_same_item_and_an_own_one() -> None:
    told = said(D)
    assert told["successor"] == {}
    assert told["same_item"] == told["own_items"] == {D: 1.0}


def test_successors_of_the_whole_visit_count_the_newer_of_its_items_more() -> None:
    # After a came b twice and c once; after d nothing. The last item weighs 1, the one before it half.
    assert said(A, D)["successors"] == pytest.approx({B: 2 / 3, C: 1 / 3})


def test_an_unknown_item_can_be_named_where_the_visit_holds_it() -> None:
    told = said(UNKNOWN)
    assert told["own_items"] == {UNKNOWN: 1.0}
    assert told["successor"] == told["session_knn"] == told["last_two"] == {}


def test_what_is_in_the_same_visits_is_near_by_the_cosine() -> None:
    # a is in 3 visits, b in 2 of these, c in 1: 2 / sqrt(6) and 1 / sqrt(3), as shares of both.
    b, c = 2 / 6**0.5, 1 / 3**0.5
    assert said(A)["co_occurrence"] == pytest.approx({B: b / (b + c), C: c / (b + c)})


def test_the_items_of_the_visits_that_are_most_alike_are_named_the_rarer_ones_the_more() -> None:
    # All three visits with a are alike: a three times, b twice, c once, each weighed by the root of log(5 / (1 + visits with it)).
    a, b, c = (number * np.log(5 / (1 + number)) ** 0.5 for number in (3, 2, 1))
    total = a + b + c
    assert said(A)["session_knn"] == pytest.approx({A: a / total, B: b / total, C: c / total})


def test_people_who_go_back_go_to_the_item_that_others_went_to() -> None:
    # Only "the one before the last" was ever gone back to in these visits.
    there_and_back = Learnt.from_visits(Visits(np.array([A, B, A, C, D, C] * 50), np.arange(101) * 3), 4)
    own = there_and_back.scores(Prefixes(np.array([[B, A, C]]), np.array([3])), 4)["own_items"]
    assert own.indices[own.data.argmax()] == A


def test_after_no_event_only_what_is_popular_is_named() -> None:
    told = said()
    assert [name for name in STRATEGIES if told[name]] == ["popularity", "trending"]


@pytest.mark.parametrize("sizes", [[1], [2], [3], [1, 1], [0, 2]])
def test_a_few_events_are_enough_to_learn_from(sizes: list[int]) -> None:
    starts = np.concatenate([[0], np.cumsum(sizes)])
    learnt = Learnt.from_visits(Visits(np.zeros(starts[-1], dtype=np.int64), starts), 1)
    scores = learnt.scores(Prefixes(np.array([[0]]), np.array([1])), 1)
    assert scores["popularity"].toarray().tolist() == scores["own_items"].toarray().tolist() == [[1.0]]
