"""evaluate: gold/recommendations, gold/interactions, gold/sessions, model `sequence` -> gold/ranking_metrics.

Asks three questions, those of which the lake has the tables. `all` and `new` score every strategy's lists against what users did in the
window after `as_of`: the test window for lists as of `test_from`, the validation window for those as of `valid_from`. Users
without a list score zero and are counted. Besides the stored strategies it scores `rebuy_then_popularity`, which it composes of two of them.

`next` asks, for each event after the first of every visit that begins in that window, what comes next given the events so far. The
strategies (lib/next_item) learn here, from the latest visits before `as_of`: on the driver, whose memory their number bounds (the
tables of 200,000 visits of some half a million items take about 1 GB); tasks answer for shards of visits, of all, or where these
have more than `next_judged` such events, of a part, which their ids choose. An item that nobody had learnt can only be named where the visit
holds it already; else it is a miss, which counts. A rerun, a retry or a kill changes nothing.
"""

from datetime import UTC, datetime
from math import ceil
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from lib.engines.spark import SparkRun, spark_schema, start_run
from lib.models import sequence_weights
from lib.next_item import judging
from lib.next_item.judging import JudgingWork
from lib.next_item.model import BEST, CHOICE_K, NextItemModel, SequenceFits
from lib.ranking.evaluation import HEAVY_FROM, SUMMARY_SCHEMA, SUMS_SCHEMA, shard_sums, summarised
from lib.ranking.pairs_of_log import pairs_of_log
from lib.runs import model_registry
from lib.settings import JobSettings
from lib.tables import contract
from lib.tables.gold import NEXT

COMPOSED = "rebuy_then_popularity"
SHOWN = ("coverage", "novelty", "head_exposure", "diversity")  # figures of what lists show, without intervals
HEAD_FRAC = 0.1  # of the items, those that most users knew
USERS_PER_SHARD = 50_000  # at most, each with a question's lists of all strategies
ASKED_PER_SHARD = 25_000  # events of visits


