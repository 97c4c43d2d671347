"""Ranking metrics of strategies over shards of users: each shard is reduced to sums, which give values with intervals.

A shard of whole users holds one row per user, question and strategy, and another where the question is asked of new items alone;
each strategy has the same users, with or without a list. The output of a shard does not grow with its users: sums over them, overall and in each bootstrap resample.
Differences between strategies are paired, user by user, since they are differences of such sums over the same users and resamples.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from lib.ranking.metrics import ranking_metrics
from lib.statistics.bootstrap import Floats, drawn_weights, percentile_interval, resampled_sums

NEW_ITEMS = "new_items"  # the question asked of items alone that were new in the shop, of the users who want one
SEGMENTS_OF_USERS: Mapping[str, tuple[str, ...]] = {  # each of parts that share no user
    "all": ("unseen", "light", "heavy"),
    "returning": ("light", "heavy"),
    "unseen": ("unseen",),
    "light": ("light",),
    "heavy": ("heavy",),
}
SEGMENTS: Mapping[str, tuple[str, ...]] = {**SEGMENTS_OF_USERS, NEW_ITEMS: (NEW_ITEMS,)}
PARTS = (*SEGMENTS["all"], NEW_ITEMS)
HEAVY_FROM = 10  # items that a heavy user knew; a light one knew fewer, an unseen one none
REFERENCE = "popularity"  # what the other strategies are compared with in every metric, user by user
COMPARED = "ndcg"  # in which every two strategies are
MOST_WEIGHTS = 1 << 28  # of users and resamples that are held at a time, a byte each
OF_WANTED = ("item_recall", "item_dcg")  # over what users wanted, of whom one who wanted more counts more
UNBIASED = "_unbiased"  # after these, where what was found through an impression counts by its position
NUM_WANTED, WEIGHT_WANTED = "num_wanted", "weight_wanted"  # the metric names of rows by whose total theirs are divided
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


class Sums(NamedTuple):
    """Sums over users of a segment."""

    num_users: int
    num_without_list: int
    total: float
    resampled: Floats  # (num_resamples,)

    def plus(self, other: "Sums") -> "Sums":
        """The sums over these users and others."""
        return Sums(
            self.num_users + other.num_users,
            self.num_without_list + other.num_without_list,
            self.total + other.total,
            self.resampled + other.resampled,
        )

    def minus(self, other: "Sums") -> "Sums":
        """The sums over the same users of the differences from what the other sums."""
        return self._replace(total=self.total - other.total, resampled=self.resampled - other.resampled)


def segment_of(num_known: pl.Expr) -> pl.Expr:
    """`unseen`, `light` or `heavy`, by how many items a user knew."""
    return (
        pl.when(num_known >= HEAVY_FROM)
        .then(pl.lit("heavy"))
        .when(num_known > 0)
        .then(pl.lit("light"))
        .otherwise(pl.lit("unseen"))
    )


def shard_sums(shard: pl.DataFrame, *, number: int, k: int, num_resamples: int, seed: int) -> pa.Table:
    """Sums of every metric of every strategy over a shard's users: rows of `SUMS_SCHEMA`.

    Args:
        shard: `question`, `strategy`, `user_key`, `user_hash` (64 bits, unsigned; decides which resamples draw the
            user), `part` (of PARTS), `num_relevant` and `hit_ranks` (ranks from 1 to k that hold a relevant item; null without a list).
            Where what was found counts by its position, also `hit_weights` of these, and `weight_wanted` of all that the user wanted. A user has one row for each question and strategy, and may have another of the part NEW_ITEMS.
        number: of the shard.
        k: length of the lists.
        num_resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    drawing = Drawing.of(shard["user_hash"].unique().to_numpy(), num_resamples=num_resamples, seed=seed)
    rows = [
        {"shard": number, "question": question, **row}
        for (question,), of_question in sorted(shard.partition_by("question", as_dict=True).items())
        for row in _sums_of_question(of_question, k=k, drawing=drawing)
    ]
    return pa.Table.from_pylist(rows, schema=SUMS_SCHEMA)


