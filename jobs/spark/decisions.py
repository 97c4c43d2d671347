"""decisions: silver/events, silver/items, gold/item_days -> gold/decisions.

Each session with logged impressions and propensities becomes an episode, with one row per decision: what a policy could
observe at that time (rl/observation.py) and the reward of the reactions to its item under its request, whenever they
came. In a log without users (Open Bandit) each impression is an episode of one step, and its context in the log is part
of its state. Bots are left out. Features are point-in-time: a user's past ends before the session's first decision, an
item's counts before the decision's date.

Decisions from `as_of` on are the test split, those in the window before it are valid, and nothing that happened from
`as_of` on reaches a row before it. As of the log's end there is no test split. A rerun, a retry or a kill changes nothing.

One shuffle brings whole users together; a task then finds all decisions of its shard in Arrow batches
(rl/dataset/episodes.py). Data of the size of the catalogue is sent to every task; the counts of its items by day it reads
itself.
"""

import json
from datetime import timedelta
from functools import partial
from typing import NamedTuple

from pydantic import Field
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lib.engines.spark import SparkRun, currencies_of, in_one_currency, spark_schema, start_run
from lib.formats.money import rates_of
from lib.runs.log_times import LogTimes
from lib.settings import JobSettings
from lib.tables import contract
from lib.tables.gold import AS_OF_PROPERTY, REWARD_WEIGHTS
from lib.tables.silver import SESSION_GAP
from rl.dataset.context import ContextCode
from rl.dataset.episodes import EVENT_COLUMNS, LEFT_OUT, Shop, episodes, left_out
from rl.dataset.item_days import read_item_days, read_shop_days
from rl.dataset.logged import REWARDS, RewardWeights
from rl.dataset.rules import RULES
from rl.observation import KINDS, Catalogue


class DecisionsSettings(JobSettings):
    """Rewards of reactions, and how the context in a log without users becomes features."""

    reward_click: float = Field(REWARDS.click, ge=0, description="reward of a click on the item shown")
    reward_cart: float = Field(
        REWARDS.cart, ge=0, description="reward of putting it in the cart, in addition to the click"
    )
    reward_purchase: float = Field(
        REWARDS.purchase, ge=0, description="reward of buying it, in addition to click and cart"
    )
    per_item_context: tuple[str, ...] = Field(
        ("user-item_affinity_",),
        description="prefixes of context keys that end in an item's id; their values are features of candidates",
    )
    context_width: int = Field(
        16, ge=2, description="width of the hashed one-hot code of a context key that is not numeric"
    )
    num_positions: int = Field(8, ge=1, description="positions on a page that are distinguished in a log without users")
    events_per_shard: int = Field(300_000, ge=1, description="approximate number of events per task, as whole users")

    def reward_weights(self) -> RewardWeights:
        """The reward of each reaction."""
        return RewardWeights(self.reward_click, self.reward_cart, self.reward_purchase)


class Found(NamedTuple):
    """The numbers of impressions in a log."""

    num_impressions: int
    num_with_propensity: int
    num_with_user: int  # of those with a propensity
    num_without_user: int
    num_without_request: int


def impressions_of(events: DataFrame) -> DataFrame:
    """The impressions among the events."""
    return events.where(F.col("event_type") == "impression")


def found_impressions(events: DataFrame) -> Found:
    """Count the log's impressions."""
    has_propensity, is_of_user = F.col("propensity") > 0, F.col("user_key").isNotNull()
    counts = impressions_of(events).agg(
        F.count("*"),
        F.count_if(has_propensity),
        F.count_if(has_propensity & is_of_user),
        F.count_if(~is_of_user),
        F.count_if(F.col("request_id").isNull()),
    )
    row = counts.first()
    assert row is not None, "an aggregate without groups is one row"
    return Found(*row)


def every_item(events: DataFrame, items: DataFrame) -> DataFrame:
    """One row per item in the catalogue or the log: category, brand, price (in one currency); null where unknown."""
    offered = impressions_of(events).select(F.explode("candidates").alias("item_id"))
    offered = offered.where(F.col("item_id").rlike(r"\S"))  # an entry of a list may be null or blank
    named = events.select("item_id").unionByName(offered).unionByName(items.select("item_id")).distinct()
    return named.join(items, on="item_id", how="left").select(
        "item_id", "category", "brand", F.col("price").cast("double").alias("price")
    )


def context_keys(events: DataFrame) -> DataFrame:
    """One row per key of the impressions' context: whether all its values are numbers."""
    entries = impressions_of(events).select(F.explode("context").alias("key", "value"))
    is_number = F.col("value").isNull() | F.col("value").try_cast("double").isNotNull()
    return entries.groupBy("key").agg(F.every(is_number).alias("is_number"))


