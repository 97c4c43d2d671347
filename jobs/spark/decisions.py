"""decisions: silver/events, silver/items, gold/item_days -> gold/decisions.

Each session with logged impressions and propensities becomes an episode, with one row per decision: what a policy could
observe at that time (rl/observation.py) and the reward of the reactions to its item under its request, whenever they
came. In a log without users (Open Bandit) each impression is an episode of one step, and its context in the log is part
of its state. Bots are left out. Features are point-in-time: a user's past ends before the session's first decision, an
item's counts before the decision's date.

Decisions from `as_of` on are the test split, those in the window before it are valid, and nothing that happened from
`as_of` on reaches a row before it. As of the log's end there is no test split. A rerun, a retry or a kill changes nothing.

Tasks (rl/dataset/tasks.py) read the log twice: to know what is in it, and to bring whole users together, of whom others find all
decisions of a shard. Data of the size of the catalogue is sent to every task; the counts of its items by day it reads
itself.
"""

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple

import polars as pl
import pyarrow as pa
from pydantic import Field

from lib.engines.arrow_tasks import files_of, gathered
from lib.engines.spark import SparkRun, start_run
from lib.features.priced_items import priced_items
from lib.settings import JobSettings
from lib.tables.gold import AS_OF_PROPERTY, REWARD_WEIGHTS
from lib.tables.silver import SESSION_GAP
from rl.dataset import tasks
from rl.dataset.context import ContextCode
from rl.dataset.episodes import Shop
from rl.dataset.item_days import read_item_days, read_shop_days
from rl.dataset.logged import REWARDS, RewardWeights
from rl.dataset.rules import RULES
from rl.observation import Catalogue


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
    """What is in a log."""

    num_impressions: int
    num_with_propensity: int
    num_with_user: int  # of those with a propensity
    num_without_user: int
    num_without_request: int
    item_ids: pl.Series  # of impressions, of what could have been shown, and of reactions
    context_keys: dict[str, bool]  # whether all values of a key are numbers


def look_through(run: SparkRun, *, until: datetime, num_shards: int) -> Found:
    """Count the log's impressions before a moment, and find their items and the keys of their context."""
    events = run.files_of({"": "silver/events"})
    seen = events.then(tasks.survey, until=until, num_shards=num_shards).keep()
    told = seen.of(tasks.FOUND, tasks.KEY).collected()
    each = seen.of(tasks.ITEM).to_shards(num_shards).then(tasks.each_item).collected()
    seen.drop()
    counts, keys = (gathered(told, kind, tasks.GATHERED) for kind in (tasks.FOUND, tasks.KEY))
    are_numbers = dict(keys.group_by("key").agg(pl.col("is_number").all()).rows())
    items = gathered(each, tasks.ITEM, tasks.GATHERED)["item_id"]
    return Found(**counts.sum().row(0, named=True), item_ids=items, context_keys=are_numbers)


def shop_of(run: SparkRun, found: Found, settings: DecisionsSettings, *, has_users: bool) -> Shop:
    """What every task needs: catalogue, where the counts by item and date are, the keys of the context.

    Of an item that is not in the catalogue, category, brand and price are null.
    """
    catalogue, times = priced_items(run, "silver/items"), run.times.at(run.as_of)
    named = pl.concat([found.item_ids, catalogue["item_id"]]).unique().to_frame()
    table = named.join(catalogue, on="item_id", how="left").sort("item_id")
    item_ids, prices = table["item_id"].to_arrow().cast(pa.string()), table["price"].cast(pl.Float64)
    context = ContextCode()
    if not has_users:
        context = ContextCode.of_keys(
            found.context_keys,
            per_item=settings.per_item_context,
            width=settings.context_width,
            num_positions=settings.num_positions,
        )
    offers_all = run.mapping.candidates == "all_items"
    lake, version = run.lake.absolute(), run.version_of("gold/item_days")
    return Shop(
        item_ids=item_ids,
        catalogue=Catalogue.of(table["category"].to_list(), table["brand"].to_list(), prices.to_list()),
        item_days=partial(read_item_days, lake=lake, version=version, item_ids=item_ids),
        shop_days=read_shop_days(lake, version),
        context=context,
        default_candidates=(sorted(catalogue["item_id"]) or item_ids.to_pylist()) if offers_all else [],
        valid_from=times.valid_from,
        as_of=times.test_from,
        end=times.end,
        session_gap=timedelta(minutes=int(run.property_of("silver/events", SESSION_GAP))),
        rewards=settings.reward_weights(),
    )


def main(settings: DecisionsSettings) -> None:
    with start_run("decisions", settings) as run:
        num_events = run.lake.num_rows("silver/events", run.version_of("silver/events"))
        num_shards = run.num_shards(num_events, rows_per_shard=settings.events_per_shard)
        found = look_through(run, until=run.times.at(run.as_of).end, num_shards=num_shards)
        if not found.num_with_propensity:
            run.skip("no impressions with propensities in this log")
        has_users = found.num_with_user > 0
        shop = shop_of(run, found, settings, has_users=has_users)
        run.log("impressions", found=found.num_impressions, items=len(shop.item_ids), shards=num_shards)
        if found.num_without_request:
            run.log("impressions without a request earn nothing: no reaction joins them", num=found.num_without_request)
        events = run.files_of({"": "silver/events"}).then(
            tasks.spread_events, until=shop.end, has_users=has_users, num_shards=num_shards
        )
        written = events.to_shards(num_shards).then(
            tasks.write_decisions, lake=run.lake.absolute(), shop=run.engine.broadcast(shop)
        )
        made = written.collected()
        run.commit_written(
            "gold/decisions",
            files_of(made, "gold/decisions"),
            properties={
                REWARD_WEIGHTS: json.dumps(settings.reward_weights()._asdict()),
                AS_OF_PROPERTY: run.as_of.isoformat(),
            },
        )
        broken = dict(gathered(made, tasks.BROKEN, tasks.GATHERED).group_by("rule").sum().rows())
        tell_left_out(run, found, broken, has_users=has_users)


def tell_left_out(run: SparkRun, found: Found, broken: Mapping[str, int], *, has_users: bool) -> None:
    """Say how many impressions are no decisions, by the rule that they break; the run is skipped where all do."""
    if run.rows == found.num_impressions:
        return
    rules = {rule: broken[rule] for rule in RULES if rule in broken}
    if has_users and found.num_without_user:
        rules = {"without a user": found.num_without_user} | rules
    why = "; ".join(f"{number:,} {rule}" for rule, number in rules.items())
    if not run.rows:
        run.skip(f"none of {found.num_impressions:,} impressions is a decision: {why}")
    run.log(f"left out {found.num_impressions - run.rows:,} impressions: {why}")


if __name__ == "__main__":
    main(DecisionsSettings.from_command_line())
