"""On Open Bandit: each of two logging policies is valued from the other's log, against the clicks on its own."""

from pathlib import Path
from typing import Any

import numpy as np
from pyarrow import csv

from acceptance import lakes
from acceptance.claims import DATA, Claim
from lib.lake.lake import Lake
from rl.ope.bootstrap import Bootstrap, Estimate
from rl.ope.estimators import per_decision_wis

FOLDERS = {"random": "random/men/men.csv", "bts": "bts/men/men.csv"}
LOGGED = """
    SELECT d.policy, e.item_id, e.position, d.propensity, d.reward, len(d.candidates) AS num_candidates
    FROM gold.decisions d JOIN silver.events e ON e.event_id = d.episode_id ORDER BY d.episode_id
"""


def check() -> list[Claim]:
    """On a lake of the shipped 10,000 impressions a policy."""
    lake = lakes.real_log("obd")
    logged = lakes.rows(Lake(str(lake)), LOGGED)
    random, bts = ([row for row in logged if row["policy"] == policy] for policy in FOLDERS)
    return [
        clicks_are_those_of_the_files({"random": random, "bts": bts}),
        valued_from_the_other_log("the uniform policy", from_log=bts, own=random, ratios=uniform_over(bts)),
        valued_from_the_other_log("Thompson sampling", from_log=random, own=bts, ratios=shares_over(random, of=bts)),
    ]


def clicks_are_those_of_the_files(logged: dict[str, list[dict[str, Any]]]) -> Claim:
    """The rewards of each policy's decisions against the raw files."""
    counted = {}
    for policy, file in FOLDERS.items():
        clicks = csv.read_csv(Path(DATA) / "obd" / file)["click"].to_numpy()
        rewards = [row["reward"] for row in logged[policy]]
        counted[policy] = ((int(clicks.sum()), len(clicks)), (int(sum(rewards)), len(rewards)))
    return Claim(
        "the decisions of both policies hold the clicks of the raw files",
        "; ".join(f"{name}: {ours} of decisions, {raw} of the file" for name, (raw, ours) in counted.items()),
        all(raw == ours for raw, ours in counted.values()),
    )


def uniform_over(logged: list[dict[str, Any]]) -> np.ndarray:
    """The probability of each logged item under the uniform policy over its logged propensity."""
    return np.array([1 / row["num_candidates"] / row["propensity"] for row in logged])


def shares_over(logged: list[dict[str, Any]], *, of: list[dict[str, Any]]) -> np.ndarray:
    """The same for a policy that is known by its log `of`: an item's probability at a position is its share there.

    Its own propensities would not do: they are known of what it showed, so that their mean is too high.
    """
    shown: dict[tuple[str, int], int] = {}
    at: dict[int, int] = {}
    for row in of:
        shown[row["item_id"], row["position"]] = shown.get((row["item_id"], row["position"]), 0) + 1
        at[row["position"]] = at.get(row["position"], 0) + 1
    share = {(item, position): n / at[position] for (item, position), n in shown.items()}
    return np.array([share.get((row["item_id"], row["position"]), 0.0) / row["propensity"] for row in logged])


def valued_from_the_other_log(
    name: str, *, from_log: list[dict[str, Any]], own: list[dict[str, Any]], ratios: np.ndarray
) -> Claim:
    """Self-normalised importance sampling, one-step episodes, against the click rate that the policy had where it decided."""
    logged = np.array([row["reward"] for row in from_log])
    truth = float(np.mean([row["reward"] for row in own]))
    estimate: Estimate = per_decision_wis(
        logged[:, None], ratios[:, None], Bootstrap(np.arange(len(logged))), discount=1.0
    )
    is_nearer = abs(estimate.value - truth) < abs(logged.mean() - truth)
    return Claim(
        f"{name} is valued from the other policy's log: its click rate on its own log lies within the bootstrap's range, and "
        "nearer to the estimate than to what was logged",
        f"{estimate.value:.4f} ({estimate.low:.4f} to {estimate.high:.4f}), own log {truth:.4f}, logged {logged.mean():.4f}; "
        f"{estimate.effective_sample_size:.0f} effective of {estimate.num_episodes}",
        estimate.low <= truth <= estimate.high and is_nearer,
    )
