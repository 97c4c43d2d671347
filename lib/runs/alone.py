"""One run of a job at a time on a lake, for jobs that read what their own earlier runs have written."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from lib.lake.lake import Lake, require_writable
from lib.runs.errors import RetryableError


@contextmanager
def alone(job: str, lake: Lake) -> Iterator[None]:
    """Allow one run of a job at a time on a lake in a folder; the lock goes when the process ends, however it ends.

    An object store has no locks, and not every file system that machines share has: there a run that another has overtaken
    finds that out when it commits (`TaskRun.hold`).

    Raises:
        RetryableError: another run of the job is under way.
    """
    if lake.is_remote:
        yield
        return
    require_writable(lake)
    with (lake.folder / f".{job}").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RetryableError(
                f"another run of {job} is under way on {lake.path}, and one at a time writes a lake; wait for it to end"
            ) from None
        except OSError:  # a file system without locks
            pass
        yield
