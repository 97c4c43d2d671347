"""kill -9 of `cartwheel run` at five random moments: the rerun ends with the same tables."""

import random
import time
from pathlib import Path

from acceptance import lakes
from acceptance.claims import CARTWHEEL, Claim, turn
from acceptance.processes import await_end, descendants, kill, started
from acceptance.results import STATE
from acceptance.same import differences

NUM_KILLS, SEED = 5, 20261125
SECONDS_TO_END = 90


def check() -> list[Claim]:
    """Five lakes of the small market, each killed once in another fifth of the undisturbed run's length, then turned again."""
    reference = lakes.small_market()
    length, generator = lakes.seconds_of(reference), random.Random(SEED)
    moments = [(number + generator.random()) / NUM_KILLS * length for number in range(NUM_KILLS)]
    return [killed_at(moment, number, reference) for number, moment in enumerate(moments, 1)]


def killed_at(moment: float, number: int, reference: Path) -> Claim:
    """One lake: killed at the moment, everything that it started awaited, and turned again."""
    lake = lakes.empty("killed_walk", key_of_lake=reference)
    job, leftovers = kill_walk(lake, moment)
    seconds, told = turn(lake, *lakes.SMALL_MARKET)
    apart = differences(lake, reference)
    taken_up = [line.split()[0] for line in told.splitlines() if "takes up" in line]
    lakes.remove(lake)
    return Claim(
        f"kill -9 of `cartwheel run`, moment {number} of {NUM_KILLS}: the rerun ends with the same tables",
        f"killed after {moment:.0f} s in {job}; {leftovers} of its processes outlived it; the rerun took {seconds:.0f} s"
        f"{', took up ' + ', '.join(taken_up) if taken_up else ''}; different: {'; '.join(apart) or 'none'}",
        not apart and not leftovers,
    )


def kill_walk(lake: Path, moment: float) -> tuple[str, int]:
    """Begin a run and kill it hard after so many seconds; returns in which job, and how many processes did not end by themselves."""
    log = STATE / "killed_walk.log"
    with started([CARTWHEEL, "run", "--lake", str(lake), *lakes.SMALL_MARKET], log=log) as walk:
        time.sleep(moment)
        if walk.poll() is not None:
            return "no job: it had ended", 0
        below = [process.pid for process in descendants(walk.pid)]
        kill(walk.pid)
        walk.wait()
    leftovers = [] if await_end(below, seconds=SECONDS_TO_END) else [p.pid for p in descendants(1) if p.pid in below]
    for pid in leftovers:
        kill(pid)
    stages = [line for line in log.read_text().splitlines() if line.startswith("[")]
    return stages[-1].split()[1].rstrip(":") if stages else "no job yet", len(leftovers)
