"""Runs of Spark jobs: what they commit, by a session of this process."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from lib.cli import submit
from lib.cli.jobs import load_job
from lib.engines.spark import SparkRun, spark_schema, start_run
from lib.engines.spark_properties import store_packages
from lib.kubernetes.spark_application import EXECUTOR_METRICS, METRICS
from lib.live.kafka_broker import KafkaBroker
from lib.pipeline import JOBS, ROOT
from lib.tables import contract
from tests.brokers import create_topic, send
from tests.jobs.spark.interactions import pair
from tests.lakes import START, STRANGE_NAMES, SmallLake, arrow_rows
from tests.object_store import BUCKET, ObjectStore

VECTORS = contract("gold/vectors")
WATCHED = """
import sys, urllib.request
from lib.engines.spark import session
from lib.settings import JobSettings
spark = session(JobSettings(lake={"path": sys.argv[1]}))
spark.range(10).count()
for path in sys.argv[2:]:
    print(urllib.request.urlopen(f"{spark.sparkContext.uiWebUrl}{path}/").read().decode())
spark.stop()
"""
STREAMED = """
import sys
from lib.engines.spark import session
from lib.settings import ClusterSettings, JobSettings, LiveSettings
cluster = ClusterSettings(spark_master="local[1,1]", driver_memory="512m")
spark = session(JobSettings(live=LiveSettings(kafka=sys.argv[1]), cluster=cluster))
jars = spark.sparkContext._jsc.sc().listJars()
print("jars", *sorted(jars.apply(number).rpartition("/")[2] for number in range(jars.length())))
source = spark.readStream.format("kafka").option("kafka.bootstrap.servers", sys.argv[1])
records = source.option("subscribe", "streamed").option("startingOffsets", "earliest").load().select("key", "value")
show = lambda frame, _: [print("record", bytes(row.key), bytes(row.value)) for row in frame.collect()]
query = records.writeStream.trigger(availableNow=True).option("checkpointLocation", sys.argv[2]).foreachBatch(show)
query.start().awaitTermination()
spark.stop()
"""
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


@pytest.mark.slow
def test_a_stream_reads_kafka_and_of_its_jars_only_those_are_fetched_that_spark_lacks(
    kafka: KafkaBroker, tmp_path: Path
) -> None:
    create_topic(kafka.address, "streamed", partitions=1)
    send(kafka.address, "streamed", [("u1", b"one"), ("u2", b"\xff not text")])
    done = subprocess.run(
        [sys.executable, "-c", STREAMED, kafka.address, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    jars, *records = done.stdout.splitlines()
    assert records == ["record b'u1' b'one'", "record b'u2' b'\\xff not text'"]
    names = [re.sub(r"(_4\.2)?(_2\.13)?-[0-9.]+\.jar", "", jar).partition("_")[2] for jar in jars.split()[1:]]
    of_delta = ["delta-kernel-api", "delta-kernel-defaults", "delta-spark", "delta-storage"]
    of_kafka = ["commons-pool2", "kafka-clients", "spark-sql-kafka-0-10", "spark-token-provider-kafka-0-10"]
    assert sorted(names) == sorted(of_delta + of_kafka)


@pytest.mark.slow
def test_a_submitted_job_logs_its_events_to_a_bucket_and_tells_prometheus_of_its_tasks(
    bucket: ObjectStore, tmp_path: Path
) -> None:
    program = tmp_path / "watched.py"
    program.write_text(WATCHED)
    given = {**METRICS, "spark.ui.enabled": "true", "spark.ui.port": "0", "spark.eventLog.enabled": "true"}
    given["spark.eventLog.dir"] = f"s3a://{BUCKET}/of/events"
    command = ["spark-submit", "--master", "local[1]", "--properties-file", str(ROOT / "conf" / "spark-defaults.conf")]
    command += ["--packages", store_packages(), *(f"--conf={name}={value}" for name, value in given.items())]
    paths = (EXECUTOR_METRICS, METRICS["spark.metrics.conf.*.sink.prometheusServlet.path"])
    done = subprocess.run(
        [*command, str(program), str(tmp_path / "lake"), *paths],
        cwd=ROOT,
        env={**submit.environment(), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for metric in ("metrics_executor_activeTasks{", "metrics_cartwheel_driver_DAGScheduler_stage_runningStages_Value{"):
        assert f"\n{metric}" in done.stdout
    written = {path.rpartition("/")[2]: content for path, content in bucket.contents("of/events").items()}
    (events,) = (content for name, content in written.items() if name.startswith("events_1_"))
    assert events
