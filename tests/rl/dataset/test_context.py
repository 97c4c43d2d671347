"""The context of an impression as numbers, worked by hand."""

import zlib

import numpy as np
import pyarrow as pa

from rl.dataset.context import ContextCode, keys_of

TEXT_MAP = pa.map_(pa.string(), pa.string())
ITEMS = pa.array(["i1", "i2", "i3"])


def test_numbers_stand_as_they_are_categories_as_hashed_one_hots_and_the_position_last() -> None:
    code = ContextCode(numbers=("age",), categories=("segment",), width=4, num_positions=3)
    context = pa.array([[("age", "1.5"), ("segment", "x")], None, [("segment", "y"), ("age", None)]], TEXT_MAP)
    states = code.states(context, pa.array([1, None, 7], pa.int32()))
    expected = np.zeros((3, 1 + 4 + 3))
    expected[0, [0, 1 + zlib.crc32(b"x") % 4, 5]] = [1.5, 1, 1]
    expected[2, [1 + zlib.crc32(b"y") % 4, 7]] = 1
    assert states.tolist() == expected.tolist()


def test_a_number_for_each_item_becomes_a_feature_of_that_candidate() -> None:
    code = ContextCode(per_item=("affinity_",))
    context = pa.array([[("affinity_i1", "2"), ("affinity_i3", "4")], None, [("affinity_i2", "8")]], TEXT_MAP)
    candidates = np.array([[0, 2, -1], [0, 1, 2], [1, 1, 2]])
    features = code.candidates(context, candidates, ITEMS)
    assert features[..., 0].tolist() == [[2, 4, 0], [0, 0, 0], [8, 8, 0]]


def test_without_any_context_there_is_no_feature() -> None:
    code = ContextCode()
    context = pa.nulls(2, TEXT_MAP)
    assert code.states(context, pa.nulls(2, pa.int32())).shape == (2, 0)
    assert code.candidates(context, np.zeros((2, 1), dtype=np.int64), ITEMS).shape == (2, 1, 0)
    assert ContextCode(per_item=("a_",)).candidates(context, np.array([[0], [1]]), ITEMS).tolist() == [[[0]], [[0]]]


def test_a_slice_of_a_table_is_read_from_its_own_rows() -> None:
    code = ContextCode(numbers=("age",))
    context = pa.array([[("age", "1")], [("age", "2")], [("age", "3")]], TEXT_MAP)
    assert code.states(context.slice(1), pa.nulls(2, pa.int32())).ravel().tolist() == [2, 3]


def test_keys_of_a_log_are_told_apart() -> None:
    keys = {"user_feature_0": False, "hour": True, "affinity_i1": True}
    code = ContextCode.of_keys(keys, per_item=("affinity_", "absent_"), width=8, num_positions=0)
    assert code == ContextCode(("hour",), ("user_feature_0",), ("affinity_",), width=8)


def test_a_text_where_a_number_is_looked_for_counts_as_none() -> None:
    code = ContextCode(per_item=("affinity_",))
    context = pa.array([[("affinity_i1", "high"), ("affinity_i2", "1e1"), ("affinity_i3", "inf")]], TEXT_MAP)
    assert code.candidates(context, np.array([[0, 1, 2]]), ITEMS).ravel().tolist() == [0, 10, 0]


def test_a_key_is_of_numbers_where_all_its_values_are() -> None:
    context = pa.array([[("a", "1"), ("b", "1")], None, [("a", "-2.5e3"), ("b", "x"), ("c", None)]], TEXT_MAP)
    assert dict(keys_of(context).rows()) == {"a": True, "b": False, "c": True}
