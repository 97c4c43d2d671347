"""featurize: silver/events, silver/items -> gold/user_profiles, gold/item_profiles, gold/interactions, gold/examples, gold/scaling.

Profiles are as of `run.as_of`; examples describe each user at three dates (lib/features/examples.py). A row uses
nothing from its `as_of` or later, except in its label. Bots are left out. A log without users gives item profiles and
empty user tables. Rebuilds its tables in one transaction each. A rerun, a retry or a kill changes nothing.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import NamedTuple

import pyarrow as pa
from pydantic import Field
from pyspark.sql import Column, DataFrame, Row, SparkSession, Window
from pyspark.sql import functions as F

from lib.engines.spark import currencies_of, in_one_currency, over_shards, spark_schema, start_run
from lib.features.examples import ExampleDate, example_dates, examples
from lib.features.profiles import user_profiles
from lib.features.user_features import FEATURES
from lib.formats.money import rates_of, without_rate
from lib.settings import JobSettings
from lib.tables import contract
from lib.tables.silver import CLOCKS

DAY_MICROSECONDS = 86_400 * 1_000_000
RAW_EXAMPLES = pa.schema(
    [
        pa.field("user_key", pa.string()),
        pa.field("as_of", pa.timestamp("us", tz="UTC")),
        pa.field("split", pa.string()),
        pa.field("label", pa.int32()),
        *(pa.field(name, pa.float64()) for name in FEATURES),
    ]
)


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


class Scaled(NamedTuple):
    """Scaled examples and the bounds that scaled them."""

    examples: DataFrame
    scaling: DataFrame


def is_type(*event_types: str) -> Column:
    """Whether the event is of one of `event_types`."""
    return F.col("event_type").isin(*event_types)


def item_counts(events: DataFrame, *, as_of: datetime) -> DataFrame:
    """One row per item with an event before `as_of`: its events by type, distinct users, first event and last price.

    Users are counted over pairs of item and user, so that no set of users is held in memory; rows without a user form
    one pair.
    """
    is_known_user = F.col("user_key").isNotNull()
    priced = F.when(F.col("price").isNotNull(), F.struct("event_time", "price"))
    pairs = (
        events.where(F.col("event_time") < as_of)
        .groupBy("item_id", "user_key")
        .agg(
            F.count_if(is_type("impression")).alias("num_impressions"),
            F.count_if(~is_type("impression")).alias("num_touches"),
            F.count_if(is_type("view")).alias("num_views"),
            F.count_if(is_type("view") & F.col("request_id").isNotNull()).alias("num_clicks"),
            F.count_if(is_type("cart")).alias("num_carts"),
            F.count_if(is_type("purchase")).alias("num_purchases"),
            F.count_if(is_type("return")).alias("num_returns"),
            F.min("event_time").alias("first_seen_at"),
            F.max(priced).alias("last_priced"),
        )
    )
    summed = ("num_impressions", "num_touches", "num_views", "num_clicks", "num_carts", "num_purchases", "num_returns")
    return pairs.groupBy("item_id").agg(
        *(F.sum(name).alias(name) for name in summed),
        F.count_if(is_known_user & (F.col("num_purchases") > 0)).alias("num_buyers"),
        F.count_if(is_known_user & (F.col("num_touches") > 0)).alias("num_users"),
        F.min("first_seen_at").alias("first_seen_at"),
        F.max("last_priced").getField("price").alias("last_price"),
    )


def item_profiles(
    counts: DataFrame,
    items: DataFrame,
    *,
    num_shop_users: int,
    as_of: datetime,
    prior_views: float,
    prior_impressions: float,
) -> DataFrame:
    """One row per item of `counts` (see item_counts): gold/item_profiles.

    Rates are shrunk towards the shop's by imagined views (impressions) at its mean rate: the posterior mean under a
    beta prior of that weight, whose mean is estimated from all items (empirical Bayes). `num_shop_users` is the number
    of `touching_users`.
    """
    shop = counts.agg(
        F.try_divide(F.sum(F.least("num_clicks", "num_impressions")), F.sum("num_impressions")).alias(
            "shop_click_rate"
        ),
        F.try_divide(F.sum("num_purchases"), F.sum("num_views")).alias("shop_purchase_rate"),
    )
    clicks = F.least("num_clicks", "num_impressions")  # an impression may be clicked twice
    views = F.col("num_views")
    click_rate = (clicks + prior_impressions * F.col("shop_click_rate")) / (
        F.col("num_impressions") + prior_impressions
    )
    purchase_rate = (F.col("num_purchases") + prior_views * F.col("shop_purchase_rate")) / (views + prior_views)
    share_of_users = (F.col("num_users") + 1) / (num_shop_users + 1)
    catalogue = items.select("item_id", F.col("price").alias("listed_price"), "category")
    # A global rank needs one partition: it gets one narrow row per item, and items are few compared with events.
    by_popularity = Window.partitionBy(F.lit(0)).orderBy(
        F.desc("num_buyers"), F.desc("num_users"), F.desc("num_events"), "item_id"
    )
    in_category = Window.partitionBy("category", F.col("price").isNull()).orderBy("price")
    return (
        counts.join(catalogue, on="item_id", how="left")
        .crossJoin(F.broadcast(shop))
        .withColumn("price", F.coalesce("last_price", "listed_price"))
        .withColumn("num_events", F.col("num_touches") + F.col("num_impressions"))
        .select(
            "item_id",
            F.lit(as_of).alias("as_of"),
            "num_impressions",
            "num_views",
            "num_carts",
            "num_purchases",
            "num_returns",
            "num_buyers",
            "num_users",
            click_rate.alias("click_rate"),
            purchase_rate.alias("purchase_rate"),
            "price",
            F.when(F.col("price").isNotNull(), F.percent_rank().over(in_category)).alias("price_position"),
            "first_seen_at",
            days_between(F.col("first_seen_at"), as_of).alias("age_days"),
            (-F.log2(share_of_users)).alias("novelty"),
            F.row_number().over(by_popularity).cast("bigint").alias("popularity_rank"),
        )
    )


def touching_users(events: DataFrame, *, as_of: datetime) -> DataFrame:
    """The known users with an event other than an impression before `as_of`."""
    is_touch = (F.col("event_time") < as_of) & F.col("user_key").isNotNull() & ~is_type("impression")
    return events.where(is_touch).select("user_key").distinct()


def days_between(start: Column, end: datetime) -> Column:
    """Days from `start` to `end`, fractions included."""
    return (F.unix_micros(F.lit(end)) - F.unix_micros(start)) / DAY_MICROSECONDS


def interactions(
    events: DataFrame, *, valid_from: datetime, test_from: datetime, event_weights: Mapping[str, float], relevant: str
) -> DataFrame:
    """One row per pair of a known user and an item and moment: gold/interactions. Impressions are left out.

    Moments are kept apart, so that what was known before any `as_of` can be told exactly, also within a day.
    """
    split = (
        F.when(F.col("event_time") < valid_from, "train")
        .when(F.col("event_time") < test_from, "valid")
        .otherwise("test")
    )
    counts = (
        events.where(F.col("user_key").isNotNull() & ~is_type("impression"))
        .groupBy("user_key", "item_id", "event_time")
        .agg(
            *(F.count_if(is_type(event_type)).alias(f"num_{event_type}") for event_type in event_weights),
            F.count("*").alias("count"),
            F.count_if(is_type(relevant)).alias("num_relevant"),
        )
    )
    # Computed from counts, not summed over events, so that the order of events does not affect the last digit.
    weight = F.lit(0.0)
    for event_type, unit in event_weights.items():
        weight += unit * F.col(f"num_{event_type}")
    return counts.select(
        "user_key", "item_id", "event_time", split.alias("split"), weight.alias("weight"), "count", "num_relevant"
    )


def in_shop_currency(frame: DataFrame, rates: Mapping[str | None, Decimal]) -> DataFrame:
    """Prices in the currency of sums, null where there is no rate to it; `is_unconverted` says where that is so."""
    price = in_one_currency(rates)
    return frame.withColumns({"price": price, "is_unconverted": F.col("price").isNotNull() & price.isNull()})


def with_hour(events: DataFrame, clocks: Mapping[str, str]) -> DataFrame:
    """Add `has_hour`: whether the clock of the event's source tells the hour of day."""
    by_day = [source for source, clock in clocks.items() if clock == "day"]
    is_by_day = F.substring_index("source_record", "/", 1).isin(by_day) if by_day else F.lit(False)
    return events.withColumn("has_hour", ~is_by_day)


