"""What is shipped to a cluster and nothing else, in a folder of its own: jobs, properties, the zip."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from acceptance.claims import run_command
from acceptance.results import STATE
from lib.cli.submit import PACKAGE, command
from lib.pipeline import JOBS, ROOT
from lib.settings import ClusterSettings

FOLDER = STATE / "elsewhere"


def shipped() -> Path:
    """The folder, made anew: outside the checkout, without lib, rl and gan but those in the zip."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    for part in ("jobs", "conf"):
        shutil.copytree(ROOT / part, FOLDER / part, ignore=shutil.ignore_patterns("__pycache__"))
    run_command([sys.executable, "-m", "lib.cli.package", str(FOLDER / PACKAGE)], cwd=ROOT)
    return FOLDER


def spark_submit(job: str, master: str, arguments: Sequence[str]) -> list[str]:
    """The `spark-submit` of a job, as `cartwheel submit --dry-run` prints it; run below the folder."""
    return command(JOBS[job], "local", ClusterSettings(spark_master=master), arguments)
