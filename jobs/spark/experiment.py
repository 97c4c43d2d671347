"""experiment: silver/events -> gold/experiments.

Compares every arm of every experiment in the log with its control, over the whole log: click rate, conversion, revenue
per user and satisfaction, with intervals, a sample-ratio check and a verdict (lib/statistics/verdicts.py). What a log
does not say of an experiment (control, intended shares, primary metric, planned end) the mapping may. A rerun, a retry
or a kill changes nothing.

The unit is the user, since users are what was assigned. In a log without users it is the impression, for which only the
click rate (and conversion, if a purchase carries the impression's request) is known. A unit counts from its first event
in the experiment, with all its events from then until the planned end, labelled or not. Bots are left out, and so are
units seen in several arms of an experiment and stray arms; what is left out is counted, in the log and in `notes`.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import reduce
from typing import Any

from pydantic import Field, field_validator
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from lib.engines.spark import SparkRun, currency_code, in_one_currency, spark_schema, start_run
from lib.formats.experiments import Experiment, Metric, arm_of, name_key, require_shares
from lib.formats.mapping import LogMapping
from lib.formats.money import rates_of
from lib.runs.errors import SettingError
from lib.settings import JobSettings
from lib.statistics.arms import Found, Label, experiments_of
from lib.statistics.experiments import SAMPLE_RATIO_THRESHOLD, Sums
from lib.statistics.verdicts import Arm, Rules, counted, judge
from lib.tables import contract

# Metric -> column y of a unit, and column x if the metric is the ratio of their totals.
MEASURES: dict[Metric, tuple[str, str | None]] = {
    "conversion": ("has_purchase", None),
    "ctr": ("num_clicks", "num_impressions"),
    "revenue_per_user": ("revenue", None),
    "satisfaction": ("satisfaction", None),
}
MOST_ARMS = 10_000  # spellings of experiments' arms in one log; more than that are something else, such as users
UNKNOWN_CURRENCY = ""
MOST_TOLD = 3  # experiments passed over in the line that says why none was judged


class ExperimentSettings(JobSettings):
    """What holds for experiments of which the mapping says nothing else, and when results count."""

    control: str | None = Field(
        None,
        description="the control of the experiments that have an arm of this name; unset: the arm whose name says so, "
        "such as control, baseline, A or off",
    )
    shares: dict[str, float] = Field(
        {},
        description="arm -> intended share of units, such as {a: 0.9, b: 0.1}, in experiments of exactly these arms; "
        "unset: equal shares",
    )
    primary: Metric | None = Field(
        None, description="the metric that decides; unset: conversion, or the first that anything happened of"
    )
    sample_ratio_threshold: float = Field(
        SAMPLE_RATIO_THRESHOLD,
        gt=0,
        lt=1,
        description="p value of the sample-ratio check below which results are invalid",
    )
    min_arm_units: int = Field(
        30, ge=0, description="an arm with fewer units, that no plan names, is left out where two others have as many"
    )
    min_arm_frac: float = Field(
        0.01, ge=0, lt=1, description="the same for an arm of fewer than this share of the largest arm's units"
    )

    @field_validator("shares")
    @classmethod
    def are_shares(cls, shares: dict[str, float]) -> dict[str, float]:
        require_shares(shares)
        return shares


def with_unit(events: DataFrame, *, has_users: bool) -> DataFrame:
    """The events of people, with `unit`: the user, or in a log without users the request (else the event)."""
    unit = F.col("user_key") if has_users else F.coalesce("request_id", "event_id")
    return events.where(~F.col("is_bot")).withColumn("unit", unit).where(F.col("unit").isNotNull())


def converted(events: DataFrame, mapping: LogMapping) -> DataFrame:
    """The events with `price` as a number, by the mapping's rates in its currency, else in the `currency` it has."""
    price = in_one_currency(rates_of(mapping, ()))
    code = F.coalesce(currency_code(), F.lit(UNKNOWN_CURRENCY))
    return events.withColumns(
        {
            "price": F.coalesce(price, "price").cast("double"),
            "currency": F.when(price.isNotNull(), F.lit(mapping.currency)).otherwise(code),
        }
    )


