import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lib.cli.submit import Target, command, environment, require_java
from lib.pipeline import JOBS
from lib.settings import ClusterSettings


def typed(job: str, target: Target, arguments: Sequence[str] = (), **cluster: Any) -> str:
    return " ".join(command(JOBS[job], target, ClusterSettings(**cluster), arguments))


def test_on_one_machine_nothing_but_the_job_need_be_said() -> None:
    assert typed("clean", "local", ["--clean.session-gap-minutes", "45"]) == (
        "spark-submit --master local[2] --properties-file conf/spark-defaults.conf --py-files dist/cartwheel.zip "
        "jobs/spark/clean.py --clean.session-gap-minutes 45"
    )
    assert typed("train_encoder", "local", ["--config", "conf/cluster.yaml"]) == (
        "ray job submit --working-dir . -- python jobs/ray/train_encoder.py --config conf/cluster.yaml"
    )


def test_what_serves_is_started_here_with_a_ray_of_its_own_unless_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert typed("serve", "local", ["--serve.port", "8081"]) == "python jobs/ray/serve.py --serve.port 8081"
    by_ray = "ray job submit --address http://head:8265 --working-dir . -- python jobs/ray/serve.py"
    assert typed("serve", "local", ray_address="http://head:8265") == by_ray
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    assert typed("serve", "local") == "ray job submit --working-dir . -- python jobs/ray/serve.py"


def test_on_a_standalone_cluster_the_addresses_are_given() -> None:
    assert typed("clean", "standalone", ["--lake.path", "/mnt/lake"], spark_master="spark://head:7077") == (
        "spark-submit --master spark://head:7077 --properties-file conf/spark-defaults.conf "
        "--py-files dist/cartwheel.zip jobs/spark/clean.py --lake.path /mnt/lake"
    )
    assert typed("train_gan", "standalone", ray_address="http://head:8265") == (
        "ray job submit --address http://head:8265 --working-dir . -- python jobs/ray/train_gan.py"
    )


@pytest.mark.parametrize("place", [["--lake.path", "s3://b/lake"], ["--lake.path=s3://b/lake"]])
def test_for_a_lake_on_an_object_store_spark_gets_the_connector_beside_what_it_always_needs(place: list[str]) -> None:
    told = typed("als", "local", place)
    assert " --packages io.delta:delta-spark_4.2_2.13:4.4.0,org.apache.hadoop:hadoop-aws:3.5.0 --py-files " in told
    assert "--packages" not in typed("train_encoder", "local", place)


@pytest.mark.parametrize("place", [["--live.kafka", "kafka:9092"], ["--live.kafka=kafka:9092"]])
def test_for_a_log_in_kafka_spark_gets_its_connector_and_what_not_to_fetch_for_it(place: list[str]) -> None:
    told = typed("clean", "local", [*place, "--lake.path", "s3://b/lake"])
    connectors = "org.apache.hadoop:hadoop-aws:3.5.0,org.apache.spark:spark-sql-kafka-0-10_2.13:4.2.0"
    assert f" --packages io.delta:delta-spark_4.2_2.13:4.4.0,{connectors} --conf spark.jars.excludes=" in told
    assert ",at.yawk.lz4:lz4-java," in told
    assert "hadoop" not in typed("clean", "local", place).partition("--packages ")[2].partition(" ")[0]


@pytest.mark.parametrize(
    ("job", "target", "cluster", "told"),
    [
        (
            "clean",
            "standalone",
            {},
            r"--on standalone needs --cluster.spark-master spark://..., but the settings say local",
        ),
        ("clean", "local", {"spark_master": "spark://head:7077"}, r"--on local needs --cluster.spark-master local..."),
        ("train_policy", "standalone", {}, r"train_policy on standalone needs --cluster.ray-address, such as http://"),
    ],
)
def test_what_cannot_be_submitted_there_is_one_line(job: str, target: str, cluster: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told) as error:
        typed(job, target, **cluster)
    assert "\n" not in str(error.value)


def test_the_commands_are_those_of_the_python_that_runs_cartwheel() -> None:
    found = subprocess.run(
        ["bash", "-c", "command -v spark-submit ray"], env=environment(), capture_output=True, text=True, check=True
    )
    tools = Path(sys.executable).parent
    assert found.stdout.split() == [str(tools / "spark-submit"), str(tools / "ray")]


def test_no_java_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(ValueError, match=f"JAVA_HOME is {tmp_path}, but there is no bin/java in it"):
        require_java()
    monkeypatch.delenv("JAVA_HOME")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="there is no java on the path"):
        require_java()
    java = tmp_path / "java"
    java.touch(mode=0o755)
    require_java()
