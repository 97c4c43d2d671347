"""Processes that make one whole: started in their order, each when the one before is ready, and stopped together.

Each ends with this one, however that ends, with all that it started (lib/live/tied.py). What a part says is in a log of its name.
"""

import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from lib.live.tied import kill, start_tied
from lib.runs.errors import RetryableError

POLL_SECONDS = 0.2
ANSWER_SECONDS = 1.0
PART_SECONDS = 30.0  # in which a part ends once it is asked to
KILLED = 128 + signal.SIGKILL  # the exit code of a part that did not


@dataclass(frozen=True)
class LivePart:
    """One process of the stack: how it is started, when the next may start, and what it has to do before that."""

    name: str
    command: Sequence[str]
    is_ready: Callable[[], bool] = lambda: True
    start_seconds: float = 120
    then: Callable[[], object] = lambda: None
    stop_seconds: float = PART_SECONDS
    variables: Mapping[str, str] | None = None


@dataclass
class Stack:
    """Parts that run, the first of which the others need."""

    parts: Sequence[LivePart]
    folder: Path
    tell: Callable[[str], object]
    ready: str  # what is told when all of them run

    def __post_init__(self) -> None:
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.stopped, self.num_asked = threading.Event(), 0

    def run(self) -> None:
        """Start the parts, and go on until SIGTERM or Ctrl-C; then all are stopped, the last first.

        Asked once more, it does not wait for them.

        Raises:
            RetryableError: a part does not start, or has ended; all others are stopped.
        """
        with self._signals():
            try:
                for part in self.parts:
                    if not self._start(part):
                        return
                self.tell(self.ready)
                while not self.stopped.wait(POLL_SECONDS):
                    self._require_all()
            finally:
                self.stop()

    def stop(self) -> None:
        """Stop what runs, the last started first."""
        for name in reversed([*self.processes]):
            process = self.processes.pop(name)
            if process.poll() is not None:
                continue
            self.tell(f"{name} is asked to stop")
            begun = time.monotonic()
            process.terminate()
            while process.poll() is None and self.num_asked < 2:
                time.sleep(POLL_SECONDS / 4)
            if process.poll() is None:
                kill(process)
            how = "was killed" if process.returncode == KILLED else "has stopped"
            self.tell(f"{name} {how}, after {time.monotonic() - begun:.1f} s")

    def log(self, name: str) -> Path:
        """What a part says."""
        return self.folder / f"{name}.log"

    def _start(self, part: LivePart) -> bool:
        """Start a part and wait until it is ready; returns whether nobody has asked to stop meanwhile."""
        begun = time.monotonic()
        log = self.log(part.name)
        self.processes[part.name] = start_tied(
            part.command, log=log, env=part.variables, stop_seconds=part.stop_seconds
        )
        while not part.is_ready():
            self._require_all()
            if self.stopped.wait(POLL_SECONDS):
                return False
            if time.monotonic() - begun > part.start_seconds:
                raise RetryableError(f"{part.name} is not ready after {part.start_seconds:.0f} s; its log is {log}")
        self._require_all()
        part.then()
        self.tell(f"{part.name} runs, after {time.monotonic() - begun:.1f} s; its log is {log}")
        return not self.stopped.is_set()

    def _require_all(self) -> None:
        for name, process in self.processes.items():
            code = process.poll()
            if code is not None:
                words = _last_words(self.log(name))
                raise RetryableError(f"{name} has ended, exit code {code}: {words}; its log is {self.log(name)}")

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def ask(number: int, frame: FrameType | None) -> None:
            self.num_asked += 1
            self.stopped.set()

        before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def answers_http(address: str, holds: str = "") -> bool:
    """Whether a server answers there, with whatever status, with a text that holds this."""
    try:
        with urllib.request.urlopen(address, timeout=ANSWER_SECONDS) as answer:
            return holds.encode() in answer.read()
    except urllib.error.HTTPError as answer:
        return holds.encode() in answer.read()
    except OSError:
        return False


def _last_words(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n") if log.is_file() else []
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "it said nothing")