def assignments(events: DataFrame, labels: DataFrame) -> DataFrame:
    """One row per experiment and unit: its arm, from when and until when it counts, whether it was in several arms.

    Args:
        events: with their unit.
        labels: experiment and arm as the log writes them, with experiment_name, arm_name and the planned end `until`.
    """
    return (
        events.join(F.broadcast(labels), on=["experiment", "arm"], how="inner")
        .where(F.col("until").isNull() | (F.col("event_time") < F.col("until")))
        .groupBy(F.col("experiment_name").alias("experiment"), "unit")
        .agg(
            F.min("arm_name").alias("arm"),
            F.min("event_time").alias("since"),
            F.min("until").alias("until"),
            (F.min("arm_name") != F.max("arm_name")).alias("is_mixed"),
        )
    )


def unit_outcomes(events: DataFrame, assigned: DataFrame) -> DataFrame:
    """One row per experiment and unit that was in one arm only.

    Columns: experiment, arm, unit, num_impressions, num_clicks, has_purchase, revenue, min_currency, max_currency,
    satisfaction.

    A click is a view with the request and item of an impression; each impression counts at most one. Revenue is the sum
    of quantity x price of purchases minus that of returns; a return without a price is worth what the unit paid for
    the item in the experiment. Satisfaction is the share, 0 to 1, of four signs that a unit shows: it clicked on
    an item shown; it put an item in the cart or among the favourites; it bought and returned nothing; it came back on
    another day.
    """
    kind = F.col("event_type")
    shown = F.when(F.col("request_id").isNotNull(), F.struct("request_id", "item_id"))
    impressions = F.collect_set(F.when(kind == "impression", shown))
    views = F.collect_set(F.when(kind == "view", shown))
    currency = F.when(kind.isin("purchase", "return") & F.col("price").isNotNull(), F.col("currency"))
    arms = assigned.where(~F.col("is_mixed")).select("experiment", "unit", "arm", "since", "until")
    outcomes = (
        events.drop("experiment", "arm")
        .join(arms, on="unit", how="inner")
        .where(F.col("event_time") >= F.col("since"))
        .where(F.col("until").isNull() | (F.col("event_time") < F.col("until")))
        .groupBy("experiment", "arm", "unit")
        .agg(
            F.size(impressions).alias("num_impressions"),
            F.size(F.array_intersect(impressions, views)).alias("num_clicks"),
            F.count_if(kind.isin("cart", "favourite")).alias("num_wished"),
            F.count_if(kind == "purchase").alias("num_purchases"),
            F.count_if(kind == "return").alias("num_returns"),
            net_revenue().alias("revenue"),
            F.min(currency).alias("min_currency"),
            F.max(currency).alias("max_currency"),
            F.size(F.collect_set("event_date")).alias("num_days"),
        )
    )
    has_purchase = F.col("num_purchases") > 0
    is_kept = has_purchase & (F.col("num_returns") == 0)
    signs = (F.col("num_clicks") > 0, F.col("num_wished") > 0, is_kept, F.col("num_days") > 1)
    return outcomes.select(
        "experiment",
        "arm",
        "unit",
        "num_impressions",
        "num_clicks",
        has_purchase.cast("int").alias("has_purchase"),
        "revenue",
        "min_currency",
        "max_currency",
        (reduce(Column.__add__, (sign.cast("double") for sign in signs)) / len(signs)).alias("satisfaction"),
    )


