"""featurize: silver/events, silver/items -> gold/daily and the tables of days, gold/user_profiles, gold/item_profiles, gold/examples, gold/scaling.

What happened on each day is counted once (lib/features/days.py): gold/daily, gold/user_days, gold/item_days and
gold/interactions have a partition a day, and only days whose events have changed since the last run are made anew; where the
splits have moved, interactions are labelled again. Everything else is summed from these days: profiles as of `run.as_of`, and
examples, which describe each user at three dates (lib/features/examples.py). A day that one of these moments cuts is read from
silver/events once more. A row uses nothing from its `as_of` or later, except in its label. Bots are left out. A log without
users gives item profiles and empty user tables.

The tasks (lib/features/tasks.py) run in Spark or in processes of one machine, and write their rows into files, which are
committed at the end, each table in one transaction. A rerun, a retry or a kill changes nothing.

With `time.from_date` and `time.to_date` these days are made anew, whatever has changed, and no others (docs/decisions/0018).
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import NamedTuple

import polars as pl
import pyarrow as pa
from pydantic import Field

from lib.engines.arrow_tasks import files_of, gathered
from lib.engines.parts import Parts, files_written
from lib.engines.spark import SparkRun, start_run
from lib.features import tasks
from lib.features.changed_days import MadeFrom, changed_days, days_of_other_splits, made_before
from lib.features.days import DAY, DayShards, first_day_of
from lib.features.examples import example_dates, moments_of
from lib.features.tasks import FeaturizeWork
from lib.features.user_features import FEATURES
from lib.formats.money import has_several, rates_of, without_rate
from lib.settings import DateRange, JobSettings
from lib.tables import contract
from lib.tables.gold import EVENT_WEIGHTS
from lib.tables.silver import CLOCKS

TABLES_OF_DAYS = (
    "gold/daily",
    "gold/user_days",
    "gold/item_days",
    "gold/interactions",
)  # in the order of their commits
FEATURIZED = "cartwheel.featurized"  # in a commit of theirs: what they were made from
SEVERAL = "several"  # in place of a hash: a backfill has made its days from other settings, rates or code than the rest


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
    history_days: int | None = Field(
        None,
        ge=1,
        description="days before a moment of which profiles and examples know then, so that a day costs the same "
        "however long the log; unset: all",
    )
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
    """What one unit of each currency is worth in that of sums; without a currency of the mapping it is the log's only one."""
    found = {run.mapping.currency}
    if run.mapping.currency is None:
        found = currencies(run)
        tell_unconverted(run, found)
    return rates_of(run.mapping, found)


def currencies(run: SparkRun, days: Collection[date] | None = None) -> set[str | None]:
    """The currencies of prices in silver, of events of these days or of all; read only where there may be several."""
    if not has_several(run.mapping):
        return {run.mapping.currency}
    found: list[tuple[str, bytes]] = []
    for table, holding in {
        "silver/events": None if days is None else {"event_date": days},
        "silver/items": None,
    }.items():
        if table in run.inputs:
            found += run.files_of({table: table}, holding=holding).then(tasks.find_currencies).collected()
    return {*gathered(found, tasks.CURRENCY, tasks.GATHERED)["currency"]}


def tell_unconverted(run: SparkRun, found: Collection[str | None]) -> None:
    """Say in which currencies prices are never added to others."""
    without = without_rate(run.mapping, found)
    if without is not None:
        run.log(without)


def work_of(run: SparkRun, settings: FeaturizeSettings) -> FeaturizeWork:
    """What the tasks need to know."""
    times, as_of = run.times, run.as_of
    split_at = {"valid_from": times.valid_from, "test_from": times.test_from}
    clocks = json.loads(run.property_of("silver/events", CLOCKS))
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
        history_days=settings.history_days,
        max_tags=settings.max_tags,
        prior_views=settings.prior_views,
        prior_impressions=settings.prior_impressions,
    )


class DaysToMake(NamedTuple):
    """The days of silver/events: with how many events, which are made anew, and of which only the splits are."""

    source: MadeFrom
    num_events: Mapping[date, int]
    made: frozenset[date]
    labelled: frozenset[date]
    are_all: bool  # that are made


def made_from(run: SparkRun, work: FeaturizeWork) -> MadeFrom:
    """What this run makes the tables of days from."""
    rates = sorted((str(currency), str(rate)) for currency, rate in work.rates.items())
    weighed = (work.relevant, sorted(work.event_weights.items()), work.half_life_days)
    content = json.dumps([run.code_version, rates, sorted(work.sources_by_day), weighed])
    version = run.version_of("silver/events")
    moments = (work.valid_from, work.test_from)
    return MadeFrom(hashlib.sha256(content.encode()).hexdigest(), version, *(moment.isoformat() for moment in moments))


def days_to_make(run: SparkRun, work: FeaturizeWork) -> DaysToMake:
    """Which days are made anew: those whose files have changed, and the next, where sessions go on; all, if anything else has."""
    now, before = made_from(run, work), made_before(run, TABLES_OF_DAYS, FEATURIZED)
    num_events = run.lake.rows_by_partition("silver/events", "event_date", now.events)
    if run.days and run.lake.num_rows("gold/item_days"):
        return days_of_range(run, run.days, num_events, now, before)
    changed = changed_days(run, before, now)
    if before is None or changed is None:
        return DaysToMake(now, num_events, frozenset(num_events), frozenset(), are_all=True)
    made = changed | {day + DAY for day in changed if day + DAY in num_events}
    labelled = days_of_other_splits(before, now, num_events) - made
    return DaysToMake(now, num_events, frozenset(made), frozenset(labelled), are_all=False)


