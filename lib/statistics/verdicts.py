"""The verdict on one experiment: from the sums of its arms and what was planned to rows of gold/experiments.

Every arm is compared with the control. One primary metric decides; its p values are corrected for the number of arms,
those of all other metrics for their own number (Holm).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, NamedTuple

from lib.formats.experiments import METRICS, Experiment, Metric, arm_of
from lib.statistics.arms import control_of, strays
from lib.statistics.experiments import (
    Comparison,
    Sums,
    compare_means,
    compare_ratios,
    compare_shares,
    holm,
    sample_ratio_p,
    verdict,
)

COMPARISONS: dict[Metric, Callable[[Sums, Sums], Comparison]] = {
    "conversion": compare_shares,
    "ctr": compare_ratios,
    "revenue_per_user": compare_means,
    "satisfaction": compare_means,
}
MOST_NAMED = 5  # arms in one line
Row = dict[str, Any]


@dataclass(frozen=True)
class Arm:
    """What the log holds of one arm: its first event, each metric's sums over its units, and its money.

    `currencies` are those whose amounts its revenue adds up, after conversion; two of them stand for more.
    """

    first_seen: datetime | None
    sums: Mapping[Metric, Sums]
    currencies: frozenset[str] = frozenset()

    @property
    def num_units(self) -> int:
        return next(iter(self.sums.values())).n


@dataclass(frozen=True)
class Rules:
    """What holds for every experiment: the unit, the floor of an arm, the sample-ratio threshold, the log's last day."""

    unit: str  # user, or impression
    min_units: int
    min_frac: float
    threshold: float
    last_event: datetime

    def is_running(self, plan: Experiment) -> bool:
        """Whether the log ends before the last planned day (UTC)."""
        return plan.ends is not None and self.last_event.date() < (plan.ends - datetime.resolution).date()


class Judged(NamedTuple):
    """Rows of gold/experiments without the experiment's name, and what else is to be said; without rows, why."""

    rows: list[Row]
    notes: list[str]


def judge(arms: Mapping[str, Arm], plan: Experiment, rules: Rules) -> Judged:
    """Compare each arm of an experiment with its control, in every metric that the log knows."""
    chosen, left_out = choose_arms(arms, plan, rules)
    notes = [_named(left_out, arms, rules.unit)] if left_out else []
    having = {arm: facts for arm, facts in chosen.items() if facts.num_units}
    if len(having) < 2:
        only = (
            f"one arm with {rules.unit}s of its own: {next(iter(having))}"
            if having
            else f"no {rules.unit} in one arm alone"
        )
        return Judged([], [*notes, f"it has {only}"])
    planned = plan.control and arm_of(plan.control, chosen)
    if plan.control and not (planned and chosen[planned].num_units):
        return Judged(
            [], [*notes, f"its control {plan.control!r} has no {rules.unit}; its arms are {', '.join(having)}"]
        )
    control, is_named = (
        (planned, True)
        if planned
        else control_of({arm: facts.first_seen for arm, facts in having.items() if facts.first_seen is not None})
    )
    if not is_named:
        notes.append(
            f"{control}, the arm seen first, is taken for the control, since no arm's name says which is; "
            "name it in the mapping under experiments"
        )
    metrics, missing = known_metrics(chosen, rules)
    notes += missing
    if not metrics:
        return Judged([], [*notes, "it has no impression and no purchase to compare"])
    primary = primary_of(metrics, chosen, plan)
    if plan.primary not in (None, primary):
        notes.append(f"{plan.primary} is not known of it: {primary} decides instead")
    return Judged(_rows(chosen, control, metrics, primary, plan, rules), notes)


def choose_arms(arms: Mapping[str, Arm], plan: Experiment, rules: Rules) -> tuple[dict[str, Arm], list[str]]:
    """The arms to compare, and those left out: with planned shares all others, else strays.

    A planned arm that the log lacks has no units.
    """
    if plan.shares:
        meant = {name: arm_of(name, arms) or name for name in plan.shares}
        nobody = Arm(None, {metric: Sums(0, 0.0, 0.0) for metric in METRICS})
        return {arm: arms.get(arm, nobody) for arm in meant.values()}, sorted(arms.keys() - set(meant.values()))
    control = plan.control and arm_of(plan.control, arms)
    left_out = strays(
        {arm: facts.num_units for arm, facts in arms.items()},
        intended=[control] if control else [],
        min_units=rules.min_units,
        min_frac=rules.min_frac,
    )
    return {arm: arms[arm] for arm in sorted(arms) if arm not in left_out}, left_out


