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
from lib.tables import contract
from lib.tables.gold import AS_OF_PROPERTY
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


def put_decisions(lake: Lake, log: Decisions, split: np.ndarray, *, as_of: datetime) -> dict[str, Any]:
    """Decisions as of a time, with the log's first and last event; returns the settings of a job on them."""
    lake.ensure(contract("gold/decisions"), {AS_OF_PROPERTY: as_of.isoformat()})
    put(lake, "gold/decisions", *rows_of(log, split))
    put_times(lake, as_of - timedelta(days=20), as_of + timedelta(days=4))
    return {"lake": {"path": lake.path}, "time": {"as_of": as_of.isoformat()}, "log": {"format": "obd"}}


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
    split = np.where(share < 4, "train", np.where(share < 6, "valid", "test"))
    settings = put_decisions(lake, log, split, as_of=NOON)
    settings |= {"log": {"format": "market"}, "num_updates": 400, "true_value_sessions": 2000}
    job.main(job.TrainPolicySettings(**settings))

    found = values(lake)
    learned = [(policy, dataset, estimator) for policy in ("dqn", "tabular") for dataset in ("valid", "test")
               for estimator in ("pdis", "dr")]  # fmt: skip
    strategies = ("personal", "popularity_softmax")
    alone = [f"{dataset}/{strategy}" for dataset in ("all", "valid", "test") for strategy in strategies]
    logging = [("logging", dataset, "mean_return") for dataset in ("all", "valid", "test", *alone)]
    true = [(policy, "test", "true") for policy in ("logging", "dqn", "tabular")]
    true += [("logging", f"test/{strategy}", "true") for strategy in strategies]
    assert set(found) == {*learned, *logging, *true}

    decisive = found["dqn", "test", "dr"]
    assert (decisive["verdict"], decisive["incumbent"]) == ("promote", "personal"), decisive["reason"]
    assert "incumbent personal" in decisive["reason"]
    best = found["logging", "test/personal", "true"]["value"]
    assert found["logging", "test/popularity_softmax", "true"]["value"] < best < found["dqn", "test", "true"]["value"]
    assert found["dqn", "test", "true"]["value"] > 1.2 * found["logging", "test", "true"]["value"]
    assert decisive["low"] - 0.1 <= found["dqn", "test", "true"]["value"] <= decisive["high"] + 0.1
    diagnostic = found["dqn", "valid", "pdis"]
    assert diagnostic["effective_sample_size"] >= 0.05 * diagnostic["num_episodes"]
    assert (diagnostic["verdict"], diagnostic["low"], diagnostic["high"]) == ("diagnostic", None, None)
    assert {row["verdict"] for key, row in found.items() if "pdis" not in key and row != decisive} == {"reference"}

    model = model_registry.current_model(lake, "policy")
    assert model is not None
    network, served = qnet.load(tmp_path / model["uri"] / "qnet.safetensors")
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
def test_a_logging_policy_is_worth_its_mean_click_rate_and_few_rows_promote_nothing(
    job: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lake, log = Lake(str(tmp_path)), bandit(200, click_rate=0.2)
    settings = put_decisions(lake, log, np.where(np.arange(200) < 160, "train", "test"), as_of=NOON)  # no valid
    job.main(job.TrainPolicySettings(**settings, num_updates=10))

    found = values(lake)
    clicks = int(log.rewards[::2].sum())
    row = found["logging", "all/random", "mean_return"]
    assert row["value"] == clicks / 100
    assert (row["num_rewarded"], row["num_episodes"]) == (clicks, 100)
    assert row["low"] < row["value"] < row["high"]
    assert "no validation episode" in capsys.readouterr().out
    decisive = found["dqn", "test", "dr"]
    assert (decisive["verdict"], decisive["incumbent"]) == ("keep_logging", None)
    assert "too little evidence" in decisive["reason"]
    assert ("dqn", "valid", "dr") not in found
    assert model_registry.current_model(lake, "policy") is None
    (version,) = model_registry.models(lake)
    assert (version["status"], version["reason"]) == ("candidate", decisive["reason"])


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_as_of_the_logs_end_it_learns_all_and_judges_on_the_window_before(
    job: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lake, log = Lake(str(tmp_path)), bandit(200, click_rate=0.2)
    settings = put_decisions(lake, log, np.where(np.arange(200) < 120, "train", "valid"), as_of=NOON)
    job.main(job.TrainPolicySettings(**settings, num_updates=10, incumbent="bts", min_effective_episodes=10))
    found = values(lake)
    decisive = found["dqn", "valid", "dr"]
    assert decisive["verdict"] in ("promote", "keep_logging")
    assert decisive["incumbent"] == "bts"
    assert "on its own 40 episodes" in decisive["reason"]
    assert {dataset.split("/")[0] for _, dataset, _ in found} == {"all", "valid"}
    out = capsys.readouterr().out
    assert "learned tabular Q on train  decisions=120" in out
    assert "learned tabular Q on known  decisions=200" in out


@pytest.mark.usefixtures("ray_cluster")
def test_what_cannot_be_meant_is_refused_in_one_line(job: ModuleType, tmp_path: Path) -> None:
    lake, log = Lake(str(tmp_path)), bandit(20, click_rate=0.5)
    settings = put_decisions(lake, log, np.where(np.arange(20) < 10, "train", "test"), as_of=NOON)
    with pytest.raises(
        ValueError, match="incumbent = best: no logging policy of this log; expected one of bts, random"
    ):
        job.main(job.TrainPolicySettings(**settings, incumbent="best"))
    with pytest.raises(ValueError, match="run decisions first with the same --as-of"):
        job.main(job.TrainPolicySettings(**settings | {"time": {"as_of": "end"}}))
    with pytest.raises(ValueError, match="should divide batch_size, which is 256"):
        job.TrainPolicySettings(num_learners=3)


@pytest.mark.usefixtures("ray_cluster")
def test_without_a_decision_to_judge_by_the_job_is_skipped(job: ModuleType, tmp_path: Path) -> None:
    lake, log = Lake(str(tmp_path)), bandit(20, click_rate=0.5)
    settings = put_decisions(lake, log, np.full(20, "train"), as_of=NOON)
    job.main(job.TrainPolicySettings(**settings))
    last = history.last_run(lake, "train_policy")
    assert last is not None
    assert last["status"] == "skipped"
    assert "or none later to judge a policy by" in last["message"]
    assert not lake.exists("gold/policy_values")
