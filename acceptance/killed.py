"""Runs that are ended by kill -9 at a moment, and the bucket on which such runs are made."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from acceptance.claims import environment
from acceptance.results import STATE
from tests.object_store import object_store
from tests.processes import await_end, descendants, kill, started, wait_for

SECONDS_TO_END = 90  # within which all that a killed process had started ends by itself
MOST_SECONDS_TO_JOB, MOST_SECONDS_IN_JOB = 300, 600
POLL_SECONDS = 0.1
Victim = Literal["driver", "worker"]


class Kill(NamedTuple):
    """What was killed, in which job, so many seconds into it; how many of its processes did not end by themselves."""

    victim: Victim
    job: str
    seconds: float
    num_leftovers: int

    def __str__(self) -> str:
        return f"{self.victim} {self.seconds:.1f} s into {self.job}"


def kill_in(
    command: Sequence[str],
    job: str,
    seconds: float,
    *,
    log: Path,
    further: Mapping[str, str],
    victim: Victim = "driver",
) -> Kill:
    """Begin or go on with a run, and so long after a job began kill it, or the next of Spark's Python workers.

    A job that starts no more workers ends with its run. A run that has lost a worker has until its next job to fail.

    Raises:
        RuntimeError: it ended before.
    """
    with started(command, log=log, env={**environment(), **further}) as run:
        wait_for(lambda: f"] {job}: " in log.read_text() or None, seconds=MOST_SECONDS_TO_JOB, what=job, started=run)
        time.sleep(seconds)
        if run.poll() is not None:
            raise RuntimeError(f"the run ended with {run.returncode} in {job}: {log.read_text()[-2000:]}")
        in_job = last_job(log.read_text())
        worker = None if victim == "driver" else _while_in(run, log, in_job, lambda: next(workers_of(run.pid), None))
        if worker is not None:
            kill(worker)
            _while_in(run, log, in_job, lambda: None)
        return Kill("driver" if worker is None else "worker", in_job, seconds, end(run))


def _while_in(run: "subprocess.Popen[bytes]", log: Path, job: str, condition: Callable[[], int | None]) -> int | None:
    """What the condition gives when it first gives something; None once the run is in another job, has ended, or hangs."""
    found, deadline = None, time.monotonic() + MOST_SECONDS_IN_JOB
    while found is None and run.poll() is None and last_job(log.read_text()) == job and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        found = condition()
    return found


def end(run: "subprocess.Popen[bytes]") -> int:
    """Kill a run if it has not ended; returns how many of the processes that it had started did not end by themselves."""
    below = [process.pid for process in descendants(run.pid)]
    if run.poll() is None:
        kill(run.pid)
    run.wait()
    if await_end(below, seconds=SECONDS_TO_END):
        return 0
    leftovers = [process.pid for process in descendants(1) if process.pid in below]
    for pid in leftovers:
        kill(pid)
    return len(leftovers)


def workers_of(pid: int) -> Iterator[int]:
    """The Python processes in which Spark runs the tasks of a run."""
    daemons = {process.pid: process.parent for process in descendants(pid) if "pyspark.daemon" in process.command}
    return (worker for worker, parent in daemons.items() if parent in daemons)


def last_job(told: str) -> str:
    """The job that a run had begun last."""
    names = [line.partition("] ")[2].partition(":")[0] for line in told.splitlines() if line.startswith("[")]
    return names[-1] if names else "its start"


@contextmanager
def store_from_nothing() -> Iterator[dict[str, str]]:
    """An object store with an empty bucket, which this process reaches; yields the variables by which others do.

    The checks that follow know of no store.
    """
    before = dict(os.environ)
    for left in ("object_store", "stores"):
        shutil.rmtree(STATE / left, ignore_errors=True)
    try:
        with object_store(STATE / "object_store") as store:
            variables = store.environment() | {"XDG_CACHE_HOME": str(STATE / "stores")}
            os.environ.update(variables)
            yield variables
    finally:
        os.environ.clear()
        os.environ.update(before)
