"""als: its sweeps and the best ten items of everybody beside `implicit`'s over the same pairs, and the whole job by both engines.

`python -m benchmarks.als LAKE` measures on a lake that ends at featurize.
"""

import shutil
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import scipy.sparse
from implicit.cpu.als import AlternatingLeastSquares

from benchmarks.clean import CARTWHEEL
from benchmarks.measured import Run, attempted, drop_cached, measure
from lib.engines.exchange import Exchange
from lib.formats.mapping import load_mapping
from lib.lake.lake import Lake
from lib.ranking.als_factors import first_factors
from lib.ranking.als_sweeps import Block, Side, Solving, sweep
from lib.ranking.als_tasks import PAIRS, weighed_pairs
from lib.ranking.topk import dot_products, rank_users
from lib.ranking.validation import judged_vectors, ndcg_of_vectors, wanted_between
from lib.runs.log_times import LogTimes, log_times
from lib.runs.model_registry import models
from tests.lib.engines.gangs import ALONE

LENGTH = 10  # of a list
RANK, SWEEPS, CG_STEPS, ALPHA, REGULARIZATION, HALF_LIFE_DAYS = 64, 8, 3, 4.0, 0.12, 60.0
SWEPT = ("Cartwheel", "implicit")
ENGINES = ("blocked", "mllib")
LAKE_COPY = "als"  # beside the lake: each run of the job begins without an earlier version


@dataclass(frozen=True)
class AlsCompared:
    """Seconds of SWEEPS sweeps and of everybody's list by each program, one thread each, and the runs of the whole job by each engine."""

    num_pairs: int
    num_users: int
    num_items: int
    sweeps: Mapping[str, Sequence[float]]
    lists: Mapping[str, Sequence[float]]
    jobs: Mapping[str, Sequence[Run]]
    found: Mapping[str, float]  # NDCG@10 on the validation window

    @property
    def lines(self) -> list[str]:
        """What the page says of it."""
        jobs = {
            engine: [run.measured.seconds for run in runs if not run.measured.failure]
            for engine, runs in self.jobs.items()
        }
        lines = [
            f"{self.num_pairs:,} pairs of {self.num_users:,} users and {self.num_items:,} items. {SWEEPS} sweeps of rank "
            f"{RANK} with {CG_STEPS} steps of conjugate gradients, one thread: "
            f"{_beside(self.sweeps)}. The {LENGTH} best new items of every user, one thread: {_beside(self.lists)}.\n",
            "| whole job, with its second fit and the verdict | seconds | peak memory | NDCG@10 on validation |",
            "|---|---|---|---|",
        ]
        for engine, runs in self.jobs.items():
            failures = [run.measured.failure for run in runs if run.measured.failure]
            peak = max(run.measured.peak_bytes for run in runs) / 1e9
            told = f"failed: {failures[0]}" if failures else _told(jobs[engine])
            found = f"{self.found[engine]:.4f}" if engine in self.found else ""
            lines.append(f"| {engine} | {told} | {peak:.1f} GB | {found} |")
        return lines


def compare(lake: Path, repeats: int) -> AlsCompared:
    """Measure both on a lake that ends at featurize."""
    held = Lake(str(lake))
    version = held.data_version("silver/events")
    assert version is not None
    times = log_times(held, load_mapping("market"), version)
    columns = ["user_key", "item_id", "event_time", "weight"]
    interactions = pl.DataFrame(held.dataset("gold/interactions").to_table(columns=columns))
    pairs = weighed_pairs(interactions, as_of=times.test_from, half_life_days=HALF_LIFE_DAYS)
    assert pairs.columns == PAIRS.names
    strength = (1 + pl.col("weight") * pl.col("recent") / pl.col("weight").median()).log()
    pairs = pairs.with_columns(confidence=1 + ALPHA * strength)
    users, items = (
        Block.of(pairs, row=row, column=column, num_shards=1)
        for row, column in (("user_key", "item_id"), ("item_id", "user_key"))
    )
    programs: dict[str, Callable[[], float]] = {
        "Cartwheel": partial(ours, users, items),
        "implicit": partial(theirs, users),
    }
    sweeps = {name: [program() for _ in range(repeats)] for name, program in programs.items()}
    lists = best_items(users, repeats)
    jobs: dict[str, list[Run]] = {}
    found: dict[str, float] = {}
    for engine in ENGINES:
        jobs[engine] = [attempted(partial(job, lake, engine), f"{lake}: als by {engine}") for _ in range(repeats)]
        if not jobs[engine][-1].measured.failure:
            found[engine] = ndcg(Lake(str(lake.parent / LAKE_COPY)), times)
    return AlsCompared(pairs.height, len(users.ids), len(items.ids), sweeps, lists, jobs, found)


