"""What comes of what is shown: whether impressions are clicked and lead to purchases as often as before a release.

A reaction counts within some hours, and an impression that is not as old yet does not count, so that the latest ones do not seem
worse. Two looks: river's ADWIN (Bifet and Gavalda 2007) over the impressions in order of time, which finds when a rate changed; and of each
logging policy the difference of rates with an interval over users (Deng, Knoblich and Lu 2018), as experiments are judged.
"""

from datetime import datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from river.drift import ADWIN

from lib.statistics.experiments import Comparison, Sums, compare_ratios

COLUMNS = ("event_id", "user_key", "item_id", "event_type", "event_time", "request_id", "policy")
REACTIONS = {"click": "view", "purchase": "purchase"}


class Change(NamedTuple):
    """What ADWIN found in a sequence."""

    num_changes: int  # found since the release
    first: int | None  # where the first of them was found, an index of the sequence


class OfPolicy(NamedTuple):
    """A policy's rate since the release, against before."""

    policy: str
    compared: Comparison
    num_then: int  # users, or requests where the log names no user
    num_now: int


def rewarded(events: pl.DataFrame, *, until: datetime, within: timedelta) -> pl.DataFrame:
    """The impressions of a policy, in order of time, with `unit`, and `click` and `purchase`, 0 or 1.

    Args:
        events: with COLUMNS, of people.
        until: the end of what is known.
        within: so long after it a reaction counts; younger impressions are left out.
    """
    is_shown = (
        (pl.col("event_type") == "impression") & pl.col("policy").is_not_null() & pl.col("request_id").is_not_null()
    )
    shown = events.filter(is_shown & (pl.col("event_time") <= until - within)).unique(
        ["request_id", "item_id"], keep="first", maintain_order=True
    )
    found = shown.select(
        "event_time", "event_id", "policy", "request_id", "item_id", unit=pl.coalesce("user_key", "request_id")
    )
    for reward, event_type in REACTIONS.items():
        of_type = events.filter((pl.col("event_type") == event_type) & pl.col("request_id").is_not_null())
        first = of_type.group_by("request_id", "item_id").agg(reacted_at=pl.col("event_time").min())
        in_time = (pl.col("reacted_at") - pl.col("event_time")).is_between(timedelta(), within)
        found = (
            found.join(first, on=["request_id", "item_id"], how="left")
            .with_columns(in_time.fill_null(value=False).cast(pl.Float64).alias(reward))
            .drop("reacted_at")
        )
    return found.sort("event_time", "event_id")


def changes(rewards: NDArray[np.float64], start: int, *, delta: float) -> Change:
    """Changes of the rate that ADWIN finds from an index on, when it has seen what came before.

    What came before is seen without regard to the changes in it; `delta` bounds the chance of a false one at each look.
    """
    detector: Any = ADWIN(delta=delta)  # type: ignore[no-untyped-call]
    found = []
    for place, reward in enumerate(rewards.tolist()):
        detector.update(reward)
        if detector.drift_detected and place >= start:
            found.append(place)
    return Change(len(found), found[0] if found else None)


def together(before: pl.DataFrame, since: pl.DataFrame, reward: str) -> OfPolicy:
    """The impressions of all policies, as if of one."""
    one = pl.lit("").alias("policy")
    (found,) = by_policy(before.with_columns(one), since.with_columns(one), reward)
    return found


def by_policy(before: pl.DataFrame, since: pl.DataFrame, reward: str) -> list[OfPolicy]:
    """Each policy that has impressions in both, against itself before."""
    sums = [_sums(side, reward) for side in (before, since)]
    return [
        OfPolicy(policy, compare_ratios(sums[1][policy], sums[0][policy]), sums[0][policy].n, sums[1][policy].n)
        for policy in sorted(sums[0].keys() & sums[1].keys())
    ]


def _sums(shown: pl.DataFrame, reward: str) -> dict[str, Sums]:
    units = shown.group_by("policy", "unit").agg(y=pl.col(reward).sum(), x=pl.len().cast(pl.Float64))
    y, x = pl.col("y"), pl.col("x")
    found = units.group_by("policy").agg(
        n=pl.len(), y=y.sum(), yy=(y * y).sum(), x=x.sum(), xx=(x * x).sum(), xy=(x * y).sum()
    )
    return {row.pop("policy"): Sums(**row) for row in found.to_dicts()}
