"""Samples a second of the two towers' training: the same model in bare torch, and the job's with 1 and 2 workers.

`python -m benchmarks.towers --items 10000 1000000` prints a table. Bare torch is one process that holds all pairs, a plain
loop and torch's own Adam, dense or sparse. The job's is train_encoder's on Ray Train: pairs made by tasks, a share for each
worker, whole or in chunks of `--chunk-rows`. Each case runs in processes of its own; what is measured is the training, from
the first batch on, of an epoch, or of bare torch with dense gradients at most DENSE_BATCHES. A sample is a drawn pair with its
history. Processor seconds and the most memory are those of the processes that train, from the moment on that their pairs are made.

All programs draw the same pairs: a user has PAIRS_PER_USER, item i with a probability of log((i + 2) / (i + 1)) / log(items +
1), about 1 / i (Zipf's law), of an age that is uniform over DAYS days.
"""

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import torch
from ray import train
from torch import Tensor

from benchmarks.measured import measure
from lib.cli.jobs import load_job
from lib.engines.arrow_tasks import packed, rows_of, shards_by
from lib.engines.ray_tasks import RayEngine
from lib.engines.ray_train import fit_on_workers, ray_session, report_epoch, ships_code_of
from lib.lake.lake import Lake
from lib.models import tasks
from lib.models.fitting import State, TwoTowerPlan
from lib.models.rows import Weights, weighted_pairs
from lib.models.tasks import TowerFit
from lib.models.tower_training import TowerTraining, num_chunks
from lib.models.two_tower import PairSampler, TwoTower, train_epoch
from lib.models.workers import total_over_workers
from lib.pipeline import JOBS
from lib.ranking.known_pairs import INTERACTION
from lib.settings import ClusterSettings
from tests.machine import machine

PAIRS_PER_USER, DAYS = 20, 90
AS_OF = datetime(2026, 1, 1, tzinfo=UTC)
WEIGHTS = Weights(half_life_days=30, browsing=0.1)
DIMENSIONS, HISTORY, BATCH, LEARNING_RATE = 64, 16, 1024, 1e-2  # train_encoder's defaults
USERS_PER_PART = 50_000
DENSE_BATCHES = 30  # of bare torch, whose steps take about equally long
BARE = {"bare dense": False, "bare sparse": True}  # whether gradients are sparse
MODEL = "two_tower"


class Case(NamedTuple):
    """What one process measures."""

    program: str  # of BARE, or "ours"
    num_items: int
    num_pairs: int
    num_workers: int
    chunk_rows: int
    batch_size: int  # over all workers


class Found(NamedTuple):
    """What it found."""

    samples: int
    seconds: float
    processor_seconds: float  # of all that train
    peak_bytes: int  # of memory, of the process that took the most
    chunks: int  # of a worker


def drawn(first: int, last: int, num_items: int) -> pl.DataFrame:
    """What users [first, last) did, as rows of gold/interactions."""
    rng = np.random.default_rng([first, num_items])
    size = (last - first) * PAIRS_PER_USER
    item = np.exp(rng.random(size) * np.log(num_items + 1)).astype(np.int64) - 1
    numbers = {"user_key": np.repeat(np.arange(first, last), PAIRS_PER_USER), "item_id": item.clip(max=num_items - 1)}
    age = pl.Series(rng.integers(1, DAYS * 86_400, size) * 1_000_000).cast(pl.Duration("us"))
    return pl.DataFrame(
        {
            **{name: pl.Series(column).cast(pl.String).str.zfill(9) for name, column in numbers.items()},
            "event_time": pl.Series([AS_OF], dtype=pl.Datetime("us", "UTC")) - age,
            "weight": rng.integers(1, 4, size).astype(np.float64),
            "num_relevant": rng.integers(0, 2, size),
        }
    )