class EvaluateSettings(JobSettings):
    """The length at which lists are judged, and the bootstrap."""

    k: int = Field(10, ge=1, le=1000, description="ranks of a list that count")
    num_resamples: int = Field(1000, ge=100, le=100_000, description="bootstrap resamples of users")
    num_shards: int | None = Field(
        None,
        ge=1,
        le=100_000,
        description="shards of users; unset: four a core of the cluster, and more for many users",
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


def wanted_items(interactions: DataFrame, known: DataFrame, *, split: str) -> DataFrame:
    """One row per question, user and relevant item of the split.

    The question `new` leaves out items that the user knew.
    """
    is_wanted = (F.col("split") == split) & (F.col("num_relevant") > 0)
    wanted = interactions.where(is_wanted).select("user_key", "item_id").distinct()
    new = wanted.join(known, on=["user_key", "item_id"], how="left_anti")
    return wanted.withColumn("question", F.lit("all")).unionByName(new.withColumn("question", F.lit("new")))


def population_of(wanted: DataFrame, known: DataFrame) -> DataFrame:
    """One row per question and user with a wanted item: their number, and how many items the user knew before."""
    returning = known.groupBy("user_key").agg(F.count("*").alias("num_known"))
    users = wanted.groupBy("question", "user_key").agg(F.count("*").alias("num_relevant"))
    return users.join(returning, on="user_key", how="left").select(
        "question", "user_key", "num_relevant", F.coalesce("num_known", F.lit(0)).cast("bigint").alias("num_known")
    )


def judgeable(stored: DataFrame, *, as_of: datetime, k: int) -> DataFrame:
    """The first k ranks of the lists as of this time, and the lists of `rebuy_then_popularity`."""
    is_chosen = (F.col("as_of") == F.lit(as_of)) & (F.col("rank") <= k)
    return with_composed(stored.where(is_chosen).select("strategy", "question", "user_key", "rank", "item_id"), k=k)


def with_composed(lists: DataFrame, *, k: int) -> DataFrame:
    """The lists, and those of `rebuy_then_popularity`: items bought before first, then popular ones, up to k ranks.

    k popular items are always enough: each one that is left out as a duplicate is already in the list.
    """
    own = lists.where(F.col("strategy") == "rebuy").withColumn("part", F.lit(0))
    popular = lists.where(F.col("strategy") == "popularity").withColumn("part", F.lit(1))
    rest = popular.join(own.select("question", "user_key", "item_id"), ["question", "user_key", "item_id"], "left_anti")
    place = F.row_number().over(Window.partitionBy("question", "user_key").orderBy("part", "rank"))
    composed = own.unionByName(rest).withColumn("rank", place).where(F.col("rank") <= k)
    return lists.unionByName(composed.withColumn("strategy", F.lit(COMPOSED)).drop("part"))


def judged_lists(lists: DataFrame, wanted: DataFrame, population: DataFrame) -> DataFrame:
    """One row per question, strategy and user of the population: `hit_ranks`, the ranks that hold a wanted item.

    Null if the strategy has no list for the user, who stays in the population and scores zero.
    """
    is_hit = F.col("is_wanted").isNotNull()
    found = lists.join(wanted.withColumn("is_wanted", F.lit(True)), ["question", "user_key", "item_id"], "left")
    hits = found.groupBy("question", "strategy", "user_key").agg(
        F.sort_array(F.collect_list(F.when(is_hit, F.col("rank")))).alias("hit_ranks")
    )
    strategies = lists.select("strategy").distinct()
    everyone = population.crossJoin(F.broadcast(strategies))
    return everyone.join(hits, on=["question", "strategy", "user_key"], how="left").select(
        "question", "strategy", "user_key", "num_known", "num_relevant", "hit_ranks"
    )


def item_facts(known: DataFrame, described: DataFrame | None) -> DataFrame:
    """One row an item that somebody knew, with what its place in a list is worth.

    `surprise`: -log2 of the share of users who knew it. `is_head`: whether it is of the tenth that most users knew, ties with its
    last among them. `tag`: its category, null where the log tells none.
    """
    num_users = known.select("user_key").distinct().count()
    counted = known.groupBy("item_id").agg(F.count("*").alias("num_users"))
    head_from = counted.agg(F.percentile_approx("num_users", 1 - HEAD_FRAC).alias("head_from"))
    facts = counted.crossJoin(F.broadcast(head_from)).select(
        "item_id",
        (-F.log2(F.col("num_users") / num_users)).alias("surprise"),
        (F.col("num_users") >= F.col("head_from")).alias("is_head"),
    )
    if described is None:
        return facts.withColumn("tag", F.lit(None).cast("string"))
    path = F.when(F.size("category") > 0, F.concat_ws("\x1f", "category")).alias("tag")
    return facts.join(described.select("item_id", path), on="item_id", how="left")


def shown_figures(lists: DataFrame, population: DataFrame, facts: DataFrame, *, num_items: int) -> DataFrame:
    """One row per question, segment, strategy and figure of what its lists show the segment's users.

    `coverage`: the share of items that are in a list. `novelty`: the mean surprise of a place, in bits. `head_exposure`: the share of
    places that the tenth of items gets which most users knew. `diversity`: the mean over users of a list's categories by
    its items, of those with a category; null where there are none.
    """
    is_heavy, is_known = F.col("num_known") >= HEAVY_FROM, F.col("num_known") > 0
    ways = F.array(
        F.lit("all"),
        F.when(is_known, "returning").otherwise("unseen"),
        F.when(is_heavy, "heavy").when(is_known, "light"),
    )
    segment = F.explode(F.array_compact(ways)).alias("segment")
    shown = lists.join(population, on=["question", "user_key"], how="inner").join(facts, on="item_id", how="left")
    shown = shown.select("question", "strategy", "user_key", "item_id", "surprise", "is_head", "tag", segment)
    key = ["question", "segment", "strategy"]
    of_users = shown.groupBy(*key, "user_key").agg(
        F.try_divide(F.count_distinct("tag"), F.count("tag")).alias("variety")
    )
    diversity = of_users.groupBy(*key).agg(F.mean("variety").alias("diversity"))
    figures = shown.groupBy(*key).agg(
        (F.count_distinct("item_id") / num_items).alias("coverage"),
        F.mean("surprise").alias("novelty"),
        F.mean(F.col("is_head").cast("double")).alias("head_exposure"),
    )
    return figures.join(diversity, on=key, how="left").unpivot(
        [*map(F.col, key)], [*map(F.col, SHOWN)], "metric", "value"
    )


def measured(judged: DataFrame, settings: EvaluateSettings, *, num_shards: int) -> DataFrame:
    """Value and interval of every metric of every strategy: tasks sum shards of users, others add up a question's segment."""
    k, num_resamples, seed = (
        settings.k,
        settings.num_resamples,
        settings.seed,
    )  # executors do not know the settings' class

    def sums(shard: pa.Table) -> pa.Table:
        return shard_sums(shard, k=k, num_resamples=num_resamples, seed=seed)

    user_hash = F.xxhash64("user_key")
    shard = F.pmod(user_hash, F.lit(num_shards)).cast("int")
    sharded = judged.select("*", user_hash.alias("user_hash"), shard.alias("shard"))
    of_shards = sharded.groupBy("shard").applyInArrow(sums, schema=spark_schema(SUMS_SCHEMA))
    by_segment = of_shards.groupBy("question", "segment")
    return by_segment.applyInArrow(summarised, schema=spark_schema(SUMMARY_SCHEMA)).persist()


def with_shown(metrics: DataFrame, figures: DataFrame) -> DataFrame:
    """The metrics, and a row for each figure of what is shown; coverage is zero if no user of the segment has a list."""
    each = metrics.select("question", "segment", "strategy", "num_users", "num_without_list").distinct()
    every = each.withColumn("metric", F.explode(F.array(*map(F.lit, SHOWN))))
    rows = every.join(figures, on=["question", "segment", "strategy", "metric"], how="left")
    is_covered = (F.col("num_users") > 0) & (F.col("metric") == "coverage")
    value = F.when(is_covered, F.coalesce("value", F.lit(0.0))).otherwise(F.col("value")).alias("value")
    unknown = F.lit(None).cast("double")
    return metrics.unionByName(rows.select(*each.columns, "metric", value, unknown.alias("low"), unknown.alias("high")))


def metric_rows(metrics: DataFrame, settings: EvaluateSettings, *, as_of: datetime, split: str) -> DataFrame:
    """Metrics as rows of gold/ranking_metrics."""
    return metrics.select(
        F.lit(as_of).alias("as_of"),
        F.lit(split).alias("split"),
        "question",
        "strategy",
        "metric",
        F.lit(settings.k).alias("k"),
        "segment",
        "value",
        "low",
        "high",
        "num_users",
        "num_without_list",
        F.lit(settings.seed).cast("bigint").alias("seed"),
    )


def lists_measured(run: SparkRun, settings: EvaluateSettings, *, split: str) -> tuple[pa.Table | None, str]:
    """The rows about stored lists; None and the reason where there is nothing to judge."""
    for table in ("gold/recommendations", "gold/interactions"):
        if not run.has(table):
            return None, run.why_missing(table)
    stored = run.read("gold/recommendations")
    lists = judgeable(stored, as_of=run.as_of, k=settings.k).persist()
    interactions = run.read("gold/interactions")
    known = pairs_of_log(interactions, as_of=run.as_of).persist()
    wanted = wanted_items(interactions, known, split=split).persist()
    population = population_of(wanted, known).persist()
    num_users, num_items = population.count(), known.select("item_id").distinct().count()
    if not num_users:
        return None, f"no user has a {run.mapping.relevance} in the {split} window"
    run.log("population", users_and_questions=num_users, items=num_items)
    num_shards = settings.num_shards or max(4 * run.num_cores, ceil(num_users / USERS_PER_SHARD))
    metrics = measured(judged_lists(lists, wanted, population), settings, num_shards=num_shards)
    facts = item_facts(known, run.read("silver/items") if run.has("silver/items") else None)
    figures = shown_figures(lists, population, facts, num_items=num_items)
    return metric_rows(with_shown(metrics, figures), settings, as_of=run.as_of, split=split).toArrow(), ""


def visits_before(run: SparkRun, *, at_most: int) -> pl.DataFrame:
    """The latest visits that began before `as_of`, the oldest first: started_at and the items until then."""
    days, rows = run.lake.rows_by_partition("gold/sessions", "event_date", run.version_of("gold/sessions")), 0
    last = run.as_of.astimezone(UTC).date()
    first = last
    for day in sorted((day for day in days if day <= last), reverse=True):
        first, rows = day, rows + days[day]
        if rows >= at_most + days.get(last, 0):
            break
    is_learnt = (pc.field("event_date") >= first) & (pc.field("started_at") < run.as_of)
    columns = ["session_id", "started_at", "items", "event_times"]
    stored = pl.DataFrame(run.read_arrow("gold/sessions", columns, is_learnt))
    return judging.cut(stored, run.as_of).sort("started_at", "session_id").tail(at_most).select("started_at", "items")


def sequence_fits(run: SparkRun) -> SequenceFits | None:
    """Both fits of the latest sequence model that used nothing from `as_of` on and is no candidate; None without one."""
    found = [row for row in model_registry.models(run.lake) if row["model"] == "sequence" and row["as_of"] is not None]
    usable = [row for row in found if row["as_of"] <= run.as_of and row["status"] != "candidate"]
    if not usable:
        return None
    row = max(usable, key=lambda row: (row["as_of"], row["created_at"]))
    folder = run.lake.local(row["uri"])
    fits = (model_registry.judged("sequence"), "sequence")
    try:
        return SequenceFits(*(sequence_weights.load(folder, fit) for fit in fits))
    except sequence_weights.UNREADABLE as error:
        run.log(f"next: {row['version']} of the sequence model left out", why=f"{type(error).__name__}: {error}")
        return None


def next_model(run: SparkRun, settings: EvaluateSettings) -> NextItemModel | None:
    """What is learnt from the visits before `as_of`, those of a window as long as the validation window to choose by; None without one."""
    visits = visits_before(run, at_most=settings.next_visits)
    if visits.is_empty():
        return None
    num_valid = visits.filter(pl.col("started_at") >= run.as_of - (run.times.test_from - run.times.valid_from)).height
    can_choose = 0 < num_valid < visits.height  # else the last of the visits do
    sequence = sequence_fits(run) if can_choose else None  # whose first fit knows the visits before a window
    model = NextItemModel.fit(visits["items"], num_valid=num_valid if can_choose else None, sequence=sequence)
    held_out = model.held_out.get(model.chosen)
    run.log(
        "next: learnt",
        visits=visits.height,
        items=len(model.catalogue),
        best=model.chosen,
        **(held_out._asdict() if held_out else {}),
        asked_to_choose=model.num_asked,
    )
    if settings.next_k >= len(model.catalogue):
        run.log(
            f"next: a list of {settings.next_k} holds all {len(model.catalogue)} items that are known: most are hits"
        )
    return model


def next_measured(run: SparkRun, settings: EvaluateSettings, *, split: str) -> tuple[pa.Table | None, str]:
    """The rows about what comes next in a visit; None and the reason where nothing can be asked."""
    if not run.has("gold/sessions"):
        return None, run.why_missing("gold/sessions")
    until = run.times.test_from if split == "valid" else run.times.end
    begins = pl.col("started_at").is_between(run.as_of, until, closed="left")
    shape = pl.DataFrame(
        run.read_arrow("gold/sessions", ["started_at", "num_events"], pc.field("started_at") >= run.as_of)
    )
    num_asked = int(shape.filter(begins).select((pl.col("num_events") - 1).sum()).item())
    if not num_asked:
        return None, f"no visit of two events begins in the {split} window"
    model = next_model(run, settings)
    if model is None:
        return None, f"no visit begins before {run.as_of:%Y-%m-%d %H:%M} to learn from"
    num_judged = min(num_asked, settings.next_judged)
    work = JudgingWork(
        begin=run.as_of,
        until=until,
        k=settings.next_k,
        ndcg_k=settings.k,
        num_resamples=settings.num_resamples,
        seed=settings.seed,
        num_shards=max(1, min(run.engine.parallelism, num_judged // 2000), ceil(num_judged / ASKED_PER_SHARD)),
        frac=num_judged / num_asked,
    )
    run.log("next: asked", events=num_judged, of_events=num_asked)
    files = run.files_of({judging.SESSION: "gold/sessions"})
    shards = files.then(judging.spread_visits, work=work).to_shards(work.num_shards)
    found = shards.then(judging.judge, model=run.engine.broadcast(model), work=work).collected()
    return next_rows(judging.summed_up(found), model, settings, as_of=run.as_of, split=split), ""


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
        of_lists, why_no_lists = lists_measured(run, settings, split=split)
        if of_lists is None:
            run.log(f"lists are not judged: {why_no_lists}")
        of_visits, why_no_next = next_measured(run, settings, split=split)
        if of_visits is None:
            run.log(f"next is not asked: {why_no_next}")
        rows = [table for table in (of_lists, of_visits) if table is not None]
        if not rows:
            run.skip(f"{why_no_lists}; {why_no_next}")
        declared = contract("gold/ranking_metrics").schema
        run.commit_arrow(
            "gold/ranking_metrics", pa.concat_tables(table.select(declared.names).cast(declared) for table in rows)
        )


if __name__ == "__main__":
    main(EvaluateSettings.from_command_line())
