"""Runs of Spark jobs: what they commit, by a session of this process."""

from pathlib import Path

import pytest

from lib.cli.jobs import load_job
from lib.engines.spark import SparkRun, spark_schema, start_run
from lib.pipeline import JOBS
from lib.tables import contract
from tests.jobs.spark.interactions import pair
from tests.lakes import START, STRANGE_NAMES, SmallLake, arrow_rows

VECTORS = contract("gold/vectors")
ROW = {"model": "als", "version": "als-000001", "kind": "user", "id": "u", "values": [1.0], "as_of": START}


def test_spark_writes_and_reads_a_lake_of_any_name(tmp_path: Path) -> None:
    name = " ".join(STRANGE_NAMES)
    small_lake = SmallLake(tmp_path / name)
    small_lake.put("gold/interactions", pair("u", "i"))
    with start_run("als", load_job(JOBS["als"]).AlsSettings(**small_lake.shared_settings)) as run:
        assert run.read("gold/interactions").count() == 1
        frame = run.spark.createDataFrame(arrow_rows(VECTORS, ROW), spark_schema(VECTORS.schema))
        run.commit("gold/vectors", frame, where={"model": "als"})
    assert [row["id"] for row in small_lake.read("gold/vectors")] == ["u"]
    assert [path.name for path in tmp_path.iterdir()] == [name]


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
