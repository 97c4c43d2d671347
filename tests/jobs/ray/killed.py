"""A training job that loses a worker and then ends before its last output: what a rerun has to mend."""

import os
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.processes import descendants, kill

POLL_SECONDS = 0.02
PATIENCE_SECONDS = 240


class KilledError(Exception):
    """The job's end before its last output."""


def run_to_a_broken_end(
    job: ModuleType, settings: Any, *, checkpoints: Path, after_checkpoints: int, last_output: str
) -> None:
    """Run a job's `main`, kill one of its training workers and end it in place of its function `last_output`.

    The worker is killed once `after_checkpoints` were seen below the folder `checkpoints`; the job must get over that.
    """

    def fail(*_: Any) -> None:
        raise KilledError

    killer = WorkerKiller(checkpoints, after_checkpoints=after_checkpoints)
    killer.start()
    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(job, last_output, fail)
        with pytest.raises(KilledError):
            job.main(settings)
    killer.join()
    assert killer.killed, "no training worker was killed"


class WorkerKiller(threading.Thread):
    """Kills one training worker of this process once some checkpoints were seen in a folder."""

    def __init__(self, folder: Path, *, after_checkpoints: int) -> None:
        super().__init__(daemon=True)
        self.folder, self.after_checkpoints = folder, after_checkpoints
        self.seen, self.killed = set[str](), list[int]()

    def run(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(self.seen) < self.after_checkpoints and time.monotonic() < deadline:
            self.seen |= {found.name for found in self.folder.glob("*/*/checkpoint_*")}
            time.sleep(POLL_SECONDS)
        workers = [process.pid for process in descendants(os.getpid()) if "RayTrainWorker" in process.command]
        if len(self.seen) >= self.after_checkpoints and workers:
            kill(workers[-1])
            self.killed.append(workers[-1])
