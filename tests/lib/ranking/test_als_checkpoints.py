"""Checkpoints of a fit: which counts, and who can go on from it."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from lib.ranking.als_checkpoints import Checkpoints, Sides


def sides(users: list[str], items: list[str], *, rank: int = 2, first: float = 0.0) -> Sides:
    """The factors of these ids: numbers from `first` on."""
    return [
        (kind, pa.array(ids), np.arange(first, first + len(ids) * rank, dtype=np.float32).reshape(-1, rank))
        for kind, ids in (("user", users), ("item", items))
    ]


@pytest.fixture
def left(tmp_path: Path) -> Checkpoints:
    """Two tasks have left their checkpoint after sweep 2, and one of two after sweep 4."""
    found = Checkpoints(str(tmp_path / "fit"), every=2)
    found.leave(2, sides(["ann"], ["a", "b"]), rank=0, size=2)
    found.leave(2, sides(["bob"], ["c"], first=10), rank=1, size=2)
    found.leave(4, sides(["ann"], ["a", "b"], first=20), rank=0, size=2)
    return found


def test_only_one_that_all_tasks_have_left_counts(left: Checkpoints) -> None:
    assert left.last_complete() == 2
    left.leave(4, sides(["bob"], ["c"]), rank=1, size=2)
    assert left.last_complete() == 4
    assert Checkpoints(f"{left.location}-other", every=2).last_complete() == 0


def test_one_is_due_every_so_many_sweeps_or_never() -> None:
    assert [number for number in range(1, 8) if Checkpoints("", every=3).is_due(number)] == [3, 6]
    assert not any(Checkpoints("", every=0).is_due(number) for number in range(1, 8))


def test_the_same_tasks_and_any_other_number_of_them_go_on_from_it(left: Checkpoints) -> None:
    own = left.restored(2, sides(["bob"], ["c"]), rank=1, size=2)
    assert own is not None
    assert [factors.tolist() for factors in own] == [[[10, 11]], [[10, 11]]]
    alone = left.restored(2, sides(["bob", "ann"], ["c", "a", "b"]), rank=0, size=1)
    assert alone is not None
    assert [factors.tolist() for factors in alone] == [[[10, 11], [0, 1]], [[10, 11], [0, 1], [2, 3]]]


@pytest.mark.parametrize("other", [sides(["bob"], ["c"], rank=3), sides(["eve"], ["c"]), sides(["bob"], ["c", "d"])])
def test_nobody_goes_on_from_one_of_another_rank_or_that_lacks_an_id(left: Checkpoints, other: Sides) -> None:
    assert left.restored(2, other, rank=1, size=2) is None