def net_revenue() -> Column:
    """What a unit paid minus what it got back; aggregates its purchases and returns, which are few."""
    kind, price = F.col("event_type"), F.col("price")
    pieces = F.coalesce("quantity", F.lit(1)).cast("double")
    paid = F.sum(F.when(kind == "purchase", pieces * price).when(kind == "return", -pieces * price))
    bought = F.collect_list(
        F.when((kind == "purchase") & price.isNotNull(), F.struct("item_id", pieces.alias("pieces"), "price"))
    )
    unpriced = F.collect_list(F.when((kind == "return") & price.isNull(), F.struct("item_id", pieces.alias("pieces"))))

    def worth(returned: Column) -> Column:
        """The pieces returned at the mean price that the unit paid for a piece of the item."""
        same = F.filter(bought, lambda line: line["item_id"] == returned["item_id"])
        total = F.aggregate(same, F.lit(0.0), lambda sum, line: sum + line["pieces"] * line["price"])
        num_pieces = F.aggregate(same, F.lit(0.0), lambda sum, line: sum + line["pieces"])
        return F.coalesce(returned["pieces"] * F.try_divide(total, num_pieces), F.lit(0.0))

    refunded = F.aggregate(unpriced, F.lit(0.0), lambda sum, returned: sum + worth(returned))
    return F.coalesce(paid, F.lit(0.0)) - refunded


def arm_sums(outcomes: DataFrame) -> DataFrame:
    """One row per experiment and arm: the number of units, and each metric's sums for lib/statistics/experiments.py."""
    measures = {
        f"{metric}_{name}": F.sum(value.cast("double"))
        for metric, (y, x) in MEASURES.items()
        for name, value in {"y": F.col(y), "yy": F.col(y) * F.col(y), **_denominator_sums(y, x)}.items()
    }
    return outcomes.groupBy("experiment", "arm").agg(
        F.count("*").alias("n"),
        F.min("min_currency").alias("min_currency"),
        F.max("max_currency").alias("max_currency"),
        *(total.alias(name) for name, total in measures.items()),
    )


def _denominator_sums(y: str, x: str | None) -> dict[str, Column]:
    return {"x": F.col(x), "xx": F.col(x) * F.col(x), "xy": F.col(x) * F.col(y)} if x else {}


def found_arms(events: DataFrame) -> list[Label]:
    """Every experiment and arm as the log writes them; the arm is null where an event names none.

    Raises:
        SettingError: there are too many for a log of experiments.
    """
    rows = (
        events.where(F.col("experiment").isNotNull())
        .groupBy("experiment", "arm")
        .agg(F.count("*"), F.count("user_key"), F.min("event_time"))
        .limit(MOST_ARMS + 1)
        .collect()
    )
    if len(rows) > MOST_ARMS:
        raise SettingError(
            f"the log has over {MOST_ARMS:,} pairs of experiment and arm; an experiment has a few arms: "
            "are experiment and arm of the mapping the right columns?"
        )
    return [Label(*row) for row in rows]


def plans(found: Iterable[Found], mapping: LogMapping, settings: ExperimentSettings) -> dict[str, Experiment]:
    """What is known of each experiment: what the mapping says, else the settings' defaults where they fit.

    Raises:
        SettingError: the settings' shares fit no experiment.
    """
    of_mapping = {name_key(name): plan for name, plan in mapping.experiments.items()}
    known: dict[str, Experiment] = {}
    for experiment in found:
        plan = of_mapping.get(name_key(experiment.name), Experiment())
        arms = experiment.first_seen
        defaults: dict[str, Any] = {"primary": plan.primary or settings.primary}
        if plan.control is None and settings.control is not None:
            defaults["control"] = arm_of(settings.control, arms)
        if not plan.shares and all(arm_of(arm, arms) for arm in settings.shares):
            defaults["shares"] = settings.shares
        known[experiment.name] = plan.model_copy(update=defaults)
    if settings.shares and not any(plan.shares == settings.shares for plan in known.values()):
        arms_of_all = "; ".join(
            f"{experiment.name} has {', '.join(sorted(experiment.first_seen))}" for experiment in found
        )
        raise SettingError(
            f"experiment.shares names {', '.join(settings.shares)}: no experiment has these arms: {arms_of_all}"
        )
    return known


def labels_of(run: SparkRun, found: Iterable[Found], known: Mapping[str, Experiment]) -> DataFrame:
    """What `assignments` needs to know of each label."""
    rows = [
        (*label, experiment.name, arm, known[experiment.name].ends)
        for experiment in found
        for label, arm in experiment.arms.items()
    ]
    columns = "experiment string, arm string, experiment_name string, arm_name string, until timestamp"
    return run.spark.createDataFrame(rows, columns)


