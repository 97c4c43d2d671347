"""Runs of Spark jobs: what they commit, by a session of this process."""

from pathlib import Path

import pytest

from lib.cli.jobs import load_job
from lib.engines.spark import SparkRun, spark_schema, start_run
from lib.pipeline import JOBS
from lib.tables import contract
from tests.lakes import START, SmallLake, arrow_rows
from tests.jobs.spark.interactions import pair

VECTORS = contract("gold/vectors")
ROW = {"model": "als", "version": "als-000001", "kind": "user", "id": "u", "values": [1.0], "as_of": START}


def test_a_failed_run_that_has_committed_a_share_of_a_table_is_taken_up(tmp_path: Path) -> None:
    small_lake = SmallLake(tmp_path)
    small_lake.put("gold/interactions", pair("u", "i"))
    settings = load_job(JOBS["als"]).AlsSettings(**small_lake.shared_settings)

    def commit(run: SparkRun, user: str) -> None:
        frame = run.spark.createDataFrame(arrow_rows(VECTORS, ROW | {"id": user}), spark_schema(VECTORS.schema))
        run.commit("gold/vectors", frame, where={"model": "als"})

    with pytest.raises(RuntimeError, match="power"), start_run("als", settings) as run:
        commit(run, "u")
        raise RuntimeError("power cut")
    small_lake.put("gold/interactions", pair("v", "i"))
    with start_run("als", settings) as again:
        assert (again.run_id, again.inputs) == (run.run_id, run.inputs)
        commit(again, "v")
    assert [row["id"] for row in small_lake.read("gold/vectors")] == ["u"], "it commits each share once"
