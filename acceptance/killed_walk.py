"""kill -9 of `cartwheel run` at five random moments: the rerun ends with the same tables."""

import random
from collections.abc import Iterator
from pathlib import Path

from acceptance import lakes
from acceptance.claims import CARTWHEEL, Claim, run_pipeline
from acceptance.killed import kill_in
from acceptance.results import STATE
from lib.lake.lake import Lake
from lib.pipeline import PIPELINE
from lib.runs import history
from tests.markets import SMALL_MARKET
from tests.same import differences

NUM_KILLS, SEED = 5, 20261125


def check() -> list[Claim]:
    """One lake of the small market: a run killed, its rerun killed further on, and so on; the sixth runs to the end."""
    reference = lakes.small_market()
    lake = lakes.empty("killed_walk", key_of_lake=reference)
    command = [CARTWHEEL, "run", "--lake", str(lake), *SMALL_MARKET]
    log = STATE / "killed_walk.log"
    kills = [kill_in(command, job, seconds, log=log, further={}) for job, seconds in random_moments(reference)]
    seconds, told = run_pipeline(lake, *SMALL_MARKET)
    apart = differences(lake, reference)
    num_leftovers = sum(kill.num_leftovers for kill in kills)
    lakes.remove(lake)
    return [
        Claim(
            f"kill -9 of `cartwheel run` at {NUM_KILLS} random moments, one in each fifth of the jobs, each rerun killed again",
            f"{', '.join(map(str, kills))}; {num_leftovers} processes outlived a kill",
            len(kills) == NUM_KILLS and not num_leftovers,
        ),
        Claim(
            "the rerun ends with the same tables",
            f"the last passed over {sum('unchanged' in line for line in told.splitlines())} jobs and took {seconds:.0f} s, "
            f"all jobs undisturbed {undisturbed_seconds(reference):.0f} s; different: {'; '.join(apart) or 'none'}",
            not apart,
        ),
    ]


def undisturbed_seconds(reference: Path) -> float:
    """How long the jobs of a lake took, each in its last run that did something."""
    seconds = {row["job"]: float(row["seconds"]) for row in history.runs(Lake(str(reference))) if row["rows"]}
    return sum(seconds.values())


def random_moments(reference: Path) -> Iterator[tuple[str, float]]:
    """For each fifth of the pipeline's jobs, one of them and a number of seconds below those that it took undisturbed."""
    generator = random.Random(SEED)
    seconds = {row["job"]: row["seconds"] for row in history.runs(Lake(str(reference)))}
    jobs = [job.name for job in PIPELINE if job.name in seconds]
    for number in range(NUM_KILLS):
        job = generator.choice(jobs[number * len(jobs) // NUM_KILLS : (number + 1) * len(jobs) // NUM_KILLS])
        yield job, generator.uniform(0, seconds[job])
