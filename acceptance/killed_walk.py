"""kill -9 of `cartwheel run` at five random moments: the rerun ends with the same tables."""

import random
import time
from pathlib import Path
from typing import NamedTuple

from acceptance import lakes
from acceptance.claims import CARTWHEEL, Claim, turn
from acceptance.processes import await_end, descendants, kill, started
from acceptance.results import STATE
from acceptance.same import differences

NUM_KILLS, SEED = 5, 20261125
SECONDS_TO_END = 90
SECONDS_TO_START = 10  # of a rerun, before it comes to the job where the last one was killed


class Kill(NamedTuple):
    """A run that was killed: after so many seconds, in which job; how many of its processes did not end by themselves."""

    seconds: float
    job: str
    num_leftovers: int


def check() -> list[Claim]:
    """One lake of the small market: a run killed, its rerun killed, and so on; the sixth turns to the end."""
    reference = lakes.small_market()
    length, generator = lakes.seconds_of(reference), random.Random(SEED)
    lake = lakes.empty("killed_walk", key_of_lake=reference)
    moments = [SECONDS_TO_START + generator.uniform(0, 2 * length / (NUM_KILLS + 1)) for _ in range(NUM_KILLS)]
    kills = [kill_walk(lake, moment) for moment in moments]
    seconds, told = turn(lake, *lakes.SMALL_MARKET)
    apart = differences(lake, reference)
    taken_up = [line.split()[0] for line in told.splitlines() if "takes up" in line]
    num_leftovers = sum(kill.num_leftovers for kill in kills)
    lakes.remove(lake)
    return [
        Claim(
            f"kill -9 of `cartwheel run` at {NUM_KILLS} random moments, each rerun killed again",
            f"{', '.join(f'{kill.job} ({kill.seconds:.0f} s)' for kill in kills)}; {num_leftovers} processes outlived a kill",
            len(kills) == NUM_KILLS and not num_leftovers,
        ),
        Claim(
            "the rerun ends with the same tables",
            f"the last took {seconds:.0f} s, an undisturbed run {length:.0f} s; took up {', '.join(taken_up) or 'no run'}; "
            f"different: {'; '.join(apart) or 'none'}",
            not apart,
        ),
    ]


def kill_walk(lake: Path, moment: float) -> Kill:
    """Begin or go on with a run, kill it hard after so many seconds, and await the end of all that it started.

    Raises:
        RuntimeError: it had ended before.
    """
    log = STATE / "killed_walk.log"
    with started([CARTWHEEL, "run", "--lake", str(lake), *lakes.SMALL_MARKET], log=log) as walk:
        time.sleep(moment)
        if walk.poll() is not None:
            raise RuntimeError(f"the run ended with {walk.returncode} before {moment:.0f} s: {log.read_text()[-2000:]}")
        below = [process.pid for process in descendants(walk.pid)]
        kill(walk.pid)
        walk.wait()
    leftovers = [] if await_end(below, seconds=SECONDS_TO_END) else [p.pid for p in descendants(1) if p.pid in below]
    for pid in leftovers:
        kill(pid)
    stages = [line for line in log.read_text().splitlines() if line.startswith("[")]
    return Kill(moment, stages[-1].split()[1].rstrip(":") if stages else "no job yet", len(leftovers))