def spread_drawn(ranges: Iterable[pa.RecordBatch], *, num_items: int, num_shards: int) -> Iterator[pa.RecordBatch]:
    """Draw users' pairs, and pack them by shard of whole users, as known_pairs.spread_interactions does what it reads."""
    for own in rows_of(ranges):
        rows = drawn(own["first"], own["last"], num_items)
        yield from packed(rows, INTERACTION, shards_by(rows["user_key"], num_shards))


def ranges_of(num_pairs: int) -> list[tuple[int, int]]:
    """The users of each part, [first, last)."""
    num_users = num_pairs // PAIRS_PER_USER
    return list(pairwise([*range(0, num_users, USERS_PER_PART), num_users]))


def fit_of(case: Case) -> TowerFit:
    """What the fit knows: all items, though a few may never be drawn."""
    item_ids = pl.int_range(case.num_items, eager=True).cast(pl.String).str.zfill(9).to_arrow().cast(pa.string())
    return TowerFit("v", AS_OF, item_ids, case.num_pairs // PAIRS_PER_USER, case.num_pairs)


def bare(case: Case) -> Found:
    """The model in a plain loop of torch."""
    torch.set_num_threads(1)
    fit, is_sparse = fit_of(case), BARE[case.program]
    rows = pl.concat([drawn(first, last, case.num_items) for first, last in ranges_of(case.num_pairs)])
    pairs = weighted_pairs(rows, as_of=AS_OF, item_ids=fit.item_ids, weights=WEIGHTS).pairs
    del rows
    sampler = PairSampler(pairs, num_items=case.num_items, history_length=HISTORY)
    model = TwoTower(torch.zeros(case.num_items, 1, dtype=torch.int64), DIMENSIONS, is_sparse=is_sparse)
    adam = torch.optim.SparseAdam if is_sparse else torch.optim.Adam
    optimizer, generator = adam(model.parameters(), lr=LEARNING_RATE), torch.Generator().manual_seed(0)
    num_batches = -(-len(pairs.user) // case.batch_size)
    num_batches = num_batches if is_sparse else min(num_batches, DENSE_BATCHES)
    _forget_peak()
    began, worked = time.perf_counter(), time.process_time()
    train_epoch(model, optimizer, sampler, batch_size=case.batch_size, num_batches=num_batches, generator=generator)
    return _found(num_batches * case.batch_size, began, worked, chunks=1)


def ours(case: Case) -> Found:
    """The job's training of the same pairs on workers of Ray Train."""
    cluster = ClusterSettings(num_workers=case.num_workers)
    chunks = num_chunks(case.num_pairs, num_workers=case.num_workers, chunk_rows=case.chunk_rows)
    num_shards, fit = case.num_workers * chunks, fit_of(case)
    ships_code_of(load_job(JOBS["train_encoder"]).__name__)
    with ray_session(cluster), tempfile.TemporaryDirectory() as folder:
        engine = RayEngine()
        ranges = pa.Table.from_pylist(
            [{"first": first, "last": last, "num_bytes": 1 << 30} for first, last in ranges_of(case.num_pairs)]
        )
        shares = engine.over(ranges, task_bytes=1)
        shares = shares.then(spread_drawn, num_items=case.num_items, num_shards=num_shards).to_shards(num_shards)
        pairs = shares.then(tasks.weigh_pairs, fit=engine.broadcast(fit), weights=WEIGHTS).to_shards(num_shards)
        training = TowerTraining(
            fits={MODEL: fit},
            pairs={MODEL: pairs},
            num_workers=case.num_workers,
            plan=TwoTowerPlan(1, -(-case.batch_size // case.num_workers), LEARNING_RATE, seed=0, num_parts=chunks),
            more_epochs=1,
            num_dimensions=DIMENSIONS,
            history_length=HISTORY,
            lake=Lake(folder),
            version_of_items=None,
        )
        found = fit_on_workers(train_worker, training, cluster, name="towers", storage=folder, max_failures=0)
    return Found(**found)


def train_worker(config: Mapping[str, Any]) -> None:
    """What each worker does: an epoch, which it measures."""
    torch.set_num_threads(1)
    training: TowerTraining = config["task"]
    _forget_peak()
    job = load_job(JOBS["train_encoder"])
    marks: list[tuple[float, float]] = []

    class Marked(TowerTraining):
        """Tells when all that comes before the first batch is done."""

        def num_batches(self, model: str) -> int:
            marks.append((time.perf_counter(), time.process_time()))
            return super().num_batches(model)

    def keep(_: State) -> None:
        """Nothing is kept."""

    job.fit_towers(Marked(**training.__dict__), MODEL, {}, keep)
    ((began, worked),) = marks
    num_batches = training.num_batches(MODEL)
    own = _found(num_batches * training.plan.batch_size, began, worked, chunks=training.plan.num_parts)
    both = total_over_workers(torch.tensor([own.samples, own.processor_seconds], dtype=torch.float64))
    peak = _highest(torch.tensor(own.peak_bytes))
    told = own._replace(samples=int(both[0]), processor_seconds=both[1].item(), peak_bytes=peak)
    report_epoch(told._asdict(), {"samples": told.samples})


def _highest(own: Tensor) -> int:
    if train.get_context().get_world_size() > 1:
        torch.distributed.all_reduce(own, op=torch.distributed.ReduceOp.MAX)
    return int(own)


def _found(samples: int, began: float, worked: float, *, chunks: int) -> Found:
    seconds, processor_seconds = time.perf_counter() - began, time.process_time() - worked
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return Found(samples, seconds, processor_seconds, int(peak) << 10, chunks)


def _forget_peak() -> None:
    """Count the most memory of this process anew, so that what was held before does not count."""
    Path("/proc/self/clear_refs").write_text("5")


def cases(arguments: argparse.Namespace) -> Iterator[Case]:
    """All that are compared."""
    for num_items in arguments.items:
        for program in BARE:
            yield Case(program, num_items, arguments.pairs, 1, arguments.pairs, arguments.batch)
        for rows in (arguments.pairs, arguments.chunk_rows):
            for num_workers in range(1, arguments.workers + 1):
                yield Case("ours", num_items, arguments.pairs, num_workers, rows, arguments.batch)


def main(arguments: argparse.Namespace) -> None:
    """Measure each case in a process of its own, and print a line of the table for it."""
    print(f"{machine()}\n\n{arguments.pairs:,} pairs, batches of {arguments.batch}, {DIMENSIONS} dimensions.\n")
    names = "program|items|workers|chunks a worker|samples/s|to bare dense|to bare sparse|samples a processor second|peak memory"
    print(f"| {' | '.join(names.split('|'))} |\n|{'---|' * len(names.split('|'))}", flush=True)
    rates: dict[tuple[str, int], float] = {}
    for case in cases(arguments):
        told = measure([sys.executable, "-m", "benchmarks.towers", "--case", json.dumps(case)]).output
        found = Found(*json.loads(told.splitlines()[-1]))
        rate = found.samples / found.seconds
        if case.program in BARE:
            rates[case.program, case.num_items] = rate
        ratios = [f"{rate / rates[of, case.num_items]:.2f}" if (of, case.num_items) in rates else "" for of in BARE]
        columns = [case.program, f"{case.num_items:,}", case.num_workers, found.chunks, f"{rate:,.0f}", *ratios]
        columns += [f"{found.samples / found.processor_seconds:,.0f}", f"{found.peak_bytes / 1e9:.2f} GB"]
        print(f"| {' | '.join(map(str, columns))} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=BATCH, help="pairs of a batch, over all workers")
    parser.add_argument("--chunk-rows", type=int, default=125_000)
    parser.add_argument("--workers", type=int, default=2, help="at most")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        one = Case(*given.case)
        print(json.dumps(bare(one) if one.program in BARE else ours(one)))
    else:
        main(given)
