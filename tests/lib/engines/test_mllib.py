"""ALS by MLlib: its integers, its strengths and its blocks. The job by this engine is tested with the job."""

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lib.engines import mllib
from lib.engines.spark import session
from lib.settings import JobSettings


class AlsSettings(JobSettings):
    """Stands for als's."""


@pytest.fixture(scope="module")
def spark() -> SparkSession:
    return session(AlsSettings(cluster={"driver_memory": "1g"}))


def weighed(spark: SparkSession, *rows: tuple[str, str, float]) -> DataFrame:
    given = [(*row, 1.0) for row in rows]
    return spark.createDataFrame(given, "user_key string, item_id string, weight double, recent double")


def test_a_strength_is_the_log_of_the_weight_in_units_of_the_median_pair(spark: SparkSession) -> None:
    found = mllib.strengths(weighed(spark, ("ann", "a", 5.0), ("ann", "b", 15.0), ("bob", "a", 5.0)))
    assert [(f.name, f.dataType.simpleString()) for f in found.schema] == [
        ("user_key", "string"),
        ("item_id", "string"),
        ("strength", "float"),
    ]
    strengths = {(row.user_key, row.item_id): row.strength for row in found.collect()}
    assert strengths == pytest.approx({("ann", "a"): np.log(2), ("ann", "b"): np.log(4), ("bob", "a"): np.log(2)})


def test_what_is_left_of_a_weight_counts_and_the_median_is_of_whole_weights(spark: SparkSession) -> None:
    pairs = weighed(spark, ("ann", "a", 5.0), ("bob", "a", 5.0)).withColumn("recent", F.lit(0.5))
    assert [row.strength for row in mllib.strengths(pairs).collect()] == pytest.approx([np.log(1.5)] * 2)


@pytest.mark.parametrize("outlier", [0.001, 1000.0])
def test_one_unusual_pair_does_not_rescale_the_others(spark: SparkSession, outlier: float) -> None:
    usual = [("ann", "a", 1.0), ("ann", "b", 1.0), ("bob", "a", 1.0), ("bob", "b", 3.0)]
    without, beside = (mllib.strengths(weighed(spark, *rows)) for rows in (usual, [*usual, ("eve", "c", outlier)]))
    found = {(row.user_key, row.item_id): row.strength for row in beside.where("user_key != 'eve'").collect()}
    assert found == {(row.user_key, row.item_id): row.strength for row in without.collect()}
    assert found["bob", "b"] == pytest.approx(np.log(4))


@pytest.mark.slow
@pytest.mark.parametrize("num_partitions", [1, 5])
def test_ids_are_numbered_in_their_order_whatever_the_partitions(spark: SparkSession, num_partitions: int) -> None:
    names = [f"user{number:03}" for number in range(40)]
    shuffled = [names[(7 * i) % 40] for i in range(80)]  # each twice
    frame = spark.createDataFrame([(name,) for name in shuffled], "id string").repartition(num_partitions)
    spark.conf.set("spark.sql.adaptive.enabled", "false")  # else a sort of so few rows is one partition
    try:
        found = mllib.numbered(frame, "id").collect()
    finally:
        spark.conf.unset("spark.sql.adaptive.enabled")
    assert sorted((row["id"], row["number"]) for row in found) == [(name, i) for i, name in enumerate(names)]


def test_nothing_has_no_numbers(spark: SparkSession) -> None:
    assert mllib.numbered(spark.createDataFrame([], "id string"), "id").count() == 0


@pytest.mark.parametrize(
    ("num_pairs", "expected"), [(1, 2), (1_000_000, 2), (1_000_001, 3), (100_000_000, 200), (10**10, 500)]
)
def test_the_blocks_follow_the_pairs_and_no_cluster(num_pairs: int, expected: int) -> None:
    assert mllib.blocks_for(num_pairs) == expected
