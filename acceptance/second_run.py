"""A second run on the same lake trains nothing and changes no table."""

from pathlib import Path

from acceptance import lakes
from acceptance.claims import CARTWHEEL, Claim
from acceptance.results import STATE
from acceptance.watched import watched_run
from lib.lake.lake import Lake
from lib.runs import history
from tests.same import digest

MOST_SECONDS_TO_START = 30


def check() -> list[Claim]:
    """Run the pipeline again on the default market's lake."""
    lake = lakes.market()
    tables, runs = digest(lake), jobs_run(lake)
    again = watched_run([CARTWHEEL, "run", "--lake", str(lake)], log=STATE / "second_run.log")
    changed = [name for name, version in digest(lake).items() if tables.get(name) != version]
    jobs = [job for number, job in enumerate(jobs_run(lake)) if number >= len(runs) and job != "ingest"]
    return [
        Claim(
            "a second run on the same lake trains nothing",
            f"{len(jobs)} jobs ran, {again.num_passed_over} were passed over",
            not jobs,
        ),
        Claim(
            "a second run changes no table's content",
            f"{len(tables)} tables, changed: {', '.join(changed) or 'none'}",
            not changed and len(tables) > 0,
        ),
        Claim(
            "a second run starts in seconds",
            f"{again.start_seconds:.0f} s to the first stage, {again.seconds:.0f} s to its end",
            again.start_seconds < MOST_SECONDS_TO_START,
        ),
    ]


def jobs_run(lake: Path) -> list[str]:
    """The job of every run, in the order in which they began."""
    return [str(row["job"]) for row in history.runs(Lake(str(lake)))]