def days_of_range(
    run: SparkRun, days: DateRange, num_events: Mapping[date, int], now: MadeFrom, before: MadeFrom | None
) -> DaysToMake:
    """The days of a range are made anew; the others stay what they were made from, so the next run of all days takes these up."""
    held = {*num_events, *run.lake.rows_by_partition("gold/item_days", "event_date")}
    source = before if before is not None and before.work == now.work else replace(now, work=SEVERAL)
    made = frozenset(day for day in held if day in days)
    return DaysToMake(source, num_events, made, frozenset(), are_all=False)


def events_of(run: SparkRun, work: FeaturizeWork, shards: DayShards) -> Parts:
    """The events of some days by shard, and the sessions that were open before each."""
    days = {*shards.first} | {day - DAY for day in shards.first}
    files = run.files_of({tasks.EVENT: "silver/events"}, holding={"event_date": days})
    return files.then(tasks.spread_events, work=work, shards=shards).to_shards(shards.num_shards)


def write_days(run: SparkRun, work: FeaturizeWork, settings: FeaturizeSettings, days: DaysToMake) -> None:
    """Make the tables of days anew, all or those of the days that have changed."""
    known = {day: days.num_events[day] for day in days.made if day in days.num_events}
    found: list[tuple[str, bytes]] = []
    if known:
        num_shards = run.num_shards(sum(known.values()), rows_per_shard=settings.events_per_shard)
        shards = DayShards.of(known, num_shards=num_shards)
        parts = events_of(run, work, shards).then(tasks.write_days, work=work, shards=shards).keep()
        found = parts.but(tasks.ITEM_DAY).collected()
        of_items = parts.of(tasks.ITEM_DAY).to_shards(shards.num_shards)
        found += of_items.then(tasks.write_item_days, work=work).collected()
        parts.drop()
    if days.labelled:
        files = run.files_of({"": "gold/interactions"}, holding={"event_date": days.labelled}, now=True)
        found += files.then(tasks.label_again, work=work).collected()
    metadata = {FEATURIZED: json.dumps(asdict(days.source))}
    for table in TABLES_OF_DAYS:
        written = days.made | (days.labelled if table == "gold/interactions" else set())
        where = None if days.are_all else {"event_date": sorted(map(str, written))}
        if days.are_all or written:
            weights = {EVENT_WEIGHTS: json.dumps(settings.event_weights)} if table == "gold/interactions" else None
            run.commit_written(table, files_of(found, table), where=where, properties=weights, metadata=metadata)
    if not days.are_all:
        run.log("days", made=len(days.made), kept=len({*days.num_events} - days.made), labelled=len(days.labelled))


def counted(work: FeaturizeWork, days: Collection[date]) -> set[date]:
    """The days of which profiles and examples may know."""
    first = first_day_of(min(work.as_of, *(example.as_of for example in work.dates)), work.history_days)
    return {day for day in days if first is None or day >= first}


def summed(
    run: SparkRun, work: FeaturizeWork, settings: FeaturizeSettings, days: DaysToMake, *, num_shards: int
) -> Parts:
    """What users did on all days that count, by shard of users, and what happened to items, counted; kept."""
    moments = [moment for moment in moments_of(work.dates, work.as_of) if moment < run.times.end]  # no event is later
    cut = {at.date() for moment in moments if (at := moment.astimezone(UTC)).time() != datetime.min.time()}
    stored = {tasks.USER_ITEM: "gold/daily", tasks.USER_DAY: "gold/user_days", tasks.ITEM_DAY: "gold/item_days"}
    files = run.files_of(stored, holding={"event_date": counted(work, days.num_events) - cut}, now=True)
    parts = files.then(tasks.spread_days, work=work, num_shards=num_shards)
    divided = {day: number for day, number in days.num_events.items() if day in cut}
    if divided:
        of_days = run.num_shards(sum(divided.values()), rows_per_shard=settings.events_per_shard)
        events = events_of(run, work, DayShards.of(divided, num_shards=of_days))
        parts = parts.union(events.then(tasks.divide_days, work=work, moments=moments, num_shards=num_shards))
    return parts.keep()


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
        days = days_to_make(run, work)
        if run.mapping.currency is not None:  # else all are known
            tell_unconverted(run, currencies(run, days.made))
        write_days(run, work, settings, days)
        by_day = [run.lake.rows_by_partition(table, "event_date") for table in ("gold/daily", "gold/user_days")]
        num_rows = sum(rows.get(day, 0) for day in counted(work, days.num_events) for rows in by_day)
        num_shards = run.num_shards(num_rows, rows_per_shard=settings.events_per_shard)
        parts = summed(run, work, settings, days, num_shards=num_shards)
        users = parts.of(tasks.USER_ITEM, tasks.USER_DAY).to_shards(num_shards)
        described = users.then(tasks.describe_users, work=work).keep()
        found = described.but(tasks.EXAMPLE, tasks.ITEM_COUNT).collected()
        run.commit_written("gold/user_profiles", files_of(found, "gold/user_profiles"))
        num_users = gathered(found, tasks.USERS, tasks.GATHERED)["num_users"].sum()
        # Ranks need all items in one task: a narrow row each, and items are few compared with events.
        counts = parts.of(tasks.ITEM_COUNT).union(described.of(tasks.ITEM_COUNT)).to_shards(1)
        items = counts.then(tasks.describe_items, work=work, num_shop_users=num_users)
        run.commit_written("gold/item_profiles", files_written(items))
        write_examples(run, work, described.of(tasks.EXAMPLE), gathered(found, tasks.BOUNDS, tasks.GATHERED))
        described.drop()
        parts.drop()


if __name__ == "__main__":
    main(FeaturizeSettings.from_command_line())
