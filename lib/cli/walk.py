"""Walks the pipeline on one machine: runs all but unchanged jobs in order, shows progress, logs the rest to a file."""

import fcntl
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from lib.cli.jobs import Stage
from lib.cli.ray_host import RayHost
from lib.engines.ray_cluster import run_job
from lib.lake.lake import Lake, require_writable
from lib.runs.errors import ExitCode, JobEndedError, RetryableError, ending_of, recordable_traceback
from lib.runs.freshness import outcome_if_unchanged
from lib.runs.logs import job_logger, say_again
from lib.runs.run import skipped_without_input


class JobError(Exception):
    """A job ended with an error and its exit code; the pipeline stops there."""

    def __init__(self, told: str, code: int) -> None:
        super().__init__(told)
        self.code = code


def walk(stages: Sequence[Stage], lake: Lake, show: Callable[[str], None]) -> int:
    """Run the stages whose inputs, settings or code have changed; returns 3 if a bad file was set aside, else 0.

    Raises:
        JobError: a job ended with an error, in one line.
        ValueError: another walk is running on this lake, or the lake cannot be written.
    """
    require_writable(lake)
    log = lake.folder / "logs" / f"run-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    exit_code: int = ExitCode.DONE
    with _only_walk(lake.folder), _noise_to(log), _ray_when_needed(log) as host:
        for number, stage in enumerate(stages, 1):
            show(f"[{number}/{len(stages)}] {stage.job.name}: {stage.job.does}")
            outcome = None if stage.job.finds_new_files else outcome_if_unchanged(stage.job, stage.settings)
            if outcome is not None:
                job_logger(stage.job.name).info("unchanged (%s)", outcome)
                continue
            _get_ready(stage, stages[number:], host)
            try:
                exit_code = max(exit_code, _run(stage, host, log))
            except Exception as error:
                with suppress(OSError), log.open("a") as output:  # on a full disk the error itself is the one to tell
                    output.write(recordable_traceback(error))
                end = ending_of(error)
                raise JobError(f"{stage.job.name}: {end.told}\nall output: {log}", end.code) from error
    return exit_code


def _run(stage: Stage, host: Callable[[], RayHost], log: Path) -> int:
    """Run one job; returns its exit code, 0 or that of files that were set aside."""
    if stage.job.engine == "ray":
        if skipped_without_input(stage.job, stage.settings):  # so that no Ray starts for nothing
            return ExitCode.DONE
        if (address := stage.settings.cluster.ray_address) is not None:
            return run_job(address, shlex.join(["python", str(stage.job.path), *stage.arguments]), say_again, log)
        return host().run(stage.job.name, stage.arguments, say_again)
    try:
        stage.main(stage.settings)
    except SystemExit as end:
        if end.code not in (ExitCode.DONE, ExitCode.FILES_SET_ASIDE):
            code = end.code if isinstance(end.code, int) else ExitCode.FAILED
            raise JobEndedError(f"ended with exit code {end.code}", code) from None
        return int(end.code)
    return ExitCode.DONE


def _get_ready(stage: Stage, later: Sequence[Stage], host: Callable[[], RayHost]) -> None:
    """Have the walk's own Ray start beside a job that changes what a later Ray job reads, so that this one need not wait for it."""
    on_own_ray = (one for one in later if one.job.engine == "ray" and not one.settings.cluster.ray_address)
    coming = next(on_own_ray, None)
    if coming is not None and stage.job.engine != "ray" and not stage.job.finds_new_files:
        host().get_ready(coming.job.name, coming.arguments)


@contextmanager
def _ray_when_needed(log: Path) -> Iterator[Callable[[], RayHost]]:
    """The process of the Ray jobs, which starts when it is first needed."""
    started: list[RayHost] = []

    def host() -> RayHost:
        if not started:
            started.append(RayHost(log))
        return started[0]

    try:
        yield host
    finally:
        for process in started:
            process.stop()


@contextmanager
def _noise_to(log: Path) -> Iterator[None]:
    """Redirect standard error (Spark, Java and Python) to the log file."""
    sys.stderr.flush()
    shown = os.dup(2)
    with log.open("ab") as output:
        os.dup2(output.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(shown, 2)
        os.close(shown)


@contextmanager
def _only_walk(lake: Path) -> Iterator[None]:
    """Allow one walk at a time on a lake; the lock is released when the process ends, however it ends."""
    with (lake / ".walk").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RetryableError(f"another `cartwheel run` is running on {lake}; wait for it to end") from None
        yield
