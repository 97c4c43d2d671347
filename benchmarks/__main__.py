"""`python -m benchmarks`: ours beside independent programs, on the same files and cores, to docs/benchmarks.md.

Each program runs on each size of log: once with the log dropped from the page cache (cold), then `--repeats` times (warm),
all programs taking turns. What they find is compared: a difference is said on the page, and the exit code is 1. A program
that fails is shown as failed, and does not run on that log again; the rest goes on.
"""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks import als, clean, daily, featurize, others, peers
from benchmarks.measured import Run, attempted, drop_cached
from benchmarks.page import Compared, page
from lib.pipeline import ROOT

PAGE = ROOT / "docs" / "benchmarks.md"
STATE = Path(os.environ.get("CARTWHEEL_BENCHMARKS_STATE", "~/.cache/cartwheel/benchmarks")).expanduser()
USERS_PER_MILLION = 13_600  # of the simulated market's records, about


def main() -> int:
    """Run the programs and write the page; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--millions", type=float, nargs="+", default=[1, 4, 16], help="records of each log, in millions"
    )
    parser.add_argument(
        "--daily", type=float, nargs="*", default=[16], help="records of the log that comes day by day, in millions"
    )
    parser.add_argument(
        "--als", type=float, nargs="*", default=[4], help="records of the logs, of those above, that als is compared on"
    )
    parser.add_argument("--repeats", type=int, default=3, help="warm runs of each program on each log")
    options = parser.parse_args()
    if not clean.YARDSTICK.is_file():
        parser.error(f"there is no {clean.YARDSTICK.name} beside the checkout to measure against")
    try:
        peers.python()
    except RuntimeError as error:
        parser.error(str(error))
    sizes = sorted(options.millions)
    compared = [compare(millions, options.repeats) for millions in sizes]
    PAGE.write_text(page(compared, {}, []))  # stays where what follows fails
    by_day = {size: daily.compare(STATE / f"daily-{size:g}", num_users=users_of(size)) for size in options.daily}
    PAGE.write_text(page(compared, by_day, []))
    alone = [others.run_all(STATE / f"{millions:g}" / "lake") for millions in sizes]
    PAGE.write_text(page(compared, by_day, alone))
    fitted = [als.compare(STATE / f"{size:g}" / "lake", options.repeats) for size in options.als if size in sizes]
    PAGE.write_text(page(compared, by_day, alone, fitted))
    print(PAGE.read_text())
    are_equal = all(one.are_equal and not one.different_features for one in compared)
    return 0 if are_equal and all(one.are_equal for one in by_day.values()) else 1


def users_of(millions: float) -> int:
    """How many shoppers leave about so many records."""
    return round(millions * USERS_PER_MILLION)


def compare(millions: float, repeats: int) -> Compared:
    """Run every program on a log of about so many records, taking turns."""
    folder = STATE / f"{millions:g}"
    raw = clean.make_log(folder / "log", num_users=users_of(millions))
    lake, out = folder / "lake", folder / "features"
    to_silver = {name: partial(program, raw, folder) for name, program in clean.PROGRAMS.items()}
    to_gold = {"Cartwheel": partial(featurize.cartwheel, lake), "DuckDB": partial(featurize.duckdb, lake, out)}
    cleaning: dict[str, list[Run]] = {name: [] for name in to_silver}
    features: dict[str, list[Run]] = {name: [] for name in to_gold}
    for _ in range(1 + repeats):
        run_each(to_silver, cleaning, reads=raw)
        if not has_failed(cleaning["Cartwheel"]):
            run_each(to_gold, features, reads=lake)
    outcomes = (run.outcomes for runs in cleaning.values() for run in runs if run.outcomes)
    num_records = sum(next(outcomes, {"all": round(millions * 1e6)}).values())
    are_complete = all(runs and not has_failed(runs) for runs in features.values())
    different = featurize.differences(lake, out) if are_complete else ["not compared, as a program failed"]
    return Compared(num_records, cleaning, features, different)


def run_each(programs: Mapping[str, Callable[[], Run]], runs: Mapping[str, list[Run]], *, reads: Path) -> None:
    """Run each program once more unless it has failed; the first time, what it reads is not in the page cache."""
    for name, program in programs.items():
        if has_failed(runs[name]):
            continue
        if not runs[name]:
            drop_cached(reads)
        runs[name].append(attempted(program, f"{reads}: {name}, run {len(runs[name]) + 1}"))


def has_failed(runs: Sequence[Run]) -> bool:
    """Whether the last run of a program failed."""
    return bool(runs) and runs[-1].measured.failure is not None


if __name__ == "__main__":
    sys.exit(main())
