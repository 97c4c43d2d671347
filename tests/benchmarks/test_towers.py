import argparse
import math

import polars as pl
import pytest

from benchmarks import towers
from benchmarks.towers import Case, drawn, ranges_of
from lib.engines.arrow_tasks import unpacked


def test_items_are_drawn_by_the_law_that_is_told_and_the_same_for_all() -> None:
    rows = drawn(0, 5000, 9)
    assert rows.equals(drawn(0, 5000, 9))
    assert rows["user_key"].n_unique() == 5000
    shares = rows["item_id"].value_counts(normalize=True).sort("item_id")["proportion"].to_list()
    expected = [math.log((item + 2) / (item + 1)) / math.log(10) for item in range(9)]
    assert shares == pytest.approx(expected, abs=0.01)
    assert rows["event_time"].max() < towers.AS_OF


def test_parts_hold_every_user_once_and_a_shard_whole_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(towers, "USERS_PER_PART", 40)
    assert ranges_of(100 * towers.PAIRS_PER_USER) == [(0, 40), (40, 80), (80, 100)]
    batch = pl.DataFrame({"first": [0, 40], "last": [40, 80]}).to_arrow().to_batches()
    parts = list(towers.spread_drawn(batch, num_items=5, num_shards=3))
    users = [unpacked([part])["interaction"]["user_key"].unique().to_list() for part in parts]
    assert sorted(user for of_part in users for user in of_part) == [f"{user:09d}" for user in range(80)]
    assert {part["shard"][0].as_py() for part in parts} == {0, 1, 2}


def test_each_number_of_items_is_measured_bare_and_with_each_number_of_workers_whole_and_in_chunks() -> None:
    given = argparse.Namespace(items=[7], pairs=100, chunk_rows=10, workers=2, batch=5)
    assert list(towers.cases(given)) == [
        Case("bare dense", 7, 100, 1, 100, 5),
        Case("bare sparse", 7, 100, 1, 100, 5),
        Case("ours", 7, 100, 1, 100, 5),
        Case("ours", 7, 100, 2, 100, 5),
        Case("ours", 7, 100, 1, 10, 5),
        Case("ours", 7, 100, 2, 10, 5),
    ]
