"""evaluate: gold/recommendations, gold/interactions, gold/sessions, silver/events, model `sequence` -> gold/ranking_metrics.

Asks three questions, those of which the lake has the tables. `all` and `new` score every strategy's lists against what users did in the
window after `as_of`: the test window for lists as of `test_from`, the validation window for those as of `valid_from`. Users
without a list score zero and are counted. Besides the stored strategies it scores `rebuy_then_popularity`, which it composes of two of them.

Where impressions are logged with a position, those of the latest days before `as_of` tell how often each position is looked at
(lib/ranking/position_bias.py), and what users found through an impression counts by the inverse of that in the metrics that end
with `_unbiased`.

`next` asks, for each event after the first of every visit that begins in that window, what comes next given the events so far. The
strategies (lib/next_item) learn here, from the latest visits before `as_of`: on the driver, whose memory their number bounds (the
tables of 200,000 visits of some half a million items take about 1 GB); tasks answer for shards of visits, of all, or where these
have more than `next_judged` such events, of a part, which their ids choose. An item that nobody had learnt can only be named where the visit
holds it already; else it is a miss, which counts. A rerun, a retry or a kill changes nothing.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from math import ceil
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from lib.engines.arrow_tasks import gathered
from lib.engines.spark import SparkRun, start_run
from lib.next_item import asking
from lib.next_item.asking import AskingWork
from lib.next_item.learning import model_at
from lib.next_item.model import BEST, CHOICE_K, NextItemModel
from lib.ranking import judging, position_bias
from lib.ranking.examination import Positions, examination_rows, positions_of
from lib.ranking.judging import ListsWork
from lib.ranking.known_pairs import spread_interactions
from lib.ranking.shown import ItemFacts, with_shown
from lib.settings import JobSettings
from lib.tables import contract
from lib.tables.gold import NEXT

ROWS_PER_SHARD = 3_000_000  # of lists
ASKED_PER_SHARD = 25_000  # events of visits


class EvaluateSettings(JobSettings):
    """The length at which lists are judged, and the bootstrap."""

    k: int = Field(10, ge=1, le=1000, description="ranks of a list that count")
    num_resamples: int = Field(1000, ge=100, le=100_000, description="bootstrap resamples of users")
    num_shards: int | None = Field(
        None,
        ge=1,
        le=100_000,
        description="shards of users; unset: as many as their lists are worth",
    )
    seed: int = Field(0, ge=0, description="seed of the bootstrap")
    next_k: int = Field(
        20, ge=1, le=1000, description="ranks that count for the hit rate and MRR of what comes next in a visit"
    )
    next_visits: int = Field(
        50_000, ge=10, le=5_000_000, description="latest visits before `as_of` from which is learnt what comes next"
    )
    next_judged: int = Field(
        10_000,
        ge=10,
        description="events that are asked for, about; where the window's visits have more, their ids choose among these",
    )
    position_events: int = Field(
        500_000,
        ge=1,
        description="latest events before `as_of`, whole days of them, that tell how often each position is looked at",
    )


def lists_and_positions(
    run: SparkRun, settings: EvaluateSettings, *, split: str
) -> tuple[pa.Table | None, pa.Table | None, str]:
    """The rows about stored lists and about the positions of impressions; None where there is nothing to tell, and of lists the reason."""
    num_lists = 0
    if run.has("gold/recommendations"):
        num_lists = run.lake.num_rows("gold/recommendations", run.version_of("gold/recommendations"))
    num_shards = settings.num_shards or run.num_shards(num_lists, rows_per_shard=ROWS_PER_SHARD)
    positions, why_not = positions_of(
        run,
        "silver/events",
        until=end_of(run, split),
        num_events=settings.position_events,
        rows_per_shard=ROWS_PER_SHARD,
        num_shards=num_shards,
    )
    if positions is None:
        run.log(f"positions are not corrected for: {why_not}")
    lists, why_no_lists = lists_measured(run, settings, split=split, num_shards=num_shards, positions=positions)
    if positions is None:
        return lists, None, why_no_lists
    positions.told.drop()
    return lists, examination_rows(positions, as_of=run.as_of, split=split, seed=settings.seed), why_no_lists


def lists_measured(
    run: SparkRun, settings: EvaluateSettings, *, split: str, num_shards: int, positions: Positions | None
) -> tuple[pa.Table | None, str]:
    """The rows about stored lists; None and the reason where there is nothing to judge."""
    for table in ("gold/recommendations", "gold/interactions"):
        if not run.has(table):
            return None, run.why_missing(table)
    work = ListsWork(
        as_of=run.as_of,
        split=split,
        k=settings.k,
        num_resamples=settings.num_resamples,
        seed=settings.seed,
        num_shards=num_shards,
    )
    known = run.files_of({"": "gold/interactions"}).then(
        spread_interactions,
        columns=judging.READ,
        until=None,
        num_shards=work.num_shards,
        categorical=judging.CATEGORICAL,
    )
    lists = run.files_of({"": "gold/recommendations"}).then(judging.spread_lists, work=work)
    both = known.union(lists) if positions is None else known.union(lists).union(positions.told.of(position_bias.LED))
    parts = both.to_shards(work.num_shards).then(judging.describe, work=work).keep()
    found = parts.of(judging.COUNT, judging.STRATEGY).collected()
    counts, strategies = (gathered(found, kind, judging.GATHERED) for kind in (judging.COUNT, judging.STRATEGY))
    by_item = parts.of(judging.ITEM).to_shards(work.num_shards).then(judging.add_up_items)
    items = gathered(by_item.collected(), judging.ITEM, judging.GATHERED)
    num_asked, num_items = int(counts["num_asked"].sum()), items["item_id"].n_unique()
    if not num_asked:
        return None, f"no user has a {run.mapping.relevance} in the {split} window"
    if strategies.is_empty():
        return None, f"no list is as of {run.as_of:%Y-%m-%d %H:%M}"
    run.log("population", users_and_questions=num_asked, items=num_items)
    described = None
    if run.has("silver/items"):
        described = pl.DataFrame(run.read_arrow("silver/items", ["item_id", "category"]))
    num_led = int(counts["num_led"].sum())
    if positions is not None and num_led:
        work = replace(work, examined=positions.examined)
    elif positions is not None:
        run.log("positions are not corrected for: none that is wanted was found through an impression with a position")
    num_known = int(counts["num_known_users"].sum())
    facts = ItemFacts.of(items, num_known, strategies["strategy"].unique(), described)
    judged = parts.then(judging.judge, facts=run.engine.broadcast(facts), work=work).keep()
    figures = gathered(judged.of(judging.FIGURE).collected(), judging.FIGURE, judging.GATHERED)
    summed = judged.but(judging.FIGURE).to_shards(judging.NUM_SEGMENTS).then(judging.sum_up).collected()
    parts.drop()
    judged.drop()
    summary, covered = (gathered(summed, kind, judging.GATHERED) for kind in (judging.SUMMARY, judging.COVERED))
    rows = with_shown(summary.sort("question", "segment", "strategy", "metric"), figures, covered, num_items=num_items)
    same = {"as_of": run.as_of, "split": split, "k": settings.k, "seed": settings.seed}
    return rows.with_columns(**{name: pl.lit(value) for name, value in same.items()}).to_arrow(), ""


def end_of(run: SparkRun, split: str) -> datetime:
    """Where the window ends."""
    return run.times.test_from if split == "valid" else run.times.end


def next_model(run: SparkRun, settings: EvaluateSettings) -> NextItemModel | None:
    """What is learnt from the visits before `as_of`; None without one."""
    model = model_at(run, "gold/sessions", at_most=settings.next_visits)
    if model is not None and settings.next_k >= len(model.catalogue):
        run.log(
            f"next: a list of {settings.next_k} holds all {len(model.catalogue)} items that are known: most are hits"
        )
    return model


def next_asked(run: SparkRun, *, split: str) -> tuple[int, str]:
    """Events of the window's visits that something can be asked after; none and the reason where there are none."""
    if not run.has("gold/sessions"):
        return 0, run.why_missing("gold/sessions")
    begins = pl.col("started_at").is_between(run.as_of, end_of(run, split), closed="left")
    shape = pl.DataFrame(
        run.read_arrow("gold/sessions", ["started_at", "num_events"], pc.field("started_at") >= run.as_of)
    )
    num_asked = int(shape.filter(begins).select((pl.col("num_events") - 1).sum()).item())
    return num_asked, "" if num_asked else f"no visit of two events begins in the {split} window"


