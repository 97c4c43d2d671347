"""One run of a command: its seconds, and the most memory that it and all that it started held at once."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SAMPLE_SECONDS = 0.2


@dataclass(frozen=True)
class Measured:
    """What one run took."""

    seconds: float
    peak_bytes: int  # of memory; what processes share counts once
    output: str


def measure(command: Sequence[str]) -> Measured:
    """Run a command to its end.

    Raises:
        RuntimeError: it failed; the message ends with its last lines.
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
        while not ended.wait(SAMPLE_SECONDS):
            peak[0] = max(peak[0], _bytes_of_session(process.pid))

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    try:
        output, _ = process.communicate()
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    finally:
        ended.set()
        sampler.join()
    seconds = time.perf_counter() - began
    if process.returncode:
        raise RuntimeError(f"{' '.join(command[:3])} ended with {process.returncode}: {output[-2000:]}")
    return Measured(seconds, peak[0], output)


def _bytes_of_session(session: int) -> int:
    """The memory of all processes of a session; of a page that several share each holds its part (Linux's PSS)."""
    total = 0
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and os.getsid(int(folder.name)) == session:
                line = next(
                    line for line in (folder / "smaps_rollup").read_text().splitlines() if line.startswith("Pss:")
                )
                total += int(line.split()[1]) << 10
        except (OSError, StopIteration):  # it has ended meanwhile
            continue
    return total
