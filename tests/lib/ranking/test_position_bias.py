"""How often positions are looked at: by hand, on logs with a known curve, and on a market that simulates one."""

from datetime import timedelta
from itertools import product
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from lib.engines.arrow_tasks import TABLE_FILES, gathered, packed, unpacked
from lib.ranking import position_bias
from lib.ranking.position_bias import (
    COUNT,
    GATHERED,
    LED,
    STRATUM,
    Examined,
    ShownWork,
    curve,
    join_answers,
    spread_shown,
    strata,
    weights_of,
)
from rl.market.effects import Effects
from rl.market.market import Market
from rl.observation import IMPRESSION, VIEW
from tests.lakes import TEST_FROM, SmallLake

COUNTS = {"item_id": pl.String, "position": pl.Int32, "num_shown": pl.Int64, "num_clicked": pl.Int64}


def curve_of(*shards: list[tuple[str, int, int, int]]) -> list[Examined]:
    """From shards of items: item, position, how often it was shown there and how often clicked."""
    parts = [
        (kind, content)
        for rows in shards
        for batch in strata(packed(pl.DataFrame(rows, schema=COUNTS, orient="row"), COUNT))
        for kind, content in zip(batch["kind"].to_pylist(), batch["content"].to_pylist(), strict=True)
    ]
    return curve(gathered(parts, STRATUM, GATHERED))


def test_items_that_are_shown_at_both_positions_tell_how_often_the_later_one_is_looked_at() -> None:
    # Each is clicked half as often on the second place, where the worse one is shown more often; c is shown on no first place.
    good, bad = [("a", 1, 100, 40), ("a", 2, 60, 12)], [("b", 1, 10, 2), ("b", 2, 90, 9), ("c", 2, 100, 90)]
    first, second = curve_of(good, bad)
    assert first == Examined(1, 1.0, 1.0, 1.0, 110)
    assert (second.position, second.value, second.num_shown) == (2, pytest.approx(0.5), 150)
    # Greenland and Robins: P / (R S), of a 160 times shown, of b 100.
    variance = (52 * 60 * 100 - 12 * 40 * 160) / 160**2 + (11 * 90 * 10 - 9 * 2 * 100) / 100**2
    here, there = 12 * 100 / 160 + 9 * 10 / 100, 40 * 60 / 160 + 2 * 90 / 100
    spread = np.exp(1.959964 * np.sqrt(variance / (here * there)))
    assert (second.low, second.high) == (pytest.approx(0.5 / spread), pytest.approx(0.5 * spread))
    assert curve_of(good + bad) == [first, pytest.approx(second)]


def test_nothing_is_said_of_a_position_with_few_clicks_nor_without_a_first_one() -> None:
    assert [row.position for row in curve_of([("a", 1, 100, 40), ("a", 2, 90, 19), ("a", 3, 90, 20)])] == [1, 3]
    assert curve_of([("a", 1, 100, 19), ("a", 2, 100, 30)]) == []
    assert curve_of([("a", 2, 100, 30), ("a", 3, 100, 30)]) == []
    assert curve_of() == []


def test_a_planted_curve_is_found_though_better_items_are_shown_earlier() -> None:
    rng = np.random.default_rng(0)
    truth = np.array([1.0, 0.6, 0.3, 0.15])
    relevance = rng.uniform(0.05, 0.6, 200)
    covered, found, naive = 0, [], []
    for _ in range(20):
        often = np.stack([120 * relevance, 80 * relevance, 50 - 80 * relevance, 60 - 90 * relevance], axis=1)
        shown = rng.poisson(often)
        clicked = rng.binomial(shown, relevance[:, None] * truth)
        cells = product(range(200), range(4))
        rows = [(str(item), place + 1, int(shown[item, place]), int(clicked[item, place])) for item, place in cells]
        curved = curve_of(rows)
        found.append([row.value for row in curved])
        naive.append(clicked.sum(axis=0) / shown.sum(axis=0))
        covered += sum(row.low <= known <= row.high for row, known in zip(curved[1:], truth[1:], strict=True))
    np.testing.assert_allclose(np.mean(found, axis=0), truth, rtol=0.02)
    assert 53 <= covered <= 60  # of 60 intervals of 95 %
    assert (np.mean(naive, axis=0) / np.mean(naive, axis=0)[0])[3] < 0.12  # what click rates alone say of .15


