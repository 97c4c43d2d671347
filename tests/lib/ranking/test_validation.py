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


def wanted(*rows: tuple[str, list[str]], known: dict[str, list[str]] | None = None) -> pa.Table:
    each = [{"user_key": user, "items": items, "known": (known or {}).get(user, [])} for user, items in rows]
    return pa.Table.from_pylist(each, schema=validation.WANTED.append(validation.KNOWN))


def test_each_user_scores_by_where_the_wanted_items_stand_and_a_stranger_scores_zero() -> None:
    found = ndcg_of_vectors(VECTORS, wanted(("ann", ["c"]), ("bob", ["b", "sold out"]), ("dan", ["a"])))
    # Ann's list is a, c, b; bob's is b, c, a, and two hits were possible.
    assert found.tolist() == pytest.approx([1 / log2(3), 1 / (1 + 1 / log2(3)), 0.0])


def test_one_who_wanted_something_new_scores_by_the_list_of_new_items_as_much_as_by_that_of_all() -> None:
    asked = ("ann", ["a", "b"]), ("bob", ["b"])
    found = ndcg_of_vectors(VECTORS, wanted(*asked, known={"ann": ["a", "gone"], "bob": ["b"]}))
    # Ann's list is a, c, b; of new items c, b, and b alone is new to her. Bob wanted nothing new.
    all_items = (1 + 1 / 2) / (1 + 1 / log2(3))
    assert found.tolist() == pytest.approx([(all_items + 1 / log2(3)) / 2, 1.0])


def test_what_a_user_knew_is_what_is_left_of_all_weights_before() -> None:
    before = pa.table(
        {
            "user_key": ["ann", "bob", "ann", "eve", "ann", "bob"],
            "item_id": ["b", "a", "a", "a", "b", "c"],
            "weight": [1.0, 2.0, 1.0, 1.0, -1.0, 1.0],  # Ann sent b back
        }
    )
    asked = pa.Table.from_pylist(
        [{"user_key": "ann", "items": ["a"]}, {"user_key": "bob", "items": ["a"]}, {"user_key": "dan", "items": ["c"]}],
        schema=validation.WANTED,
    )
    for size in (1, 6):
        found = validation.with_known(asked, before.to_batches(max_chunksize=size))
        assert found["known"].to_pylist() == [["a"], ["a", "c"], []]
    assert validation.with_known(asked.slice(0, 0), []).num_rows == 0


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
