"""What Airflow itself makes of conf/airflow: no error, and the graph that the jobs' declarations give."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from lib.pipeline import PIPELINE, jobs_before
from tests.airflow.engine import DAGS, Airflow

PARSE = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(sys.argv[1])
print(json.dumps({"errors": bag.import_errors, "dags": {
    dag.dag_id: {task.task_id: sorted(task.upstream_task_ids) for task in dag.tasks} for dag in bag.dags.values()}}))
"""

DRIFT = """
import sys
from airflow.dag_processing.dagbag import DagBag
try:
    DagBag(sys.argv[1]).dags["cartwheel_drift"].get_task("drift").execute({})
    print("done")
except Exception as error:
    print(type(error).__name__)
"""


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    airflow = Airflow(tmp_path_factory.mktemp("airflow"), {})
    found: dict[str, Any] = json.loads(airflow.run("python", "-c", PARSE, str(DAGS)).splitlines()[-1])
    return found


def test_airflow_imports_the_file_without_an_error(parsed: dict[str, Any]) -> None:
    assert parsed["errors"] == {}


def test_the_tasks_and_their_order_are_those_of_the_jobs(parsed: dict[str, Any]) -> None:
    jobs = {job.name: sorted(jobs_before(job)) for job in PIPELINE if job.name != "simulate"}
    upkeep = {"cartwheel_maintain": {"maintain": []}, "cartwheel_drift": {"drift": [], "retrain": ["drift"]}}
    assert parsed["dags"] == {"cartwheel": jobs, **upkeep}


@pytest.mark.parametrize(
    ("said", "became"),
    [
        ("drift          release publish-000001 has drifted: events price; run python -m lib.cli run  0.1 s", "done"),
        ('{"stage": "release publish-000001 has drifted: events price; run ...", "job": "drift"}', "done"),
        ("drift          release publish-000001 has not drifted  measures=55  0.1 s", "AirflowSkipException"),
    ],
)
def test_what_follows_drift_runs_only_where_it_says_that_the_release_has_drifted(
    tmp_path: Path, said: str, became: str
) -> None:
    airflow = Airflow(tmp_path, {"cartwheel_drift": shlex.join(["echo", said])})
    assert airflow.run("python", "-c", DRIFT, str(DAGS)).splitlines()[-1] == became


def test_the_lock_names_no_registry() -> None:
    assert "://" not in (DAGS / "requirements.lock").read_text()
