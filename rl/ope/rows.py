"""Rows of gold/policy_values: what was estimated of a policy, without a verdict."""

from collections.abc import Mapping
from typing import Any

from rl.market.market import TrueValue
from rl.market.truth import interval
from rl.ope.bootstrap import Estimate
from rl.ope.valuation import Valuation

Row = dict[str, Any]
REFERENCE, DIAGNOSTIC = "reference", "diagnostic"


def policy_rows(
    policy: str, dataset: str, version: str, num_rewarded: int, estimates: Mapping[str, Estimate]
) -> list[Row]:
    """Rows of gold/policy_values, one for each estimator, without a verdict; a diagnostic has no interval."""
    rows = []
    for name, estimate in estimates.items():
        is_diagnostic = name == "pdis"
        reason = f"{estimate.effective_sample_size:.0f} effective of {estimate.num_episodes} episodes"
        if is_diagnostic:
            reason = f"importance sampling is a diagnostic: a bootstrap of it says too much; {reason}"
        rows.append(
            {
                "policy": policy,
                "dataset": dataset,
                "version": version,
                "estimator": name,
                "value": estimate.value,
                "low": None if is_diagnostic else estimate.low,
                "high": None if is_diagnostic else estimate.high,
                "effective_sample_size": estimate.effective_sample_size,
                "num_episodes": estimate.num_episodes,
                "num_rewarded": num_rewarded,
                "verdict": DIAGNOSTIC if is_diagnostic else REFERENCE,
                "reason": reason,
                "incumbent": None,
            }
        )
    return rows


def true_rows(values: Mapping[str, TrueValue], dataset: str, version: str) -> list[Row]:
    """Rows of gold/policy_values for values that were simulated in the market."""
    logging = values["logging"].value
    rows = []
    for name, true in values.items():
        policy, _, strategy = name.partition("/")
        rows.append(
            {
                "policy": policy,
                "dataset": f"{dataset}/{strategy}" if strategy else dataset,
                "version": version,
                "estimator": "true",
                "value": true.value,
                "low": interval(true)[0],
                "high": interval(true)[1],
                "effective_sample_size": None,
                "num_episodes": true.num_sessions,
                "num_rewarded": None,
                "verdict": REFERENCE,
                "reason": f"{true.num_sessions} simulated sessions; {true.value / logging:.2f} times the logging mixture's",
                "incumbent": None,
            }
        )
    return rows


def logging_rows(dataset: str, valued: Valuation, version: str) -> list[Row]:
    """Rows of the logging policies, each by the mean return of its own episodes, and of their mixture."""
    rows = policy_rows("logging", dataset, version, valued.num_rewarded(), {"mean_return": valued.logging()})
    for name, own in valued.logging_policies().items():
        rows += policy_rows("logging", f"{dataset}/{name}", version, valued.num_rewarded(name), {"mean_return": own})
    return rows
