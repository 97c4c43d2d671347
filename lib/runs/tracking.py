"""MLflow's record of the model versions of a lake: settings, curves, metrics, the table versions each was trained on, and its files.

One MLflow run is one version of a model, named after it. All of it is in the lake already (ops/models, gold/model_metrics), so
an MLflow server that is away costs no training: what it lacks is sent when it is back. Imports mlflow, which takes seconds,
only where it is used.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from lib.lake.lake import Lake
from lib.runs import model_registry
from lib.runs.errors import RetryableError

if TYPE_CHECKING:
    from mlflow.client import MlflowClient
    from mlflow.entities import Run as TrackedRun

VERSION, STATUS = "cartwheel.version", "cartwheel.status"  # tags
LEFT_OUT = re.compile(r"[^\w\-. /:]")  # what MLflow allows in no name
VALUES_AT_ONCE = 1000  # MLflow's limit
# A server that is away is told of soon, a store of files is wanted where there is none, our own lines are enough, and nobody else
# is told of what is done here.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def track(lake: Lake, *, uri: str, experiment: str) -> tuple[int, int]:
    """Record the versions that MLflow does not know yet, and the status of the others; returns how many of each.

    Args:
        lake: whose ops/models it is.
        uri: MLflow's tracking server, or a folder.
        experiment: MLflow's name for this lake's versions; made if there is none.

    Raises:
        RetryableError: the server cannot be reached, or refuses.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow.client import MlflowClient  # noqa: PLC0415
    from mlflow.exceptions import MlflowException  # noqa: PLC0415

    try:
        client = MlflowClient(uri)
        found = client.get_experiment_by_name(experiment)
        number = found.experiment_id if found else client.create_experiment(experiment)
        known = _known(client, number)
        rows = [row for row in model_registry.models(lake) if row["model"] != model_registry.RELEASE]
        new = [row for row in rows if _name(row) not in known]
        for row in new:
            _record(client, number, lake, row)
        changed = [
            (known[_name(row)], row["status"])
            for row in rows
            if _name(row) in known and known[_name(row)].data.tags.get(STATUS) != row["status"]
        ]
        for tracked, status in changed:
            client.set_tag(tracked.info.run_id, STATUS, status)
    except MlflowException as error:
        said = str(error).splitlines()[0]
        raise RetryableError(f"track: MLflow at {uri} does not take the record: {said}") from error
    return len(new), len(changed)


def _known(client: "MlflowClient", experiment: str) -> dict[str, "TrackedRun"]:
    """The versions that MLflow has whole; what a kill has left of one is removed."""
    known, page = {}, None
    while True:
        runs = client.search_runs([experiment], max_results=VALUES_AT_ONCE, page_token=page)
        for run in runs:
            if run.info.status == "FINISHED":
                known[run.data.tags.get(VERSION, "")] = run
            elif VERSION in run.data.tags:
                client.delete_run(run.info.run_id)
        page = runs.token
        if not page:
            return known


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['model']} {row['version']}"


def _record(client: "MlflowClient", experiment: str, lake: Lake, row: Mapping[str, Any]) -> None:
    """Make the run of a version; it is finished when all of it is there."""
    from mlflow.entities import Metric, Param  # noqa: PLC0415

    at = round(row["created_at"].timestamp() * 1000)
    tags = {VERSION: _name(row), STATUS: row["status"], "cartwheel.model": row["model"], "cartwheel.uri": row["uri"]}
    tags |= {f"cartwheel.{name}": str(row[name]) for name in ("reason", "as_of", "sha256") if row.get(name) is not None}
    run = client.create_run(experiment, start_time=at, tags=tags, run_name=_name(row)).info.run_id
    params = json.loads(row.get("settings") or "{}") | {
        f"version of {input_['table']}": input_["version"] for input_ in row["inputs"]
    }
    curves: Mapping[str, list[float]] = json.loads(row.get("curves") or "{}")
    metrics = [
        *((name, value, step) for name, values in curves.items() for step, value in enumerate(values, start=1)),
        *((name, value, 0) for name, value in _metrics(lake, row)),
        *([("number of parameters", row["num_parameters"], 0)] if row.get("num_parameters") is not None else []),
    ]
    for some in _by(VALUES_AT_ONCE, metrics):
        client.log_batch(run, metrics=[Metric(LEFT_OUT.sub("_", name), value, at, step) for name, value, step in some])
    for some_params in _by(100, list(params.items())):
        client.log_batch(run, params=[Param(LEFT_OUT.sub("_", name), str(value)) for name, value in some_params])
    folder = lake.local(row["uri"]) if str(row["uri"]).startswith("files/") else None
    for file in sorted(folder.iterdir()) if folder is not None and folder.is_dir() else ():
        if file.is_file():
            client.log_artifact(run, str(file))
    client.set_terminated(run, end_time=at)


def _metrics(lake: Lake, row: Mapping[str, Any]) -> Iterable[tuple[str, float]]:
    """What gold/model_metrics says of a version, with the ends of intervals."""
    if not lake.exists("gold/model_metrics"):
        return
    is_of_version = (pc.field("model") == row["model"]) & (pc.field("version") == row["version"])
    for metric in lake.dataset("gold/model_metrics").to_table(filter=is_of_version).to_pylist():
        name = f"{metric['split']}/{metric['metric']}"
        for end, value in (("", metric["value"]), (" low", metric["low"]), (" high", metric["high"])):
            if value is not None:
                yield name + end, value


def _by(size: int, values: list[Any]) -> Iterable[list[Any]]:
    return (values[start : start + size] for start in range(0, len(values), size))


def local_store(lake: Lake) -> Path:
    """The store of files beside the tables of a lake on a disk."""
    return lake.folder.absolute() / "files" / "mlflow"
