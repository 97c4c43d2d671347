"""Processes that end with the one that started them, however that ends, and with them all that they started.

This file is also the program that stands between: it starts the command, passes on the signal to stop, and stops the command
when its own parent is gone. It imports nothing but Python's own library, so that it starts in a few milliseconds.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

POLL_SECONDS = 0.1
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # of Linux; elsewhere a kill of this program itself leaves the command


def start_tied(
    command: Sequence[str],
    *,
    log: Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stop_seconds: float = 10,
) -> "subprocess.Popen[bytes]":
    """Start a command whose output is added to `log`; the process returned ends with it, and by the same exit code.

    Asked to stop, it has so many seconds; then it, and all that it started, is killed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    tie = [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(stop_seconds), *command]
    with log.open("ab") as output:
        return subprocess.Popen(
            tie, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Ask a tied process to stop, and wait until it and all that it started has ended."""
    process.terminate()
    process.wait()


def kill(process: "subprocess.Popen[bytes]") -> None:
    """End a tied process and all that it started hard, as kill -9 does."""
    started = descendants(process.pid)
    end(started)  # the tie sees it, and ends
    if not started:
        process.kill()
    process.wait()


def descendants(pid: int) -> list[int]:
    """All that a process started and that has not ended, and what these started; Linux only, elsewhere none."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if state != "Z" or _has_threads(stat.parent):
                parents[int(stat.parent.name)] = int(parent)
    found, last = [], {pid}
    while last:
        last = {child for child, parent in parents.items() if parent in last}
        found += sorted(last)
    return found


def end(pids: Sequence[int]) -> None:
    """Kill processes, and wait until none of them runs."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    while any(_runs(pid) for pid in pids):
        time.sleep(POLL_SECONDS / 10)


def _runs(pid: int) -> bool:
    folder = Path(f"/proc/{pid}")
    try:
        return (folder / "stat").read_text().rpartition(")")[2].split()[0] != "Z" or _has_threads(folder)
    except OSError:
        return False


def _has_threads(folder: Path) -> bool:
    """Whether threads of a process go on whose first has ended: what it had open, it still has."""
    return len(list((folder / "task").iterdir())) > 1


def main(parent: int, stop_seconds: float, command: Sequence[str]) -> int:
    """Run the command until it ends, a signal asks for it or the parent is gone; returns the command's exit code."""
    is_asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda which, _: is_asked.append(which))
    _prctl(PR_SET_CHILD_SUBREAPER, 1)  # what the command leaves behind becomes ours
    try:
        process = subprocess.Popen(command, start_new_session=True, preexec_fn=_die_with_the_tie)  # noqa: PLW1509 - one thread
    except OSError as error:
        sys.stderr.write(f"{command[0]} cannot be started: {error}\n")
        return 127
    deadline = float("inf")
    while process.poll() is None:
        if deadline == float("inf") and (is_asked or os.getppid() != parent):
            process.terminate()
            deadline = time.monotonic() + stop_seconds
        if time.monotonic() > deadline:
            break
        time.sleep(POLL_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    while left := descendants(os.getpid()):
        end(left)
    code = process.wait()
    return code if code >= 0 else 128 - code


def _die_with_the_tie() -> None:
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
