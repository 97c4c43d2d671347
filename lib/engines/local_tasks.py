"""Tasks in processes of this machine: what a task makes lies in files until the next one reads it.

Small work is done in the process that asks for it. A worker ends with the process that started it, however that ends, and
files that a killed one has left are removed by the next.
"""

import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from lib.engines.arrow_tasks import InProcess, by_shard, of_kinds
from lib.engines.parts import Task, bytes_to_read, spread
from lib.lake.places import VARIABLES
from lib.runs.errors import TaskError

Value = TypeVar("Value")
HERE_BYTES = 16 << 20  # what reads no more is done before other processes would have started
FOLDER = Path(tempfile.gettempdir()) / f"cartwheel-tasks-{os.getuid()}"
# Kept for the next job of this process, since its start takes seconds, and the store's variables that its processes know.
_pool: ProcessPoolExecutor | None = None
_known: dict[str, str] = {}


class Held(NamedTuple):
    """A file with parts of one shard, and which kinds of them are wanted: these, or all but these."""

    path: Path
    shard: int
    kinds: frozenset[str] = frozenset()
    are_wanted: bool = False

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The parts, without a copy of their content."""
        with pa.memory_map(str(self.path)) as file, pa.ipc.open_file(file) as reader:
            every = (reader.get_batch(number) for number in range(reader.num_record_batches))
            yield from of_kinds(every, self.kinds, are_wanted=self.are_wanted)


@dataclass(frozen=True)
class LocalParts:
    """`Parts` in files of this machine."""

    engine: "LocalEngine"
    partitions: list[list[Held]]
    num_bytes: int  # that tasks over them read

    def then(self, task: Task, **given: Any) -> "LocalParts":
        """Run the task now."""
        work = [held for held in self.partitions if held]
        folders = [self.engine.new_folder() for _ in work]
        if len(work) > 1 and (_pool is not None or self.num_bytes > HERE_BYTES):
            running = [
                self.engine.pool.submit(run_task, task, given, held, folder)
                for held, folder in zip(work, folders, strict=True)
            ]
            made = self.engine.results(running)
        else:
            made = [run_task(task, given, held, folder) for held, folder in zip(work, folders, strict=True)]
        return LocalParts(self.engine, made, sum(held.path.stat().st_size for files in made for held in files))

    def to_shards(self, num_shards: int) -> "LocalParts":
        """Nothing moves: each file is of one shard."""
        shards: list[list[Held]] = [[] for _ in range(num_shards)]
        for held in self._files():
            shards[held.shard % num_shards].append(held)
        return replace(self, partitions=shards)

    def union(self, other: "LocalParts") -> "LocalParts":
        return LocalParts(self.engine, self.partitions + other.partitions, self.num_bytes + other.num_bytes)

    def of(self, *kinds: str) -> "LocalParts":
        return self._only(frozenset(kinds), are_wanted=True)

    def but(self, *kinds: str) -> "LocalParts":
        return self._only(frozenset(kinds), are_wanted=False)

    def keep(self) -> "LocalParts":
        return self

    def drop(self) -> None:
        for held in self._files():
            held.path.unlink(missing_ok=True)

    def collected(self) -> list[tuple[str, bytes]]:
        return [
            (part["kind"], part["content"])
            for held in self._files()
            for batch in held.batches()
            for part in batch.select(["kind", "content"]).to_pylist()
        ]

    def _files(self) -> Iterator[Held]:
        return (held for partition in self.partitions for held in partition)

    def _only(self, kinds: frozenset[str], *, are_wanted: bool) -> "LocalParts":
        chosen = [[held._replace(kinds=kinds, are_wanted=are_wanted) for held in files] for files in self.partitions]
        return replace(self, partitions=chosen)


@dataclass
class LocalEngine:
    """Runs tasks in processes of this machine."""

    parallelism: int
    least_shard_rows: int = 150_000
    _number: int = field(default=0, init=False)

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

        Others are started where the variables by which a store is reached are no longer those that they know.
        """
        global _pool, _known  # noqa: PLW0603
        known = {name: os.environ[name] for name in VARIABLES if name in os.environ}
        if _pool is not None and known != _known:
            _pool.shutdown(wait=False)
            _pool = None
        if _pool is None:
            _known = known
            os.environ.setdefault("POLARS_MAX_THREADS", "1")
            _pool = ProcessPoolExecutor(
                self.parallelism, multiprocessing.get_context("spawn"), initializer=_begin_worker
            )
        return _pool

    def results(self, running: Sequence["Future[list[Held]]"]) -> list[list[Held]]:
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
        sizes = bytes_to_read(rows)
        tasks = pa.array(spread(sizes, task_bytes=task_bytes, parallelism=self.parallelism), pa.int32())
        partitions = []
        for task in sorted(set(tasks.to_pylist())):
            path = self.new_folder() / "rows.arrow"
            chosen = rows.filter(pc.equal(tasks, task))
            with pa.ipc.new_file(path, chosen.schema) as writer:
                writer.write_table(chosen)
            partitions.append([Held(path, 0)])
        return LocalParts(self, partitions, sum(sizes))

    def broadcast(self, value: Value) -> InProcess[Value]:
        """The value itself."""
        return InProcess(value)

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


def run_task(task: Task, given: Mapping[str, Any], files: Iterable[Held], folder: Path) -> list[Held]:
    """Run a task on the parts in files; returns the files that it made, one for each shard.

    Raises:
        TaskError: the task has failed.
    """
    writers: dict[int, pa.ipc.RecordBatchFileWriter] = {}
    try:
        for shard, batch in by_shard(task((batch for held in files for batch in held.batches()), **given)):
            if shard not in writers:
                writers[shard] = pa.ipc.new_file(folder / f"{shard:06d}.arrow", batch.schema)
            writers[shard].write_batch(batch)
    except Exception:
        raise TaskError(traceback.format_exc()) from None
    finally:
        for writer in writers.values():
            writer.close()
    return [Held(folder / f"{shard:06d}.arrow", shard) for shard in sorted(writers)]


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
