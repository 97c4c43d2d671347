from collections.abc import Callable
from decimal import Decimal
from typing import Any

import polars as pl
import pyarrow as pa

from lib.cleaning import parsing as types


def apply(expression: Callable[[pl.Expr], pl.Expr], *texts: str | None) -> list[Any]:
    return (
        pl.DataFrame({"text": pl.Series(texts, dtype=pl.String)})
        .select(expression(pl.col("text")))
        .to_series()
        .to_list()
    )


def test_numbers_are_whole_finite_or_money() -> None:
    texts = ("6", "6.0", "6.5", " 7 ", "six", "nan", None)
    assert apply(types.parse_whole, *texts) == [6, 6, None, 7, None, None, None]
    assert apply(types.parse_number, *texts) == [6.0, 6.0, 6.5, 7.0, None, None, None]
    assert apply(types.parse_money, "2.55", "-4", "0.00001", "1,5", "1e3") == [
        *(Decimal("2.55"), Decimal(-4), Decimal(0), None, Decimal(1000)),
    ]


def test_lists_come_from_json_or_stand_alone() -> None:
    assert apply(types.parse_list, '["a", 1]', "shoes", None, "[]") == [["a", "1"], ["shoes"], None, []]
    assert apply(types.parse_list, '["a"]', "[broken", '[{"b": 1}]') == [["a"], None, ['{"b":1}']]


def test_maps_come_from_json_or_from_columns_and_leave_out_what_is_empty() -> None:
    assert apply(types.parse_map, '{"a": 1.5, "b": null, "c": [1]}', "no map", None) == [
        [{"key": "a", "value": "1.5"}, {"key": "c", "value": "[1]"}],
        None,
        None,
    ]
    frame = pl.DataFrame({"f_1": ["x", None, None], "f_2": [None, None, "y"]})
    assert frame.select(types.map_of(["f_1", "f_2"])).to_series().to_list() == [
        [{"key": "f_1", "value": "x"}],
        None,
        [{"key": "f_2", "value": "y"}],
    ]
    assert frame.select(types.list_of(["f_1", "f_2"])).to_series().to_list() == [["x"], None, ["y"]]


def test_frames_become_arrow_tables_with_maps() -> None:
    schema = pa.schema([("m", pa.map_(pa.string(), pa.string())), ("n", pa.int32())])
    pairs = pl.Series([[{"key": "a", "value": "1"}], None, []], dtype=types.PAIRS)
    table = types.to_arrow(pl.DataFrame({"n": [1, 2, 3], "m": pairs, "other": "x"})[1:], schema)
    assert table.schema == schema
    assert table.to_pylist() == [{"m": None, "n": 2}, {"m": [], "n": 3}]
