"""What Airflow itself makes of conf/airflow: no error, and the graph that the jobs' declarations give."""

import json
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


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    airflow = Airflow(tmp_path_factory.mktemp("airflow"), {})
    found: dict[str, Any] = json.loads(airflow.run("python", "-c", PARSE, str(DAGS)).splitlines()[-1])
    return found


def test_airflow_imports_the_file_without_an_error(parsed: dict[str, Any]) -> None:
    assert parsed["errors"] == {}
    assert set(parsed["dags"]) == {"cartwheel", "cartwheel_maintain"}


def test_a_task_follows_those_of_the_jobs_whose_tables_and_models_it_uses(parsed: dict[str, Any]) -> None:
    edges = parsed["dags"]["cartwheel"]
    assert edges == {job.name: sorted(jobs_before(job)) for job in PIPELINE if job.name != "simulate"}
    assert edges["ingest"] == []
    assert edges["recommend"] == ["train_encoder"]  # and through it als: both write gold/vectors
    assert edges["make_creatives"] == ["recommend", "train_gan"]  # the lists' items, and the generator
    assert edges["report"] == ["evaluate", "experiment", "make_creatives", "train_policy"]


def test_every_writer_ends_before_who_reads_begins(parsed: dict[str, Any]) -> None:
    edges = parsed["dags"]["cartwheel"]

    def before(task: str) -> set[str]:
        return {name for direct in edges[task] for name in (direct, *before(direct))}

    for number, job in enumerate(PIPELINE[1:], 1):
        for earlier in PIPELINE[1:number]:
            shared = {*job.reads, *job.may_read, *job.writes} & {*earlier.writes}
            assert not shared or earlier.name in before(job.name), (earlier.name, job.name, shared)


def test_the_lock_names_no_registry() -> None:
    assert "://" not in (DAGS / "requirements.lock").read_text()
