"""The track job: what MLflow says of model versions, in a store of files and by a server."""

import json
import os
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from lib.cli.jobs import load_job
from lib.pipeline import JOBS
from lib.runs.errors import ExitCode, RetryableError, ending_of
from lib.runs.run import start_run
from lib.runs.tracking import ENVIRONMENT, local_store
from tests.lakes import START, TEST_FROM, SmallLake
from tests.mlflow_server import mlflow_server

os.environ.update(ENVIRONMENT)  # before MLflow is imported, as the job does
from mlflow.client import MlflowClient
from mlflow.entities import Run as TrackedRun

VERSION = {
    **{"model": "gan", "uri": "files/gan/train_gan-000001", "inputs": [{"table": "bronze/images", "version": 4}]},
    **{"status": "promoted", "num_parameters": 7, "created_at": START, "as_of": TEST_FROM},
}
METRIC = {"model": "gan", "split": "valid", "k": 10, "n": 5, "seed": 0}


@pytest.fixture(scope="module")
def job() -> ModuleType:
    return load_job(JOBS["track"])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as address:
        yield address


@pytest.fixture(params=["files", "server"])
def store(request: pytest.FixtureRequest, small_lake: SmallLake) -> dict[str, str]:
    """The settings of the job that name a store; none for that of files, which it makes itself."""
    if request.param == "files":
        return {}
    return {"uri": request.getfixturevalue("server"), "experiment": request.node.name}


def shop(lake: SmallLake, *, first: str, second: str) -> None:
    """Two versions; the first has settings, curves, metrics and a file."""
    told = {"settings": '{"num_epochs": 2, "note": "größe"}', "curves": '{"loss": [0.5, 0.25]}'}
    lake.put(
        "ops/models",
        VERSION | told | {"version": "train_gan-000001", "run_id": "train_gan-000001", "status": first},
        VERSION
        | {"version": "train_gan-000002", "run_id": "train_gan-000002", "status": second, "uri": "gold/vectors"},
    )
    row = METRIC | {"version": "train_gan-000001", "metric": "all NDCG@10", "value": 0.5, "low": 0.25, "high": None}
    lake.put("gold/model_metrics", row, row | {"model": "als", "value": 0.9}, row | {"version": "x", "value": 0.8})
    folder = lake.lake.files("gan", "train_gan-000001")
    (folder / "generator.safetensors").write_bytes(b"weights")
    (folder / "checkpoints").mkdir(exist_ok=True)


def client_of(lake: SmallLake, store: dict[str, str]) -> MlflowClient:
    return MlflowClient(store.get("uri", local_store(lake.lake).as_uri()))


def tracked(lake: SmallLake, store: dict[str, str]) -> dict[str, TrackedRun]:
    client = client_of(lake, store)
    found = client.get_experiment_by_name(store.get("experiment", "cartwheel"))
    assert found is not None
    runs = client.search_runs([found.experiment_id])
    by_name = {run.info.run_name: run for run in runs}
    assert len(by_name) == len(runs), "each version once"
    return by_name


def run_job(job: ModuleType, lake: SmallLake, **settings: Any) -> None:
    job.main(job.TrackSettings(**lake.shared_settings, **settings))


def test_a_version_has_its_settings_curves_metrics_inputs_and_files(
    job: ModuleType, small_lake: SmallLake, store: dict[str, str]
) -> None:
    shop(small_lake, first="promoted", second="candidate")
    run_job(job, small_lake, **store)
    runs = tracked(small_lake, store)
    assert set(runs) == {"gan train_gan-000001", "gan train_gan-000002"}
    first = runs["gan train_gan-000001"]
    assert first.data.params == {"num_epochs": "2", "note": "größe", "version of bronze/images": "4"}
    assert first.data.metrics == {
        **{"loss": 0.25, "number of parameters": 7.0},
        **{"valid/all NDCG_10": 0.5, "valid/all NDCG_10 low": 0.25},
    }
    assert first.data.tags["cartwheel.status"] == "promoted"
    assert first.info.start_time == round(START.timestamp() * 1000)
    client = client_of(small_lake, store)
    assert [(m.step, m.value) for m in client.get_metric_history(first.info.run_id, "loss")] == [(1, 0.5), (2, 0.25)]
    assert [file.path for file in client.list_artifacts(first.info.run_id)] == ["generator.safetensors"]
    assert runs["gan train_gan-000002"].data.metrics == {"number of parameters": 7.0}


def test_a_second_run_changes_nothing_but_the_status(
    job: ModuleType, small_lake: SmallLake, store: dict[str, str]
) -> None:
    shop(small_lake, first="promoted", second="candidate")
    run_job(job, small_lake, **store)
    before = tracked(small_lake, store)
    shop(small_lake, first="retired", second="promoted")
    run_job(job, small_lake, **store)
    after = tracked(small_lake, store)
    assert {name: run.info.run_id for name, run in after.items()} == {n: run.info.run_id for n, run in before.items()}
    assert {name: run.data.tags["cartwheel.status"] for name, run in after.items()} == {
        "gan train_gan-000001": "retired",
        "gan train_gan-000002": "promoted",
    }


def test_what_a_kill_has_left_of_a_version_is_made_again(
    job: ModuleType, small_lake: SmallLake, store: dict[str, str]
) -> None:
    shop(small_lake, first="promoted", second="candidate")
    run_job(job, small_lake, **store)
    client = client_of(small_lake, store)
    half = tracked(small_lake, store)["gan train_gan-000001"].info.run_id
    client.set_terminated(half, status="RUNNING")  # as one is until all of it is there
    run_job(job, small_lake, **store)
    whole = tracked(small_lake, store)["gan train_gan-000001"]
    assert whole.info.run_id != half
    assert whole.info.status == "FINISHED"
    assert whole.data.metrics["loss"] == 0.25


def test_a_server_that_is_away_is_one_line_and_may_be_tried_again(
    job: ModuleType, small_lake: SmallLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop(small_lake, first="promoted", second="candidate")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RetryableError) as caught:
        run_job(job, small_lake, uri="http://127.0.0.1:1")
    assert ending_of(caught.value).code == ExitCode.FAILED
    assert "MLflow at http://127.0.0.1:1" in str(caught.value)
    assert "\n" not in str(caught.value).splitlines()[0]


def test_a_run_keeps_the_jobs_own_settings_with_its_model(small_lake: SmallLake) -> None:
    settings = load_job(JOBS["train_ranker"]).TrainRankerSettings(**small_lake.shared_settings, num_leaves=7)
    with start_run("train_ranker", settings) as run:
        run.register_model("ranker", "gold/vectors", num_parameters=3, curves={"loss": [1.0, 0.5]})
    (row,) = small_lake.read("ops/models")
    assert json.loads(row["curves"]) == {"loss": [1.0, 0.5]}
    own = json.loads(row["settings"])
    assert own["num_leaves"] == 7
    assert not {"lake", "log", "privacy", "cluster"} & set(own)
