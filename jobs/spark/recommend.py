"""recommend: gold/interactions, gold/vectors, silver/items -> gold/recommendations.

Makes the list of every user by every strategy (lib/ranking/strategies.py) for both questions: `all` ranks every item,
`new` those that the user had not interacted with before `as_of`. Items are those that someone had interacted with
before `as_of`; users are all in gold/interactions (of one who first appears later, only the key is used). A strategy
that knows nothing about a user gives no list, and rebuy gives none of new items. A rerun, a retry or a kill changes
nothing.

Users are rows in Spark, with their own items, in shards; a task ranks the users of a shard in Arrow batches. The catalogue
and item vectors are sent to every task; of the neighbours it gets those of its users' items.
"""

from collections.abc import Collection
from datetime import datetime
from functools import partial, reduce
from math import ceil

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lib.engines.spark import spark_schema, start_run
from lib.ranking import strategies
from lib.ranking.neighbours import (
    BLOCK_SCHEMA,
    NEIGHBOUR_SCHEMA,
    OWNED_SCHEMA,
    cosine_neighbours,
    owned_positions,
    shard_blocks,
    similarity_matrix,
)
from lib.ranking.pairs_of_log import pairs_of_log
from lib.ranking.strategies import LIST_SCHEMA, Catalogue
from lib.ranking.topk import vectors
from lib.runs import model_registry
from lib.settings import JobSettings

OWN_ITEMS_PER_SHARD = 200_000  # of all users of a shard; the neighbours of these must fit in a task's memory
MODELS = {"als": "close to your taste (ALS)", "two_tower": "close to your taste (two towers)"}


class RecommendSettings(JobSettings):
    """The length of the lists, and the limits of item-to-item."""

    list_length: int = Field(10, ge=1, le=1000, description="items in a list")
    num_neighbours: int = Field(100, ge=2, description="neighbours kept per item, including the item itself")
    min_support: int = Field(
        3,
        ge=1,
        description="distinct users who must have both items of a pair of neighbours (`often together with`); a reason tells "
        "of no fewer buyers",
    )
    max_items_per_user: int = Field(
        2000, ge=2, description="latest own items of a user used to count neighbours; bounds the pairs per user"
    )
    items_per_block: int = Field(512, ge=1, description="items whose neighbours a task finds at a time")


def histories(interactions: DataFrame, pairs: DataFrame) -> DataFrame:
    """One row per user of the log: own items, latest first, and how often each was bought.

    Empty lists if none are known.
    """
    latest_first = F.struct((-F.unix_micros("last_time")).alias("age"), "item_id", "num_relevant")
    own = pairs.groupBy("user_key").agg(F.sort_array(F.collect_list(latest_first)).alias("own"))
    users = interactions.select("user_key").distinct()
    return users.join(own, on="user_key", how="left").select(
        "user_key",
        F.coalesce(F.col("own.item_id"), F.array().cast("array<string>")).alias("items"),
        F.coalesce(F.col("own.num_relevant"), F.array().cast("array<bigint>")).alias("num_relevant"),
    )


def catalogue_of(pairs: DataFrame, titles: DataFrame | None) -> tuple[Catalogue, NDArray[np.float64]]:
    """The items of the pairs, and for each the number of users who have it; both are as large as the catalogue."""
    is_buyer = F.col("num_relevant") > 0
    counts = pairs.groupBy("item_id").agg(F.count_if(is_buyer).alias("num_buyers"), F.count("*").alias("num_users"))
    titled = counts.withColumn("title", F.lit(None).cast("string"))
    if titles is not None:
        titled = counts.join(titles.select("item_id", "title"), on="item_id", how="left")
    name = F.coalesce("title", "item_id").alias("name")
    items = titled.select("item_id", name, "num_buyers", "num_users").toArrow().sort_by("item_id")
    item_ids, names, num_buyers, num_users = (items[column].combine_chunks() for column in items.schema.names)
    return Catalogue(item_ids, names, num_buyers.to_numpy().astype(float)), num_users.to_numpy().astype(float)


def sharded(users: DataFrame, *, num_shards: int) -> DataFrame:
    """The users in a partition each `shard`."""
    shard = F.pmod(F.xxhash64("user_key"), F.lit(num_shards)).cast("int")
    return users.withColumn("shard", shard).repartitionById(num_shards, "shard")


def neighbours_of_items(
    users: DataFrame, catalogue: Catalogue, settings: RecommendSettings, *, num_users: NDArray[np.float64]
) -> DataFrame:
    """Each item's nearest neighbours by cosine: Gram matrices of shards of users, combined by block of items."""
    latest = users.select(F.slice("items", 1, settings.max_items_per_user).alias("items"))
    shard = partial(shard_blocks, item_ids=catalogue.item_ids, items_per_block=settings.items_per_block)
    # A task takes numbers, not the settings: executors do not know their class.
    num_neighbours, min_support = settings.num_neighbours, settings.min_support

    def nearest(block: pa.Table) -> pa.Table:
        return cosine_neighbours(block, num_users=num_users, num_neighbours=num_neighbours, min_support=min_support)

    blocks = latest.mapInArrow(shard, schema=spark_schema(BLOCK_SCHEMA))
    return blocks.groupBy("block").applyInArrow(nearest, schema=spark_schema(NEIGHBOUR_SCHEMA))


