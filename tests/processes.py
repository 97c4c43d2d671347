"""Processes of this machine, found and ended by their number: what the kill of one of them needs."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from lib.pipeline import ROOT

POLL_SECONDS = 0.02
T = TypeVar("T")


@dataclass(frozen=True)
class Process:
    """A process of this machine."""

    pid: int
    parent: int
    command: str


def running() -> dict[int, Process]:
    """Every process that has not ended, by its number."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                # The fields after the name, which stands in brackets and may hold anything: state, parent.
                state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if state != "Z":  # it has ended and waits for its parent to notice
                found[int(folder.name)] = Process(int(folder.name), int(parent), command)
    return found


def descendants(pid: int) -> list[Process]:
    """All that a process started, and what these did."""
    processes = running()
    found, parents = [], {pid}
    while parents:
        children = [process for process in processes.values() if process.parent in parents]
        found += children
        parents = {child.pid for child in children}
    return found


def wait_for(
    condition: Callable[[], T | None],
    *,
    seconds: float,
    what: str,
    started: "subprocess.Popen[bytes]",
    poll_seconds: float = POLL_SECONDS,
) -> T:
    """What the condition gives when it first gives something, while the process that brings it about runs.

    Raises:
        RuntimeError: it gave nothing before the process ended, or in `seconds`.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found is not None:
            return found
        if started.poll() is not None:
            break
        time.sleep(poll_seconds)
    raise RuntimeError(f"waited {seconds:.0f} s in vain for {what}; the command's exit code is {started.poll()}")


@contextmanager
def started(
    command: Sequence[str], *, log: Path, cwd: Path = ROOT, env: Mapping[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """A command that runs meanwhile, in a group of its own that ends with the block; its output goes to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def kill(pid: int) -> None:
    """End a process hard, as kill -9 does."""
    os.kill(pid, signal.SIGKILL)


def await_end(pids: Sequence[int], *, seconds: float = 60) -> bool:
    """Wait until none of the processes runs; returns whether that came true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(pid in running() for pid in pids):
            return True
        time.sleep(POLL_SECONDS * 10)
    return False
