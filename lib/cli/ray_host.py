"""The Ray jobs of a walk on one machine: a process beside it runs them one after the other, on one Ray of its own.

Ray Train and torch, whose import takes seconds, are imported once. The process is not the walk's, which starts Spark's JVM: a fork can
stop the connections of a Ray in the same process for ever (docs/decisions/0031).

The walk writes a line for each job, [name, arguments], and reads what the job says until a line that begins with ENDED. A line before,
[name, arguments, "later"], has the process import the job and start Ray while the walk does something else. At the end of its input
the process ends, also in the middle of a job.
"""

import json
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from queue import SimpleQueue

from lib.cli.jobs import load_job, settings_class
from lib.engines.ray_train import ray_session, ships_code_of
from lib.pipeline import JOBS, ROOT, Job
from lib.runs.errors import ExitCode, JobEndedError, SettingError, ending_of, recordable_traceback
from lib.runs.logs import FORMAT_VARIABLE
from lib.settings import JobSettings

LATER = "later"
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

    def get_ready(self, job: str, arguments: Sequence[str]) -> None:
        """Let the process prepare for a job that will be asked for."""
        self._ask(job, list(arguments), LATER)

    def run(self, job: str, arguments: Sequence[str], show: Callable[[str], object]) -> int:
        """Run a job and show what it says; returns its exit code, 0 or that of files that were set aside.

        Raises:
            JobEndedError: it failed, or the process was killed.
        """
        self._ask(job, list(arguments))
        said = self.process.stdout
        assert said is not None
        for line in said:
            if line.startswith(ENDED):
                code, error = json.loads(line.removeprefix(ENDED))
                if code in (ExitCode.DONE, ExitCode.FILES_SET_ASIDE):
                    return int(code)
                raise JobEndedError(error, code)
            show(line.rstrip("\n"))
        raise JobEndedError(f"the process of the Ray jobs ended with {self.process.wait()}", ExitCode.FAILED)

    def _ask(self, *what: object) -> None:
        given = self.process.stdin
        assert given is not None
        with suppress(BrokenPipeError):  # its output has ended too, which `run` tells
            given.write(json.dumps(what) + "\n")
            given.flush()

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
            is_busy.set()  # again, where the line was there before the last one was done
            name, arguments, *later = json.loads(line)
            ended = _run(name, arguments, until_the_end, is_asked=not later)
            is_busy.clear()
            if not later:
                print(ENDED + json.dumps(ended), flush=True)


def _run(name: str, arguments: list[str], until_the_end: ExitStack, *, is_asked: bool) -> tuple[int, str]:
    """Run a job, or only prepare for it; returns its exit code and, if that is one of a failure, what the user is told."""
    job = JOBS[name]
    try:
        settings = _settings_of(job, arguments)
        until_the_end.enter_context(ray_session(settings.cluster))
        ships_code_of(load_job(job).__name__)
        if is_asked:
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