def counting_lists(
    users: DataFrame, catalogue: Catalogue, *, k: int, verb: str, min_support: int
) -> dict[str, DataFrame]:
    """The lists of the strategies that count purchases: popularity and rebuy."""
    ranking = {
        "popularity": partial(strategies.popularity, catalogue=catalogue, k=k, verb=verb, min_support=min_support),
        "rebuy": partial(strategies.rebuy, catalogue=catalogue, k=k, verb=verb),
    }
    return {name: users.mapInArrow(rank, schema=spark_schema(LIST_SCHEMA)) for name, rank in ranking.items()}


def neighbour_lists(users: DataFrame, neighbours: DataFrame, catalogue: Catalogue, *, k: int) -> DataFrame:
    """The lists of item-to-item: each shard of users meets the neighbours of the items that its users have."""
    positions = partial(owned_positions, item_ids=catalogue.item_ids)
    owned = users.select("shard", "items").mapInArrow(positions, schema=spark_schema(OWNED_SCHEMA)).distinct()
    near = owned.join(neighbours, on="item", how="inner")

    def rank(shard: pa.Table, near: pa.Table) -> pa.Table:
        similarity = similarity_matrix(near, len(catalogue.item_ids))
        lists = strategies.item_to_item(shard.to_batches(), catalogue=catalogue, similarity=similarity, k=k)
        return pa.Table.from_batches(lists, LIST_SCHEMA)

    of_shards = users.groupBy("shard").cogroup(near.groupBy("shard"))
    return of_shards.applyInArrow(rank, schema=spark_schema(LIST_SCHEMA))


def vector_lists(rows: DataFrame, users: DataFrame, catalogue: Catalogue, *, k: int, reason: str) -> DataFrame:
    """Lists by the vectors of one version of a model (rows of gold/vectors), of items in the catalogue."""
    items = rows.where(F.col("kind") == "item").select("id", "values").toArrow()
    position = pc.index_in(items["id"], value_set=catalogue.item_ids)
    items = items.append_column("position", position).filter(pc.is_valid(position)).sort_by("position").combine_chunks()
    rank = partial(
        strategies.by_vectors,
        catalogue=catalogue.take(items["position"].to_numpy().astype(np.int64)),
        item_vectors=vectors(items["values"].combine_chunks()),
        k=k,
        reason=reason,
    )
    user_vectors = rows.where(F.col("kind") == "user").select(F.col("id").alias("user_key"), "values")
    return users.join(user_vectors, on="user_key", how="inner").mapInArrow(rank, schema=spark_schema(LIST_SCHEMA))


def version_of(stored: DataFrame, model: str, *, as_of: datetime, candidates: Collection[str]) -> str | None:
    """The latest fit of a model's vectors that used nothing after `as_of` and is no candidate; None if there is none.

    That is the current version's, and for an earlier `as_of` the one that was made for it.
    """
    is_usable = (F.col("as_of") <= as_of) & ~F.col("version").isin(*candidates)
    fits = stored.where((F.col("model") == model) & (F.col("kind") == "item") & is_usable)
    latest = fits.agg(F.max_by("version", F.struct("as_of", "version")).alias("version")).first()
    return latest["version"] if latest else None


def named(lists: DataFrame, *, as_of: datetime, strategy: str, version: str | None = None) -> DataFrame:
    """Lists of one strategy as rows of gold/recommendations; a strategy with a version is named after its model."""
    return lists.select(
        F.lit(as_of).alias("as_of"),
        F.lit(strategy).alias("strategy"),
        "question",
        "user_key",
        "rank",
        "item_id",
        "score",
        "reason",
        F.lit(strategy if version else None).cast("string").alias("model"),
        F.lit(version).cast("string").alias("version"),
    )


def main(settings: RecommendSettings) -> None:
    with start_run("recommend", settings) as run:
        interactions = run.read("gold/interactions")
        pairs = pairs_of_log(interactions, as_of=run.as_of).persist()
        catalogue, num_users = catalogue_of(pairs, run.read("silver/items") if run.has("silver/items") else None)
        if not len(catalogue.item_ids):
            run.skip(f"no interaction before {run.as_of:%Y-%m-%d %H:%M}")
        # The lists take most of the time, in Python, so there is at least one task per core.
        num_shards = max(run.spark.sparkContext.defaultParallelism, ceil(pairs.count() / OWN_ITEMS_PER_SHARD))
        users = sharded(histories(interactions, pairs), num_shards=num_shards).persist()
        run.log("histories", users=users.count(), items=len(catalogue.item_ids), shards=num_shards)

        neighbours = neighbours_of_items(users, catalogue, settings, num_users=num_users).persist()
        run.log("neighbours", pairs=neighbours.count())
        k, verb = settings.list_length, strategies.VERBS.get(run.mapping.relevance, "chosen")
        ranked_by = counting_lists(users, catalogue, k=k, verb=verb, min_support=settings.min_support)
        ranked_by["item_to_item"] = neighbour_lists(users, neighbours, catalogue, k=k)
        lists = [named(ranked, as_of=run.as_of, strategy=strategy) for strategy, ranked in ranked_by.items()]
        stored = run.read_or_empty("gold/vectors")
        for model, reason in MODELS.items():
            candidates = model_registry.candidates(run.lake, model)
            version = version_of(stored, model, as_of=run.as_of, candidates=candidates)
            if version is None:
                run.log(f"{model} left out", why=f"no {model} vectors as of {run.as_of:%Y-%m-%d %H:%M} or before")
                continue
            rows = stored.where((F.col("model") == model) & (F.col("version") == version))
            ranked = vector_lists(rows, users, catalogue, k=k, reason=reason)
            lists.append(named(ranked, as_of=run.as_of, strategy=model, version=version))
        run.commit("gold/recommendations", reduce(DataFrame.unionByName, lists))


if __name__ == "__main__":
    main(RecommendSettings.from_command_line())
