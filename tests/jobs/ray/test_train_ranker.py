"""The job train_ranker: LambdaMART on two real Ray Train workers, on a shop in which people buy again what they bought last."""

import json
from datetime import timedelta
from types import ModuleType
from typing import Any

import lightgbm as lgb
import numpy as np
import pytest

from lib.candidates.features import FEATURES
from lib.cli.jobs import load_job
from lib.pipeline import JOBS
from lib.runs import model_registry
from tests.lakes import START, TEST_FROM, VALID_FROM, SmallLake

NUM_USERS, NUM_ITEMS = 60, 20
OPTIONS: dict[str, Any] = {
    "max_trees": 10,
    "min_leaf_candidates": 5,
    "num_windows": 2,
    "num_proposed": 5,
    "min_support": 1,
}


@pytest.fixture(scope="module")
def job() -> ModuleType:
    return load_job(JOBS["train_ranker"])


def shop(lake: SmallLake, *, future: int = 0) -> None:
    """Everybody buys an item every other day, from ten days before the start on, in most cases again what they bought first."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(NUM_USERS):
        own = rng.integers(NUM_ITEMS)
        for day in range(user % 3 - 10, 30, 2):
            item = own if rng.random() < 0.7 else rng.integers(NUM_ITEMS)
            time = START + timedelta(days=day)
            rows.append({"user_key": f"u{user:02}", "item_id": f"i{item:02}", "event_time": time})
    known = [row for row in rows if row["event_time"] < TEST_FROM + timedelta(days=future)]
    base = {"split": "train", "weight": 1.0, "count": 1, "num_relevant": 1}
    lake.put("gold/interactions", *known, base=base)


def settings_of(job: ModuleType, lake: SmallLake, **more: Any) -> Any:
    return job.TrainRankerSettings(**lake.shared_settings, **(OPTIONS | more))


@pytest.mark.slow
def test_two_workers_learn_what_people_buy_again_and_the_future_changes_nothing(
    job: ModuleType, small_lake: SmallLake, on_workers: None
) -> None:
    texts = []
    for future in (0, 6):
        shop(small_lake, future=future)
        job.main(settings_of(job, small_lake))
        current = model_registry.current_model(small_lake.lake, "ranker")
        assert current is not None
        folder = small_lake.lake.local(current["uri"])
        known = json.loads((folder / "ranker.json").read_text())
        assert known["features"] == list(FEATURES)
        assert known["learned_until"] == {"ranker": TEST_FROM.isoformat(), "ranker-valid": VALID_FROM.isoformat()}
        texts.append([(folder / f"{name}.txt").read_text() for name in ("ranker", "ranker-valid")])
    assert texts[0] == texts[1]
    gain = dict(zip(FEATURES, lgb.Booster(model_str=texts[0][0]).feature_importance("gain"), strict=True))
    own = (
        "weight",
        "num_relevant",
        "num_orders",
        "share_of_orders",
        "bought_14",
        "bought_60",
        "bought_180",
        "weight_14",
        "weight_60",
    )
    assert sum(gain[name] for name in own) > 0.5 * sum(gain.values())
    metrics = {row["metric"]: row for row in small_lake.read("gold/model_metrics")}
    assert metrics.keys() == {"all NDCG@10", "new NDCG@10"}
    assert metrics["all NDCG@10"]["value"] > 0.5 > metrics["new NDCG@10"]["value"]


@pytest.mark.bad_input("one user with one item")
def test_too_few_users_to_learn_from_are_told_in_one_line(
    job: ModuleType, small_lake: SmallLake, on_workers: None, capsys: pytest.CaptureFixture[str]
) -> None:
    base = {"split": "train", "weight": 1.0, "count": 1, "num_relevant": 1, "user_key": "ann", "item_id": "a"}
    small_lake.put("gold/interactions", {"event_time": START}, {"event_time": VALID_FROM}, base=base)
    job.main(settings_of(job, small_lake))
    assert "skipped: 1 user bought something in the windows before 2026-01-21 00:00" in capsys.readouterr().out
    assert model_registry.current_model(small_lake.lake, "ranker") is None


@pytest.mark.bad_input("no positive label")
def test_where_nobody_bought_anything_that_could_have_been_known_the_run_is_skipped(
    job: ModuleType, small_lake: SmallLake, on_workers: None, capsys: pytest.CaptureFixture[str]
) -> None:
    base = {"split": "train", "weight": 1.0, "count": 1, "num_relevant": 0, "user_key": "ann", "item_id": "a"}
    small_lake.put("gold/interactions", {"event_time": START}, {"event_time": VALID_FROM}, base=base)
    job.main(settings_of(job, small_lake))
    assert "skipped: 0 users bought something in the windows before 2026-01-21 00:00" in capsys.readouterr().out
    assert model_registry.current_model(small_lake.lake, "ranker") is None