def user_shards(events: DataFrame, items: DataFrame) -> DataFrame:
    """Events of known users with their item's tags, all of a user's in one partition.

    Columns as in lib/features/profiles.py.
    """

    def path(_: Column, place: Column) -> Column:
        return F.concat(F.lit("category="), F.concat_ws("/", F.slice("category", F.lit(1), place + 1)))

    tags = items.select(
        "item_id",
        F.transform("category", path).alias("category_tags"),
        F.concat(F.lit("brand="), "brand").alias("brand_tag"),
    )
    return (
        events.where(F.col("user_key").isNotNull())
        .join(tags, on="item_id", how="left")
        .select(
            "user_key",
            "item_id",
            "event_type",
            "event_time",
            "session_id",
            "quantity",
            "price",
            "is_unconverted",
            "has_hour",
            "request_id",
            "category_tags",
            "brand_tag",
        )
        .repartition("user_key")
    )


def profiles_of(shards: DataFrame, *, as_of: datetime, settings: FeaturizeSettings) -> DataFrame:
    """One row per user with an event before `as_of`: gold/user_profiles."""
    schema = contract("gold/user_profiles").schema
    describe = partial(
        user_profiles,
        as_of=as_of,
        event_weights=settings.event_weights,
        half_life_days=settings.half_life_days,
        max_tags=settings.max_tags,
    )
    return over_shards(shards, describe, schema)


