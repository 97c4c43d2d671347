"""featurize: silver/events, silver/items -> gold/user_profiles, gold/item_profiles, gold/interactions, gold/examples, gold/scaling.

A user's events are brought together; Polars describes the users of each shard (lib/features/tasks.py) and writes their
rows into files, which are committed at the end. The tasks run in Spark or in processes of one machine (lib/engines/parts.py). Profiles are as of `run.as_of`; examples describe each user at three dates (lib/features/examples.py). A row uses
nothing from its `as_of` or later, except in its label. Bots are left out. A log without users gives item profiles and
empty user tables. Rebuilds its tables in one transaction each. A rerun, a retry or a kill changes nothing.
"""

import json
from decimal import Decimal

import polars as pl
import pyarrow as pa
from pydantic import Field

from lib.engines.arrow_tasks import files_of, gathered
from lib.engines.parts import Parts, files_written
from lib.engines.spark import SparkRun, currencies_of, start_run
from lib.features import tasks
from lib.features.examples import example_dates
from lib.features.tasks import FeaturizeWork
from lib.features.user_features import FEATURES
from lib.formats.money import has_several, rates_of, without_rate
from lib.settings import JobSettings
from lib.tables import contract
from lib.tables.silver import CLOCKS


class FeaturizeSettings(JobSettings):
    """Weights are in units of a purchase."""

    prior_views: float = Field(
        20, gt=0, description="imagined views at the shop's mean rate that smooth an item's purchase rate"
    )
    prior_impressions: float = Field(
        50, gt=0, description="imagined impressions at the shop's mean rate that smooth an item's click rate"
    )
    view_weight: float = Field(0.2, ge=0, description="weight of a view in interactions and interest tags")
    cart_weight: float = Field(0.6, ge=0, description="weight of a cart")
    favourite_weight: float = Field(0.6, ge=0, description="weight of a favourite")
    purchase_weight: float = Field(1.0, ge=0, description="weight of a purchase")
    rating_weight: float = Field(0.2, ge=0, description="weight of a rating, whatever its value")
    half_life_days: float = Field(30.0, gt=0, description="age at which an event counts half in interest tags, in days")
    max_tags: int = Field(20, ge=1, le=1000, description="interest tags kept per user")
    events_per_shard: int = Field(
        500_000, ge=1000, le=5_000_000, description="approximate number of events per task; they must fit in its memory"
    )

    @property
    def event_weights(self) -> dict[str, float]:
        """Weight by event type; a return has no weight."""
        return {
            "view": self.view_weight,
            "cart": self.cart_weight,
            "favourite": self.favourite_weight,
            "purchase": self.purchase_weight,
            "rating": self.rating_weight,
        }


def rates(run: SparkRun) -> dict[str | None, Decimal]:
    """What one unit of each currency is worth in that of sums; says so where some have no rate."""
    frames = (run.read("silver/events"), run.read_or_empty("silver/items")) if has_several(run.mapping) else ()
    currencies = currencies_of(run.mapping, *frames)
    without = without_rate(run.mapping, currencies)
    if without is not None:
        run.log(without)
    return rates_of(run.mapping, currencies)


def work_of(run: SparkRun, settings: FeaturizeSettings) -> FeaturizeWork:
    """What the tasks need to know."""
    times, as_of = run.times, run.as_of
    split_at = {"valid_from": times.valid_from, "test_from": times.test_from}
    clocks = json.loads(run.property_of("silver/events", CLOCKS))
    num_events = run.lake.num_rows("silver/events", run.version_of("silver/events"))
    num_shards = run.num_shards(num_events, rows_per_shard=settings.events_per_shard)
    return FeaturizeWork(
        lake=run.lake.absolute(),
        items_version=run.inputs.get("silver/items"),
        rates=rates(run),
        sources_by_day=tuple(source for source, clock in clocks.items() if clock == "day"),
        as_of=as_of,
        **split_at,
        dates=tuple(example_dates(**split_at, end=times.end, as_of=as_of)),
        relevant=run.mapping.relevance,
        event_weights=settings.event_weights,
        half_life_days=settings.half_life_days,
        max_tags=settings.max_tags,
        prior_views=settings.prior_views,
        prior_impressions=settings.prior_impressions,
        num_shards=num_shards,
    )


def write_examples(run: SparkRun, work: FeaturizeWork, examples: Parts, bounds: pl.DataFrame) -> None:
    """Scale the examples by the bounds of train, and write gold/scaling and gold/examples.

    Without train examples there are no bounds, and both tables are empty.
    """
    of_all = bounds.group_by("feature").agg(pl.col("min").min(), pl.col("max").max())
    bound = {feature: (low, high) for feature, low, high in of_all.rows()}
    found = examples.then(tasks.scale_examples, work=work, bounds=bound).collected() if bound else []
    clipped = dict(gathered(found, tasks.CLIPPED, tasks.GATHERED).group_by("feature").sum().rows())
    rows = [
        {"feature": name, "as_of": work.as_of, "position": place, "min": bound[name][0], "max": bound[name][1]}
        | {"num_clipped": clipped.get(name, 0)}
        for place, name in enumerate(FEATURES)
        if bound
    ]
    run.commit_arrow("gold/scaling", pa.Table.from_pylist(rows, schema=contract("gold/scaling").schema))
    run.commit_written("gold/examples", files_of(found, "gold/examples"))


def main(settings: FeaturizeSettings) -> None:
    with start_run("featurize", settings) as run:
        work = work_of(run, settings)
        events = run.files_of({tasks.EVENT: "silver/events"}).then(tasks.spread_events, work=work)
        parts = events.to_shards(work.num_shards).then(tasks.describe_users, work=work).keep()
        found = parts.but(tasks.EXAMPLE, tasks.ITEM_COUNT).collected()
        for table in ("gold/interactions", "gold/user_profiles"):
            run.commit_written(table, files_of(found, table))
        num_users = gathered(found, tasks.USERS, tasks.GATHERED)["num_users"].sum()
        # Ranks need all items in one task: a narrow row each, and items are few compared with events.
        counts = parts.of(tasks.ITEM_COUNT).to_shards(1)
        items = counts.then(tasks.describe_items, work=work, num_shop_users=num_users)
        run.commit_written("gold/item_profiles", files_written(items))
        write_examples(run, work, parts.of(tasks.EXAMPLE), gathered(found, tasks.BOUNDS, tasks.GATHERED))
        parts.drop()


if __name__ == "__main__":
    main(FeaturizeSettings.from_command_line())
