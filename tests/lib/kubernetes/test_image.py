"""The images: what they hold is what the code asks for, and a stream in one ends in order when its pod is told to."""

import ast
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyspark
import pytest

from lib.engines.spark_properties import (
    EXCLUDES,
    KAFKA_EXCLUDES,
    KAFKA_PACKAGES,
    PACKAGES,
    STORE_CONNECTOR,
    kafka_properties,
    shipped_properties,
)
from lib.live.kafka_broker import KafkaBroker
from lib.pipeline import JOBS, ROOT
from tests.brokers import send
from tests.live_logs import CLICKS, environment, stream_command, topic_prefix
from tests.shops import Shop

IMAGE = ROOT / "conf" / "image"
OURS = ("lib", "rl", "gan", "jobs")
# Where a package is imported by another name than it is installed by.
INSTALLED = {"PIL": "pillow", "yaml": "pyyaml", "sklearn": "scikit-learn"}


def test_the_jars_are_those_that_the_code_asks_for() -> None:
    lines = (IMAGE / "jars.lock").read_text().splitlines()
    assert lines[0] == f"# packages: {shipped_properties()[PACKAGES]},{STORE_CONNECTOR},{KAFKA_PACKAGES}"
    assert lines[1] == f"# excludes: {KAFKA_EXCLUDES}"
    left_out = f"{shipped_properties()[EXCLUDES]},{lines[1].removeprefix('# excludes: ')}"
    assert kafka_properties("any")[EXCLUDES] == left_out, "what a Spark on one machine leaves out"
    jars = [line.split()[1] for line in lines[2:]]
    for package in lines[0].removeprefix("# packages: ").split(","):
        organisation, name, version = package.split(":")
        assert f"{organisation}_{name}-{version}.jar" in jars
    assert any(jar.startswith("org.apache.kafka_kafka-clients-") for jar in jars), "what the connector itself needs"


@pytest.mark.parametrize("job", JOBS)
def test_an_image_has_every_package_that_a_job_imports_when_it_starts(job: str) -> None:
    kind = "ray" if JOBS[job].engine == "ray" else "spark"
    locks = [IMAGE / f"{kind}.lock", *([IMAGE / "torch.lock"] if kind == "ray" else [])]
    held = {name for lock in locks for name in re.findall(r"^([a-z0-9._-]+)==", lock.read_text(), re.M)}
    wanted = {INSTALLED.get(name, name).replace("_", "-") for name in packages_of(ROOT / JOBS[job].path)}
    assert wanted <= held


def packages_of(file: Path) -> set[str]:
    """The packages of others that a module and ours below it import when they are loaded."""
    todo, seen, found = [file], set[Path](), set[str]()
    while todo:
        module = todo.pop()
        if module in seen:
            continue
        seen.add(module)
        for name in imported(module):
            if name.split(".")[0] in OURS:
                place = ROOT / Path(*name.split("."))
                todo += [path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()]
            else:
                found.add(name.split(".")[0])
    return found - sys.stdlib_module_names


def imported(file: Path) -> Iterator[str]:
    """What a module imports at its top."""
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{each.name}" for each in node.names if node.module.split(".")[0] in OURS)


def in_pod(shop: Shop, kafka: KafkaBroker, prefix: str, *flags: str) -> subprocess.Popen[str]:
    """A stream as the image's entrypoint starts it in its driver's pod, but for the master and the jars."""
    _, file, *given = stream_command(shop, kafka.address, prefix, "--stream.trigger-seconds=0.1", *flags)
    properties = kafka_properties(shipped_properties()[PACKAGES])
    variables = {"SPARK_HOME": str(Path(pyspark.__file__).parent), "SPARK_DRIVER_BIND_ADDRESS": "127.0.0.1"}
    return subprocess.Popen(
        [
            *("sh", str(IMAGE / "spark-entrypoint"), "driver", "--master", "local[2]", "--driver-memory", "1g"),
            *("--properties-file", str(ROOT / "conf" / "spark-defaults.conf")),
            *(word for name, value in properties.items() for word in ("--conf", f"{name}={value}")),
            *("--conf", "spark.driver.host=127.0.0.1"),
            *(str(ROOT / file), *given),
        ],
        cwd=ROOT,
        env={**environment(), **variables, "PYSPARK_PYTHON": sys.executable},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def click(number: int) -> tuple[str, str]:
    """A record, and its key."""
    moment = f"2026-01-01T00:{number:02d}:00Z"
    return "u1", json.dumps({"user": "u1", "item": f"i{number}", "time": moment})


@pytest.mark.slow
def test_a_driver_that_is_told_to_end_finishes_its_batches_cleans_and_is_taken_up_where_it_was(
    tmp_path: Path, kafka: KafkaBroker
) -> None:
    shop, prefix = Shop.with_key(tmp_path / "shop", CLICKS), topic_prefix(kafka, clicks=2)

    def items(table: str) -> list[str]:
        return sorted(row["item_id" if table == "silver/events" else "item"] for row in shop.read(table))

    send(kafka.address, f"{prefix}clicks", [click(number) for number in range(20)])
    driver = in_pod(shop, kafka, prefix, "--stream.clean-seconds=3600")
    try:
        end = time.monotonic() + 120
        while len(items("bronze/clicks")) < 20:
            assert driver.poll() is None
            assert time.monotonic() < end
            time.sleep(0.2)
        assert not shop.lake.exists("silver/events"), "clean has not run yet"
        driver.send_signal(signal.SIGTERM)
        said, _ = driver.communicate(timeout=120)
    finally:
        driver.kill()
    assert driver.returncode == 0, said
    assert "ends" in said
    assert items("silver/events") == sorted(f"i{number}" for number in range(20)), "its last clean"
    send(kafka.address, f"{prefix}clicks", [click(number) for number in range(20, 40)])
    again = in_pod(shop, kafka, prefix, "--stream.available-now=true")
    said, _ = again.communicate(timeout=180)
    assert again.returncode == 0, said
    assert items("silver/events") == sorted(f"i{number}" for number in range(40))
    assert len(shop.read("bronze/clicks")) == 40
