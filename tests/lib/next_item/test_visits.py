"""Visits as arrays, and the questions that they ask."""

import polars as pl

from lib.next_item.visits import MAX_EVENTS, NOTHING, Catalogue, asked, coded_visits, whole

LEARNT = Catalogue.of(pl.Series(["b", "a", "c", "a"]))


def test_learnt_items_come_first_and_others_have_the_indices_after_them() -> None:
    visits, names = coded_visits([["c", "z"], [], ["a", "y", "z"]], LEARNT)
    assert names.to_list() == ["a", "b", "c", "y", "z"]
    assert visits.items.tolist() == [2, 4, 0, 3, 4]
    assert visits.starts.tolist() == [0, 2, 2, 5]
    assert visits.visit.tolist() == [0, 0, 2, 2, 2]


def test_each_event_after_the_first_of_a_visit_is_asked_for_given_those_before_it() -> None:
    visits, _ = coded_visits([["c"], ["a", "z", "b", "z", "y"]], LEARNT)
    questions = asked(visits, len(LEARNT))
    assert questions.visit.tolist() == [1, 1, 1, 1]
    assert questions.prefixes.length.tolist() == [1, 2, 3, 4]
    # The newest first: a, then a z, then a z b, then a z b z. Indices: a 0, b 1, c 2, y 3, z 4.
    assert questions.prefixes.recent.tolist() == [
        [0, NOTHING, NOTHING, NOTHING],
        [4, 0, NOTHING, NOTHING],
        [1, 4, 0, NOTHING],
        [4, 1, 4, 0],
    ]
    # z is unknown at first, then a repeat that can be named; y can never be named.
    assert questions.next_item.tolist() == [NOTHING, 1, 4, NOTHING]
    assert questions.is_repeat.tolist() == [False, False, True, False]


def test_only_the_newest_event_with_an_item_stands_for_it() -> None:
    visits, _ = coded_visits([["a", "b", "a"]], LEARNT)
    assert whole(visits).is_newest().tolist() == [[True, True, False]]


def test_of_a_long_visit_the_latest_events_are_looked_at() -> None:
    visits, _ = coded_visits([["a"] * 100 + ["b"]], LEARNT)
    prefixes = whole(visits)
    assert prefixes.recent.tolist() == [[1] + [0] * (MAX_EVENTS - 1)]
    assert prefixes.length.tolist() == [101]
