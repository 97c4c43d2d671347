"""The figures of what comes next, worked by hand; and that no partitioning, no order and no later event changes them."""

from datetime import UTC, datetime, timedelta
from math import log2

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from lib.engines.arrow_tasks import InProcess, packed, shards_by
from lib.next_item import asking
from lib.next_item.asking import AskingWork, cut, judge, metrics_of, summed_up
from lib.next_item.model import NextItemModel
from tests.lib.next_item.clicks import visits

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
WORK = AskingWork(BEGIN, BEGIN + timedelta(days=1), k=3, ndcg_k=2, num_resamples=200, seed=0, num_shards=1)
LEARNT = [["a", "b"], ["a", "b"], ["a", "c"], ["d"]]  # popularity: a, then b, then c and d


def judged(
    model: NextItemModel, sessions: list[list[str]], users: list[str | None], known: set[str], num_shards: int = 1
) -> pa.Table:
    """What tasks over so many shards say of sessions of some users, of whom some were known before."""
    frame = pl.DataFrame(
        {"session_id": [f"s{number}" for number in range(len(sessions))], "user_key": users, "items": sessions},
        schema_overrides={"user_key": pl.String},
    )
    whose = shards_by(frame.select(pl.coalesce("user_key", "session_id")).to_series(), num_shards)
    before = pl.DataFrame({"user_key": sorted(known)}, schema={"user_key": pl.String})
    of_known = shards_by(before["user_key"], num_shards)
    found = []
    for shard in range(num_shards):
        parts = [
            *packed(frame.filter(whose == shard), asking.VISIT),
            *packed(before.filter(of_known == shard), asking.KNOWN),
        ]
        for batch in judge(parts, model=InProcess(model), work=WORK):
            found += list(zip(batch["kind"].to_pylist(), batch["content"].to_pylist(), strict=True))
    return summed_up(reversed(found))


def values(summary: pa.Table, strategy: str, metric: str) -> dict[str, tuple[float | None, int, int]]:
    """By segment: value, events and those without a list."""
    return {
        row["segment"]: (row["value"], row["num_users"], row["num_without_list"])
        for row in summary.to_pylist()
        if (row["strategy"], row["metric"]) == (strategy, metric)
    }


def test_metrics_equal_the_values_worked_by_hand() -> None:
    model = NextItemModel.fit(LEARNT, num_valid=0)
    # After a comes b (rank 2 of popularity), after a b comes a again (rank 1); after d comes z, which nobody knows.
    found = judged(model, [["a", "b", "a"], ["d", "z"]], ["ann", None], {"ann"})
    assert values(found, "popularity", "hit_rate") == {
        "all": (pytest.approx(2 / 3), 3, 0),
        "returning": (1.0, 2, 0),
        "unseen": (0.0, 1, 0),
        "other_item": (0.5, 2, 0),
        "repeat": (1.0, 1, 0),
    }
    assert values(found, "popularity", "mrr")["all"][0] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert values(found, "popularity", "ndcg")["all"][0] == pytest.approx((1 / log2(3) + 1 + 0) / 3)
    # The successors of a are b and c, those of b and d none.
    assert values(found, "successor", "mrr")["all"] == (pytest.approx(1 / 3), 3, 2)
    assert values(found, "successor", "mrr_minus_popularity")["all"][0] == pytest.approx((1 / 2 - 1 + 0) / 3)
    assert values(found, "same_item", "hit_rate")["all"] == (0.0, 3, 0)
    assert values(found, "own_items", "hit_rate")["repeat"] == (1.0, 1, 0)


def test_only_the_first_ranks_count() -> None:
    found = metrics_of(np.array([1, 2, 3, 4]), WORK)
    assert found["hit_rate"].tolist() == [1, 1, 1, 0]
    assert found["mrr"].tolist() == [1, 1 / 2, 1 / 3, 0]
    assert found["ndcg"].tolist() == pytest.approx([1, 1 / log2(3), 0, 0])


def test_the_number_of_shards_and_the_order_of_parts_change_nothing() -> None:
    model = NextItemModel.fit(visits(200))
    asked = visits(100, seed=1)
    users = [f"u{number % 37}" if number % 3 else None for number in range(100)]
    one, many = (judged(model, asked, users, {f"u{number}" for number in range(20)}, shards) for shards in (1, 5))
    for row, other in zip(one.to_pylist(), many.to_pylist(), strict=True):
        for name, value in row.items():
            assert other[name] == (pytest.approx(value, abs=1e-12) if isinstance(value, float) else value)


def test_an_interval_holds_its_value_and_is_over_visits() -> None:
    model = NextItemModel.fit(visits(200))
    rows = judged(model, visits(100, seed=1), [None] * 100, set()).to_pylist()
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows if row["segment"] == "all")
    # One visit, however many its events, has no neighbour to differ from.
    rows = judged(model, [["i001", "i002", "i001", "i005"]], [None], set()).to_pylist()
    assert all(row["low"] == row["value"] == row["high"] for row in rows if row["segment"] == "all")


def test_a_visit_is_cut_at_the_end_of_the_window() -> None:
    rows = pl.DataFrame(
        {"items": [["a", "b", "c"]], "event_times": [[BEGIN, BEGIN + timedelta(hours=1), BEGIN + timedelta(days=1)]]}
    )
    assert cut(rows, WORK.until)["items"].to_list() == [["a", "b"]]
    assert cut(rows, BEGIN)["items"].to_list() == [[]]
