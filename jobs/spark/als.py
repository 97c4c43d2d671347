"""als: gold/interactions -> gold/vectors (model als), ops/models.

Implicit-feedback ALS (Hu, Koren and Volinsky 2008) with MLlib, fitted on all interactions before `as_of`. The score of
a user and an item is the dot product of their factors. A second fit, which ends where the validation window begins, is
what the version is judged by: it becomes the current one only where it is not worse than the one before
(lib/runs/promotion.py), whose factors stay otherwise. A rerun, a retry or a kill changes nothing.
"""

from datetime import datetime
from functools import partial, reduce
from math import ceil

from pydantic import Field
from pyspark.ml.recommendation import ALS
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lib.engines.spark import SparkRun, start_run
from lib.ranking.pairs_of_log import pairs_of_log
from lib.ranking.validation import MAX_USERS, scores_of_vectors
from lib.runs.model_registry import judged
from lib.runs.promotion import PromotionSettings, Row, Scores, settle, validation_from
from lib.settings import JobSettings

MODEL = "als"
PAIRS_PER_BLOCK, MIN_BLOCKS, MAX_BLOCKS = 500_000, 2, 500  # in each sweep every block of users sends to all of items


class AlsSettings(PromotionSettings, JobSettings):
    """Defaults chosen by NDCG@10, over all and over new items, on the validation window of Online Retail."""

    rank: int = Field(64, ge=1, le=1024, description="length of a factor")
    alpha: float = Field(1.0, gt=0, description="confidence added to a pair per unit of strength")
    regularization: float = Field(
        0.1, ge=0, description="lambda; MLlib multiplies it by the number of a user's or item's pairs (ALS-WR)"
    )
    num_iterations: int = Field(8, ge=1, le=100, description="sweeps over users and items")
    num_blocks: int | None = Field(
        None, ge=1, le=10_000, description="blocks of users and of items; unset: by the number of pairs"
    )
    seed: int = Field(0, description="seed of the initial factors")


def strengths(pairs: DataFrame) -> DataFrame:
    """One row per known pair of user and item, with its strength: log(1 + weight).

    The weight is measured in units of the median pair of the log (one view, or one purchase where there are only
    purchases), so the strength does not depend on the scale of the settings' weights, nor on a few unusual pairs.
    """
    median = pairs.agg(F.percentile_approx("weight", 0.5).alias("median"))
    strength = F.log1p(F.col("weight") / F.col("median")).cast("float")
    return pairs.crossJoin(F.broadcast(median)).select("user_key", "item_id", strength.alias("strength"))


def numbered(ids: DataFrame, column: str) -> DataFrame:
    """The distinct ids of `column` with the integers that MLlib needs: `number` from 0, in the order of the ids.

    A range sort orders the ids across partitions; only the number of ids in each partition reaches the driver.
    """
    in_order = ids.select(column).distinct().sort(column).withColumn("place", F.monotonically_increasing_id()).persist()
    partition = F.shiftright("place", 33).cast("int")  # monotonically_increasing_id is partition * 2^33 + row
    sizes = {row["partition"]: row["count"] for row in in_order.groupBy(partition.alias("partition")).count().collect()}
    starts, total = [0], 0
    for index in range(max(sizes, default=0)):
        total += sizes.get(index, 0)
        starts.append(total)
    row_in_partition = F.col("place").bitwiseAND((1 << 33) - 1)
    start = F.get(F.array(*(F.lit(value) for value in starts)), partition)
    return in_order.select(column, (start + row_in_partition).cast("int").alias("number"))


def blocks_for(num_pairs: int) -> int:
    """Blocks of users and of items: MLlib draws the first factors by block, so that no cluster's size may choose them."""
    return min(max(MIN_BLOCKS, ceil(num_pairs / PAIRS_PER_BLOCK)), MAX_BLOCKS)


