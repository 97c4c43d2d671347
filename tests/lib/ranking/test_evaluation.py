from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from lib.ranking import evaluation
from lib.ranking.evaluation import SUMS_SCHEMA, shard_sums, summarised
from lib.ranking.metrics import METRICS
from lib.statistics.bootstrap import mean_interval

JUDGED = pl.Schema(
    {
        **{
            "shard": pl.Int32,
            "question": pl.String,
            "strategy": pl.String,
            "user_key": pl.String,
            "user_hash": pl.UInt64,
        },
        **{"part": pl.String, "num_relevant": pl.Int64, "hit_ranks": pl.List(pl.Int32)},
    }
)
BOOTSTRAP = {"k": 2, "num_resamples": 200, "seed": 1}
BASE = {"shard": 0, "question": "all", "strategy": "popularity", "part": "light", "num_relevant": 1}


def judged(*rows: dict[str, Any]) -> pl.DataFrame:
    hashes = {key: number for number, key in enumerate(sorted({row["user_key"] for row in rows}))}
    return pl.DataFrame([{**BASE, "user_hash": hashes[row["user_key"]], **row} for row in rows], schema=JUDGED)


def summary_of(table: pl.DataFrame) -> dict[tuple[str, str, str, str], dict]:
    shards = table.partition_by("shard", as_dict=True, maintain_order=True)
    sums = pa.concat_tables([shard_sums(rows, number=number, **BOOTSTRAP) for (number,), rows in shards.items()])
    assert sums.schema == SUMS_SCHEMA
    return {
        (row["question"], row["segment"], row["strategy"], row["metric"]): row for row in summarised(sums).to_pylist()
    }


