"""The commands that submit a job on this machine or to a standing cluster, as a user would type them."""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NoReturn

from lib.engines.spark_properties import EXCLUDES, PACKAGES, kafka_properties, shipped_properties, store_packages
from lib.lake.places import STORE
from lib.pipeline import ROOT, Job
from lib.settings import ClusterSettings

Target = Literal["local", "standalone"]
PACKAGE = "dist/cartwheel.zip"


def command(job: Job, target: Target, cluster: ClusterSettings, arguments: Sequence[str]) -> list[str]:
    """The `spark-submit`, `ray job submit` or plain call of one job, to be run in the checkout.

    Raises:
        ValueError: the target needs an address that the settings do not give.
    """
    if job.engine == "spark":
        return [
            "spark-submit",
            *("--master", _spark_master(target, cluster)),
            *("--properties-file", "conf/spark-defaults.conf"),
            *_more_packages(arguments),
            *("--py-files", PACKAGE),
            str(job.path),
            *arguments,
        ]
    if job.engine == "ray" and not _has_own_ray(job, target, cluster):
        if target != "local" and cluster.ray_address is None:
            raise ValueError(f"{job.name} on {target} needs --cluster.ray-address, such as http://head:8265")
        address = ("--address", cluster.ray_address) if cluster.ray_address else ()
        return ["ray", "job", "submit", *address, "--working-dir", ".", "--", "python", str(job.path), *arguments]
    return ["python", str(job.path), *arguments]


def _has_own_ray(job: Job, target: Target, cluster: ClusterSettings) -> bool:
    """Whether a job starts a Ray for itself: what goes on is no job of a cluster that is there for jobs."""
    named = cluster.ray_address or os.environ.get("RAY_ADDRESS")
    return job.goes_on and target == "local" and not named


def environment() -> dict[str, str]:
    """The environment for these commands: the tools of this Python come first on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, "PATH": path, "PYSPARK_PYTHON": sys.executable, "PYSPARK_DRIVER_PYTHON": sys.executable}


def become(command: Sequence[str]) -> NoReturn:
    """Go on as a command, so that who ends this process ends that one, in order."""
    os.chdir(ROOT)
    variables = environment()
    os.execvpe(command[0], [*command], variables)


def require_java() -> None:
    """Check that `spark-submit` will find Java, since its own words on that are a shell's.

    Raises:
        ValueError: there is none.
    """
    home = os.environ.get("JAVA_HOME")
    if home and not (Path(home) / "bin" / "java").is_file():
        raise ValueError(f"JAVA_HOME is {home}, but there is no bin/java in it; set it to the folder of Java 17")
    if not home and shutil.which("java") is None:
        raise ValueError("Spark needs Java 17, and there is no java on the path; install it or set JAVA_HOME")


def _more_packages(arguments: Sequence[str]) -> list[str]:
    """What Spark is given beside the shipped properties, to read an object store or Kafka."""
    packages = store_packages() if _is_on_store(arguments) else shipped_properties()[PACKAGES]
    if any(argument.partition("=")[0] == "--live.kafka" for argument in arguments):
        given = kafka_properties(packages)
        return ["--packages", given[PACKAGES], "--conf", f"{EXCLUDES}={given[EXCLUDES]}"]
    return ["--packages", packages] if _is_on_store(arguments) else []


def _is_on_store(arguments: Sequence[str]) -> bool:
    """Whether the flags name a lake on an object store."""
    return f"--lake.path {STORE}" in " ".join(arguments).replace("--lake.path=", "--lake.path ")


def _spark_master(target: Target, cluster: ClusterSettings) -> str:
    prefix = {"local": "local", "standalone": "spark://"}[target]
    if not cluster.spark_master.startswith(prefix):
        raise ValueError(
            f"--on {target} needs --cluster.spark-master {prefix}..., but the settings say {cluster.spark_master}"
        )
    return cluster.spark_master
