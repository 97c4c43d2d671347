"""A run of the whole pipeline that is watched: when it shows its first stage, when it ends, what it prints."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from acceptance.claims import environment
from lib.pipeline import ROOT
from tests.processes import started, wait_for

MOST_SECONDS_OF_SETUP = 1200


class WatchedRun(NamedTuple):
    """A run of the pipeline to its end: seconds until it showed its first stage, seconds in all, what it printed."""

    start_seconds: float
    seconds: float
    text: str

    @property
    def num_passed_over(self) -> int:
        """Jobs that were found unchanged."""
        return sum("unchanged" in line for line in self.text.splitlines())


def watched_run(
    command: Sequence[str], *, log: Path, cwd: Path = ROOT, extra: Mapping[str, str] | None = None
) -> WatchedRun:
    """Run the pipeline by a command and note when it begins its first stage.

    Raises:
        RuntimeError: it failed, with the end of its output.
    """
    began = time.monotonic()
    with started(command, log=log, cwd=cwd, env={**environment(), **(extra or {})}) as process:
        wait_for(
            lambda: "\n[1/" in f"\n{log.read_text()}" or None,
            seconds=MOST_SECONDS_OF_SETUP,
            what="the first stage",
            started=process,
        )
        start_seconds = time.monotonic() - began
        code = process.wait()
    if code != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {code}: {log.read_text()[-2000:]}")
    return WatchedRun(start_seconds, time.monotonic() - began, log.read_text())