def some_users(num_shards: int) -> pl.DataFrame:
    """40 users of two strategies, to two questions; a quarter are unseen, a third has no list of `als`, and a fifth wants new items."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(40):
        for question in ("all", "new"):
            for strategy in ("als", "popularity"):
                ranks = [rank for rank in (1, 2) if rng.random() < 0.4]
                row = {
                    "shard": user % num_shards,
                    "question": question,
                    "strategy": strategy,
                    "user_key": f"u{user:02}",
                }
                row |= {"num_relevant": 3, "hit_ranks": None if strategy == "als" and user % 3 == 0 else ranks}
                rows.append(row | {"part": ("unseen", "light", "heavy", "heavy")[user % 4]})
                if user % 5 == 0:
                    rows.append(row | {"part": "new_items"})
    return judged(*rows)


def test_values_are_means_over_all_users_of_the_segment_and_those_without_a_list_score_zero() -> None:
    summary = summary_of(
        judged(
            {"user_key": "a", "hit_ranks": [1]},
            {"user_key": "b", "hit_ranks": [2], "num_relevant": 2},
            {"user_key": "c", "hit_ranks": None},
            {"user_key": "d", "hit_ranks": [], "part": "unseen"},
        )
    )
    means = {metric: summary["all", "all", "popularity", metric]["value"] for metric in METRICS}
    ndcg_of_b = (1 / np.log2(3)) / (1 + 1 / np.log2(3))
    assert means == pytest.approx(
        {
            "ndcg": (1 + ndcg_of_b) / 4,
            "recall": 1.5 / 4,
            "precision": 1 / 4,
            "map": (1 + 0.25) / 4,
            "mrr": 1.5 / 4,
            "hit_rate": 2 / 4,
        }
    )
    counts = {
        segment: (row["num_users"], row["num_without_list"])
        for (_, segment, _, metric), row in summary.items()
        if metric == "ndcg"
    }
    of_users = {"all": (4, 1), "returning": (3, 1), "unseen": (1, 0), "light": (3, 1), "heavy": (0, 0)}
    assert counts == of_users | {"new_items": (0, 0)}


def test_what_is_asked_of_new_items_alone_has_its_own_users_intervals_and_paired_differences() -> None:
    young = {"part": "new_items"}
    summary = summary_of(
        judged(
            *(
                {"user_key": user, "hit_ranks": [1], "strategy": name}
                for user in "abc"
                for name in ("als", "popularity")
            ),
            {"user_key": "a", "hit_ranks": [], **young},
            {"user_key": "b", "hit_ranks": [2], **young},
            {"user_key": "a", "hit_ranks": [1], "strategy": "als", **young},
            {"user_key": "b", "hit_ranks": None, "strategy": "als", **young},
        )
    )
    found = {(row[2], row[3]): summary[row] for row in summary if row[1] == "new_items"}
    assert found["als", "mrr"]["value"] == 1 / 2
    assert found["popularity", "mrr"]["value"] == (0 + 1 / 2) / 2
    assert (found["als", "mrr"]["num_users"], found["als", "mrr"]["num_without_list"]) == (2, 1)
    assert (found["als", "recall"]["low"], found["als", "recall"]["high"]) == (0.0, 1.0)
    difference = found["als", "mrr_minus_popularity"]  # +1 for a, -1/2 for b
    assert (difference["value"], difference["low"], difference["high"]) == (1 / 4, -1 / 2, 1.0)
    # Nothing of it counts among the users.
    assert summary["all", "all", "als", "recall"]["value"] == 1.0
    assert summary["all", "all", "als", "recall"]["num_users"] == 3


def test_what_was_wanted_counts_by_its_weight_over_all_users_together() -> None:
    # Of ann's finds one counts twice, which als has first and popularity second; bob's, which counts once, is in no list of als.
    rows = judged(
        {"user_key": "ann", "num_relevant": 2, "hit_ranks": [2]},
        {"user_key": "bob", "hit_ranks": [1]},
        {"user_key": "ann", "num_relevant": 2, "hit_ranks": [1], "strategy": "als"},
        {"user_key": "bob", "hit_ranks": None, "strategy": "als"},
    ).with_columns(
        hit_weights=pl.Series([[2.0], [1.0], [2.0], None], dtype=pl.List(pl.Float64)),
        weight_wanted=pl.Series([3.0, 1.0, 3.0, 1.0]),
    )
    summary = summary_of(rows)
    found = {key[2:]: row for key, row in summary.items() if key[1] == "all"}
    second = 1 / np.log2(3)
    expected = {
        ("popularity", "item_recall"): 2 / 3,
        ("popularity", "item_recall_unbiased"): 3 / 4,
        ("popularity", "item_dcg"): (1 + second) / 3,
        ("popularity", "item_dcg_unbiased"): (1 + 2 * second) / 4,
        ("als", "item_recall"): 1 / 3,
        ("als", "item_dcg_unbiased"): 2 / 4,
        ("als", "item_recall_unbiased_minus_popularity"): 2 / 4 - 3 / 4,
        ("popularity", "recall"): (1 / 2 + 1) / 2,
    }
    assert {key: found[key]["value"] for key in expected} == pytest.approx(expected)
    # A resample has ann alone, bob alone, or both: 2 of 3, 1 of 1.
    unbiased = found["popularity", "item_recall_unbiased"]
    assert (unbiased["low"], unbiased["high"]) == pytest.approx((2 / 3, 1.0))
    assert summary["all", "heavy", "als", "item_dcg_unbiased"]["value"] is None


def test_differences_pair_each_user_with_itself() -> None:
    summary = summary_of(
        judged(
            {"user_key": "a", "hit_ranks": [1]},
            {"user_key": "b", "hit_ranks": []},
            {"user_key": "a", "hit_ranks": [1], "strategy": "als"},
            {"user_key": "b", "hit_ranks": [2], "strategy": "als"},
        )
    )
    difference = summary["all", "all", "als", "hit_rate_minus_popularity"]
    assert difference["value"] == 0.5
    assert (difference["low"], difference["high"]) == (0.0, 1.0)
    assert ("all", "all", "popularity", "hit_rate_minus_popularity") not in summary


def test_every_two_strategies_are_compared_in_ndcg_user_by_user() -> None:
    summary = summary_of(
        judged(
            *({"user_key": user, "hit_ranks": [], "part": "heavy"} for user in "ab"),
            {"user_key": "a", "hit_ranks": [1], "strategy": "als", "part": "heavy"},
            {"user_key": "b", "hit_ranks": [], "strategy": "als", "part": "heavy"},
            {"user_key": "a", "hit_ranks": [], "strategy": "ease", "part": "heavy"},
            {"user_key": "b", "hit_ranks": [2], "strategy": "ease", "part": "heavy"},
        )
    )
    second = 1 / np.log2(3)
    difference = summary["all", "heavy", "als", "ndcg_minus_ease"]
    assert difference["value"] == pytest.approx((1 - second) / 2)
    assert (difference["low"], difference["high"]) == pytest.approx((-second, 1.0))
    assert summary["all", "heavy", "ease", "ndcg_minus_als"]["value"] == pytest.approx((second - 1) / 2)
    assert ("all", "all", "als", "recall_minus_ease") not in summary


def test_shards_and_their_order_change_nothing() -> None:
    whole, sharded = summary_of(some_users(1)), summary_of(some_users(5))
    backwards = summary_of(some_users(5).reverse())
    assert whole.keys() == sharded.keys()
    for key, row in whole.items():
        numbers = {
            name: value for name, value in row.items() if name not in ("question", "segment", "strategy", "metric")
        }
        assert {name: sharded[key][name] for name in numbers} == pytest.approx(numbers, rel=1e-12)
    assert backwards == sharded


def test_draws_that_there_is_no_room_to_hold_are_drawn_anew_and_change_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = summary_of(some_users(2))
    monkeypatch.setattr(evaluation, "MOST_WEIGHTS", 100)
    assert summary_of(some_users(2)) == held


def test_intervals_are_those_of_the_users_drawn_as_one() -> None:
    table = some_users(3)
    row = summary_of(table)["new", "all", "popularity", "precision"]
    of_users = table.filter(pl.col("part") != "new_items").to_dicts()
    mine = [r for r in of_users if (r["question"], r["strategy"]) == ("new", "popularity")]
    values = np.array([len(r["hit_ranks"]) / 2 for r in mine])
    expected = mean_interval(values, seed=1, num_resamples=200)  # user_hash counts from 0 in the order of the keys
    assert (row["value"], row["low"], row["high"]) == pytest.approx(expected)


def test_a_segment_without_users_has_no_value() -> None:
    summary = summary_of(judged({"user_key": "a", "hit_ranks": [1]}))
    row = summary["all", "unseen", "popularity", "ndcg"]
    assert (row["value"], row["low"], row["high"], row["num_users"]) == (None, None, None, 0)


def test_without_popularity_there_is_no_difference() -> None:
    summary = summary_of(judged({"user_key": "a", "hit_ranks": [1], "strategy": "als"}))
    assert {metric for _, _, _, metric in summary} == set(METRICS)
