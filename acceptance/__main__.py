"""`python -m acceptance [NAME ...] [--again]`: every claim on full data, one check after another, to docs/acceptance.md.

A check with a result for the same code is not run again, so that a run that was cut off goes on where it stood. A check that
fails is recorded with its error and the others go on. The exit code is 1 where a claim does not hold.
"""

import argparse
import importlib
import subprocess
import sys
import time
import traceback
from datetime import UTC, datetime

from acceptance import results
from acceptance.claims import Claim
from acceptance.page import PAGE, write_page
from acceptance.results import Result
from acceptance.rooms import code_of
from lib.pipeline import ROOT
from tests.machine import machine

# Each is a module here, whose first line is its title and whose `check` returns what it claims. `times` stands first: it makes the
# lakes from nothing that others look at.
CHECKS = (
    "times",
    "cleaning",
    "forgotten",
    "ranking",
    "policy",
    "online_retail",
    "open_bandit",
    "second_run",
    "readers",
    "daily_file",
    "in_any_order",
    "spark_cluster",
    "small_driver",
    "ray_cluster",
    "killed_driver",
    "killed_jobs",
    "killed_walk",
    "killed_days",
    "live_faults",
    "closed_loop",
    "bad_input",
    "fresh_clone",
    "fresh_tests",
)
BY_NAME_ONLY = ("fresh_tests",)  # continuous integration runs the tests on a clean checkout at every landing


def main() -> int:
    """Run the named checks, or all but those BY_NAME_ONLY; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m acceptance", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"checks to run (default: all but {BY_NAME_ONLY[0]}): {', '.join(CHECKS)}",
    )
    parser.add_argument("--again", action="store_true", help="run also what has a result for the same code")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in CHECKS]
    if unknown:
        parser.error(f"no check is named {unknown[0]!r}; known are {', '.join(CHECKS)}")
    chosen = options.names or [check for check in CHECKS if check not in BY_NAME_ONLY]
    titles = {check: _title(check) for check in CHECKS}
    holds = True
    for check in chosen:
        kept = results.load(check)
        if kept is not None and kept.error is None and kept.code == code_of(check) and not options.again:
            result = kept
            print(f"{check}: kept from {result.date}", flush=True)
        else:
            print(f"{check}: {titles[check]}", flush=True)
            result = run(check)
            results.save(result)
        show(result)
        write_page(titles, [kept for name in CHECKS if (kept := results.load(name)) is not None])
        holds = holds and result.holds
    return 0 if holds else 1


def run(check: str) -> Result:
    """Run one check; an error is part of the result."""
    code, began = code_of(check), time.monotonic()
    claims: list[Claim] = []
    error = None
    try:
        shown: list[Claim] = importlib.import_module(f"acceptance.{check}").check()
        claims = [
            Claim(claim.says, claim.measured, bool(claim.holds)) for claim in shown
        ]  # NumPy's truth is not JSON's
    except Exception as raised:
        traceback.print_exc()
        error = f"{type(raised).__name__}: {raised}"[:2000]
    return Result(
        check=check,
        code=code,
        commit=_commit(),
        date=f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        machine=machine(),
        seconds=round(time.monotonic() - began, 1),
        claims=claims,
        error=error,
    )


def show(result: Result) -> None:
    """Print what a check showed."""
    for claim in result.claims:
        print(f"  {'holds' if claim.holds else 'FAILS'}  {claim.says}: {claim.measured}", flush=True)
    if result.error:
        print(f"  FAILS  ended with an error: {result.error}", flush=True)


def _title(check: str) -> str:
    """The first line of the check's docstring, without loading what it imports."""
    first_line = (ROOT / "acceptance" / f"{check}.py").read_text().splitlines()[0]
    return first_line.strip('"').rstrip(".")


def _commit() -> str:
    """The commit of the checkout, with a plus where files differ from it, these results and their page apart."""
    own = (f":!{path.relative_to(ROOT)}" for path in (PAGE, results.KEPT))
    changed = _git("status", "--porcelain", "--", ".", *own)
    return (_git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if changed else "")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
