"""train_policy on small logs: the market with its truth, a uniform log, few episodes; each a real run with Ray."""

import csv
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from lib.cli.jobs import load_job
from lib.lake.lake import Lake
from lib.pipeline import JOBS
from lib.runs import history, model_registry
from rl.dataset.decisions import Decisions
from rl.learning import qnet
from rl.market.market import CATALOGUE_FILE, MANIFEST, Market
from rl.market.products import COLUMNS as PRODUCT_COLUMNS
from rl.market.truth import LOG_FOLDER
from tests.lakes import put

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def job() -> ModuleType:
    return load_job(JOBS["train_policy"])


def put_times(lake: Lake, *times: datetime) -> None:
    """Events at these times: they tell the log's times and are read for nothing else."""
    row = {"item_id": "i", "event_type": "view", "is_bot": False, "source_record": "events:0"}
    given = ({"event_id": str(i), "event_time": t, "event_date": t.date()} for i, t in enumerate(times))
    put(lake, "silver/events", *given, base=row)


def rows_of(log: Decisions, split: np.ndarray) -> list[dict[str, Any]]:
    """Decisions as rows of gold/decisions."""
    n = len(log)
    after = log.next_rows
    columns = {
        "episode_id": [f"e{number:06d}" for number in log.episodes],
        "step": log.steps,
        "user_key": [f"u{number}" for number in log.users],
        "event_time": [NOON] * n,
        "split": split,
        "state": log.states.tolist(),
        "candidates": [[f"i{i}" for i in range(count)] for count in log.mask.sum(axis=1)],
        "candidate_features": [row[kept].tolist() for row, kept in zip(log.candidates, log.mask, strict=True)],
        "action": log.actions,
        "propensity": log.propensities,
        "propensity_source": ["logged"] * n,
        "policy": log.policies,
        "reward": log.rewards,
        "next_state": [log.states[row].tolist() if row >= 0 else None for row in after],
        "is_last": log.is_last,
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def values(lake: Lake) -> dict[tuple[str, str, str], dict[str, Any]]:
    rows = lake.dataset("gold/policy_values").to_table().to_pylist()
    return {(row["policy"], row["dataset"], row["estimator"]): row for row in rows}


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_on_the_market_a_better_policy_is_learned_promoted_and_told_with_its_truth(
    job: ModuleType, tmp_path: Path
) -> None:
    market, lake = Market.generate(num_users=700, num_items=100), Lake(str(tmp_path))
    folder = tmp_path / LOG_FOLDER
    (folder / CATALOGUE_FILE).parent.mkdir(parents=True)
    with (folder / CATALOGUE_FILE).open("w", newline="") as file:
        csv.writer(file).writerows([PRODUCT_COLUMNS, *market.attributes.rows()])
    (folder / MANIFEST).write_text(json.dumps({"market": market.settings}))
    log = market.decisions()
    share = log.users % 10
    put(lake, "gold/decisions", *rows_of(log, np.where(share < 6, "train", np.where(share < 8, "valid", "test"))))
    put_times(lake, datetime.fromtimestamp(market.start_ms / 1000, UTC), NOON)

    settings = {"lake": {"path": str(tmp_path)}, "num_updates": 400, "true_value_sessions": 2000}
    job.main(job.TrainPolicySettings(**settings))

    found = values(lake)
    learned = [(policy, dataset, estimator) for policy in ("dqn", "tabular") for dataset in ("valid", "test")
               for estimator in ("pdis", "dr")]  # fmt: skip
    logging = [("logging", dataset, "mean_return") for dataset in ("valid", "test")]
    own = [("logging", f"all/{p}", e) for p in ("personal", "popularity_softmax") for e in ("mean_return", "pdis")]
    true = [(policy, "test", "true") for policy in ("logging", "dqn", "tabular")]
    assert set(found) == {*learned, *logging, *own, *true}

    decisive = found["dqn", "test", "dr"]
    assert decisive["verdict"] == "promote", decisive["reason"]
    assert {row["verdict"] for key, row in found.items() if key != ("dqn", "test", "dr")} == {"reference"}
    assert found["dqn", "test", "true"]["value"] > 1.2 * found["logging", "test", "true"]["value"]
    assert decisive["low"] - 0.1 <= found["dqn", "test", "true"]["value"] <= decisive["high"] + 0.1
    assert (
        found["dqn", "valid", "pdis"]["effective_sample_size"] >= 0.05 * found["dqn", "valid", "pdis"]["num_episodes"]
    )

    model = model_registry.current_model(lake, "policy")
    assert model is not None
    network, served = qnet.load(tmp_path / model["uri"] / "qnet.pt")
    assert served["epsilon"] == 0.1
    assert network.action_values(log.states[:3], log.candidates[:3], log.mask[:3]).shape == (3, 10)


def bandit(num_rows: int, *, click_rate: float) -> Decisions:
    """A log of one-step episodes by a uniform policy and one that prefers the first of 4 products."""
    rng = np.random.default_rng(0)
    is_uniform = np.arange(num_rows) % 2 == 0
    preferring = np.array([0.4, 0.2, 0.2, 0.2])
    actions = np.where(is_uniform, rng.integers(4, size=num_rows), rng.choice(4, p=preferring, size=num_rows))
    return Decisions(
        episodes=np.arange(num_rows),
        steps=np.zeros(num_rows, dtype=np.int64),
        states=rng.normal(size=(num_rows, 2)).astype(np.float32),
        candidates=rng.normal(size=(num_rows, 4, 2)).astype(np.float32),
        mask=np.ones((num_rows, 4), dtype=bool),
        actions=actions,
        propensities=np.where(is_uniform, 0.25, preferring[actions]),
        rewards=(rng.random(num_rows) < click_rate).astype(float),
        is_last=np.ones(num_rows, dtype=bool),
        policies=np.where(is_uniform, "random", "bts").astype(object),
        users=np.arange(num_rows),
    )


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_uniform_log_values_its_own_policy_at_its_mean_click_rate_and_few_rows_promote_nothing(
    job: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lake, log = Lake(str(tmp_path)), bandit(200, click_rate=0.2)
    put(lake, "gold/decisions", *rows_of(log, np.where(np.arange(200) < 160, "train", "test")))  # no valid
    put_times(lake, NOON, NOON + timedelta(days=1))
    job.main(job.TrainPolicySettings(lake={"path": str(tmp_path)}, log={"format": "obd"}, num_updates=10))

    found = values(lake)
    clicks = int(log.rewards[::2].sum())
    for estimator in ("mean_return", "pdis"):
        row = found["logging", "all/random", estimator]
        assert row["value"] == clicks / 100
        assert (row["num_rewarded"], row["num_episodes"]) == (clicks, 100)
        assert row["low"] < row["value"] < row["high"]
    out = capsys.readouterr().out
    assert f"logging policy random on its own log: {clicks / 100:.6g}" in out
    assert f"rewarded {clicks} of 100" in out
    assert "no validation episode" in out
    decisive = found["dqn", "test", "dr"]
    assert decisive["verdict"] == "keep_logging"
    assert "too little evidence" in decisive["reason"]
    assert ("dqn", "valid", "dr") not in found
    assert model_registry.current_model(lake, "policy") is None
    assert [row["status"] for row in model_registry.models(lake)] == ["candidate"]


def test_without_a_decision_to_value_on_the_job_is_skipped(job: ModuleType, tmp_path: Path) -> None:
    lake, log = Lake(str(tmp_path)), bandit(20, click_rate=0.5)
    put(lake, "gold/decisions", *rows_of(log, np.full(20, "train")))
    put_times(lake, NOON, NOON + timedelta(days=1))
    job.main(job.TrainPolicySettings(lake={"path": str(tmp_path)}, log={"format": "obd"}))
    last = history.last_run(lake, "train_policy")
    assert last is not None
    assert last["status"] == "skipped"
    assert not lake.exists("gold/policy_values")
