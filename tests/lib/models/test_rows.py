import math
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
import torch

from lib.models.rows import (
    WeightedPairs,
    Weights,
    feature_tensor,
    item_tags,
    labelled_examples,
    vector_rows,
    weighted_pairs,
)
from lib.tables import contract

AS_OF = datetime(2026, 1, 31, tzinfo=UTC)
ITEMS = pa.array(["a", "b"])
INTERACTION = {
    "user_key": "u",
    "item_id": "a",
    "event_time": AS_OF - timedelta(days=30),
    "split": "train",
    "weight": 1.0,
    "count": 1,
    "num_relevant": 1,
}


def known(*overrides: dict[str, Any]) -> WeightedPairs:
    rows = pa.Table.from_pylist([INTERACTION | row for row in overrides], schema=contract("gold/interactions").schema)
    return weighted_pairs(pl.DataFrame(rows), as_of=AS_OF, item_ids=ITEMS, weights=Weights(30, 0.5))


def examples(*rows: tuple[str, list[float], int | None]) -> pa.Table:
    names = ("user_key", "features", "label")
    schema = pa.schema([("user_key", pa.string()), ("features", pa.list_(pa.float32())), ("label", pa.int32())])
    return pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows], schema=schema)


def test_examples_come_in_the_order_of_their_users_and_without_unknown_labels() -> None:
    found = labelled_examples(examples(("c", [0.5, 1.0], 1), ("a", [0.0, 0.25], 0), ("b", [1.0, 1.0], None)))
    assert found.features.tolist() == [[0.0, 0.25], [0.5, 1.0]]
    assert found.labels.tolist() == [0.0, 1.0]
    assert (found.features.dtype, found.labels.dtype) == (torch.float32, torch.float32)


def test_features_of_a_filtered_table_are_those_of_its_rows() -> None:
    table = examples(("a", [1.0, 2.0], 1), ("b", [3.0, 4.0], 1), ("c", [5.0, 6.0], 1))
    assert feature_tensor(table["features"][1:]).tolist() == [[3.0, 4.0], [5.0, 6.0]]
    assert feature_tensor(table["features"][:0]).shape == (0, 0)


def test_rows_with_different_numbers_of_features_are_refused() -> None:
    with pytest.raises(ValueError, match="featurize"):
        feature_tensor(examples(("a", [1.0], 1), ("b", [1.0, 2.0], 1))["features"])


def test_a_pair_counts_by_weight_relevance_and_age() -> None:
    found = known(
        {"user_key": "v", "item_id": "b", "weight": 3.0, "num_relevant": 0},
        {"user_key": "u", "item_id": "b", "weight": 1.0, "num_relevant": 1, "event_time": AS_OF - timedelta(days=60)},
        {"user_key": "u", "item_id": "b", "split": "valid", "weight": 1.0, "num_relevant": 1},
        {"user_key": "v", "item_id": "a", "weight": 1.0, "num_relevant": 3},
    )
    assert found.user_keys.to_pylist() == ["u", "v"]
    assert found.pairs.user.tolist() == [0, 1, 1]
    assert found.pairs.item.tolist() == [1, 0, 1]
    # 30 days old is half; both moments of (u, b) are one pair, as old as the later one.
    log = math.log1p
    assert found.pairs.history_weight.tolist() == pytest.approx([log(2) / 2, log(1) / 2, log(3) / 2])
    targets = [(log(2) + log(2) / 2) / 2, (log(3) + log(1) / 2) / 2, (0 + log(3) / 2) / 2]
    assert found.pairs.target_weight.tolist() == pytest.approx(targets)


def test_nothing_from_as_of_on_is_known() -> None:
    found = known({}, {"item_id": "b", "event_time": AS_OF}, {"user_key": "v", "event_time": AS_OF + timedelta(days=1)})
    assert (found.user_keys.to_pylist(), found.pairs.item.tolist()) == (["u"], [0])


def test_a_pair_of_returns_alone_is_none_and_very_old_ones_keep_a_trace() -> None:
    found = known({"item_id": "b", "weight": 0.0, "num_relevant": 0}, {"event_time": AS_OF - timedelta(days=90_000)})
    assert found.pairs.item.tolist() == [0]
    assert found.pairs.history_weight.item() > 0


def test_tags_are_the_category_at_every_level_and_the_brand() -> None:
    items = pa.table(
        {
            "item_id": ["c", "a", "b"],
            "category": [["Home", "Mugs"], ["Home", "Lamps"], None],
            "brand": ["Aster", None, "Aster"],
        }
    )
    tags, num_tags = item_tags(pa.array(["a", "b", "c", "d"]), items)
    a, b, c, d = tags.tolist()
    assert num_tags == 4
    assert a[0] == c[0] > 0  # Home
    assert a[1] != c[1]
    assert b == [c[2], 0, 0]  # Aster alone
    assert d == [0, 0, 0]  # not in the catalogue
    assert len(set(a + b + c)) == 5


def test_a_word_means_another_tag_under_another_category_or_as_a_brand() -> None:
    items = pa.table({"item_id": ["a"], "category": [["Blue", "Blue"]], "brand": ["Blue"]})
    tags, num_tags = item_tags(pa.array(["a"]), items)
    assert len(set(tags.tolist()[0])) == num_tags == 3


def test_without_a_catalogue_there_are_no_tags() -> None:
    tags, num_tags = item_tags(pa.array(["a", "b"]), None)
    assert (tags.tolist(), num_tags) == ([[0], [0]], 0)
    no_tags = pa.table({"item_id": ["a"], "category": pa.array([[]], pa.list_(pa.string())), "brand": pa.array([""])})
    tags, num_tags = item_tags(pa.array(["a", "b"]), no_tags)
    assert (tags.tolist(), num_tags) == ([[0], [0]], 0)


def test_a_tag_has_the_same_number_whichever_items_are_asked_for() -> None:
    items = pa.table({"item_id": ["a", "b"], "category": [["Home", "Mugs"], ["Garden"]], "brand": ["Aster", "Bell"]})
    both, num_tags = item_tags(pa.array(["a", "b"]), items)
    alone, same = item_tags(pa.array(["b"]), items)
    assert alone[0].tolist() == both[1].tolist()
    assert num_tags == same == 5


def test_vectors_become_rows_of_the_contract() -> None:
    table = vector_rows(
        torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        pa.array(["u", "v"]),
        model="encoder",
        version="train_encoder-000001",
        kind="user",
        as_of=AS_OF,
    )
    expected = {"model": "encoder", "version": "train_encoder-000001", "kind": "user", "as_of": AS_OF}
    rows = table.cast(contract("gold/vectors").schema).to_pylist()
    assert rows == [expected | {"id": "u", "values": [1.0, 2.0]}, expected | {"id": "v", "values": [3.0, 4.0]}]
