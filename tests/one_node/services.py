"""The node's processes: started in its network, remembered by number and start time, and ended with all that they started."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.one_node.network import inside
from tests.one_node.programs import NoNodeError

FOLDER = Path("/var/lib/cartwheel-node")
START_SECONDS, STOP_SECONDS = 120, 10


class Services:
    """What runs on the node, remembered in a file so that another command can end it."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self.folder = folder
        self.file = folder / "processes.json"

    def start(self, name: str, command: Sequence[str], environment: dict[str, str] | None = None) -> None:
        """Start a process; its output goes to a log of its name."""
        (self.folder / "logs").mkdir(parents=True, exist_ok=True)
        with self.log(name).open("wb") as log:
            process = subprocess.Popen(
                inside(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **(environment or {})},
                cwd=self.folder,
                start_new_session=True,
            )
        self._write({**self._read(), name: [process.pid, started_at(process.pid)]})

    def running(self) -> dict[str, int]:
        """The number of each process that runs."""
        return {name: pid for name, (pid, at) in self._read().items() if at is not None and started_at(pid) == at}

    def stop(self, name: str) -> None:
        """End a process, at once where it does not end by itself."""
        pid = self.running().get(name)
        if pid is not None:
            end([pid], seconds=STOP_SECONDS)

    def log(self, name: str) -> Path:
        """Where a process's output is."""
        return self.folder / "logs" / f"{name}.log"

    def last_words(self, name: str) -> str:
        """The last line that a process wrote."""
        lines = self.log(name).read_text(errors="replace").splitlines() if self.log(name).is_file() else []
        return lines[-1].strip() if lines else "it wrote nothing"

    def _read(self) -> dict[str, tuple[int, int | None]]:
        return json.loads(self.file.read_text()) if self.file.is_file() else {}

    def _write(self, processes: dict[str, object]) -> None:
        part = self.file.with_suffix(".part")
        part.write_text(json.dumps(processes))
        part.replace(self.file)


def started_at(pid: int) -> int | None:
    """When a process started, in ticks since the machine did; None where it has ended. A number may be given out again."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else int(fields[19])


def end(pids: Sequence[int], *, seconds: float) -> None:
    """Ask processes to end, and kill those that have not in the given time."""
    begun = {pid: started_at(pid) for pid in pids}
    for sign in (signal.SIGTERM, signal.SIGKILL):
        for pid in _alive(begun):
            try:
                os.kill(pid, sign)
            except ProcessLookupError:
                continue
        deadline = time.monotonic() + seconds
        while _alive(begun) and time.monotonic() < deadline:
            time.sleep(0.05)


def _alive(begun: dict[int, int | None]) -> list[int]:
    return [pid for pid, at in begun.items() if at is not None and started_at(pid) == at]


def wait_until(condition: Callable[[], bool], what: str, services: Services) -> None:
    """Wait until a condition holds.

    Raises:
        NoNodeError: it did not in time, or a process of the node ended meanwhile.
    """
    known = set(services.running())
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except RuntimeError:
            pass  # it does not answer yet
        for name in known - set(services.running()):
            raise NoNodeError(f"{name} ended: {services.last_words(name)}")
        time.sleep(0.25)
    raise NoNodeError(f"waited {START_SECONDS} s in vain for {what}; the logs are in {services.folder / 'logs'}")
