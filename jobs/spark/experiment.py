"""experiment: silver/events -> gold/experiments.

Compares every arm of every experiment in the log with its control, over the whole log: click rate, conversion, revenue
per user and satisfaction, with intervals, a sample-ratio check and a verdict (lib/statistics/experiments.py). A rerun,
a retry or a kill changes nothing.

The unit is the user, since users are what was assigned. In a log without users it is the impression, for which only the
click rate (and conversion, if a purchase carries the impression's request) is known. A unit counts from its first event
in the experiment, with all its events from then on, labelled or not. Bots are left out, and so are units seen in
several arms of an experiment, whose number is logged.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import reduce
from typing import Any

from pydantic import Field
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from lib.engines.spark import spark_schema, start_run
from lib.settings import JobSettings
from lib.statistics.experiments import (
    SAMPLE_RATIO_THRESHOLD,
    Comparison,
    Sums,
    compare_means,
    compare_ratios,
    compare_shares,
    sample_ratio_p,
    verdict,
)
from lib.tables import contract

# Metric -> column y of a unit, and column x if the metric is the ratio of their totals.
METRICS: dict[str, tuple[str, str | None]] = {
    "ctr": ("num_clicks", "num_impressions"),
    "conversion": ("has_purchase", None),
    "revenue_per_user": ("revenue", None),
    "satisfaction": ("satisfaction", None),
}
COMPARISONS: dict[str, Callable[[Sums, Sums], Comparison]] = {
    "ctr": compare_ratios,
    "conversion": compare_shares,
    "revenue_per_user": compare_means,
    "satisfaction": compare_means,
}
Row = dict[str, Any]


class ExperimentSettings(JobSettings):
    """The control arm, and the intended shares of units."""

    control: str = Field(
        "control",
        description="the control arm; if an experiment has no arm of this name, its first arm in order of name",
    )
    shares: dict[str, float] = Field(
        {}, description="arm -> intended share of units, such as {a: 0.9, b: 0.1}; unset: equal shares"
    )
    sample_ratio_threshold: float = Field(
        SAMPLE_RATIO_THRESHOLD,
        gt=0,
        lt=1,
        description="p value of the sample-ratio check below which results are invalid",
    )


def with_unit(events: DataFrame, *, has_users: bool) -> DataFrame:
    """The events of people, with `unit`: the user, or in a log without users the request (else the event)."""
    unit = F.col("user_key") if has_users else F.coalesce("request_id", "event_id")
    return events.where(~F.col("is_bot")).withColumn("unit", unit).where(F.col("unit").isNotNull())


def assignments(events: DataFrame) -> DataFrame:
    """One row per experiment and unit: its arm, when it began (`since`), and whether it was seen in several arms."""
    is_labelled = F.col("experiment").isNotNull() & F.col("arm").isNotNull()
    return (
        events.where(is_labelled)
        .groupBy("experiment", "unit")
        .agg(
            F.min("arm").alias("arm"),
            F.min("event_time").alias("since"),
            (F.min("arm") != F.max("arm")).alias("is_mixed"),
        )
    )


def unit_outcomes(events: DataFrame, assigned: DataFrame) -> DataFrame:
    """One row per experiment and unit that was in one arm only.

    Columns: experiment, arm, unit, num_impressions, num_clicks, has_purchase, revenue, satisfaction.

    A click is a view with the request and item of an impression; each impression counts at most one. Revenue is the sum
    of quantity x price of purchases. Satisfaction is the share, 0 to 1, of four signs that a unit shows: it clicked on
    an item shown; it put an item in the cart or among the favourites; it bought and returned nothing; it came back on
    another day.
    """
    kind = F.col("event_type")
    shown = F.when(F.col("request_id").isNotNull(), F.struct("request_id", "item_id"))
    impressions = F.collect_set(F.when(kind == "impression", shown))
    views = F.collect_set(F.when(kind == "view", shown))
    paid = F.when(kind == "purchase", F.coalesce("quantity", F.lit(1)) * F.col("price"))
    arms = assigned.where(~F.col("is_mixed")).select("experiment", "unit", "arm", "since")
    outcomes = (
        events.select("unit", "item_id", "event_type", "event_time", "event_date", "request_id", "quantity", "price")
        .join(arms, on="unit", how="inner")
        .where(F.col("event_time") >= F.col("since"))
        .groupBy("experiment", "arm", "unit")
        .agg(
            F.size(impressions).alias("num_impressions"),
            F.size(F.array_intersect(impressions, views)).alias("num_clicks"),
            F.count_if(kind.isin("cart", "favourite")).alias("num_wished"),
            F.count_if(kind == "purchase").alias("num_purchases"),
            F.count_if(kind == "return").alias("num_returns"),
            F.coalesce(F.sum(paid).cast("double"), F.lit(0.0)).alias("revenue"),
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
        (reduce(Column.__add__, (sign.cast("double") for sign in signs)) / len(signs)).alias("satisfaction"),
    )


def arm_sums(outcomes: DataFrame) -> DataFrame:
    """One row per experiment and arm: the number of units, and each metric's sums for lib/statistics/experiments.py."""
    measures = {
        f"{metric}_{name}": F.sum(value.cast("double"))
        for metric, (y, x) in METRICS.items()
        for name, value in {"y": F.col(y), "yy": F.col(y) * F.col(y), **_denominator_sums(y, x)}.items()
    }
    return outcomes.groupBy("experiment", "arm").agg(
        F.count("*").alias("n"), *(total.alias(name) for name, total in measures.items())
    )


