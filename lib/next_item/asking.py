"""The question `next`, judged by tasks: sums over the visits of a shard, which give values with intervals.

For each event after the first of a visit the strategies rank items, given the events so far; what came is one item, at some rank
or none. A metric is the mean over these events, its interval a bootstrap over visits. Does not import Spark.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from lib.engines.arrow_tasks import Broadcast, packed, rows_of, shards_by, table_rows, unpacked
from lib.next_item.model import Answers, NextItemModel
from lib.next_item.scores import Floats
from lib.next_item.visits import Bools
from lib.ranking.evaluation import DRAWN, SUMMARY_SCHEMA, SUMS_SCHEMA, summarised
from lib.statistics.bootstrap import keys_of, resampled_sums
from lib.tables.gold import NEXT, SESSIONS

SESSION, VISIT, KNOWN, SUMS = "session", "visit", "known", "sums"  # kinds of parts
SEGMENTS = ("all", "returning", "unseen", "other_item", "repeat")
METRICS = ("hit_rate", "mrr", "ndcg")
READ = ("session_id", "user_key", "started_at", "items", "event_times")


@dataclass(frozen=True)
class AskingWork:
    """What the tasks of one run need to know."""

    begin: datetime  # visits that begin from here on are judged
    until: datetime  # before this moment; what comes later in them is not
    k: int  # of hit_rate and mrr
    ndcg_k: int
    num_resamples: int
    seed: int
    num_shards: int
    frac: float = 1.0  # of the visits, which are judged; their ids choose


def spread_visits(files: Iterable[pa.RecordBatch], *, work: AskingWork) -> Iterator[pa.RecordBatch]:
    """Read files of gold/sessions and pack the visits to be judged, and who was known before, by shard of users."""
    schema = pa.schema([SESSIONS.schema.field(name) for name in READ])
    for file in rows_of(files):
        for rows in table_rows(file["location"], schema):
            earlier = rows.filter(pl.col("started_at") < work.begin, pl.col("user_key").is_not_null())
            known = earlier.select("user_key").unique()
            yield from packed(known, KNOWN, shards_by(known["user_key"], work.num_shards))
            is_judged = (pl.col("started_at") >= work.begin) & (pl.col("started_at") < work.until)
            visits = cut(rows.filter(is_judged), work.until).filter(pl.col("items").list.len() > 1)
            visits = visits.filter(keys_of(visits["session_id"]) < work.frac * 2.0**64)
            whose = visits.select(pl.coalesce("user_key", "session_id")).to_series()
            yield from packed(
                visits.select("session_id", "user_key", "items"), VISIT, shards_by(whose, work.num_shards)
            )


def cut(visits: pl.DataFrame, until: datetime) -> pl.DataFrame:
    """Visits, in rows of gold/sessions, without the events from a moment on; these are the last ones."""
    num_before = pl.col("event_times").list.eval(pl.element() < pl.lit(until)).list.sum()
    return visits.with_columns(pl.col("items").list.head(num_before))


def judge(
    parts: Iterable[pa.RecordBatch], *, model: Broadcast[NextItemModel], work: AskingWork
) -> Iterator[pa.RecordBatch]:
    """Ask the model of all visits of a shard, and sum how well each strategy answers: rows of SUMS_SCHEMA."""
    found = unpacked(parts)
    if VISIT not in found:
        return
    visits = found[VISIT].sort("session_id")
    known = found[KNOWN]["user_key"].unique().implode() if KNOWN in found else pl.Series([[]], dtype=pl.List(pl.String))
    is_returning = visits.select(pl.col("user_key").is_in(known[0]).fill_null(False)).to_series().to_numpy()
    keys = keys_of(visits["session_id"])
    rows = list(sums_of(model.value.ask(visits["items"], max(work.k, work.ndcg_k)), is_returning, keys, work))
    shard = {"shard": int(keys.min() >> np.uint64(33))}  # sums are added up in this order in every run
    sums = pa.Table.from_pylist([{**shard, **row} for row in rows], schema=SUMS_SCHEMA)
    yield from packed(pl.DataFrame(sums), SUMS)


def sums_of(
    answers: Answers, is_returning: Bools, keys: NDArray[np.uint64], work: AskingWork
) -> Iterator[dict[str, Any]]:
    """The sums of a shard of visits: of every metric of every strategy, by segment, overall and in each resample."""
    visit, is_repeat = answers.asked.visit, answers.asked.is_repeat
    masks = (np.ones(len(visit), bool), is_returning[visit], ~is_returning[visit], ~is_repeat, is_repeat)
    named = [(name, metric) for name in answers.ranks for metric in METRICS]
    values = [
        of_metric[metric]
        for ranks in answers.ranks.values()
        for of_metric in [metrics_of(ranks, work)]
        for metric in METRICS
    ]
    columns = np.column_stack([np.ones(len(visit)), *values])
    of_visits = np.zeros((len(keys), len(SEGMENTS), columns.shape[1]))
    for place, mask in enumerate(masks):
        np.add.at(of_visits[:, place], visit[mask], columns[mask])
    flat = of_visits.reshape(len(keys), -1)
    drawn = resampled_sums(flat, keys, num_resamples=work.num_resamples, seed=work.seed)[:, :-1]
    drawn = drawn.reshape(work.num_resamples, len(SEGMENTS), columns.shape[1])
    totals = of_visits.sum(axis=0)
    for place, (segment, mask) in enumerate(zip(SEGMENTS, masks, strict=True)):
        shared = {"question": NEXT, "segment": segment, "num_users": int(mask.sum())}
        yield {
            **shared,
            "strategy": "",
            "metric": DRAWN,
            "num_without_list": 0,
            "total": totals[place, 0],
            "resampled": drawn[:, place, 0],
        }
        for column, (name, metric) in enumerate(named, start=1):
            yield {
                **shared,
                "strategy": name,
                "metric": metric,
                "num_without_list": int(answers.silent[name][mask].sum()),
                "total": totals[place, column],
                "resampled": drawn[:, place, column],
            }


def metrics_of(ranks: np.ndarray, work: AskingWork) -> Mapping[str, Floats]:
    """By metric its value for each question, from the rank of what came next.

    There is one right item, so the ideal DCG is 1, and NDCG@k = 1 / log2(rank + 1) where the rank is at most k.
    """
    is_hit = ranks <= work.k
    return {
        "hit_rate": is_hit.astype(np.float64),
        "mrr": np.where(is_hit, 1.0 / ranks, 0.0),
        "ndcg": np.where(ranks <= work.ndcg_k, 1.0 / np.log2(ranks + 1.0), 0.0),
    }


def summed_up(found: Iterable[tuple[str, bytes]]) -> pa.Table:
    """Values and intervals from what the tasks have summed: rows of SUMMARY_SCHEMA, whatever the order of the parts."""
    sums = [pl.read_ipc_stream(content).to_arrow().cast(SUMS_SCHEMA) for kind, content in found if kind == SUMS]
    if not sums:
        return pa.Table.from_pylist([], schema=SUMMARY_SCHEMA)
    return summarised(pa.concat_tables(sums))