@dataclass(frozen=True)
class Drawing:
    """How often each resample draws each user of a shard, found once for all questions, where there is room for it."""

    num_resamples: int
    seed: int
    keys: NDArray[np.uint64]  # (users,), sorted
    weights: NDArray[np.uint8] | None  # (users, num_resamples)

    @classmethod
    def of(cls, keys: NDArray[np.uint64], *, num_resamples: int, seed: int) -> "Drawing":
        """Of users who are distinct."""
        keys = np.sort(keys)
        if len(keys) * num_resamples > MOST_WEIGHTS:
            return cls(num_resamples, seed, keys, None)
        return cls(num_resamples, seed, keys, drawn_weights(keys, num_resamples=num_resamples, seed=seed))

    def sums(self, values: Floats, keys: NDArray[np.uint64]) -> Floats:
        """See `resampled_sums`."""
        given = {"num_resamples": self.num_resamples, "seed": self.seed}
        weights = None if self.weights is None else self.weights[np.searchsorted(self.keys, keys)]
        return resampled_sums(values, keys, weights=weights, **given)


def _sums_of_question(rows: pl.DataFrame, *, k: int, drawing: Drawing) -> Iterator[dict[str, Any]]:
    rows = rows.sort("strategy", "part", "user_key")
    strategies = rows["strategy"].unique(maintain_order=True).to_list()
    num_users = len(rows) // len(strategies)
    assert num_users * len(strategies) == len(rows), "every strategy needs the same users"
    listed = rows["hit_ranks"].is_not_null().to_numpy().reshape(len(strategies), num_users)
    found = ranking_metrics(_hits(rows["hit_ranks"], k), rows["num_relevant"].to_numpy())
    if "hit_weights" in rows.columns:
        found |= _of_wanted(rows)
    values = {
        (strategy, metric): of_metric[place * num_users : (place + 1) * num_users]
        for metric, of_metric in found.items()
        for place, strategy in enumerate(strategies)
    }
    users = rows[:num_users]
    if "hit_weights" in rows.columns:
        values["", NUM_WANTED] = users["num_relevant"].to_numpy().astype(np.float64)
        values["", WEIGHT_WANTED] = users["weight_wanted"].to_numpy()
    part_of_each = users["part"].to_numpy()
    keys = users["user_hash"].to_numpy()
    of_parts = {part: _sums_of_users(values, keys, part_of_each == part, drawing) for part in PARTS}
    for segment, parts in SEGMENTS.items():
        chosen = np.isin(part_of_each, parts)
        shared = {"segment": segment, "num_users": int(chosen.sum())}
        without = {
            name: int((~of_strategy[chosen]).sum()) for name, of_strategy in zip(strategies, listed, strict=True)
        }
        totals, resampled = (np.sum([of_parts[part][place] for part in parts], axis=0) for place in (0, 1))
        for place, (strategy, metric) in enumerate([*values, ("", DRAWN)]):
            named = {"strategy": strategy, "metric": metric, "num_without_list": without.get(strategy, 0)}
            yield {**shared, **named, "total": float(totals[place]), "resampled": resampled[:, place]}


def _sums_of_users(
    values: Mapping[tuple[str, str], Floats],
    keys: NDArray[np.uint64],
    chosen: NDArray[np.bool_],
    drawing: Drawing,
) -> tuple[Floats, Floats]:
    """Over the chosen users, of each value and last their number: the sums (m + 1,), and those of resamples (num_resamples, m + 1)."""
    columns = np.column_stack([column[chosen] for column in values.values()])
    drawn = drawing.sums(columns, keys[chosen])
    return np.append(columns.sum(axis=0), chosen.sum()), drawn


