"""evaluate: gold/recommendations, gold/interactions -> gold/ranking_metrics.

Scores every strategy's lists against what users did in the window after `as_of`: the test window for lists as of
`test_from`, the validation window for those as of `valid_from`. Users without a list score zero and are counted.
Besides the stored strategies it scores `rebuy_then_popularity`, which it composes of two of them. A rerun, a retry or a
kill changes nothing.
"""

from datetime import datetime
from math import ceil

import pyarrow as pa
from pydantic import Field
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from lib.engines.spark import spark_schema, start_run
from lib.ranking.evaluation import SUMMARY_SCHEMA, SUMS_SCHEMA, shard_sums, summarised
from lib.ranking.pairs_of_log import pairs_of_log
from lib.settings import JobSettings

COMPOSED = "rebuy_then_popularity"
USERS_PER_SHARD = 50_000  # at most, each with a question's lists of all strategies


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


def wanted_items(interactions: DataFrame, known: DataFrame, *, split: str) -> DataFrame:
    """One row per question, user and relevant item of the split.

    The question `new` leaves out items that the user knew.
    """
    is_wanted = (F.col("split") == split) & (F.col("num_relevant") > 0)
    wanted = interactions.where(is_wanted).select("user_key", "item_id").distinct()
    new = wanted.join(known, on=["user_key", "item_id"], how="left_anti")
    return wanted.withColumn("question", F.lit("all")).unionByName(new.withColumn("question", F.lit("new")))


def population_of(wanted: DataFrame, known: DataFrame) -> DataFrame:
    """One row per question and user with a wanted item: their number, and whether the user was known before."""
    returning = known.select("user_key").distinct().withColumn("was_known", F.lit(True))
    users = wanted.groupBy("question", "user_key").agg(F.count("*").alias("num_relevant"))
    return users.join(returning, on="user_key", how="left").select(
        "question", "user_key", "num_relevant", F.coalesce("was_known", F.lit(False)).alias("is_returning")
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
        "question", "strategy", "user_key", "is_returning", "num_relevant", "hit_ranks"
    )


def coverages(lists: DataFrame, population: DataFrame, *, num_items: int) -> DataFrame:
    """One row per question, segment and strategy: the share of items that are in a list of some user of the segment."""
    segment = F.explode(F.array(F.lit("all"), F.when(F.col("is_returning"), "returning").otherwise("unseen"))).alias(
        "segment"
    )
    shown = lists.join(population, on=["question", "user_key"], how="inner")
    return (
        shown.select("question", "strategy", "item_id", segment)
        .groupBy("question", "segment", "strategy")
        .agg((F.count_distinct("item_id") / num_items).alias("coverage"))
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


def with_coverage(metrics: DataFrame, covered: DataFrame) -> DataFrame:
    """The metrics, and a row `coverage` for each strategy and segment; zero if no user of the segment has a list."""
    each = metrics.select("question", "segment", "strategy", "num_users", "num_without_list").distinct()
    rows = each.join(covered, on=["question", "segment", "strategy"], how="left")
    value = F.when(F.col("num_users") > 0, F.coalesce("coverage", F.lit(0.0))).alias("value")
    unknown = F.lit(None).cast("double")
    return metrics.unionByName(
        rows.select("*", F.lit("coverage").alias("metric"), value, unknown.alias("low"), unknown.alias("high")).drop(
            "coverage"
        )
    )


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


def main(settings: EvaluateSettings) -> None:
    with start_run("evaluate", settings) as run:
        split = {run.times.valid_from: "valid", run.times.test_from: "test"}.get(run.as_of)
        if split is None:
            run.skip(
                f"no window to judge lists by begins at {run.as_of:%Y-%m-%d %H:%M} (only at valid_from or test_from)"
            )
        stored = run.read("gold/recommendations")
        lists = judgeable(stored, as_of=run.as_of, k=settings.k).persist()
        interactions = run.read("gold/interactions")
        known = pairs_of_log(interactions, as_of=run.as_of).persist()
        wanted = wanted_items(interactions, known, split=split).persist()
        population = population_of(wanted, known).persist()
        num_users, num_items = population.count(), known.select("item_id").distinct().count()
        if not num_users:
            run.skip(f"no user has a {run.mapping.relevance} in the {split} window")
        run.log("population", users_and_questions=num_users, items=num_items)
        num_shards = settings.num_shards or max(4 * run.num_cores, ceil(num_users / USERS_PER_SHARD))
        metrics = measured(judged_lists(lists, wanted, population), settings, num_shards=num_shards)
        covered = coverages(lists, population, num_items=num_items)
        rows = metric_rows(with_coverage(metrics, covered), settings, as_of=run.as_of, split=split)
        run.commit("gold/ranking_metrics", rows)


if __name__ == "__main__":
    main(EvaluateSettings.from_command_line())
