"""The tasks that write gold/propensity_to_buy, run one after the other in this process."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lib.engines.arrow_tasks import TABLE_FILES, InProcess, files_of, gathered
from lib.engines.local_tasks import LocalEngine
from lib.models import propensity
from lib.models.baselines import Linear
from lib.models.calibration import Calibration
from lib.models.propensity import NUM_BINS, Served, bins_of, deciles_of
from lib.models.rows import INTERACTION_COLUMNS
from lib.ranking.known_pairs import spread_interactions
from tests.lakes import TEST_FROM, VALID_FROM, SmallLake

NUM_SHARDS = 3
HALF = Served("linear", "v", Linear(np.array([1.0]), 0.0), Calibration(2.0, 0.0))  # log odds are twice the feature


def files(lake: SmallLake, table: str) -> pa.Table:
    rows = [{"location": path, "num_bytes": size, "kind": ""} for path, size in lake.lake.data_files(table)]
    return pa.Table.from_pylist(rows, schema=TABLE_FILES)


def histogram(users_by_bin: dict[int, int]) -> pl.DataFrame:
    return pl.DataFrame({"bin": list(users_by_bin), "num_users": list(users_by_bin.values())})


def test_deciles_by_hand() -> None:
    # Twenty users, each in a bin of its own: two in each decile, the most likely in the first.
    found = deciles_of(histogram({100 * user: 1 for user in range(20)}))
    assert [int(found[100 * user]) for user in range(19, -1, -1)] == [1 + place // 2 for place in range(20)]
    # Users of one bin share the decile that the first of them has: above it are 0, 3 and 9 of ten.
    found = deciles_of(pl.concat([histogram({7: 1, 8: 2}), histogram({8: 4, 9: 3})]))
    assert found[[9, 8, 7]].tolist() == [1, 4, 10]
    assert deciles_of(histogram({5: 1}))[5] == 1, "one user"
    assert set(found.tolist()) <= set(range(1, 11))


def test_bins_are_of_log_odds_and_end_at_the_last() -> None:
    assert bins_of(np.array([-100.0, -12.0, 0.0, 11.9999, 12.0, 100.0])).tolist() == [
        *(0, 0, NUM_BINS // 2),
        *(NUM_BINS - 1, NUM_BINS - 1, NUM_BINS - 1),
    ]


PROFILE = {"as_of": TEST_FROM, "first_event_at": VALID_FROM, "last_event_at": VALID_FROM}
PROFILE |= dict.fromkeys(
    [
        *("recency_days", "tenure_days", "num_events", "num_sessions", "num_active_days"),
        *("num_views", "num_carts", "num_purchases", "num_returns", "num_items"),
    ],
    1,
)
BOUGHT = {"item_id": "i", "split": "valid", "weight": 1.0, "count": 1, "num_relevant": 1}


def put_users(lake: SmallLake) -> None:
    """Users a to e of rising log odds; a and b are known to have spent, and on how many days."""
    users = [
        {"user_key": key, "as_of": TEST_FROM, "split": "test", "features": [number / 2]}
        for number, key in enumerate("abcde")
    ]
    lake.put("gold/examples", *users)
    late = {"as_of": TEST_FROM + timedelta(days=1)}
    profiles = [{"user_key": "a", "spend": Decimal(60)}, {"user_key": "b", "spend": Decimal(10)}]
    profiles += [{"user_key": "c", "spend": None}, {"user_key": "d", "spend": Decimal(0)}]
    lake.put("gold/user_profiles", *profiles, {"user_key": "e", "spend": Decimal(999)} | late, base=PROFILE)
    day = timedelta(days=1)
    lake.put(
        "gold/interactions",
        {"user_key": "a", "event_time": VALID_FROM - day},  # the profile does not know it
        {"user_key": "a", "event_time": VALID_FROM},
        {"user_key": "a", "event_time": VALID_FROM + timedelta(hours=1), "item_id": "j"},  # on the same day
        {"user_key": "a", "event_time": VALID_FROM + day},
        {"user_key": "a", "event_time": VALID_FROM + 2 * day, "num_relevant": 0},
        {"user_key": "a", "event_time": TEST_FROM + day},
        *({"user_key": key, "event_time": VALID_FROM} for key in "bcde"),
        base=BOUGHT,
    )


def written(lake: SmallLake, engine: LocalEngine, *, with_spend: bool = True) -> dict[str, dict[str, Any]]:
    by = {"as_of": TEST_FROM, "num_shards": NUM_SHARDS}
    examples, profiles, interactions = (
        engine.over(files(lake, f"gold/{table}"), task_bytes=1)
        for table in ("examples", "user_profiles", "interactions")
    )
    predicted = examples.then(propensity.predict, served=InProcess(HALF), num_shards=NUM_SHARDS)
    parts, shop_spend = predicted.of(propensity.PREDICTION), None
    if with_spend:
        later = TEST_FROM + timedelta(days=5)
        shares = interactions.then(
            spread_interactions, columns=INTERACTION_COLUMNS, until=later, num_shards=2
        ).to_shards(2)
        known = profiles.then(propensity.spread_profiles, **by).union(shares.then(propensity.spread_days, **by))
        spent = known.to_shards(NUM_SHARDS).then(propensity.count_spend).collected()
        spend, num_days = gathered(spent, propensity.SPEND, propensity.GATHERED).sum().row(0)
        assert (spend, num_days) == (70.0, 3)
        shop_spend, parts = spend / num_days, parts.union(known)
    counts = gathered(predicted.of(propensity.HISTOGRAM).collected(), propensity.HISTOGRAM, propensity.GATHERED)
    done = parts.to_shards(NUM_SHARDS).then(
        propensity.write_propensities,
        lake=lake.lake,
        model="linear",
        version="v",
        as_of=TEST_FROM,
        deciles=deciles_of(counts),
        shop_spend=shop_spend,
    )
    folder = lake.lake.folder / "gold" / "propensity_to_buy"
    found = [pq.read_table(folder / file.path) for file in files_of(done.collected(), "gold/propensity_to_buy")]
    return {row["user_key"]: row for row in pa.concat_tables(found).to_pylist()}


def test_a_user_s_row_by_hand(lake: SmallLake, engine: LocalEngine) -> None:
    put_users(lake)
    rows = written(lake, engine)
    chance = {key: 1 / (1 + np.exp(-number)) for number, key in enumerate("abcde")}  # twice the feature is the number
    assert {key: row["probability"] for key, row in rows.items()} == pytest.approx(chance)
    assert {key: row["decile"] for key, row in rows.items()} == {"e": 1, "d": 3, "c": 5, "b": 7, "a": 9}
    # a spent 60 on two days, b 10 on one, of the others nothing is known: the shop's 70 on three days.
    mean_spend = {"a": 30.0, "b": 10.0} | dict.fromkeys("cde", 70 / 3)
    for key, row in rows.items():
        assert row["expected_spend"] == pytest.approx(Decimal(chance[key] * mean_spend[key]), abs=Decimal("0.0001"))
        assert (row["as_of"], row["model"], row["version"]) == (TEST_FROM, "linear", "v")


def test_without_prices_nothing_is_said_of_spend(lake: SmallLake, engine: LocalEngine) -> None:
    put_users(lake)
    assert {row["expected_spend"] for row in written(lake, engine, with_spend=False).values()} == {None}


def test_what_the_job_gathers_does_not_grow_with_the_users(lake: SmallLake, engine: LocalEngine) -> None:
    sizes = []
    for factor in (1, 50):
        users = [
            {"user_key": f"u{user}", "as_of": TEST_FROM, "split": "test", "features": [user % 20 / 10]}
            for user in range(20 * factor)
        ]
        lake.put("gold/examples", *users)
        served = InProcess(HALF)
        predicted = engine.over(files(lake, "gold/examples"), task_bytes=1).then(
            propensity.predict, served=served, num_shards=NUM_SHARDS
        )
        sizes.append(sum(len(content) for _, content in predicted.of(propensity.HISTOGRAM).collected()))
    assert sizes[1] < 1.1 * sizes[0]


def test_features_that_are_no_numbers_are_counted(lake: SmallLake, engine: LocalEngine) -> None:
    base = {"as_of": TEST_FROM, "split": "test"}
    bad = [[0.5, float("nan")], [float("inf"), 0.1], [None, 0.1]]
    rows = [{"user_key": f"u{n}", "features": features} for n, features in enumerate([[0.1, 1.0], [0.0, 0.0], *bad])]
    lake.put("gold/examples", *rows, base=base)
    found = engine.over(files(lake, "gold/examples"), task_bytes=1).then(propensity.count_unfit).collected()
    assert gathered(found, propensity.UNFIT, propensity.GATHERED)["num_users"].sum() == len(bad)
