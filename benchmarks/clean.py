"""From the simulated market's raw log to bronze and silver: ingest and clean beside the same work by DuckDB alone."""

import ast
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measured import Measured, measure
from lib.lake.lake import Lake
from lib.lake.query import query
from lib.pipeline import ROOT
from rl.market.market import MANIFEST

YARDSTICK = ROOT.parent / "shared" / "yardsticks" / "clean_duckdb.py"
CARTWHEEL = str(Path(sys.executable).parent / "cartwheel")


@dataclass(frozen=True)
class Run:
    """One run of a program on a log."""

    measured: Measured
    outcomes: Mapping[str, int]  # number of records by outcome
    stages: Mapping[str, float]  # seconds, by its own account


# The dirt whose outcomes the peers tell; their readers stop at a line that is no UTF-8.
PLAIN = ("--simulate.dirt", "plain", "--simulate.farmed-per-user", "0")


def make_log(lake: Path, *, num_users: int, flags: Sequence[str] = ()) -> Path:
    """The raw log of a simulated market, made once; returns its folder."""
    if not (lake / "raw" / "market" / MANIFEST).is_file():
        size = ["--simulate.num-users", str(num_users), *PLAIN]
        measure([CARTWHEEL, "run", "--lake", str(lake), "--to", "simulate", *size, *flags])
    return lake / "raw" / "market"


def cartwheel(log: Path, folder: Path) -> Run:
    """Ingest and clean, each process from its start, into a lake that did not exist."""
    lake = folder / "lake"
    shutil.rmtree(lake, ignore_errors=True)
    command = [CARTWHEEL, "run", "--lake", str(lake), "--logs", str(log), "--format", "market"]
    measured = measure([*command, "--from", "ingest", "--to", "clean"])
    held = Lake(str(lake))
    counted = (
        "SELECT 'accepted', count(*) FROM silver.events "
        "UNION ALL SELECT reason, count(*) FROM bronze.rejects WHERE source = 'events' GROUP BY reason"
    )
    _, outcomes = query(held, counted, limit=None)
    _, stages = query(held, "SELECT job, seconds FROM ops.runs ORDER BY started_at", limit=None)
    return Run(measured, dict(outcomes), dict(stages))


def duckdb(log: Path, folder: Path) -> Run:
    """The yardstick, a program of its own."""
    out = folder / "duckdb"
    shutil.rmtree(out, ignore_errors=True)
    measured = measure([sys.executable, str(YARDSTICK), str(log / "events"), str(out)])
    lines = measured.output.splitlines()
    outcomes = ast.literal_eval(next(line for line in lines if line.startswith("{")))
    seconds = [line.rsplit(maxsplit=2) for line in lines if line.endswith(" s")]
    return Run(measured, outcomes, {what.strip(): float(number) for what, number, _ in seconds})


PROGRAMS = {"Cartwheel": cartwheel, "DuckDB": duckdb}
