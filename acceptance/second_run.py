"""A second run on the same lake trains nothing and changes no table."""

from pathlib import Path

from acceptance import lakes
from acceptance.claims import Claim, turn
from acceptance.same import digest
from lib import ops
from lib.lake import Lake

MOST_SECONDS = 60


def check() -> list[Claim]:
    """Turn the wheel again on the default market's lake."""
    lake = lakes.market()
    tables, runs = digest(lake), jobs_run(lake)
    seconds, told = turn(lake)
    changed = [name for name, version in digest(lake).items() if tables.get(name) != version]
    again = [job for number, job in enumerate(jobs_run(lake)) if number >= len(runs) and job != "ingest"]
    unchanged = sum("unchanged" in line for line in told.splitlines())
    return [
        Claim(
            "a second run on the same lake trains nothing",
            f"{len(again)} jobs ran, {unchanged} were passed over",
            not again,
        ),
        Claim(
            "a second run changes no table's content",
            f"{len(tables)} tables, changed: {', '.join(changed) or 'none'}",
            not changed and len(tables) > 0,
        ),
        Claim("a second run takes seconds", f"{seconds:.0f} s", seconds < MOST_SECONDS),
    ]


def jobs_run(lake: Path) -> list[str]:
    """The job of every run, in the order in which they began."""
    return [str(row["job"]) for row in ops.runs(Lake(str(lake)))]
