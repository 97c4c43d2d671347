"""The Ray jobs of a walk on one machine: a process beside it runs them one after the other, on one Ray of its own.

Ray Train and torch, whose import takes seconds, are imported once. The process is not the walk's, which starts Spark's JVM: a fork can
stop the connections of a Ray in the same process for ever (docs/decisions/0031).

The walk writes a line for each job, [name, arguments], and reads what the job says until a line that begins with ENDED. At the end of its input
the process ends, also in the middle of a job.
"""

import json
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue

from lib.cli.jobs import load_job, settings_class
from lib.engines.ray_train import ray_session, ships_code_of
from lib.pipeline import JOBS, ROOT, Job
from lib.runs.errors import ExitCode, JobEndedError, SettingError, ending_of, recordable_traceback
from lib.runs.logs import FORMAT_VARIABLE
from lib.settings import JobSettings

ENDED = "\x1eended "  # then the exit code and, in JSON, the error that the user is told of
STOP_SECONDS = 30


class RayHost:
    """The process, as the walk sees it."""

    def __init__(self, log: Path) -> None:
        own_token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        environment = {**os.environ, **own_token, FORMAT_VARIABLE: "json"}
        with log.open("ab") as noise:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "lib.cli.ray_host"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=noise,
                cwd=ROOT,
                env=environment,
                text=True,
            )

    def run(self, job: str, arguments: Sequence[str], show: Callable[[str], object]) -> int:
        """Run a job and show what it says; returns its exit code, 0 or that of files that were set aside.

        Raises:
            JobEndedError: it failed, or the process was killed.
        """
        given, said = self.process.stdin, self.process.stdout
        assert given is not None
        assert said is not None
        try:
            given.write(json.dumps([job, list(arguments)]) + "\n")
            given.flush()
        except BrokenPipeError:
            pass  # its output has ended too
        for line in said:
            if line.startswith(ENDED):
                code, error = json.loads(line.removeprefix(ENDED))
                if code in (ExitCode.DONE, ExitCode.FILES_SET_ASIDE):
                    return int(code)
                raise JobEndedError(error, code)
            show(line.rstrip("\n"))
        raise JobEndedError(f"the process of the Ray jobs ended with {self.process.wait()}", ExitCode.FAILED)

    def stop(self) -> None:
        """End the process and its Ray."""
        if self.process.stdin is not None and not self.process.stdin.closed:
            self.process.stdin.close()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


def serve() -> None:
    """Run the jobs that are asked for on standard input."""
    asked: SimpleQueue[str | None] = SimpleQueue()
    is_busy = threading.Event()

    def listen() -> None:
        for line in sys.stdin:
            is_busy.set()
            asked.put(line)
        asked.put(None)
        if is_busy.is_set():  # the walk is gone, and what it asked for is not wanted any more
            os._exit(ExitCode.FAILED)

    threading.Thread(target=listen, daemon=True).start()
    with ExitStack() as until_the_end:
        while (line := asked.get()) is not None:
            name, arguments = json.loads(line)
            ended = json.dumps(_run(name, arguments, until_the_end))
            is_busy.clear()
            print(ENDED + ended, flush=True)


def _run(name: str, arguments: list[str], until_the_end: ExitStack) -> tuple[int, str]:
    """Run a job; returns its exit code and, if that is one of a failure, what the user is told."""
    job = JOBS[name]
    try:
        settings = _settings_of(job, arguments)
        until_the_end.enter_context(ray_session(settings.cluster))
        ships_code_of(load_job(job).__name__)
        load_job(job).main(settings)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else ExitCode.FAILED
        return code, f"ended with exit code {end.code}"
    except BaseException as error:
        sys.stderr.write(recordable_traceback(error))
        sys.stderr.flush()
        ending = ending_of(error)
        return ending.code, ending.told
    return ExitCode.DONE, ""


def _settings_of(job: Job, arguments: list[str]) -> JobSettings:
    try:
        return settings_class(job).load(arguments)
    except ValueError as error:
        raise SettingError(str(error)) from error


if __name__ == "__main__":
    serve()
