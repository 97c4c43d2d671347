"""What Airflow itself makes of conf/airflow: no error, and the graph that the jobs' declarations give."""

import json
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


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    airflow = Airflow(tmp_path_factory.mktemp("airflow"), {})
    found: dict[str, Any] = json.loads(airflow.run("python", "-c", PARSE, str(DAGS)).splitlines()[-1])
    return found


def test_airflow_imports_the_file_without_an_error(parsed: dict[str, Any]) -> None:
    assert parsed["errors"] == {}


def test_the_tasks_and_their_order_are_those_of_the_jobs(parsed: dict[str, Any]) -> None:
    jobs = {job.name: sorted(jobs_before(job)) for job in PIPELINE if job.name != "simulate"}
    assert parsed["dags"] == {"cartwheel": jobs, "cartwheel_maintain": {"maintain": []}}


def test_the_lock_names_no_registry() -> None:
    assert "://" not in (DAGS / "requirements.lock").read_text()
