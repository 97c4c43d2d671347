"""kill -9 of the driver and of Spark's workers at 20 random moments over all Spark jobs, half of them on a bucket: the tables of an undisturbed run.

`python -m acceptance.killed_jobs LAKE FLAG...` is the run that is killed: all Spark jobs in one process, as `cartwheel run` runs them.
"""

import os
import random
import sys
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple, get_args

from acceptance import lakes
from acceptance.claims import Claim, run_command, run_pipeline
from acceptance.killed import Kill, Victim, kill_in, store_from_nothing
from acceptance.results import STATE
from lib.cli.jobs import plan
from lib.cli.walk import JobError, walk
from lib.lake.lake import Lake
from lib.pipeline import PIPELINE, ROOT
from lib.runs import history
from tests.object_store import BUCKET
from tests.same import differences

SPARK_JOBS = [job.name for job in PIPELINE if job.engine == "spark" and not job.makes_log]
NUM_KILLS = 10  # on each place
LATEST_FRAC = 0.8  # of a job's undisturbed time; a rerun may be faster
SMALL = ("--simulate.num-users", "120", "--simulate.num-items", "60")
SETTINGS = (  # tasks in Spark's workers, where the machine's own processes would do them
    *("--cluster.spark-master", "local[2,1]", "--cluster.driver-memory", "1g"),
    *("--als.rank", "8", "--als.num-iterations", "3", "--als.checkpoint-every", "1", "--als.pairs-per-task", "100"),
    *("--evaluate.num-resamples", "100"),
)


class Moment(NamedTuple):
    """When to kill what."""

    job: str
    seconds: float
    victim: Victim


def check() -> list[Claim]:
    """The log of a small market, one lake of it undisturbed, and one on each place that is killed again and again."""
    seed = int(os.environ.get("CARTWHEEL_SEED") or time.time())
    print(f"  CARTWHEEL_SEED={seed}", flush=True)
    draw, market = random.Random(seed), lakes.empty("killed_jobs_market")
    run_pipeline(market, *SMALL, "--to", "simulate")
    key = STATE / "killed_jobs.key"
    key.write_text("a key that all these lakes share")
    flags = [f"--log.path={market / 'raw' / 'market'}", f"--privacy.key-file={key}", *SETTINGS]
    undisturbed = Lake(str(lakes.empty("killed_jobs_undisturbed")))
    run_command(command(undisturbed, flags), cwd=ROOT)
    on_disk = Lake(str(lakes.empty("killed_jobs")))
    claims = [claim("on a disk", seed, killed(on_disk, flags, draw, undisturbed, {}), on_disk, undisturbed)]
    with store_from_nothing() as store:
        on_bucket = Lake(f"s3://{BUCKET}/killed_jobs")
        kills = killed(on_bucket, flags, draw, undisturbed, store)
        claims.append(claim("on a bucket", seed, kills, on_bucket, undisturbed))
    return claims


def claim(where: str, seed: int, kills: list[Kill], lake: Lake, undisturbed: Lake) -> Claim:
    """That the tables are the same."""
    apart = differences(lake, undisturbed)
    num_leftovers = sum(kill.num_leftovers for kill in kills)
    return Claim(
        f"{where}, kill -9 at {NUM_KILLS} random moments, one at least in each Spark job: the tables are those of an undisturbed run",
        f"{', '.join(map(str, kills))}; {num_leftovers} processes outlived a kill; seed {seed}; "
        f"different: {'; '.join(apart) or 'none'}",
        not apart
        and not num_leftovers
        and len(kills) == NUM_KILLS
        and {kill.victim for kill in kills} == {*get_args(Victim)},
    )


def killed(
    lake: Lake, flags: list[str], draw: random.Random, undisturbed: Lake, further: Mapping[str, str]
) -> list[Kill]:
    """Kill a run and each rerun further on; then let one end, and another, since the first takes up what was killed."""
    log = STATE / "killed_jobs.log"
    kills = [
        kill_in(command(lake, flags), moment.job, moment.seconds, log=log, further=further, victim=moment.victim)
        for moment in moments(draw, undisturbed)
    ]
    for _ in range(2):
        run_command(command(lake, flags), cwd=ROOT, extra=further)
    return kills


def moments(draw: random.Random, undisturbed: Lake) -> Iterator[Moment]:
    """Random moments in the order of the jobs, one at least in each."""
    seconds = {row["job"]: row["seconds"] for row in history.runs(undisturbed)}
    chosen = [*SPARK_JOBS, *draw.choices(SPARK_JOBS, k=NUM_KILLS - len(SPARK_JOBS))]
    for job in sorted(chosen, key=SPARK_JOBS.index):
        yield Moment(job, draw.uniform(0, LATEST_FRAC * seconds[job]), draw.choice(get_args(Victim)))


def command(lake: Lake, flags: list[str]) -> list[str]:
    """The run of all Spark jobs on a lake."""
    return [sys.executable, "-m", "acceptance.killed_jobs", lake.path, *flags]


def main(lake: str, *flags: str) -> int:
    """Run the jobs; returns their exit code."""
    try:
        return walk(plan(SPARK_JOBS, ["--lake.path", lake, *flags]), Lake(lake), lambda line: print(line, flush=True))
    except JobError as error:
        print(error)
        return error.code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