def raw_examples(shards: DataFrame, *, dates: list[ExampleDate], relevant: str) -> DataFrame:
    """One row per user and date, with a column for each feature, not yet scaled."""
    look = partial(examples, dates=dates, relevant=relevant)
    return over_shards(shards, look, RAW_EXAMPLES)


def scaled(raw: DataFrame, spark: SparkSession, *, as_of: datetime) -> Scaled:
    """gold/examples and gold/scaling: each feature min-max scaled by its bounds in the train split and clipped to 0..1.

    A feature that is constant in train becomes 0. Without train examples there are no bounds, so both tables are empty.
    """
    in_train = F.col("split") == "train"
    bounds = raw.where(in_train).agg(
        *(F.min(name).alias(f"min_{name}") for name in FEATURES),
        *(F.max(name).alias(f"max_{name}") for name in FEATURES),
    )
    bound = bounds.first()
    assert bound is not None, "an aggregate without groups is one row"
    if bound[0] is None:
        return Scaled(
            spark.createDataFrame([], spark_schema(contract("gold/examples").schema)),
            spark.createDataFrame([], spark_schema(contract("gold/scaling").schema)),
        )
    low = {name: float(bound[f"min_{name}"]) for name in FEATURES}
    high = {name: float(bound[f"max_{name}"]) for name in FEATURES}
    clipped = raw.where(~in_train).agg(
        *(F.count_if((F.col(n) < low[n]) | (F.col(n) > high[n])).alias(n) for n in FEATURES)
    )
    num_clipped = clipped.first()
    assert num_clipped is not None, "an aggregate without groups is one row"
    rows = [
        Row(feature=n, as_of=as_of, position=position, min=low[n], max=high[n], num_clipped=int(num_clipped[n]))
        for position, n in enumerate(FEATURES)
    ]
    features = F.array(*(scaled_feature(name, low[name], high[name]) for name in FEATURES)).cast("array<float>")
    return Scaled(
        raw.select("user_key", "as_of", "split", features.alias("features"), "label"),
        spark.createDataFrame(rows, spark_schema(contract("gold/scaling").schema)),
    )


def scaled_feature(name: str, low: float, high: float) -> Column:
    """(x - low) / (high - low), clipped to 0..1; 0 where the bounds are the same."""
    if high <= low:
        return F.lit(0.0)
    return F.least(F.greatest((F.col(name) - low) / (high - low), F.lit(0.0)), F.lit(1.0))


def main(settings: FeaturizeSettings) -> None:
    with start_run("featurize", settings) as run:
        found = run.read("silver/events").where(~F.col("is_bot"))
        catalogue = run.read_or_empty("silver/items")
        currencies = currencies_of(run.mapping, found, catalogue)
        without = without_rate(run.mapping, currencies)
        if without is not None:
            run.log(without)
        rates = rates_of(run.mapping, currencies)
        clocks = json.loads(run.property_of("silver/events", CLOCKS))
        events = in_shop_currency(found, rates).transform(with_hour, clocks)
        items = in_shop_currency(catalogue, rates)
        times, as_of, relevant = run.times, run.as_of, run.mapping.relevance
        split_at = {"valid_from": times.valid_from, "test_from": times.test_from}
        shards = user_shards(events, items).persist()
        counts = item_counts(events, as_of=as_of).persist()

        pairs = interactions(shards, **split_at, event_weights=settings.event_weights, relevant=relevant)
        run.commit("gold/interactions", pairs)
        users = profiles_of(shards, as_of=as_of, settings=settings)
        run.commit("gold/user_profiles", users)
        profiles = item_profiles(
            counts,
            items,
            num_shop_users=touching_users(shards, as_of=as_of).count(),
            as_of=as_of,
            prior_views=settings.prior_views,
            prior_impressions=settings.prior_impressions,
        )
        run.commit("gold/item_profiles", profiles)
        dates = example_dates(**split_at, end=times.end, as_of=as_of)
        raw = raw_examples(shards, dates=dates, relevant=relevant).persist()
        result = scaled(raw, run.spark, as_of=as_of)
        run.commit("gold/scaling", result.scaling)
        run.commit("gold/examples", result.examples)
        for frame in (shards, counts, raw):
            frame.unpersist()


if __name__ == "__main__":
    main(FeaturizeSettings.from_command_line())
