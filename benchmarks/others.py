"""The Spark jobs that no peer stands beside: what they take on a lake that ends at featurize, each a process of its own."""

from functools import partial
from pathlib import Path

from benchmarks.clean import CARTWHEEL
from benchmarks.measured import Run, attempted, drop_cached, measure

JOBS = ("als", "recommend", "evaluate", "decisions", "experiment")  # each reads what the ones before it wrote


def run_all(lake: Path) -> dict[str, Run]:
    """Run each job once, with the lake's files dropped from the page cache; none after one that failed."""
    runs: dict[str, Run] = {}
    for job in JOBS:
        drop_cached(lake)
        runs[job] = attempted(partial(run, lake, job), f"{lake}: {job}")
        if runs[job].measured.failure:
            break
    return runs


def run(lake: Path, job: str) -> Run:
    """One job, a process from its start."""
    places = ["--lake", str(lake), "--logs", str(lake), "--format", "market"]
    return Run(measure([CARTWHEEL, "run", *places, "--from", job, "--to", job]))