def _hits(hit_ranks: pl.Series, k: int) -> NDArray[np.bool_]:
    """[rows, k] whether the list has a relevant item there."""
    hits = np.zeros((len(hit_ranks), k), dtype=bool)
    at = hit_ranks.to_frame("rank").with_row_index("row").explode("rank").drop_nulls()
    hits[at["row"].to_numpy(), at["rank"].to_numpy() - 1] = True
    return hits


def _of_wanted(rows: pl.DataFrame) -> dict[str, Floats]:
    """Of each row the sums over its hits of 1 and of 1 / log2(rank + 1), as they are and by the hits' weights."""
    hits = (
        rows.select("hit_ranks", "hit_weights").with_row_index("row").explode("hit_ranks", "hit_weights").drop_nulls()
    )
    row, weight = hits["row"].to_numpy(), hits["hit_weights"].to_numpy()
    gains = (np.ones(len(row)), 1 / np.log2(hits["hit_ranks"].to_numpy() + 1.0))
    return {
        metric + suffix: np.bincount(row, gain * by, minlength=len(rows)).astype(np.float64)
        for metric, gain in zip(OF_WANTED, gains, strict=True)
        for suffix, by in (("", 1.0), (UNBIASED, weight))
    }


def summarised(sums: pa.Table) -> pa.Table:
    """Values and intervals from the sums of all shards, and of the differences between strategies: rows of SUMMARY_SCHEMA.

    Args:
        sums: rows of `SUMS_SCHEMA`, whole segments of questions, in any order; they are added in the order of the shards, so that the result is the
            same to the last digit.

    Returns:
        A difference from another strategy is the metric `<metric>_minus_<strategy>`: from REFERENCE in every metric, between
        every two strategies in COMPARED. A segment without users has nulls.
    """
    in_order = sums.sort_by("shard").combine_chunks()
    resampled = np.asarray(in_order["resampled"].combine_chunks().flatten()).reshape(in_order.num_rows, -1)
    added: dict[tuple[str, str], dict[tuple[str, str], Sums]] = {}
    for row, draws in zip(in_order.drop_columns("resampled").to_pylist(), resampled, strict=True):
        of_segment = added.setdefault((row["question"], row["segment"]), {})
        name = (row["strategy"], row["metric"])
        more = Sums(row["num_users"], row["num_without_list"], row["total"], draws)
        of_segment[name] = of_segment[name].plus(more) if name in of_segment else more
    rows = []
    for (question, segment), found in sorted(added.items(), key=lambda item: item[0]):
        shares = {metric: found.pop(("", metric), None) for metric in (DRAWN, NUM_WANTED, WEIGHT_WANTED)}
        for (strategy, metric), of_all in sorted((found | _differences(found)).items(), key=lambda item: item[0]):
            users, divisor = of_all.num_users, _divided_by(metric)
            of_what = shares[divisor]
            assert of_what is not None, f"{metric} needs the sum that it is a share of"
            total = users if divisor == DRAWN else of_what.total
            low, high = percentile_interval(of_all.resampled, of_what.resampled) if users else (None, None)
            named = {"question": question, "segment": segment, "strategy": strategy, "metric": metric}
            counted = {"num_users": users, "num_without_list": of_all.num_without_list}
            rows.append(
                {**named, **counted, "value": of_all.total / total if users else None, "low": low, "high": high}
            )
    return pa.Table.from_pylist(rows, schema=SUMMARY_SCHEMA)


def _divided_by(metric: str) -> str:
    """The metric name of the sum that a metric, or a difference in it, is a share of."""
    name = metric.partition("_minus_")[0]
    if name.endswith(UNBIASED):
        return WEIGHT_WANTED
    return NUM_WANTED if name in OF_WANTED else DRAWN


def _differences(found: Mapping[tuple[str, str], Sums]) -> dict[tuple[str, str], Sums]:
    return {
        (strategy, f"{metric}_minus_{other}"): of_strategy.minus(of_other)
        for (strategy, metric), of_strategy in found.items()
        for (other, same), of_other in found.items()
        if metric == same and strategy != other and (other == REFERENCE or metric == COMPARED)
    }
