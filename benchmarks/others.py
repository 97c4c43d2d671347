"""The Spark jobs that no peer stands beside: what they take on a lake that ends at featurize, each a process of its own."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import log
from pathlib import Path

from benchmarks.clean import CARTWHEEL
from benchmarks.measured import ProgramError, Run, drop_cached, measure

JOBS = ("als", "recommend", "evaluate", "decisions", "experiment")  # each reads what the ones before it wrote


def run_all(lake: Path) -> dict[str, Run]:
    """Run each job once, with the lake's files dropped from the page cache; none after one that failed."""
    runs: dict[str, Run] = {}
    for job in JOBS:
        drop_cached(lake)
        places = ["--lake", str(lake), "--logs", str(lake), "--format", "market"]
        try:
            runs[job] = Run(measure([CARTWHEEL, "run", *places, "--from", job, "--to", job]))
        except ProgramError as error:
            return {**runs, job: Run(error.measured)}
        print(f"{lake}: {job}: {runs[job].measured.seconds:.1f} s", flush=True)
    return runs


def table(sizes: Sequence[int], taken: Sequence[Mapping[str, Run]]) -> list[str]:
    """A row a job: its seconds on each size of log, the slope between each two, and the memory on the largest."""
    head = [f"{size:,} records" for size in sizes]
    head += [f"slope {below:,} to {above:,}" for below, above in pairwise(sizes)]
    lines = [f"| seconds | {' | '.join([*head, 'peak memory, largest log'])} |", "|" + "---|" * (len(head) + 2)]
    for job in JOBS:
        runs = [by_job.get(job) for by_job in taken]
        ended = [run.measured.seconds if run and not run.measured.failure else None for run in runs]
        told = [_told(run) for run in runs]
        slopes = [
            f"{log(after / before) / log(above / below):.2f}" if before and after else ""
            for (below, above), (before, after) in zip(pairwise(sizes), pairwise(ended), strict=True)
        ]
        peak = f"{runs[-1].measured.peak_bytes / 1e9:.1f} GB" if runs[-1] else ""
        lines.append(f"| {' | '.join([job, *told, *slopes, peak])} |")
    return lines


def _told(run: Run | None) -> str:
    if run is None:
        return "not run"
    return run.measured.failed if run.measured.failure else f"{run.measured.seconds:.1f}"