def ours(user_block: Block, item_block: Block) -> float:
    """Seconds of the sweeps in one task."""
    solving = Solving(RANK, REGULARIZATION, CG_STEPS)
    users = Side("user", user_block, first_factors(user_block.ids, RANK, seed=0), solving)
    items = Side("item", item_block, np.zeros((len(item_block.ids), RANK), np.float32), solving)
    with Exchange(ALONE, "token") as exchange:
        users.meet(exchange, items)
        items.meet(exchange, users)
        began = time.perf_counter()
        for number in range(SWEEPS):
            sweep(exchange, users, items, number=number)
        return time.perf_counter() - began


def theirs(users: Block) -> float:
    """Seconds of `implicit`'s fit, by conjugate gradients, of the same pairs."""
    model, matrix = implicits_model(), matrix_of(users)
    began = time.perf_counter()
    model.fit(matrix, show_progress=False)
    return time.perf_counter() - began


def implicits_model() -> AlternatingLeastSquares:
    """`implicit`'s ALS, of one thread."""
    return AlternatingLeastSquares(
        factors=RANK, regularization=REGULARIZATION, iterations=SWEEPS, num_threads=1, random_state=0
    )


def matrix_of(users: Block) -> scipy.sparse.csr_matrix:
    """The confidences of all pairs, (users, items)."""
    content = (users.confidences, users.places.astype(np.int32), users.starts.astype(np.int32))
    return scipy.sparse.csr_matrix(content, shape=(len(users.ids), len(users.columns)))


def best_items(users: Block, repeats: int) -> dict[str, list[float]]:
    """Seconds that each program takes to find the LENGTH best items of each user, but those that the user has, by the same factors."""
    model, matrix = implicits_model(), matrix_of(users)
    model.fit(matrix, show_progress=False)
    num_users, num_items = matrix.shape
    own = scipy.sparse.csr_array(matrix)
    scores = dot_products(model.user_factors, model.item_factors)
    programs: dict[str, Callable[[], object]] = {
        "Cartwheel": lambda: rank_users(scores, num_users=num_users, num_items=num_items, k=LENGTH, excluded=own),
        "implicit": lambda: model.recommend(np.arange(num_users), matrix, N=LENGTH),
    }
    taken: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(repeats):
        for name, program in programs.items():
            began = time.perf_counter()
            program()
            taken[name].append(time.perf_counter() - began)
    return taken


def job(lake: Path, engine: str) -> Run:
    """The job, a process from its start, on a copy of the lake that has no version of it."""
    copy = lake.parent / LAKE_COPY
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(lake, copy, ignore=shutil.ignore_patterns("vectors", "models", "bronze"))
    drop_cached(copy)
    places = ["--lake", str(copy), "--logs", str(copy), "--format", "market", "--from", "als", "--to", "als"]
    return Run(measure([CARTWHEEL, "run", *places, "--als.engine", engine, "--als.num-iterations", str(SWEEPS)]))


def ndcg(lake: Lake, times: LogTimes) -> float:
    """How much of what was wanted in the validation window the fit finds by which the job's only version was judged."""
    wanted = wanted_between(lake.dataset("gold/interactions"), times.valid_from, times.test_from)
    (version,) = (row["version"] for row in models(lake) if row["model"] == "als")
    vectors = judged_vectors(lake, "als", version, wanted["user_key"].combine_chunks())
    return float(ndcg_of_vectors(vectors, wanted).mean())


def _beside(seconds: Mapping[str, Sequence[float]]) -> str:
    ratio = statistics.median(seconds["Cartwheel"]) / statistics.median(seconds["implicit"])
    return f"Cartwheel {_told(seconds['Cartwheel'])} s, `implicit` {_told(seconds['implicit'])} s: {ratio:.2f} times"


def _told(seconds: Sequence[float]) -> str:
    each = f" ({', '.join(f'{one:.1f}' for one in seconds)})" if len(seconds) > 1 else ""
    return f"{statistics.median(seconds):.1f}{each}" if seconds else ""


if __name__ == "__main__":
    print("\n".join(compare(Path(sys.argv[1]), repeats=1).lines))
