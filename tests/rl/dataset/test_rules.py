"""Which impressions are decisions: each rule on a few impressions, worked by hand."""

from typing import Any

import numpy as np
import pytest

from rl.dataset.rules import (
    AMONG,
    AS_OF,
    CANDIDATE,
    CANDIDATES,
    KEPT,
    POSITION,
    PROPENSITY,
    SESSION,
    Shown,
    broken_rules,
)

NAN = np.nan


def shown(num: int = 2, **columns: list[Any]) -> Shown:
    """Good impressions of one session, each a page of its own, with other values in some columns."""
    good = {
        "session": np.zeros(num, dtype=np.int64),
        "page": np.arange(num),
        "time_us": np.arange(num),
        "position": np.full(num, NAN),
        "propensity": np.full(num, 0.5),
        "num_candidates": np.full(num, 4),
        "has_empty_candidate": np.zeros(num, dtype=bool),
        "is_among": np.ones(num, dtype=bool),
    }
    return Shown(**(good | {name: np.array(values) for name, values in columns.items()}))


def broken(given: Shown, as_of_us: int = 1000) -> list[int]:
    return broken_rules(given, as_of_us=as_of_us).tolist()


def test_impressions_that_keep_every_rule_are_decisions() -> None:
    assert broken(shown()) == [KEPT, KEPT]
    assert broken(shown(num=0)) == []


@pytest.mark.parametrize(
    ("columns", "rule"),
    [
        ({"propensity": [NAN, 0.5]}, PROPENSITY),
        ({"num_candidates": [0, 4], "is_among": [False, True]}, CANDIDATES),
        ({"has_empty_candidate": [True, False], "is_among": [False, True]}, CANDIDATE),
        ({"is_among": [False, True]}, AMONG),
    ],
)
def test_an_impression_that_breaks_a_rule_takes_its_session_along_and_no_other(
    columns: dict[str, list[Any]], rule: int
) -> None:
    assert broken(shown(**columns)) == [rule, SESSION]
    assert broken(shown(**columns, session=[0, 7])) == [rule, KEPT]


@pytest.mark.parametrize(
    ("positions", "pages", "is_kept"),
    [
        ([1, 2, 3, 4], [0, 1, 2, 3], True),  # through the session, a page each
        ([1, 2, 3, 4], [0, 0, 1, 1], True),  # through the session, over pages
        ([1, 2, 1, 2], [0, 0, 1, 1], True),  # anew on each page
        ([2, 1, 1, 2], [0, 0, 1, 1], True),  # of a page, told a moment out of order
        ([1, 1, 1, 1], [0, 1, 2, 3], True),  # pages of one item
        ([1, 2, 2, 3], [0, 0, 1, 1], False),  # a page lost its first
        ([1, 3, 1, 2], [0, 0, 1, 1], False),  # a page lost its second
        ([2, 3, 4, 5], [0, 1, 2, 3], False),  # the session lost its first
        ([0, 1, 0, 1], [0, 0, 1, 1], False),  # counted from 0
        ([1, 1, 1, 2], [0, 0, 1, 1], False),  # a position twice on a page
        ([NAN, NAN, NAN, NAN], [0, 0, 1, 1], True),  # the log has none
    ],
)
def test_positions_count_over_the_session_or_over_each_page(
    positions: list[float], pages: list[int], is_kept: bool
) -> None:
    found = broken(shown(num=4, position=positions, page=pages))
    assert found == [KEPT] * 4 if is_kept else POSITION in found and KEPT not in found


def test_a_session_loses_what_comes_from_as_of_on_where_it_began_before() -> None:
    given = shown(num=4, session=[3, 3, 3, 5], time_us=[8, 9, 10, 12])
    assert broken(given, as_of_us=10) == [KEPT, KEPT, AS_OF, KEPT]
    later_is_bad = given._replace(propensity=np.array([0.5, 0.5, NAN, 0.5]), position=np.array([1, 2, 9, 1]))
    assert broken(later_is_bad, as_of_us=10) == [KEPT, KEPT, AS_OF, KEPT]
    assert broken(later_is_bad) == [POSITION, POSITION, PROPENSITY, KEPT]
