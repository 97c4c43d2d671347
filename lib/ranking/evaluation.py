"""Ranking metrics of strategies over shards of users: each shard is reduced to sums, which give values with intervals.

A shard of whole users holds one row per user, question and strategy; each strategy has the same users, with or without
a list. The output of a shard does not grow with its users: sums over them, overall and in each bootstrap resample.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lib.ranking.metrics import METRICS, ranking_metrics
from lib.statistics.bootstrap import Floats, percentile_interval, resampled_sums

SEGMENTS = ("all", "returning", "unseen", "light", "heavy")
HEAVY_FROM = 10  # items that a heavy user knew; a light one knew fewer, an unseen one none
REFERENCE = "popularity"  # what the other strategies are compared with in every metric, user by user
COMPARED = "ndcg"  # in which every two strategies are
DRAWN = "num_drawn"  # the metric name of rows with the number of users in each resample

SUMS_SCHEMA = pa.schema(
    [
        ("shard", pa.int32()),
        ("question", pa.string()),
        ("segment", pa.string()),
        ("strategy", pa.string()),
        ("metric", pa.string()),
        ("num_users", pa.int64()),
        ("num_without_list", pa.int64()),
        ("total", pa.float64()),
        ("resampled", pa.list_(pa.float64())),
    ]
)
SUMMARY_SCHEMA = pa.schema(
    [
        ("question", pa.string()),
        ("segment", pa.string()),
        ("strategy", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("num_users", pa.int64()),
        ("num_without_list", pa.int64()),
    ]
)


def shard_sums(shard: pa.Table, *, k: int, num_resamples: int, seed: int) -> pa.Table:
    """Sums of every metric of every strategy over a shard's users, for `applyInArrow`: rows of `SUMS_SCHEMA`.

    Args:
        shard: `shard`, `question`, `strategy`, `user_key`, `user_hash` (64 bits; decides which resamples draw the
            user), `num_known` (items known before), `num_relevant` and `hit_ranks` (ranks from 1 to k that hold a relevant item; null
            without a list).
        k: length of the lists.
        num_resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    rows = [
        row
        for question in pc.unique(shard["question"]).sort().to_pylist()
        for row in _sums_of_question(
            shard.filter(pc.equal(shard["question"], question)), k=k, num_resamples=num_resamples, seed=seed
        )
    ]
    number = shard["shard"][0].as_py()
    return pa.Table.from_pylist([{"shard": number, **row} for row in rows], schema=SUMS_SCHEMA)


def _sums_of_question(rows: pa.Table, *, k: int, num_resamples: int, seed: int) -> Iterator[dict[str, Any]]:
    rows = rows.sort_by([("strategy", "ascending"), ("user_key", "ascending")]).combine_chunks()
    strategies = pc.unique(rows["strategy"]).to_pylist()
    num_users = rows.num_rows // len(strategies)
    assert num_users * len(strategies) == rows.num_rows, "every strategy needs the same users"
    listed = rows["hit_ranks"].is_valid().to_numpy().reshape(len(strategies), num_users)
    values = _values(rows, strategies, k=k)
    keys = rows["user_hash"][:num_users].to_numpy().view(np.uint64)
    known = rows["num_known"][:num_users].to_numpy()
    is_heavy, is_unseen = known >= HEAVY_FROM, known == 0
    segments = (np.ones(num_users, bool), ~is_unseen, is_unseen, ~is_heavy & ~is_unseen, is_heavy)
    for segment, chosen in zip(SEGMENTS, segments, strict=True):
        columns = np.column_stack([column[chosen] for column in values.values()])
        sums = resampled_sums(columns, keys[chosen], num_resamples=num_resamples, seed=seed)
        shared = {"question": rows["question"][0].as_py(), "segment": segment, "num_users": int(chosen.sum())}
        yield {
            **shared,
            "strategy": "",
            "metric": DRAWN,
            "num_without_list": 0,
            "total": float(chosen.sum()),
            "resampled": sums[:, -1],
        }
        for place, (strategy, metric) in enumerate(values):
            yield {
                **shared,
                "strategy": strategy,
                "metric": metric,
                "num_without_list": int((~listed[strategies.index(strategy), chosen]).sum()),
                "total": float(columns[:, place].sum()),
                "resampled": sums[:, place],
            }


def _values(rows: pa.Table, strategies: list[str], *, k: int) -> dict[tuple[str, str], Floats]:
    """(strategy, metric) -> one value per user; differences from another strategy are `<metric>_minus_<strategy>`."""
    values = ranking_metrics(_hits(rows["hit_ranks"].combine_chunks(), k), rows["num_relevant"].to_numpy())
    table = {
        (strategy, metric): part
        for metric in METRICS
        for strategy, part in zip(strategies, np.split(values[metric], len(strategies)), strict=True)
    }
    if REFERENCE in strategies:
        table |= {
            (strategy, f"{metric}_minus_{REFERENCE}"): table[strategy, metric] - table[REFERENCE, metric]
            for strategy, metric in table
            if strategy != REFERENCE
        }
    return table | {
        (strategy, f"{COMPARED}_minus_{other}"): table[strategy, COMPARED] - table[other, COMPARED]
        for strategy in strategies
        for other in strategies
        if REFERENCE not in (strategy, other) and strategy != other
    }


def _hits(hit_ranks: pa.ListArray, k: int) -> NDArray[np.bool_]:
    hits = np.zeros((len(hit_ranks), k), dtype=bool)
    user = np.asarray(pc.list_parent_indices(hit_ranks))
    hits[user, np.asarray(hit_ranks.flatten()) - 1] = True
    return hits


def summarised(sums: pa.Table) -> pa.Table:
    """Values and intervals from the sums of all shards, for `applyInArrow`.

    Args:
        sums: rows of `SUMS_SCHEMA`, whole segments of questions, in any order; they are added in the order of the shards, so that the result is the
            same to the last digit.

    Returns:
        question, segment, strategy, metric, value, low, high, num_users, num_without_list; a segment without users has
        nulls.
    """
    in_order = sums.sort_by("shard").combine_chunks()
    resampled = np.asarray(in_order["resampled"].combine_chunks().flatten()).reshape(in_order.num_rows, -1)
    added: dict[tuple[str, str, str, str], tuple[int, int, float, Floats]] = {}
    for row, draws in zip(in_order.drop_columns("resampled").to_pylist(), resampled, strict=True):
        key = (row["question"], row["segment"], row["strategy"], row["metric"])
        users, without, total, drawn = added.get(key, (0, 0, 0.0, np.zeros(len(draws))))
        added[key] = (
            users + row["num_users"],
            without + row["num_without_list"],
            total + row["total"],
            drawn + draws,
        )
    rows = []
    for (question, segment, strategy, metric), (users, without, total, drawn) in sorted(
        added.items(), key=lambda item: item[0]
    ):
        if metric == DRAWN:
            continue
        num_drawn = added[question, segment, "", DRAWN][3]
        low, high = percentile_interval(drawn, num_drawn) if users else (None, None)
        rows.append(
            {
                "question": question,
                "segment": segment,
                "strategy": strategy,
                "metric": metric,
                "value": total / users if users else None,
                "low": low,
                "high": high,
                "num_users": users,
                "num_without_list": without,
            }
        )
    return pa.Table.from_pylist(rows, schema=SUMMARY_SCHEMA)
