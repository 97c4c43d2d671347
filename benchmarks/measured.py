"""One run of a command: its seconds, and the most memory that it and all that it started held at once."""

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SAMPLE_SECONDS = 0.2
FIRST_TO_GO = 1000  # the most that a process can offer itself to a system that runs out of memory


@dataclass(frozen=True)
class Measured:
    """What one run took, up to its end or failure."""

    seconds: float
    peak_bytes: int  # of memory; what processes share counts once
    output: str
    failure: str | None = None  # why it failed


@dataclass(frozen=True)
class Run:
    """One run of a program on a log, and what it found; a run that failed found nothing."""

    measured: Measured
    outcomes: Mapping[str, int] = field(default_factory=dict)  # number of records by outcome
    bots_and_sessions: tuple[int, ...] = ()  # number of events of bots, and of sessions
    stages: Mapping[str, float] = field(default_factory=dict)  # seconds, by its own account


class ProgramError(RuntimeError):
    """A command failed."""

    def __init__(self, command: Sequence[str], measured: Measured) -> None:
        super().__init__(f"{' '.join(command[:3])}: {measured.failure}: {measured.output[-2000:]}")
        self.measured = measured


def measure(command: Sequence[str]) -> Measured:
    """Run a command to its end.

    Raises:
        ProgramError: it failed; the message ends with its last lines.
    """
    began = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    peak, ended = [0], threading.Event()

    def sample() -> None:
        most = 0
        while not ended.wait(SAMPLE_SECONDS):
            processes = _processes_of(process.pid)
            resident = _sum(_resident_bytes, processes)
            if resident > most:  # only then, for who asks for the parts of shared pages holds the process up
                most, peak[0] = resident, max(peak[0], _sum(_own_bytes, processes))

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    try:
        with contextlib.suppress(OSError):  # it has ended already
            Path(f"/proc/{process.pid}/oom_score_adj").write_text(str(FIRST_TO_GO))
        output, _ = process.communicate()
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    finally:
        ended.set()
        sampler.join()
    measured = Measured(time.perf_counter() - began, peak[0], output, _failure(process.returncode, output))
    if measured.failure:
        raise ProgramError(command, measured)
    return measured


def attempted(program: Callable[[], Run], what: str) -> Run:
    """A run of a program, or one that found nothing where it failed; told in a line."""
    try:
        run = program()
    except ProgramError as error:
        run = Run(error.measured)
    print(f"{what}: {run.measured.failure or f'{run.measured.seconds:.1f} s'}", flush=True)
    return run


def drop_cached(folder: Path) -> None:
    """Take the content of a folder's files out of the page cache, so that who reads them next waits for the disk."""
    for file in folder.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)  # what is not written yet stays cached
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def _failure(code: int, output: str) -> str | None:
    """Why a command failed: the signal that ended it, or the last error that it told, else its last line."""
    if code == -signal.SIGKILL:
        return "killed by SIGKILL, as the system does when memory runs out"
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if re.search("Error|Exception", line)]
    return (errors or lines or [f"exit code {code}"])[-1] if code else None


def _processes_of(session: int) -> list[Path]:
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if folder.name.isdigit() and os.getsid(int(folder.name)) == session:
                found.append(folder)
    return found


def _resident_bytes(process: Path) -> int:
    """The memory in which a process has its pages, shared ones too."""
    return int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def _own_bytes(process: Path) -> int:
    """The memory of a process; of a page that several share each holds its part (Linux's PSS)."""
    found = re.search(r"^Pss: +(\d+) kB", (process / "smaps_rollup").read_text(), re.MULTILINE)
    return int(found[1]) << 10 if found else 0


def _sum(bytes_of: Callable[[Path], int], processes: Sequence[Path]) -> int:
    total = 0
    for process in processes:
        with contextlib.suppress(OSError):  # it has ended meanwhile
            total += bytes_of(process)
    return total