def _denominator_sums(y: str, x: str | None) -> dict[str, Column]:
    return {"x": F.col(x), "xx": F.col(x) * F.col(x), "xy": F.col(x) * F.col(y)} if x else {}


def compared(sums: Mapping[str, Mapping[str, float]], settings: ExperimentSettings, *, has_users: bool) -> list[Row]:
    """Rows of gold/experiments without the experiment's name: each arm against the control, for each possible metric.

    Args:
        sums: arm -> a row of `arm_sums`.
        settings: control, shares and threshold.
        has_users: whether the units are users; only then is there satisfaction.

    Raises:
        ValueError: the settings' shares do not name exactly these arms.
    """
    arms = sorted(sums)
    control = settings.control if settings.control in arms else arms[0]
    if settings.shares and sorted(settings.shares) != arms:
        raise ValueError(
            f"experiment.shares names {', '.join(sorted(settings.shares))}; it must name the log's arms: {', '.join(arms)}"
        )
    counts = {arm: int(sums[arm]["n"]) for arm in arms}
    ratio_p = sample_ratio_p(list(counts.values()), [settings.shares.get(arm, 1.0) for arm in arms])
    rows = []
    for metric, compare in COMPARISONS.items():
        ratio = METRICS[metric][1] is not None
        happened = any(sums[arm][f"{metric}_{'x' if ratio else 'y'}"] > 0 for arm in arms)
        if not happened or (metric == "satisfaction" and not has_users):
            continue
        of_arm = {arm: _sums(sums[arm], metric) for arm in arms}
        for arm in arms:
            if arm == control:
                continue
            result = compare(of_arm[arm], of_arm[control])
            rows.append(
                {
                    "arm": arm,
                    "control": control,
                    "metric": metric,
                    **asdict(result),
                    "num_arm": counts[arm],
                    "num_control": counts[control],
                    "sample_ratio_p": ratio_p,
                    "verdict": verdict(result, ratio_p, threshold=settings.sample_ratio_threshold),
                    "reason": _reason(result, counts, ratio_p, settings.sample_ratio_threshold),
                }
            )
    return rows


def _sums(row: Mapping[str, float], metric: str) -> Sums:
    parts = {
        name: float(row[f"{metric}_{name}"] or 0) for name in ("y", "yy", "x", "xx", "xy") if f"{metric}_{name}" in row
    }
    return Sums(n=int(row["n"]), **parts)


def _reason(result: Comparison, counts: Mapping[str, int], ratio_p: float, threshold: float) -> str:
    if ratio_p < threshold:
        units = ", ".join(f"{count:,} in {arm}" for arm, count in counts.items())
        return f"the arms' sizes are not those intended: {units} (p {ratio_p:.2g})"
    if result.effect is None or result.low is None or result.high is None:
        return "too few units, or none that differs"
    return (
        f"{result.arm_value:.4g} against {result.control_value:.4g}: {result.effect:+.4g} "
        f"(95 % from {result.low:+.4g} to {result.high:+.4g}, p {result.p:.2g})"
    )


def main(settings: ExperimentSettings) -> None:
    with start_run("experiment", settings) as run:
        events = run.read("silver/events")
        labelled = events.where(F.col("experiment").isNotNull() & F.col("arm").isNotNull())
        found = labelled.agg(F.count("*").alias("events"), F.count("user_key").alias("with_user")).collect()[0]
        if not found["events"]:
            run.skip("no experiment in this log")
        has_users = found["with_user"] > 0
        of_people = with_unit(events, has_users=has_users)
        assigned = assignments(of_people).persist()
        num_mixed = assigned.where("is_mixed").count()
        sums: dict[str, dict[str, dict[str, float]]] = {}
        for row in arm_sums(unit_outcomes(of_people, assigned)).collect():  # one row per arm
            sums.setdefault(row["experiment"], {})[row["arm"]] = row.asDict()
        run.log("compared", unit="user" if has_users else "impression", left_out_in_several_arms=num_mixed)
        rows = [
            {"experiment": name, **row}
            for name, arms in sorted(sums.items())
            for row in compared(arms, settings, has_users=has_users)
        ]
        if not rows:
            run.skip(f"no arm to compare in {', '.join(sorted(sums))}: each experiment has one arm")
        run.commit(
            "gold/experiments",
            run.spark.createDataFrame(rows, schema=spark_schema(contract("gold/experiments").schema)),
        )


if __name__ == "__main__":
    main(ExperimentSettings.from_command_line())
