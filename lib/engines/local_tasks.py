"""Tasks in processes of this machine: what a task makes lies in files until the next one reads it.

Small work is done in the process that asks for it. A worker ends with the process that started it, however that ends, and
files that a killed one has left are removed by the next.
"""

import multiprocessing
import os
import pickle
import shutil
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar

import pyarrow as pa

from lib.engines.arrow_tasks import by_shard
from lib.engines.held_parts import Held, HeldParts, by_task
from lib.engines.parts import PEER_IS_LOST, Task, require_room
from lib.lake.places import VARIABLES
from lib.runs.errors import RetryableError, TaskError

Value = TypeVar("Value")
FAILED = "failed"  # a file that a task leaves where its gang meets
MEETING_SECONDS = 300.0  # for which a task waits for another that was begun with it, and lives
SENT_BYTES = 1 << 20  # of a value that goes with each task; a larger one is left in a file once
FOLDER = Path(tempfile.gettempdir()) / f"cartwheel-tasks-{os.getuid()}"
# Kept for the next job of this process, since its start takes seconds, and the store's variables that its processes know.
_pool: ProcessPoolExecutor | None = None
_known: dict[str, str] = {}
_size = 0  # of the pool: tasks that run together need a process each


@dataclass(frozen=True)
class LocalParts(HeldParts[Path]):
    """`Parts` in files of this machine."""

    engine: "LocalEngine"

    def then(self, task: Task, **given: Any) -> "LocalParts":
        work = self.work()
        folders = [self.engine.new_folder() for _ in work]
        if len(work) > 1 and (_pool is not None or not self.are_small):
            running = [
                self.engine.pool.submit(run_task, task, given, held, folder)
                for held, folder in zip(work, folders, strict=True)
            ]
            made = self.engine.results(running)
        else:
            made = [run_task(task, given, held, folder) for held, folder in zip(work, folders, strict=True)]
        return LocalParts(made, sum(held.place.stat().st_size for files in made for held in files), self.engine)

    def together(self, task: Task, num_tasks: int, **given: Any) -> "LocalParts":
        """In processes that begin together; a single task runs in this one."""
        require_room(num_tasks, slots=self.engine.parallelism)
        shards = self.to_shards(num_tasks).partitions
        meeting = self.engine.new_folder()
        folders = [self.engine.new_folder() for _ in shards]
        work = [
            (task, given, LocalGang(rank, num_tasks, meeting), held, folder)
            for rank, (held, folder) in enumerate(zip(shards, folders, strict=True))
        ]
        if num_tasks == 1:
            return LocalParts([run_in_gang(*work[0])], None, self.engine)
        running = [self.engine.pool.submit(run_in_gang, *one) for one in work]
        wait(running)
        errors = [(future, str(future.exception())) for future in running if future.exception() is not None]
        first = [future for future, error in errors if PEER_IS_LOST not in error]
        return LocalParts(self.engine.results(first or running), None, self.engine)

    def drop(self) -> None:
        for held in self.pieces():
            held.place.unlink(missing_ok=True)

    def batches(self) -> Iterator[pa.RecordBatch]:
        return batches_of(self.pieces())


@dataclass(frozen=True)
class LocalGang:
    """A `Gang` of processes of this machine, which leave what they say in a folder."""

    rank: int
    size: int
    meeting: Path
    host: str = "127.0.0.1"

    def gather(self, message: str) -> list[str]:
        number = len(list(self.meeting.glob(f"{self.rank}-*")))
        unfinished = self.meeting / f"unfinished-{self.rank}"
        unfinished.write_text(message)
        unfinished.rename(self.meeting / f"{self.rank}-{number}")
        return [self._said(rank, number) for rank in range(self.size)]

    def fail(self) -> None:
        """Let the others wait no longer."""
        (self.meeting / FAILED).touch()

    def _said(self, rank: int, number: int) -> str:
        until = time.monotonic() + MEETING_SECONDS
        while time.monotonic() < until and not (self.meeting / FAILED).exists():
            with suppress(FileNotFoundError):
                return (self.meeting / f"{rank}-{number}").read_text()
            time.sleep(0.005)
        raise RetryableError(f"{PEER_IS_LOST} (number {rank + 1} of {self.size}): it has not come")


@dataclass(frozen=True)
class OnDisk(Generic[Value]):
    """A `Broadcast` that goes to tasks through a file if it is large: written with the first, and read once by each process."""

    value: Value
    file: Path

    def __reduce__(self) -> tuple[Callable[..., "OnDisk[Any]"], tuple[Any, ...]]:
        if not self.file.exists():
            content = pickle.dumps(self.value)
            if len(content) < SENT_BYTES:
                return OnDisk, (self.value, self.file)
            unfinished = self.file.with_suffix(".unfinished")
            unfinished.write_bytes(content)
            unfinished.rename(self.file)
        return read_broadcast, (self.file,)


@lru_cache(maxsize=2)  # what the tasks of now need
def read_broadcast(file: Path) -> OnDisk[Any]:
    """What is broadcast by a file."""
    return OnDisk(pickle.loads(file.read_bytes()), file)


