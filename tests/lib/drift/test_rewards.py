"""What comes of impressions, worked by hand; ADWIN on a rate that stays and on one that falls."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from lib.drift.judging import Limits, of_policies, of_sequence
from lib.drift.rewards import Change, OfPolicy, by_policy, changes, rewarded, together
from lib.statistics.experiments import Comparison

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
LIMITS = Limits(max_p=0.01, min_psi=0.2, min_reward_change_frac=0.1)


def events(*rows: tuple[str, float, str, str, str | None, str | None]) -> pl.DataFrame:
    """Rows of event type, hours after noon, user, item, request and policy."""
    return pl.DataFrame(
        [
            {
                "event_id": f"e{number}",
                "event_type": kind,
                "event_time": NOON + hours * HOUR,
                "user_key": user,
                "item_id": item,
                "request_id": request,
                "policy": policy,
            }
            for number, (kind, hours, user, item, request, policy) in enumerate(rows)
        ],
        schema_overrides={"event_time": pl.Datetime("us", "UTC"), "policy": pl.String, "request_id": pl.String},
    )


def test_a_reaction_counts_to_its_impression_alone_and_in_time_and_a_young_impression_not_at_all() -> None:
    log = events(
        ("impression", 0, "u", "a", "r1", "p"),  # clicked twice and bought in time
        ("view", 0.1, "u", "a", "r1", None),
        ("view", 0.2, "u", "a", "r1", None),
        ("purchase", 0.5, "u", "a", "r1", None),
        ("impression", 0, "u", "b", "r1", "p"),  # clicked too late
        ("view", 1.5, "u", "b", "r1", None),
        ("impression", 1, "v", "a", "r2", "p"),  # its item was clicked under another request
        ("view", 1.1, "v", "a", None, None),
        ("impression", 2, "v", "c", "r3", None),  # of no policy
        ("impression", 2.5, "v", "d", "r4", "p"),  # younger than an hour at 3
        ("view", 2.6, "v", "d", "r4", None),
    )
    found = rewarded(log, until=NOON + 3 * HOUR, within=HOUR)
    assert found.select("request_id", "item_id", "unit", "click", "purchase").rows() == [
        ("r1", "a", "u", 1, 1),
        ("r1", "b", "u", 0, 0),
        ("r2", "a", "v", 0, 0),
    ]


def test_adwin_rarely_alarms_while_the_rate_stays_and_always_soon_after_it_has_halved() -> None:
    draw = np.random.default_rng(0)
    same = [changes((draw.random(8_000) < 0.2).astype(float), 4_000, delta=0.002) for _ in range(40)]
    assert sum(change.num_changes > 0 for change in same) <= 2
    rate = np.repeat([0.2, 0.1], 4_000)
    halved = [changes((draw.random(8_000) < rate).astype(float), 4_000, delta=0.002).first for _ in range(10)]
    assert all(place is not None and 4_000 < place < 5_500 for place in halved)


def test_a_change_before_the_release_is_no_change_since() -> None:
    draw = np.random.default_rng(1)
    rate = np.repeat([0.5, 0.1], [3_000, 9_000])
    assert changes((draw.random(12_000) < rate).astype(float), 8_000, delta=0.002) == Change(0, None)


def test_a_policys_rates_are_of_impressions_and_a_large_sure_change_alone_is_drift() -> None:
    def shown(rate: float, users: int, seed: int) -> pl.DataFrame:
        draw = np.random.default_rng(seed)
        unit = [f"u{n // 10}" for n in range(users * 10)]
        return pl.DataFrame({"policy": "p", "unit": unit, "click": (draw.random(users * 10) < rate).astype(float)})

    before, since, same = shown(0.30, 300, 0), shown(0.20, 300, 1), shown(0.30, 300, 2)
    (found,) = by_policy(before, since, "click")
    assert (found.num_then, found.num_now) == (300, 300)
    assert found.compared.control_value == pytest.approx(before["click"].mean())
    assert found.compared.arm_value == pytest.approx(since["click"].mean())
    (row,) = of_policies({"click": [found]}, LIMITS)
    assert row["name"] == "click/p" and row["is_drifted"] and row["low"] < -0.1 < row["high"] < 0
    (row,) = of_policies({"click": by_policy(before, same, "click")}, LIMITS)
    assert not row["is_drifted"] and "no more than chance" in row["reason"]
    (row,) = of_policies({"click": by_policy(before.head(50), since.head(50), "click")}, LIMITS)
    assert not row["is_drifted"] and row["reason"] == "too few users, or none that differ, to tell (5 and 5)"


def test_a_change_that_adwin_finds_is_drift_only_where_it_is_large_and_beyond_chance_over_users() -> None:
    def told(now: float, p: float | None) -> OfPolicy:
        return OfPolicy("", Comparison(now, 0.2, now - 0.2, now - 0.21, now - 0.19, p), 90, 80)

    def row(now: float, p: float | None, changes: int) -> dict[str, Any]:
        return of_sequence("click", told(now, p), Change(changes, 5), "2026-01-05 12:00", LIMITS)

    large = row(0.17, 0.001, 2)
    assert large["is_drifted"] and large["effect"] == pytest.approx(-0.03) and large["statistic"] == 2
    assert large["reason"] == "ADWIN finds a change, by 2026-01-05 12:00, of at least 10%: 0.2000 before, 0.1700 since"
    assert not row(0.21, 0.001, 1)["is_drifted"]  # a change of 5 %
    assert not row(0.17, 0.2, 1)["is_drifted"]
    assert "over users is no more than chance" in row(0.17, 0.2, 1)["reason"]
    assert not row(0.1, 0.001, 0)["is_drifted"]
    never = OfPolicy("", Comparison(0.0, 0.0, 0.0, None, None, None), 90, 80)
    assert not of_sequence("purchase", never, Change(1, 5), "then", LIMITS)["is_drifted"]
    first = OfPolicy("", Comparison(0.1, 0.0, 0.1, 0.05, 0.15, 0.001), 90, 80)
    assert of_sequence("purchase", first, Change(1, 5), "then", LIMITS)["is_drifted"]


def test_all_policies_together_are_their_users_and_impressions() -> None:
    before = pl.DataFrame({"policy": ["a", "a", "b"], "unit": ["u", "v", "u"], "click": [1.0, 0.0, 1.0]})
    since = pl.DataFrame({"policy": ["a", "b"], "unit": ["u", "w"], "click": [0.0, 1.0]})
    found = together(before, since, "click")
    assert (found.num_then, found.num_now) == (2, 2)
    assert found.compared.control_value == pytest.approx(2 / 3) and found.compared.arm_value == 0.5
