"""The lake on which evaluate is measured."""

from pathlib import Path

import polars as pl

from benchmarks import evaluate
from lib.lake.lake import Lake


def test_every_drawn_user_has_each_list_and_known_pairs_and_three_in_ten_want_something(tmp_path: Path) -> None:
    evaluate.draw_lake(tmp_path, 400)
    lake = Lake(str(tmp_path / "lake"))
    lists = pl.DataFrame(lake.dataset("gold/recommendations").to_table())
    key = ["strategy", "question", "user_key"]
    assert lists.select(*key, "item_id").is_unique().all()
    of_users = lists.group_by(key).agg(pl.col("rank").sort())
    assert len(of_users) == 400 * 3 * 2
    assert of_users["rank"].to_list() == [[*range(1, 11)]] * len(of_users)
    pairs = pl.DataFrame(lake.dataset("gold/interactions").to_table())
    assert pairs.filter(split="train").group_by("user_key").len()["len"].to_list() == [12] * 400
    wanted = pairs.filter(split="test").group_by("user_key").len()
    assert wanted["len"].to_list() == [2] * len(wanted)
    assert 80 < len(wanted) < 160
    assert (pairs.filter(split="test")["event_time"] >= evaluate.TEST_FROM).all()