def test_the_markets_curve_is_the_simulated_one_beside_a_market_without() -> None:
    # Those who go on tire and are in another mood, in both markets alike.
    def estimated(bias: float) -> np.ndarray[Any, np.dtype[np.float64]]:
        size: dict[str, Any] = {"num_users": 1500, "num_items": 60, "days": 40, "sessions_per_user": 15.0}
        log = Market.generate(3, effects=Effects(position_bias=bias), **size).log()
        events = pl.DataFrame({"item_id": log.item, "position": log.step + 1, "kind": log.kind})
        events = events.filter(pl.col("position") > 0)
        counts = events.group_by(pl.col("item_id").cast(pl.String), "position").agg(
            (pl.col("kind") == IMPRESSION).sum().alias("num_shown"), (pl.col("kind") == VIEW).sum().alias("num_clicked")
        )
        return np.array([row.value for row in curve_of(counts.select(*COUNTS).rows())])

    np.testing.assert_allclose(estimated(0.5) / estimated(0.0), np.arange(1, 6) ** -0.5, rtol=0.08)


def test_a_find_counts_by_the_inverse_of_its_position_and_at_most_ten_times() -> None:
    examined = [Examined(1, 1.0, 1, 1, 9), Examined(2, 0.5, 0, 1, 9), Examined(4, 0.01, 0, 1, 9)]
    positions = pl.Series([2, None, 0, 1, 3, 4, 99, 2])
    assert weights_of(examined, positions).to_list() == [2.0, 1.0, 1.0, 1.0, 2.0, 10.0, 10.0, 2.0]


def told(lake: SmallLake, num_shards: int) -> tuple[set[tuple[Any, ...]], set[tuple[Any, ...]]]:
    """The rows of COUNT, added up, and of LED that the tasks make of the lake's events."""
    table = "silver/events"
    rows = [{"location": file, "num_bytes": size, "kind": ""} for file, size in lake.lake.data_files(table)]
    times = {"begin": TEST_FROM - timedelta(days=10), "as_of": TEST_FROM, "until": TEST_FROM + timedelta(days=10)}
    work = ShownWork(relevance="purchase", num_shards=2, **times)
    files = pa.Table.from_pylist(rows, schema=TABLE_FILES).to_batches()
    parts = pa.Table.from_batches(spread_shown(files, work=work, num_shards=num_shards))
    made = [
        batch
        for shard in range(num_shards)
        for batch in join_answers(parts.filter(pc.equal(parts["shard"], shard)).to_batches(), work=work)
    ]
    found = unpacked(made)
    counts = found[COUNT].group_by("item_id", "position").agg(pl.sum("num_shown", "num_clicked"))
    return {*counts.cast({"item_id": pl.String}).rows()}, {*found[LED].cast({pl.Categorical: pl.String}).rows()}


@pytest.mark.parametrize("num_shards", [1, 3])
def test_impressions_before_the_moment_tell_of_positions_and_finds_after_it_have_one(
    small_lake: SmallLake, num_shards: int
) -> None:
    early, late = TEST_FROM - timedelta(days=1), TEST_FROM + timedelta(days=1)
    shown: dict[str, Any] = {"event_type": "impression", "user_key": "ann", "position": 2, "event_time": early}
    small_lake.put_events(
        shown | {"request_id": "r1"},
        {"request_id": "r1", "event_type": "view", "user_key": "ann", "event_time": early},
        {"request_id": "r1", "event_type": "cart", "user_key": "ann", "event_time": early},  # one click, not two
        shown | {"request_id": "r2"},  # nobody answers
        shown | {"request_id": "r3", "is_bot": True},
        shown | {"request_id": "r4", "event_time": TEST_FROM - timedelta(days=11)},  # too long ago
        shown | {"request_id": "r5", "position": None},
        shown | {"request_id": "r6", "item_id": "b"},
        {"request_id": "r6", "event_type": "view", "event_time": early},  # of another item than was shown
        shown | {"request_id": "r7", "event_time": late, "position": 3},
        {"request_id": "r7", "user_key": "ann", "event_time": late},
        {"request_id": "r7", "user_key": "ann", "event_time": late, "event_type": "view"},  # is not what is judged by
        {"user_key": "bob", "event_time": late},  # found through no impression
        {"event_time": late},  # nobody's
        {"user_key": "dan", "event_time": early},  # before
    )
    counts, led = told(small_lake, num_shards)
    assert counts == {("a", 2, 2, 1), ("b", 2, 1, 0)}
    assert led == {("ann", "a", 3), ("bob", "a", 0)}


def test_positions_far_down_are_left_out_of_the_curve(small_lake: SmallLake) -> None:
    early = TEST_FROM - timedelta(days=1)
    small_lake.put_events(
        *(
            {"event_type": "impression", "request_id": str(place), "position": place, "event_time": early}
            for place in (position_bias.MOST_POSITIONS, position_bias.MOST_POSITIONS + 1)
        ),
        {"user_key": "bob", "event_time": TEST_FROM},
    )
    counts, _ = told(small_lake, 1)
    assert counts == {("a", position_bias.MOST_POSITIONS, 1, 0)}
