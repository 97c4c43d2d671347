"""Daily files of Online Retail, and kill -9 at 20 random moments as they come, on a disk and on a bucket: the tables of all at once."""

import os
import random
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from acceptance import lakes
from acceptance.claims import CARTWHEEL, DATA, Claim, environment, run_command
from acceptance.killed import end, last_job, store_from_nothing
from acceptance.results import STATE
from lib.lake.lake import Lake
from lib.pipeline import ROOT
from tests.object_store import BUCKET
from tests.processes import started
from tests.same import differences

FIRST_DAY = "2011-10-01"  # the times of its mapping lie after it
NUM_KILLS = 20
START_SECONDS = 1.5  # before a job is at work
LAST_JOB = "featurize"


class Came(NamedTuple):
    """What became of the runs that were killed."""

    killed_in: dict[str, int]  # job -> how many
    num_ended: int  # before they could be killed
    num_leftovers: int  # processes that outlived a kill
    apart: list[str]


def check() -> list[Claim]:
    """On each place: a lake to which every run brings a file and is killed, beside one that got all files undisturbed."""
    seed = int(os.environ.get("CARTWHEEL_SEED") or time.time())
    print(f"  CARTWHEEL_SEED={seed}", flush=True)
    claims = [claim("on a disk", seed, came(seed, lakes.LAKES / "killed_days", {}))]
    with store_from_nothing() as store:
        claims.append(claim("on a bucket", seed, came(seed, f"s3://{BUCKET}/killed_days", store)))
    return claims


def claim(where: str, seed: int, found: Came) -> Claim:
    """That the tables are the same."""
    jobs = ", ".join(f"{number} in {job}" for job, number in sorted(found.killed_in.items()))
    return Claim(
        f"{where}, daily files and kill -9 at {NUM_KILLS} random moments: the tables are those of all files at once, undisturbed",
        f"{jobs}; {found.num_ended} runs ended before; {found.num_leftovers} processes outlived a kill; seed {seed}; "
        f"different: {'; '.join(found.apart) or 'none'}",
        not found.apart and not found.num_leftovers and sum(found.killed_in.values()) == NUM_KILLS,
    )


def came(seed: int, place: Path | str, further: Mapping[str, str]) -> Came:
    """Bring the files one by one, and kill as many runs; then let one end."""
    draw = random.Random(seed)
    files = sorted(file for file in (DATA / "online_retail").glob("*.csv") if file.stem >= FIRST_DAY)
    folder = STATE / "killed_days"
    shutil.rmtree(folder, ignore_errors=True)
    logs, key = folder / "logs", folder / "key"
    logs.mkdir(parents=True)
    key.write_text("a key that both lakes share")
    if isinstance(place, Path):
        lakes.remove(place)
    whole, lake = lakes.empty("undisturbed_days"), Lake(str(place))
    arguments = ["--logs", str(logs), "--format", "online_retail", "--privacy.key-file", str(key), "--to", LAST_JOB]
    killed: dict[str, int] = {}
    num_ended = num_leftovers = 0
    for file in (files[0], files[-1]):  # the log's times lie between its ends
        shutil.copy2(file, logs)
    waiting = draw.sample(files[1:-1], len(files) - 2)
    longest = 4.0
    while sum(killed.values()) < NUM_KILLS:
        for file in waiting[: draw.randint(0, 2)]:
            shutil.copy2(file, logs)
        waiting = [file for file in waiting if not (logs / file.name).exists()]
        began = time.monotonic()
        command = [CARTWHEEL, "run", "--lake", lake.path, *arguments]
        with started(command, log=folder / "run.log", env={**environment(), **further}) as run:
            try:
                run.wait(timeout=START_SECONDS + draw.uniform(0, longest))
            except subprocess.TimeoutExpired:  # it is at work
                num_leftovers += end(run)
                job = last_job((folder / "run.log").read_text())
                killed[job] = killed.get(job, 0) + 1
            else:
                num_ended += 1
                longest = max(1.0, time.monotonic() - began - START_SECONDS)
    for file in waiting:
        shutil.copy2(file, logs)
    for _ in range(2):  # the first may take up what was killed, with the files of then
        run_command([CARTWHEEL, "run", "--lake", lake.path, *arguments], cwd=ROOT, extra=further)
    run_command([CARTWHEEL, "run", "--lake", str(whole), *arguments], cwd=ROOT)
    return Came(killed, num_ended, num_leftovers, differences(lake, whole))
