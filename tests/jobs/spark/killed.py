"""A shop's jobs in a process of their own, which is ended by kill -9 right after it has committed to a table."""

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

from lib.engines.spark import SparkRun
from tests.shops import Shop


def run_killed_after(shop: Shop, table: str, *flags: str, first: str, last: str) -> None:
    """Run the jobs from `first` to `last`; the process ends with its commit to `table`, or the test fails."""
    process = multiprocessing.get_context("spawn").Process(target=_run, args=(shop.folder, table, flags, first, last))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def _run(folder: Path, table: str, flags: tuple[str, ...], first: str, last: str) -> None:
    commit = SparkRun.commit_written

    def commit_and_end(self: SparkRun, name: str, *given: Any, **further: Any) -> None:
        commit(self, name, *given, **further)
        if name == table:
            os.kill(os.getpid(), signal.SIGKILL)

    SparkRun.commit_written = commit_and_end  # type: ignore[method-assign]
    Shop(folder).run(*flags, first=first, last=last)
