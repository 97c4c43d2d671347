"""Which pairs of user and item are known before a moment, on rows worked by hand."""

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.ranking.known_pairs import KNOWN_PAIRS, known_pairs, which_are_known
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


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.integers(-2, 1), st.sampled_from([-1.0, 0.5, 1.0]))
    )
)
def test_the_pairs_alone_are_those_of_the_known_pairs_for_texts_and_for_categories(
    told: list[tuple[str, str, int, float]],
) -> None:
    rows = interactions(
        *(
            {"user_key": user, "item_id": item, "event_time": AS_OF + timedelta(days=days), "weight": weight}
            for user, item, days, weight in told
        )
    )
    expected = known_pairs(rows, as_of=AS_OF).select("user_key", "item_id")
    as_categories = rows.with_columns(pl.col("user_key", "item_id").cast(pl.Categorical))
    for given_rows in (rows, as_categories):
        alone = which_are_known(given_rows, as_of=AS_OF).cast(pl.String)
        assert alone.sort("user_key", "item_id").equals(expected)