def owned(events: DataFrame, *, has_users: bool) -> DataFrame:
    """The events that decisions are built from, with the `owner` whose events must be processed together.

    In a log with users the owner is the user; otherwise it is the request, with impressions and the reactions to them.
    """
    if has_users:
        return events.where(F.col("user_key").isNotNull()).select(F.col("user_key").alias("owner"), *EVENT_COLUMNS)
    request = F.coalesce("request_id", "event_id").alias("owner")
    is_needed = (F.col("event_type") == "impression") | F.col("request_id").isNotNull()
    return events.where(is_needed).select(request, *EVENT_COLUMNS)


def read_shop(
    run: SparkRun, events: DataFrame, settings: DecisionsSettings, times: LogTimes, *, has_users: bool
) -> Shop:
    """Collect what every task needs: catalogue, where the counts by item and date are, the keys of the context."""
    catalogue = run.read_or_empty("silver/items")
    rates = rates_of(run.mapping, currencies_of(run.mapping, catalogue))
    items = catalogue.withColumn("price", in_one_currency(rates))
    table = every_item(events, items).toArrow().sort_by("item_id").combine_chunks()
    item_ids = table["item_id"].combine_chunks()
    described = Catalogue.of(*(table[column].to_pylist() for column in ("category", "brand", "price")))
    context = ContextCode()
    if not has_users:
        keys = {row["key"]: row["is_number"] for row in context_keys(events).collect()}
        context = ContextCode.of_keys(
            keys,
            per_item=settings.per_item_context,
            width=settings.context_width,
            num_positions=settings.num_positions,
        )
    offers_all = run.mapping.candidates == "all_items"
    known = sorted(row["item_id"] for row in items.select("item_id").collect()) if offers_all else []
    lake, version = run.lake.absolute(), run.version_of("gold/item_days")
    return Shop(
        item_ids=item_ids,
        catalogue=described,
        item_days=partial(read_item_days, lake=lake, version=version, item_ids=item_ids),
        shop_days=read_shop_days(lake, version),
        context=context,
        default_candidates=(known or item_ids.to_pylist()) if offers_all else [],
        valid_from=times.valid_from,
        as_of=times.test_from,
        end=times.end,
        session_gap=timedelta(minutes=int(run.property_of("silver/events", SESSION_GAP))),
        rewards=settings.reward_weights(),
    )


def broken_rules(shards: DataFrame, shop: Shop) -> dict[str, int]:
    """How many impressions are no decisions, by the rule that they break; in a second pass, over the impressions alone."""
    shown = shards.where(F.col("event_type") == "impression")
    counts = shown.mapInArrow(partial(left_out, shop=shop), spark_schema(LEFT_OUT))
    found = {row["rule"]: row["n"] for row in counts.groupBy("rule").agg(F.sum("num_impressions").alias("n")).collect()}
    return {rule: found[rule] for rule in RULES if rule in found}


def main(settings: DecisionsSettings) -> None:
    with start_run("decisions", settings) as run:
        times = run.times.at(run.as_of)
        every = run.read("silver/events").where(F.col("event_time") < times.end)
        events = every.where(F.col("event_type").isin(*KINDS) & ~F.col("is_bot"))
        found = found_impressions(events)
        if not found.num_with_propensity:
            run.skip("no impressions with propensities in this log")
        has_users = found.num_with_user > 0
        shop = read_shop(run, events, settings, times, has_users=has_users)
        num_events = int(shop.shop_days.counts[:, [0, 2, 3, 4]].sum())  # a click is a view
        num_shards = max(run.spark.sparkContext.defaultParallelism, -(-num_events // settings.events_per_shard))
        run.log("impressions", found=found.num_impressions, items=len(shop.item_ids), shards=num_shards)
        if found.num_without_request:
            run.log("impressions without a request earn nothing: no reaction joins them", num=found.num_without_request)
        shards = owned(events, has_users=has_users).repartition(num_shards, "owner")
        schema = spark_schema(contract("gold/decisions").schema)
        run.commit(
            "gold/decisions",
            shards.mapInArrow(partial(episodes, shop=shop), schema),
            properties={
                REWARD_WEIGHTS: json.dumps(settings.reward_weights()._asdict()),
                AS_OF_PROPERTY: run.as_of.isoformat(),
            },
        )
        if run.rows < found.num_impressions:
            broken = {"without a user": found.num_without_user} if has_users and found.num_without_user else {}
            broken |= broken_rules(shards, shop)
            why = "; ".join(f"{n:,} {rule}" for rule, n in broken.items())
            if not run.rows:
                run.skip(f"none of {found.num_impressions:,} impressions is a decision: {why}")
            run.log(f"left out {found.num_impressions - run.rows:,} impressions: {why}")


if __name__ == "__main__":
    main(DecisionsSettings.from_command_line())