def known_metrics(arms: Mapping[str, Arm], rules: Rules) -> tuple[list[Metric], list[str]]:
    """The metrics that the log knows of these arms, and why revenue is left out, if it is."""
    has_users = rules.unit == "user"
    currencies = sorted(frozenset[str]().union(*(arm.currencies for arm in arms.values())))
    is_known = {
        "conversion": has_users or _total(arms, "conversion") > 0,
        "ctr": _total(arms, "ctr", "x") > 0,
        "revenue_per_user": len(currencies) == 1,
        "satisfaction": has_users and _total(arms, "satisfaction") > 0,
    }
    notes = []
    if len(currencies) > 1:
        kinds = " and ".join(currency or "an unknown currency" for currency in currencies)
        notes.append(f"revenue is left out: amounts in {kinds} do not add up without the mapping's rates")
    return [metric for metric in METRICS if is_known[metric]], notes


def primary_of(metrics: Sequence[Metric], arms: Mapping[str, Arm], plan: Experiment) -> Metric:
    """The metric that decides: the planned one, else the first of which anything happened."""
    if plan.primary is not None and plan.primary in metrics:
        return plan.primary
    return next((metric for metric in metrics if _total(arms, metric) != 0), metrics[0])


def counted(number: int, unit: str) -> str:
    """1 -> 1 user, 2 -> 2 users."""
    return f"{number:,} {unit}{'' if number == 1 else 's'}"


def _rows(
    arms: Mapping[str, Arm],
    control: str,
    metrics: Sequence[Metric],
    primary: Metric,
    plan: Experiment,
    rules: Rules,
) -> list[Row]:
    """A row for each arm but the control, and each metric."""
    counts = {arm: facts.num_units for arm, facts in arms.items()}
    shares = {arm_of(name, arms): share for name, share in plan.shares.items()}
    ratio_p = sample_ratio_p(list(counts.values()), [shares.get(arm, 1.0) for arm in arms])
    others = [arm for arm in arms if arm != control]
    rows: list[Row] = []
    for family in ([primary], [metric for metric in metrics if metric != primary]):
        pairs = [(metric, arm) for metric in family for arm in others]
        results = [COMPARISONS[metric](arms[arm].sums[metric], arms[control].sums[metric]) for metric, arm in pairs]
        corrected = holm([result.p for result in results])
        for (metric, arm), result, p_adjusted in zip(pairs, results, corrected, strict=True):
            is_running = rules.is_running(plan)
            told = verdict(result.effect, p_adjusted, ratio_p, is_running=is_running, threshold=rules.threshold)
            number = sum(p is not None for p in corrected)
            reason = _mismatch(counts, ratio_p) if told == "invalid" else _reason(metric, result, p_adjusted, number)
            rows.append(
                {
                    "arm": arm,
                    "control": control,
                    "metric": metric,
                    "is_primary": metric == primary,
                    **asdict(result),
                    "p_adjusted": p_adjusted,
                    "num_arm": counts[arm],
                    "num_control": counts[control],
                    "sample_ratio_p": ratio_p,
                    "verdict": told,
                    "reason": f"until {plan.ends:%Y-%m-%d %H:%M} (UTC); so far {reason}"
                    if told == "running"
                    else reason,
                }
            )
    return rows


def _mismatch(counts: Mapping[str, int], ratio_p: float) -> str:
    units = ", ".join(f"{count:,} in {arm}" for arm, count in counts.items())
    return f"the arms' sizes are not those intended: {units} (p {ratio_p:.2g})"


def _reason(metric: Metric, result: Comparison, p_adjusted: float | None, number: int) -> str:
    """The result in one line; `number` is that of the comparisons for which its p value is corrected."""
    if metric == "conversion" and not result.arm_value and not result.control_value:
        return "nobody bought"
    if p_adjusted is None:
        return "too few units, or none that differs"
    corrected = f", {p_adjusted:.2g} corrected for {number} comparisons" if number > 1 else ""
    return (
        f"{result.arm_value:.4g} against {result.control_value:.4g}: {result.effect:+.4g} "
        f"(95 % from {result.low:+.4g} to {result.high:+.4g}, p {result.p:.2g}{corrected})"
    )


def _named(left_out: Sequence[str], arms: Mapping[str, Arm], unit: str) -> str:
    """The arms left out with their sizes, the first few by name."""
    named = ", ".join(f"{arm} ({counted(arms[arm].num_units, unit)})" for arm in left_out[:MOST_NAMED])
    further = len(left_out) - MOST_NAMED
    return f"left out as arms that were not meant: {named}" + (f" and {further:,} more" if further > 0 else "")


def _total(arms: Mapping[str, Arm], metric: Metric, part: str = "y") -> float:
    return sum(float(getattr(arm.sums[metric], part)) for arm in arms.values())
