"""`spark-submit` of clean and als to a cluster of two executors, from another folder, with the shipped zip."""

import importlib.util
import json
import shutil
import time
from pathlib import Path

from acceptance import lakes
from acceptance.claims import Claim, run_command
from acceptance.elsewhere import shipped, spark_submit
from lib.cli.jobs import arguments_of
from lib.cli.submit import PACKAGE
from lib.lake.lake import Lake
from lib.pipeline import JOBS
from lib.runs import history
from tests.markets import SMALL_MARKET
from tests.same import differences

MASTER = "local-cluster[2,1,2048]"
# Where an executor finds lib, and how many executors there are.
PROBE = """
import json
from pyspark.sql import SparkSession

def where(numbers):
    import lib
    yield lib.__file__

context = SparkSession.builder.getOrCreate().sparkContext
context.setLogLevel("ERROR")
places = context.parallelize(range(8), 8).mapPartitions(where).distinct().collect()
executors = context._jsc.sc().statusTracker().getExecutorInfos()
print(json.dumps({"places": places, "executors": len(executors) - 1}))
"""


def check() -> list[Claim]:
    """On a copy of the small market's lake: both jobs write their tables anew, and these stay what they were."""
    folder, reference = shipped(), lakes.small_market()
    lake = lakes.copy_of(reference, "spark_cluster")
    kept = applications()
    probe = folder / "jobs" / "spark" / "probe.py"
    probe.write_text(PROBE)
    command = spark_submit("clean", MASTER, [])
    told = json.loads(run_command([*command[:-1], str(probe)], cwd=folder).strip().splitlines()[-1])
    seconds, before = {}, {job: history.runs(Lake(str(lake)), job)[-1]["number"] for job in ("clean", "als")}
    given = {
        "clean": ["--clean.rebuild=true"],
        "als": [*arguments_of(JOBS["als"], SMALL_MARKET), "--als.pairs-per-task", "1000"],
    }
    for job in before:
        began = time.monotonic()
        run_command(spark_submit(job, MASTER, ["--lake.path", str(lake), *given[job]]), cwd=folder)
        seconds[job] = time.monotonic() - began
    for application in applications() - kept:
        shutil.rmtree(application)
    numbers = {job: history.runs(Lake(str(lake)), job)[-1] for job in seconds}
    apart = differences(lake, reference)
    return [
        Claim(
            f"spark-submit of clean and als on {MASTER} from another folder",
            ", ".join(
                f"{job} {numbers[job]['status']} in {seconds[job]:.0f} s ({numbers[job]['run_id']})" for job in seconds
            ),
            all(row["status"] == "done" and row["number"] == before[job] + 1 for job, row in numbers.items()),
        ),
        Claim(
            "the executors run the shipped zip",
            f"{told['executors']} executors, lib lies in {', '.join('/'.join(place.split('/')[-3:]) for place in told['places'])}",
            told["executors"] == 2 and all(PACKAGE.rpartition("/")[2] in place for place in told["places"]),
        ),
        Claim(
            "they leave the tables of the pipeline on one machine",
            f"different: {'; '.join(apart) or 'none'}",
            not apart,
        ),
    ]


def applications() -> set[Path]:
    """The folders that local-cluster leaves beside pyspark's own files, one an application."""
    spec = importlib.util.find_spec("pyspark")
    assert spec is not None
    assert spec.origin is not None
    return set((Path(spec.origin).parent / "work").glob("app-*"))