def next_measured(
    run: SparkRun, settings: EvaluateSettings, model: NextItemModel, *, split: str, num_asked: int
) -> pa.Table:
    """The rows about what comes next in a visit, of so many events that can be asked after."""
    num_judged = min(num_asked, settings.next_judged)
    work = AskingWork(
        begin=run.as_of,
        until=end_of(run, split),
        k=settings.next_k,
        ndcg_k=settings.k,
        num_resamples=settings.num_resamples,
        seed=settings.seed,
        num_shards=max(1, min(run.engine.parallelism, num_judged // 2000), ceil(num_judged / ASKED_PER_SHARD)),
        frac=num_judged / num_asked,
    )
    run.log("next: asked", events=num_judged, of_events=num_asked)
    files = run.files_of({asking.SESSION: "gold/sessions"})
    shards = files.then(asking.spread_visits, work=work).to_shards(work.num_shards)
    found = shards.then(asking.judge, model=run.engine.broadcast(model), work=work).collected()
    return next_rows(asking.summed_up(found), model, settings, as_of=run.as_of, split=split)


def next_rows(
    summary: pa.Table, model: NextItemModel, settings: EvaluateSettings, *, as_of: datetime, split: str
) -> pa.Table:
    """What was measured of the question `next`, and by what was chosen, as rows of gold/ranking_metrics."""
    shared = {"as_of": as_of, "split": split, "question": NEXT, "seed": settings.seed}
    rows: list[dict[str, Any]] = [
        {**shared, **row, "k": settings.k if row["metric"].startswith("ndcg") else settings.next_k}
        for row in summary.to_pylist()
    ]
    unmeasured = {"low": None, "high": None, "num_without_list": 0, "num_users": model.num_asked}
    rows += [
        {
            **shared,
            **unmeasured,
            "strategy": name,
            "metric": "choice",
            "k": CHOICE_K,
            "segment": "all",
            "value": found.choice,
        }
        for name, found in (model.held_out | {BEST: model.held_out[model.chosen]} if model.held_out else {}).items()
    ]
    return pa.Table.from_pylist(rows, schema=contract("gold/ranking_metrics").schema)


def main(settings: EvaluateSettings) -> None:
    with start_run("evaluate", settings) as run:
        split = {run.times.valid_from: "valid", run.times.test_from: "test"}.get(run.as_of)
        if split is None:
            run.skip(
                f"no window to judge lists by begins at {run.as_of:%Y-%m-%d %H:%M} (only at valid_from or test_from)"
            )
        num_asked, why_no_next = next_asked(run, split=split)
        with ThreadPoolExecutor(1) as beside:  # what learns of visits needs one core, while tasks judge lists
            learning = beside.submit(next_model, run, settings) if num_asked else None
            of_lists, of_positions, why_no_lists = lists_and_positions(run, settings, split=split)
        model, of_visits = learning.result() if learning else None, None
        if model is not None:
            of_visits = next_measured(run, settings, model, split=split, num_asked=num_asked)
        elif num_asked:
            why_no_next = f"no visit begins before {run.as_of:%Y-%m-%d %H:%M} to learn from"
        if of_lists is None:
            run.log(f"lists are not judged: {why_no_lists}")
        if of_visits is None:
            run.log(f"next is not asked: {why_no_next}")
        rows = [table for table in (of_lists, of_visits, of_positions) if table is not None]
        if not rows:
            run.skip(f"{why_no_lists}; {why_no_next}")
        declared = contract("gold/ranking_metrics").schema
        run.commit_arrow(
            "gold/ranking_metrics", pa.concat_tables(table.select(declared.names).cast(declared) for table in rows)
        )


if __name__ == "__main__":
    main(EvaluateSettings.from_command_line())
