"""ALS by Spark's MLlib: the reference beside the blocked engine (lib/ranking/als_fit.py), from the same pairs to the same table."""

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, partial
from math import ceil

from deltalake.transaction import AddAction
from pyspark.ml.recommendation import ALS
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lib.engines.arrow_tasks import write_rows
from lib.engines.parts import files_written
from lib.engines.spark import SparkParts, SparkRun, conform, over_shards
from lib.ranking.als_fit import Hyperparameters
from lib.ranking.als_tasks import PAIRS, VECTORS, weighed_pairs
from lib.tables import contract

PAIRS_PER_BLOCK, MIN_BLOCKS, MAX_BLOCKS = 500_000, 2, 500  # in each sweep every block of users sends to all of items


def strengths(pairs: DataFrame) -> DataFrame:
    """One row per known pair of user and item, with its strength: log(1 + weight * recent).

    The weight is measured in units of the median pair of the log (one view, or one purchase where there are only
    purchases), so the strength does not depend on the scale of the settings' weights, nor on a few unusual pairs.
    """
    median = pairs.agg(F.percentile_approx("weight", 0.5).alias("median"))
    strength = F.log1p(F.col("weight") * F.col("recent") / F.col("median")).cast("float")
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


def factors(
    preferred: DataFrame, wanted: Hyperparameters, *, num_iterations: int, num_blocks: int, seed: int
) -> DataFrame:
    """ALS factors of the users and items in `preferred` (user_key, item_id, strength): kind, id, values (rank,)."""
    users, items = numbered(preferred, "user_key"), numbered(preferred, "item_id")
    ratings = (
        preferred.join(users.withColumnRenamed("number", "user"), on="user_key", how="inner")
        .join(F.broadcast(items.withColumnRenamed("number", "item")), on="item_id", how="inner")
        .select("user", "item", "strength")
    )
    model = ALS(
        rank=wanted.rank,
        maxIter=num_iterations,
        regParam=wanted.regularization,
        alpha=wanted.alpha,
        implicitPrefs=True,
        numUserBlocks=num_blocks,
        numItemBlocks=num_blocks,
        userCol="user",
        itemCol="item",
        ratingCol="strength",
        seed=seed,
    ).fit(ratings)

    def named(vectors: DataFrame, names: DataFrame, column: str, kind: str) -> DataFrame:
        return vectors.join(names, on=vectors["id"] == names["number"], how="inner").select(
            F.lit(kind).alias("kind"), F.col(column).alias("id"), F.col("features").alias("values")
        )

    return named(model.userFactors, users, "user_key", "user").unionByName(
        named(model.itemFactors, items, "item_id", "item")
    )


@dataclass
class MllibFits:
    """Fits of one run, all over the same interactions."""

    run: SparkRun
    model: str
    num_sweeps: int
    num_blocks: int | None  # None: by the number of pairs
    seed: int

    @cached_property
    def interactions(self) -> DataFrame:
        return self.run.read("gold/interactions")

    def fit(
        self, version: str, as_of: datetime, wanted: Hyperparameters, *, start: str | None = None, sweeps: int = 0
    ) -> list[AddAction] | None:
        """The files of gold/vectors with a fit on all interactions before `as_of`, not yet committed; None if there are none.

        MLlib always begins from numbers that it draws: `start` and `sweeps` mean nothing to it.
        """
        weigh = partial(weighed_pairs, as_of=as_of, half_life_days=wanted.half_life_days)
        pairs = over_shards(self.interactions.repartition("user_key"), weigh, PAIRS).persist()
        preferred = strengths(pairs).persist()
        num_pairs = preferred.count()
        if not num_pairs:
            return None
        num_blocks = self.num_blocks or blocks_for(num_pairs)
        vectors = factors(preferred, wanted, num_iterations=self.num_sweeps, num_blocks=num_blocks, seed=self.seed)
        names = {"model": F.lit(self.model), "version": F.lit(version), "as_of": F.lit(as_of)}
        rows = vectors.select("kind", "id", "values", *(value.alias(name) for name, value in names.items()))
        table = contract(VECTORS)
        files = files_written(
            SparkParts(conform(table, rows)).then(write_rows, lake=self.run.lake.absolute(), table=table)
        )
        preferred.unpersist()
        pairs.unpersist()
        self.run.log(f"fitted {version}", as_of=f"{as_of:%Y-%m-%d %H:%M}", pairs=num_pairs, by="mllib")
        return files

    def drop_checkpoints(self) -> None:
        """It leaves none."""