def arms_of(experiment: Found, rows: Iterable[Mapping[str, Any]]) -> dict[str, Arm]:
    """Each arm of an experiment with its rows of `arm_sums`; an arm without a unit of its own has none."""
    sums = {row["arm"]: row for row in rows}
    arms = {}
    for arm, first_seen in experiment.first_seen.items():
        row = sums.get(arm, {"n": 0})
        currencies = frozenset(row[end] for end in ("min_currency", "max_currency") if row.get(end) is not None)
        arms[arm] = Arm(first_seen, {metric: _sums(row, metric) for metric in MEASURES}, currencies)
    return arms


def _sums(row: Mapping[str, Any], metric: Metric) -> Sums:
    parts = {name: float(row.get(f"{metric}_{name}") or 0) for name in ("y", "yy", "x", "xx", "xy")}
    return Sums(n=int(row["n"]), **parts)


def why_none(events: DataFrame, labels: Iterable[Label]) -> str:
    """Why a log has no experiment to look at."""
    if any(label.experiment.strip() for label in labels):
        return "its events name experiments but no arm"
    if events.where(F.col("arm").isNotNull()).limit(1).count():
        return "its events name arms but no experiment; a constant `experiment` in the mapping can name it"
    return "no experiment in this log"


def last_event(run: SparkRun, events: DataFrame) -> datetime:
    """The log's last event, or its end where single events lie beyond it."""
    last: datetime = events.agg(F.max("event_time")).collect()[0][0]
    return min(last.astimezone(UTC), run.times.end)


def main(settings: ExperimentSettings) -> None:
    with start_run("experiment", settings) as run:
        events = run.read("silver/events")
        labels = found_arms(events)
        has_users = any(label.num_with_user for label in labels if label.arm)
        found = [each for each in experiments_of(labels, has_users=has_users) if each.arms]
        if not found:
            run.skip(why_none(events, labels))
        known = plans(found, run.mapping, settings)
        for name in run.mapping.experiments:
            if name_key(name) not in map(name_key, known):
                run.log(f"the mapping names the experiment {name!r}, which the log does not hold")
        of_people = converted(with_unit(events, has_users=has_users), run.mapping)
        assigned = assignments(of_people, labels_of(run, found, known)).persist()
        mixed = assigned.where("is_mixed").groupBy("experiment").count().collect()
        num_mixed = {row["experiment"]: row["count"] for row in mixed}
        sums: dict[str, list[dict[str, Any]]] = {}
        for row in arm_sums(unit_outcomes(of_people, assigned)).collect():  # one row per arm
            sums.setdefault(row["experiment"], []).append(row.asDict())
        unit = "user" if has_users else "impression"
        run.log("compared", unit=unit, left_out_in_several_arms=sum(num_mixed.values()))
        rules = Rules(
            unit=unit,
            min_units=settings.min_arm_units,
            min_frac=settings.min_arm_frac,
            threshold=settings.sample_ratio_threshold,
            last_event=last_event(run, events),
        )
        rows, passed_over = [], []
        for experiment in found:
            judged = judge(arms_of(experiment, sums.get(experiment.name, ())), known[experiment.name], rules)
            notes = [*experiment.notes, *judged.notes]
            if experiment.name in num_mixed:
                notes.insert(0, f"left out, seen in several arms: {counted(num_mixed[experiment.name], unit)}")
            if notes:
                run.log(f"{experiment.name}: {'; '.join(notes)}" + ("" if judged.rows else "; it is passed over"))
            if not judged.rows:
                passed_over.append(f"{experiment.name}: {'; '.join(notes)}")
            told = "; ".join(notes) or None
            rows += [{"experiment": experiment.name, **row, "notes": told} for row in judged.rows]
        if not rows:
            run.skip(f"no arm to compare in {'. '.join(passed_over[:MOST_TOLD])}")
        run.commit(
            "gold/experiments",
            run.spark.createDataFrame(rows, schema=spark_schema(contract("gold/experiments").schema)),
        )


if __name__ == "__main__":
    main(ExperimentSettings.from_command_line())
