"""From the simulated market's raw log to bronze and silver: ingest and clean beside the same work by its peers."""

import ast
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import peers
from benchmarks.measured import Run, measure
from lib.lake.lake import Lake
from lib.lake.query import query
from lib.pipeline import ROOT
from rl.market.market import MANIFEST

YARDSTICK = ROOT.parent / "shared" / "yardsticks" / "clean_duckdb.py"
POLARS = Path(__file__).parent / "clean_polars.py"
CARTWHEEL = str(Path(sys.executable).parent / "cartwheel")


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
    _, marked = query(held, "SELECT count_if(is_bot), count(DISTINCT session_id) FROM silver.events", limit=None)
    _, stages = query(held, "SELECT job, seconds FROM ops.runs ORDER BY started_at", limit=None)
    return Run(measured, dict(outcomes), tuple(marked[0]), dict(stages))


def peer(program: Path, log: Path, out: Path, python: str) -> Run:
    """A program of its own, into a folder that did not exist."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    measured = measure([python, str(program), str(log / "events"), str(out)])
    lines = measured.output.splitlines()
    outcomes = ast.literal_eval(next(line for line in lines if line.startswith("{")))
    marked = ast.literal_eval(next(line for line in lines if line.startswith("bots ")).removeprefix("bots "))
    seconds = [line.rsplit(maxsplit=2) for line in lines if line.endswith(" s")]
    stages = {what.strip(): float(number) for what, number, _ in seconds if what.strip() != "together"}
    return Run(measured, outcomes, marked, stages)


PROGRAMS: dict[str, Callable[[Path, Path], Run]] = {
    "Cartwheel": cartwheel,
    "DuckDB": lambda log, folder: peer(YARDSTICK, log, folder / "duckdb", peers.python()),
    "Polars": lambda log, folder: peer(POLARS, log, folder / "polars", peers.python()),
}