def factors(preferred: DataFrame, settings: AlsSettings, *, num_blocks: int) -> DataFrame:
    """ALS factors of the users and items in `preferred` (user_key, item_id, strength): kind, id, values (rank,)."""
    users, items = numbered(preferred, "user_key"), numbered(preferred, "item_id")
    ratings = (
        preferred.join(users.withColumnRenamed("number", "user"), on="user_key", how="inner")
        .join(F.broadcast(items.withColumnRenamed("number", "item")), on="item_id", how="inner")
        .select("user", "item", "strength")
    )
    model = ALS(
        rank=settings.rank,
        maxIter=settings.num_iterations,
        regParam=settings.regularization,
        alpha=settings.alpha,
        implicitPrefs=True,
        numUserBlocks=num_blocks,
        numItemBlocks=num_blocks,
        userCol="user",
        itemCol="item",
        ratingCol="strength",
        seed=settings.seed,
    ).fit(ratings)

    def named(vectors: DataFrame, names: DataFrame, column: str, kind: str) -> DataFrame:
        return vectors.join(names, on=vectors["id"] == names["number"], how="inner").select(
            F.lit(kind).alias("kind"), F.col(column).alias("id"), F.col("features").alias("values")
        )

    return named(model.userFactors, users, "user_key", "user").unionByName(
        named(model.itemFactors, items, "item_id", "item")
    )


def fitted(
    run: SparkRun, interactions: DataFrame, settings: AlsSettings, *, version: str, as_of: datetime
) -> DataFrame | None:
    """Rows of gold/vectors: a fit on all interactions before `as_of`; None if there are none."""
    preferred = strengths(pairs_of_log(interactions, as_of=as_of).persist()).persist()
    num_pairs = preferred.count()
    if not num_pairs:
        return None
    vectors = factors(preferred, settings, num_blocks=settings.num_blocks or blocks_for(num_pairs)).persist()
    run.log(f"fitted {version}", as_of=f"{as_of:%Y-%m-%d %H:%M}", pairs=num_pairs, vectors=vectors.count())
    names = {"model": F.lit(MODEL), "version": F.lit(version), "as_of": F.lit(as_of)}
    return vectors.select("kind", "id", "values", *(value.alias(name) for name, value in names.items()))


def wanted_items(interactions: DataFrame, *, start: datetime, end: datetime) -> DataFrame:
    """`user_key` and `items`: what users bought (or what the log counts as relevant) in [start, end); at most MAX_USERS."""
    is_wanted = (F.col("event_time") >= start) & (F.col("event_time") < end) & (F.col("num_relevant") > 0)
    by_user = interactions.where(is_wanted).groupBy("user_key").agg(F.collect_set("item_id").alias("items"))
    return by_user.orderBy("user_key").limit(MAX_USERS)


def scores(run: SparkRun, fit: DataFrame | None, interactions: DataFrame, current: Row) -> Scores:
    """How well this version's fit from before the validation window, and the current version's, find what was wanted."""
    if fit is None:
        return Scores()
    wanted = wanted_items(interactions, start=validation_from(run), end=run.as_of).persist()
    users = wanted.select(F.col("user_key").alias("id"))
    of_users = fit.where(F.col("kind") == "user").join(F.broadcast(users), on="id", how="left_semi")
    looked_at = fit.where(F.col("kind") == "item").unionByName(of_users).select("kind", "id", "values")
    return scores_of_vectors(run.lake, MODEL, looked_at.toArrow(), wanted.toArrow(), current=current["version"])


def stored_fits(run: SparkRun, version: str) -> DataFrame:
    """The rows of gold/vectors, as it is now, of a version of this model."""
    stored = run.spark.read.format("delta").load(run.address("gold/vectors"))
    return stored.where((F.col("model") == MODEL) & F.col("version").isin(version, judged(version)))


def main(settings: AlsSettings) -> None:
    with start_run("als", settings) as run:
        interactions = run.read("gold/interactions")
        served = fitted(run, interactions, settings, version=run.run_id, as_of=run.as_of)
        if served is None:
            run.skip(f"no interaction before {run.as_of:%Y-%m-%d %H:%M}")
        by_valid = fitted(run, interactions, settings, version=judged(run.run_id), as_of=validation_from(run))
        kept = settle(
            run,
            MODEL,
            partial(scores, run, by_valid, interactions),
            max_loss_frac=settings.max_loss_frac,
            folder="gold/vectors",
            num_parameters=served.count() * settings.rank,
        )
        beside = stored_fits(run, kept) if kept and run.lake.exists("gold/vectors") else None
        fits = [served, by_valid, beside]
        rows = reduce(DataFrame.unionByName, (fit for fit in fits if fit is not None))
        run.commit("gold/vectors", rows, where={"model": MODEL})


if __name__ == "__main__":
    main(AlsSettings.from_command_line())
