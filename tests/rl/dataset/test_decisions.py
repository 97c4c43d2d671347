"""Logged decisions as arrays: order, padding, successors, and what is refused."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lib.tables import contract
from rl.dataset.decisions import COLUMNS, Decisions

BASE: dict[str, Any] = {
    "episode_id": "e",
    "step": 0,
    "user_key": "u",
    "state": [0.0, 1.0],
    "candidate_features": [[1.0], [2.0]],
    "action": 0,
    "propensity": 0.5,
    "policy": "popular",
    "reward": 0.0,
    "is_last": True,
}


def table(*rows: dict[str, Any]) -> pa.Table:
    schema = contract("gold/decisions").schema
    return pa.Table.from_pylist([BASE | row for row in rows], schema=pa.schema([schema.field(c) for c in COLUMNS]))


def test_rows_in_any_order_become_episodes_in_order_with_padded_candidates() -> None:
    log = Decisions.from_arrow(
        table(
            {"episode_id": "b", "user_key": None, "reward": 3.0},
            {"episode_id": "a", "step": 1, "candidate_features": [[5.0], [6.0], [7.0]], "action": 2},
            {"episode_id": "a", "step": 0, "is_last": False, "state": [2.0, 3.0]},
        )
    )
    assert log.episodes.tolist() == [0, 0, 1]
    assert log.states.tolist() == [[2.0, 3.0], [0.0, 1.0], [0.0, 1.0]]
    assert log.candidates[..., 0].tolist() == [[1.0, 2.0, 0.0], [5.0, 6.0, 7.0], [1.0, 2.0, 0.0]]
    assert log.mask.tolist() == [[True, True, False], [True, True, True], [True, True, False]]
    assert log.actions.tolist() == [0, 2, 0]
    assert log.next_rows.tolist() == [1, -1, -1]
    assert log.by_step(log.rewards, fill=-1.0).tolist() == [[0.0, 0.0], [3.0, -1.0]]


def test_an_episode_without_a_user_is_a_user_of_its_own() -> None:
    rows = [("a", "u"), ("b", None), ("c", "u"), ("d", None)]
    log = Decisions.from_arrow(table(*({"episode_id": e, "user_key": u} for e, u in rows)))
    first, second, third, fourth = log.episode_users.tolist()
    assert first == third
    assert len({first, second, fourth}) == 3


def test_a_user_key_that_equals_an_episode_id_is_not_taken_for_it() -> None:
    log = Decisions.from_arrow(table({"episode_id": "x", "user_key": None}, {"episode_id": "y", "user_key": "x"}))
    assert len(set(log.episode_users.tolist())) == 2


def test_an_episode_that_the_log_cut_off_has_no_known_transition_at_its_end() -> None:
    log = Decisions.from_arrow(table({"is_last": False}, {"step": 1, "is_last": False}))
    assert log.is_transition.tolist() == [True, False]


def test_take_keeps_whole_episodes_and_numbers_them_anew() -> None:
    log = Decisions.from_arrow(
        table(
            {"episode_id": "a", "policy": "x"}, {"episode_id": "b"}, {"episode_id": "c", "policy": "x", "reward": 2.0}
        )
    )
    kept = log.take(log.policies == "x")
    assert kept.episodes.tolist() == [0, 1]
    assert kept.rewards.tolist() == [0.0, 2.0]


def test_an_episode_of_several_policies_has_a_name_of_its_own() -> None:
    rows = [("a", 0, "x"), ("a", 1, "y"), ("b", 0, "y"), ("c", 0, "x"), ("c", 1, "x")]
    log = Decisions.from_arrow(table(*({"episode_id": e, "step": s, "policy": p} for e, s, p in rows)))
    assert log.episode_policies.tolist() == ["x+y", "y", "x"]


def test_an_empty_table_gives_no_decision() -> None:
    log = Decisions.from_arrow(table())
    assert (len(log), log.num_episodes, log.horizon) == (0, 0, 0)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"step": 1}, "without a gap"),
        ({"action": 2}, "not the index of a candidate"),
        ({"candidate_features": [[1.0], [2.0, 3.0]]}, "one width"),
    ],
)
def test_rows_that_contradict_themselves_are_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Decisions.from_arrow(table(row))


def test_padding_is_zero_and_features_keep_their_type() -> None:
    log = Decisions.from_arrow(table({}, {"episode_id": "f", "candidate_features": [[4.0]]}))
    assert log.candidates.dtype == np.float32
    assert log.candidates[1].tolist() == [[4.0], [0.0]]
