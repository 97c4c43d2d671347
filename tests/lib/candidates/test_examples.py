from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse as sp

from lib.candidates import tasks
from lib.candidates.examples import Examples, Pairs, joined, mostly_known
from lib.candidates.tasks import Moment
from lib.engines.arrow_tasks import InProcess, packed
from lib.ranking.known_pairs import INTERACTION
from tests.lib.candidates.shop import NOW, event, interactions, shop

NUMBERED = pa.array(["c", "a"])  # the items that have a number: 0 and 1


def test_examples_say_who_had_what_and_which_item_each_candidate_is() -> None:
    """Ann had a and b, buys b again and c; bob, who had a and d, buys c; nobody else is asked for."""
    had = [
        event("ann", "a", 60),
        event("ann", "b", 3),
        event("bob", "a", 0.5),
        event("bob", "d", 1),
        event("eve", "c", 2),
    ]
    later = [event("ann", "b", -1), event("ann", "c", -2), event("bob", "c", -1), event("eve", "c", -9)]
    rows = interactions(*had, *later)
    retrieval, _ = shop(rows)
    window = {"w": Moment(NOW, NOW + timedelta(days=5))}
    described = list(tasks.describe(packed(rows, INTERACTION), moments=window))
    made = list(
        tasks.make_examples(
            described,
            retrievals=InProcess({"w": retrieval}),
            shares={"w": 1.0},
            num_workers=2,
            item_ids=InProcess(NUMBERED),
        )
    )
    found = tasks.examples_of(made, item_ids=NUMBERED)["w"]
    assert found.pairs is not None
    np.testing.assert_allclose(found.pairs.history.todense(), [[0, 0.5], [0, 2 ** (-0.5 / 60)]], rtol=1e-6)
    assert (found.pairs.user == found.group).all()
    names = np.array(["c", "a", "another"])[found.pairs.item]
    bought = sorted(zip(found.group.tolist(), names.tolist(), found.is_new.tolist(), strict=True))
    wanted = {
        row for row, label in zip(zip(found.group, names, found.is_new, strict=True), found.label, strict=True) if label
    }
    assert wanted == {(0, "another", False), (0, "c", True), (1, "c", True)}
    assert {row[:2] for row in bought if row[1] == "a"} == {(0, "a"), (1, "a")}
    assert found.num_wanted.tolist() == [[2, 1], [1, 1]]

    plain = tasks.examples_of(made)["w"]
    assert plain.pairs is None
    both = joined([found, found])
    assert both.pairs is not None
    assert both.pairs.user.tolist() == both.group.tolist()
    assert both.pairs.history.sum() == pytest.approx(2 * found.pairs.history.sum())
    assert joined([found, plain]).pairs is None


def of_groups(*has_own: bool) -> Examples:
    """Two candidates a user, of whom some had the first."""
    size = len(has_own)
    is_new = np.array([new for own in has_own for new in (not own, True)], bool)
    features = np.arange(2 * size, dtype=np.float32)[:, None]
    label = (np.arange(2 * size) % 3 == 0).astype(np.int8)
    return Examples(features, label, is_new, np.repeat(np.arange(size), 2), np.arange(2 * size).reshape(size, 2))


def test_of_the_unseen_a_quarter_as_many_as_the_known_are_learned_from() -> None:
    kept = mostly_known(of_groups(False, True, True, False, True, False, True, False, True))
    assert kept.num_wanted[:, 0].tolist() == [0, 2, 4, 8, 12, 16]  # the first unseen, and the five known
    assert kept.group.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert kept.features.ravel().tolist() == [0, 1, 2, 3, 4, 5, 8, 9, 12, 13, 16, 17]
    assert kept.label.tolist() == [1, 0, 0, 1, 0, 0, 0, 1, 1, 0, 0, 0]
    assert mostly_known(of_groups(False, False)).group.tolist() == [0, 0, 1, 1]


def test_examples_of_some_users_keep_who_and_what_they_are() -> None:
    one = of_groups(True, False, True)
    history = sp.csr_array(np.array([[1.0, 0], [0, 2], [3, 0]], np.float32))
    pairs = Pairs(NUMBERED, one.group, np.array([0, 1, 1, -1, 0, -1]), history)
    kept = one._replace(pairs=pairs).of_users(np.array([False, True, True]))
    assert kept.pairs is not None
    assert (kept.pairs.user.tolist(), kept.pairs.item.tolist()) == ([0, 0, 1, 1], [1, -1, 0, -1])
    assert kept.pairs.history.toarray().tolist() == [[0, 2], [3, 0]]