@dataclass
class LocalEngine:
    """Runs tasks in processes of this machine."""

    parallelism: int
    least_shard_rows: int = 150_000
    _number: int = field(default=0, init=False)

    @property
    def slots(self) -> int:
        """One a process."""
        return self.parallelism

    @cached_property
    def folder(self) -> Path:
        """Where the parts lie; what processes that are gone have left beside it is removed."""
        FOLDER.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in FOLDER.iterdir():
            if left.name.isdigit() and not Path(f"/proc/{left.name}").exists() and Path("/proc/self").exists():
                shutil.rmtree(left, ignore_errors=True)
        return Path(tempfile.mkdtemp(dir=self._own_folder()))

    @property
    def pool(self) -> ProcessPoolExecutor:
        """The processes; started at first use, each with one thread, for all cores are taken.

        Others are started where the variables by which a store is reached are no longer those that they know, or where
        they are too few.
        """
        global _pool, _known, _size  # noqa: PLW0603
        known = {name: os.environ[name] for name in VARIABLES if name in os.environ}
        if _pool is not None and (known != _known or _size < self.parallelism):
            _pool.shutdown(wait=False)
            _pool = None
        if _pool is None:
            _known, _size = known, self.parallelism
            for name in ("POLARS_MAX_THREADS", "OMP_NUM_THREADS"):
                os.environ.setdefault(name, "1")
            _pool = ProcessPoolExecutor(
                self.parallelism, multiprocessing.get_context("spawn"), initializer=_begin_worker
            )
        return _pool

    def results(self, running: Sequence["Future[list[Held[Path]]]"]) -> list[list[Held[Path]]]:
        """What tasks made; where a process was killed, the next work gets new ones.

        Raises:
            TaskError: a task has failed; those that have not begun do not run.
        """
        global _pool  # noqa: PLW0603
        try:
            return [future.result() for future in running]
        except BrokenProcessPool:
            _pool = None
            raise
        finally:
            for future in running:
                future.cancel()

    def new_folder(self) -> Path:
        """An empty folder for what one task makes."""
        self._number += 1
        folder = self.folder / f"{self._number:06d}"
        folder.mkdir()
        return folder

    def over(self, rows: pa.Table, *, task_bytes: int) -> LocalParts:
        """Rows about files, spread over tasks."""
        files, num_bytes = by_task(rows, task_bytes=task_bytes, parallelism=self.parallelism)
        partitions = []
        for of_task in files:
            path = self.new_folder() / "rows.arrow"
            with pa.ipc.new_file(path, of_task.schema) as writer:
                writer.write_table(of_task)
            partitions.append([Held(path, 0)])
        return LocalParts(partitions, num_bytes, self)

    def broadcast(self, value: Value) -> OnDisk[Value]:
        """The value, which other processes read from a file if it is large."""
        return OnDisk(value, self.new_folder() / "broadcast.pickle")

    def close(self) -> None:
        """Remove what tasks have left; the processes stay for the next job."""
        if "folder" in self.__dict__:
            shutil.rmtree(self.folder, ignore_errors=True)
            with suppress(OSError):
                self._own_folder().rmdir()

    def _own_folder(self) -> Path:
        own = FOLDER / str(os.getpid())
        own.mkdir(exist_ok=True)
        return own


def batches_of(files: Iterable[Held[Path]]) -> Iterator[pa.RecordBatch]:
    """The parts in files, without a copy of their content."""
    for held in files:
        with pa.memory_map(str(held.place)) as file, pa.ipc.open_file(file) as reader:
            yield from held.wanted(reader.get_batch(number) for number in range(reader.num_record_batches))


def run_task(task: Task, given: Mapping[str, Any], files: Iterable[Held[Path]], folder: Path) -> list[Held[Path]]:
    """Run a task on the parts in files; returns the files that it made, one for each shard.

    Raises:
        TaskError: the task has failed.
    """
    writers: dict[int, pa.ipc.RecordBatchFileWriter] = {}
    try:
        for shard, batch in by_shard(task(batches_of(files), **given)):
            if shard not in writers:
                writers[shard] = pa.ipc.new_file(folder / f"{shard:06d}.arrow", batch.schema)
            writers[shard].write_batch(batch)
    except Exception:
        raise TaskError(traceback.format_exc()) from None
    finally:
        for writer in writers.values():
            writer.close()
    return [Held(folder / f"{shard:06d}.arrow", shard) for shard in sorted(writers)]


def run_in_gang(
    task: Task, given: Mapping[str, Any], gang: LocalGang, files: Iterable[Held[Path]], folder: Path
) -> list[Held[Path]]:
    """Run a task, like `run_task`, that works with others."""
    try:
        return run_task(task, {**given, "gang": gang}, files, folder)
    except TaskError:
        gang.fail()
        raise


def _begin_worker() -> None:
    """Leave interrupts to the process that started this one, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pa.set_cpu_count(1)
    parent = multiprocessing.parent_process()

    def end_with_parent() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
