"""Which pairs of user and item are known before a moment, on rows worked by hand."""

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pyarrow as pa

from lib.ranking.known_pairs import KNOWN_PAIRS, known_pairs
from lib.tables import contract

AS_OF = datetime(2026, 1, 21, tzinfo=UTC)
BEFORE = AS_OF - timedelta(days=3)
PAIR: dict[str, Any] = {"user_key": "ann", "item_id": "a", "weight": 1.0, "num_relevant": 1, "last_time": BEFORE}
COLUMNS = ["user_key", "item_id", "event_time", "weight", "num_relevant"]
INTERACTION: dict[str, Any] = {
    "user_key": "ann",
    "item_id": "a",
    "event_time": BEFORE,
    "weight": 1.0,
    "num_relevant": 1,
}
SCHEMA = pa.schema([contract("gold/interactions").schema.field(name) for name in COLUMNS])


def interactions(*overrides: dict[str, Any]) -> pl.DataFrame:
    frame = pl.from_arrow(pa.Table.from_pylist([INTERACTION | override for override in overrides], schema=SCHEMA))
    assert isinstance(frame, pl.DataFrame)
    return frame


def test_the_parts_of_a_pair_are_added_and_its_last_time_is_the_latest() -> None:
    later = AS_OF - timedelta(hours=1)
    found = known_pairs(interactions({"event_time": later, "weight": 2.0}, {}, {"item_id": "b"}), as_of=AS_OF)
    assert found.rows(named=True) == [
        PAIR | {"weight": 3.0, "num_relevant": 2, "last_time": later},
        PAIR | {"item_id": "b"},
    ]


def test_a_pair_that_is_touched_again_later_is_known_by_what_came_before() -> None:
    found = known_pairs(interactions({}, {"event_time": AS_OF, "weight": 9.0, "num_relevant": 9}), as_of=AS_OF)
    assert found.rows(named=True) == [PAIR]


def test_what_happened_at_the_moment_or_after_it_is_not_known() -> None:
    found = known_pairs(interactions({"event_time": AS_OF}, {"event_time": AS_OF + timedelta(days=1)}), as_of=AS_OF)
    assert found.is_empty()
    assert known_pairs(interactions({"event_time": AS_OF - timedelta(microseconds=1)}), as_of=AS_OF).height == 1


def test_a_pair_without_positive_weight_such_as_a_return_alone_is_not_known() -> None:
    assert known_pairs(interactions({"weight": 0.0}, {"item_id": "b", "weight": -1.0}), as_of=AS_OF).is_empty()


def test_the_order_of_rows_does_not_matter_and_no_rows_are_no_pairs() -> None:
    rows = interactions(
        {"user_key": "bob"}, {}, {"weight": 0.2, "event_time": BEFORE - timedelta(days=1)}, {"weight": 0.1}
    )
    assert known_pairs(rows.reverse(), as_of=AS_OF).equals(known_pairs(rows, as_of=AS_OF))
    assert known_pairs(interactions(), as_of=AS_OF).to_arrow().cast(KNOWN_PAIRS).num_rows == 0
