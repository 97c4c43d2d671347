from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from lib.cleaning import parsing as types


def apply(expression: Callable[[pl.Expr], pl.Expr], *texts: str | None) -> list[Any]:
    return (
        pl.DataFrame({"text": pl.Series(texts, dtype=pl.String)})
        .select(expression(pl.col("text")))
        .to_series()
        .to_list()
    )


def times(*texts: str | None, time_format: str = "iso", timezone: str = "UTC") -> list[Any]:
    return apply(lambda text: types.parse_time(text, time_format, timezone), *texts)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2019-11-24 00:03:13.442536+00:00", datetime(2019, 11, 24, 0, 3, 13, 442536, tzinfo=UTC)),
        ("2019-10-01 00:00:00 UTC", datetime(2019, 10, 1, tzinfo=UTC)),
        ("2019-10-01T10:00:00.5Z", datetime(2019, 10, 1, 10, 0, 0, 500_000, tzinfo=UTC)),
        ("2019-10-01T10:00:00-0530", datetime(2019, 10, 1, 15, 30, tzinfo=UTC)),
        ("2019-10-01 10:00+02", datetime(2019, 10, 1, 8, tzinfo=UTC)),
        (" 2019-10-01 10:00 ", datetime(2019, 10, 1, 10, tzinfo=UTC)),
        ("2019-10-01", datetime(2019, 10, 1, tzinfo=UTC)),
        ("2011-10-32 00:00:00", None),
        ("01.10.2019", None),
        ("1569888000", None),
        (None, None),
    ],
)
def test_iso_times_are_read_with_and_without_a_zone(text: str | None, expected: datetime | None) -> None:
    assert times(text) == [expected]


def test_a_time_without_a_zone_is_in_the_mappings() -> None:
    berlin = times("2019-07-01 12:00:00", "2019-10-27 02:30:00", "2019-03-31 02:30:00", timezone="Europe/Berlin")
    assert berlin == [
        datetime(2019, 7, 1, 10, tzinfo=UTC),
        datetime(2019, 10, 27, 0, 30, tzinfo=UTC),  # it came twice: the earlier
        None,  # the clocks left it out
    ]


def test_times_as_numbers_and_by_a_pattern() -> None:
    assert times("1659304800025", "1e3", "soon", time_format="epoch_milliseconds") == [
        datetime(2022, 7, 31, 22, 0, 0, 25_000, tzinfo=UTC),
        datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC),
        None,
    ]
    assert times("1659304800.5", "99999999999999", time_format="epoch_seconds") == [
        datetime(2022, 7, 31, 22, 0, 0, 500_000, tzinfo=UTC),
        None,
    ]
    assert times("31.12.2020 23:59", "2020-12-31", time_format="%d.%m.%Y %H:%M") == [
        datetime(2020, 12, 31, 23, 59, tzinfo=UTC),
        None,
    ]
    assert times("2020-12-31 23:59 +0100", time_format="%Y-%m-%d %H:%M %z") == [
        datetime(2020, 12, 31, 22, 59, tzinfo=UTC)
    ]


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
