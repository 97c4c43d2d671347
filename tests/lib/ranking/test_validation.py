"""How well vectors find what users wanted, on lists worked by hand."""

from math import log2

import pyarrow as pa
import pytest

from lib.ranking import validation
from lib.ranking.validation import ndcg_of_vectors, wanted_items

VECTORS = pa.Table.from_pylist(
    [
        {"kind": "item", "id": "a", "values": [1.0, 0.0]},
        {"kind": "item", "id": "b", "values": [0.0, 1.0]},
        {"kind": "item", "id": "c", "values": [0.5, 0.5]},
        {"kind": "user", "id": "ann", "values": [1.0, 0.0]},
        {"kind": "user", "id": "bob", "values": [0.0, 1.0]},
        {"kind": "user", "id": "eve", "values": [1.0, 1.0]},
    ],
    schema=pa.schema([("kind", pa.string()), ("id", pa.string()), ("values", pa.list_(pa.float32()))]),
)


def wanted(*rows: tuple[str, list[str]]) -> pa.Table:
    schema = pa.schema([("user_key", pa.string()), ("items", pa.list_(pa.string()))])
    return pa.Table.from_pylist([{"user_key": user, "items": items} for user, items in rows], schema=schema)


def test_each_user_scores_by_where_the_wanted_items_stand_and_a_stranger_scores_zero() -> None:
    found = ndcg_of_vectors(VECTORS, wanted(("ann", ["c"]), ("bob", ["b", "sold out"]), ("dan", ["a"])))
    # Ann's list is a, c, b; bob's is b, c, a, and two hits were possible.
    assert found.tolist() == pytest.approx([1 / log2(3), 1 / (1 + 1 / log2(3)), 0.0])


def test_without_vectors_or_users_nobody_scores() -> None:
    assert ndcg_of_vectors(VECTORS.slice(0, 0), wanted(("ann", ["a"]))).tolist() == [0.0]
    assert ndcg_of_vectors(VECTORS, wanted()).tolist() == []


def test_of_many_users_the_first_by_their_keys_are_asked_for_whatever_the_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(validation, "MAX_USERS", 2)
    rows = pa.table({"user_key": ["c", "b", "c", "a", "b", "b"], "item_id": ["x", "y", "y", "z", "x", "y"]})
    for size in (1, 2, 6):
        found = wanted_items(rows.to_batches(max_chunksize=size)).to_pylist()
        assert found == [{"user_key": "a", "items": ["z"]}, {"user_key": "b", "items": ["x", "y"]}]
    assert wanted_items([]).num_rows == 0
