"""Ray seen from outside: submits jobs to a cluster through its job server and follows them."""

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from lib.pipeline import ROOT
from lib.runs.errors import ExitCode, JobEndedError, RetryableError
from lib.runs.logs import FORMAT_VARIABLE, error_in

START_SECONDS = 180
POLL_SECONDS = 0.5


def run_job(address: str, entrypoint: str, show: Callable[[str], object], log: Path) -> int:
    """Submit a job through the job API, show its lines as they arrive, append its output to `log` and wait for it.

    Returns its exit code, 0 or that of files that were set aside.

    Raises:
        RetryableError: no job server answers at the address.
        JobEndedError: the job failed.
    """
    client = client_of(address)
    job_id = _submit(client, entrypoint)
    try:
        with log.open("a") as file:
            output = _Output(show, file)
            asyncio.run(_follow(client, job_id, output))
    except BaseException:
        client.stop_job(job_id)
        raise
    ended = client.get_job_info(job_id)
    code = _exit_code(ended)
    if code not in (ExitCode.DONE, ExitCode.FILES_SET_ASIDE):
        raise JobEndedError(output.last_error or f"the Ray job ended as {ended.status.value}", code)
    return code


def client_of(address: str | None) -> Any:
    """A client of the job server at an address, by default Ray's own.

    Raises:
        RetryableError: none answers there.
    """
    try:
        return _client(address)
    except (ConnectionError, RuntimeError) as error:
        place = address or os.environ.get("RAY_ADDRESS") or "Ray's default address"
        raise RetryableError(f"no Ray job server answers at {place} ({type(error).__name__})") from None


def exit_code_of_job(address: str | None, entrypoint: str) -> int:
    """The exit code of the newest job with that entrypoint; `ray job submit` itself ends with 1 whatever it was."""
    try:
        jobs = [job for job in _client(address).list_jobs() if job.entrypoint == entrypoint]
    except (OSError, RuntimeError):
        jobs = []
    return _exit_code(max(jobs, key=lambda job: job.start_time or 0)) if jobs else ExitCode.FAILED


def _exit_code(job: Any) -> int:
    """A job's own exit code; that of a failure where it was killed or stopped."""
    if job.status.value == "SUCCEEDED":
        return ExitCode.DONE
    told = (
        code for code in ExitCode if code not in (ExitCode.DONE, ExitCode.FAILED)
    )  # 137 is of a process that was killed
    return job.driver_exit_code if job.driver_exit_code in told else ExitCode.FAILED


@dataclass
class _Output:
    """What a job has printed so far: its lines are shown, its text is written to `file`."""

    show: Callable[[str], object]
    file: TextIO
    length: int = 0  # characters
    rest: str = ""  # of a line that has not ended
    last_error: str | None = None  # the last line that reports a user's error

    def add(self, text: str) -> None:
        """Take what was printed next."""
        self.file.write(text)
        self.length += len(text)
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            self._line(line)

    def end(self) -> None:
        """Show a last line without an end."""
        if self.rest:
            self._line(self.rest)

    def _line(self, line: str) -> None:
        error = error_in(line)
        if error is None:
            self.show(line)
        else:
            self.last_error = error  # whoever waits for the job tells it


async def _follow(client: Any, job_id: str, output: _Output) -> None:
    """Follow a job until it ends.

    Ray's stream of the log ends some three seconds after the job, which a walk of short jobs would feel: so the job's end
    is looked for beside it, and what is missing of the log is read then.
    """

    async def read_stream() -> None:
        async for text in client.tail_job_logs(job_id):
            output.add(text)

    async def await_end() -> None:
        while not client.get_job_info(job_id).status.is_terminal():
            await asyncio.sleep(POLL_SECONDS)

    tasks = {asyncio.create_task(read_stream()), asyncio.create_task(await_end())}
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    for task in done:
        task.result()
    output.add(client.get_job_logs(job_id)[output.length :])
    output.end()


def _submit(client: Any, entrypoint: str) -> str:
    """Submit a job; retries while a head that has just started has no agent ready to take it."""
    # .rayignore limits what is uploaded of the working directory to the code and the shipped settings.
    environment = {"working_dir": str(ROOT), "env_vars": {FORMAT_VARIABLE: "json"}}
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            return str(client.submit_job(entrypoint=entrypoint, runtime_env=environment))
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(POLL_SECONDS)


def _client(address: str | None) -> Any:
    """A client of the job server.

    It is given the token here, because Ray reads its auth mode only when it is imported.
    """
    from ray.job_submission import JobSubmissionClient  # noqa: PLC0415

    token = os.environ.get("RAY_AUTH_TOKEN")
    return JobSubmissionClient(address, headers={"Authorization": f"Bearer {token}"} if token else None)
