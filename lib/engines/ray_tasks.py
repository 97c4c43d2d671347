"""Tasks in Ray: what a task makes lies in Ray's object store, or on the disk that this spills to, until the next takes it.

An engine works inside a `ray_session` (lib/engines/ray_train.py). Imports ray only inside the functions that need it.
"""

import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Generic, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from lib.engines.arrow_tasks import by_shard, of_kinds
from lib.engines.parts import Task, TaskRun, bytes_to_read, spread
from lib.runs.errors import TaskError

Value = TypeVar("Value")
HERE_BYTES = 16 << 20  # what reads no more is done in the driver before other processes would have started


class Held(NamedTuple):
    """The reference of a table with parts of one shard, and which kinds of them are wanted: these, or all but these."""

    table: Any
    shard: int
    kinds: frozenset[str] = frozenset()
    are_wanted: bool = False


def batches_of(held: Sequence[Held]) -> Iterator[pa.RecordBatch]:
    """The parts themselves, in whatever process of the cluster asks for them."""
    import ray  # noqa: PLC0415

    for one in held:
        yield from _wanted(one, ray.get(one.table))


@dataclass(frozen=True)
class RayParts:
    """`Parts` in Ray's object store."""

    partitions: list[list[Held]]
    num_bytes: int | None  # that tasks over them read; None: unknown, for other processes have made them

    def then(self, task: Task, **given: Any) -> "RayParts":
        """Run the task now."""
        import ray  # noqa: PLC0415

        work = [held for held in self.partitions if held]
        if self.num_bytes is not None and self.num_bytes <= HERE_BYTES:
            found = [list(run_task(task, given, held, *(ray.get(one.table) for one in held))) for held in work]
            num_bytes = sum(table.nbytes for _, *tables in found for table in tables)
            return RayParts([_held(numbers, map(ray.put, tables)) for numbers, *tables in found], num_bytes)
        remote = ray.remote(num_returns="streaming")(run_task)
        running = [
            remote.remote(task, given, [one._replace(table=None) for one in held], *(one.table for one in held))
            for held in work
        ]
        # What a task gives first is waited for, and raises what the task has raised.
        return RayParts([_held(ray.get(numbers), tables) for numbers, *tables in running], None)

    def to_shards(self, num_shards: int) -> "RayParts":
        """Nothing moves: each table is of one shard."""
        shards: list[list[Held]] = [[] for _ in range(num_shards)]
        for held in self._all():
            shards[held.shard % num_shards].append(held)
        return replace(self, partitions=shards)

    def union(self, other: "RayParts") -> "RayParts":
        sizes = [self.num_bytes, other.num_bytes]
        known = [size for size in sizes if size is not None]
        return RayParts(self.partitions + other.partitions, sum(known) if len(known) == len(sizes) else None)

    def of(self, *kinds: str) -> "RayParts":
        return self._only(frozenset(kinds), are_wanted=True)

    def but(self, *kinds: str) -> "RayParts":
        return self._only(frozenset(kinds), are_wanted=False)

    def keep(self) -> "RayParts":
        return self

    def drop(self) -> None:
        """Ray lets go of what no reference names any more."""

    def collected(self) -> list[tuple[str, bytes]]:
        parts = (part for batch in batches_of(list(self._all())) for part in batch.to_pylist())
        return [(part["kind"], part["content"]) for part in parts]

    def _all(self) -> Iterator[Held]:
        return (held for partition in self.partitions for held in partition)

    def _only(self, kinds: frozenset[str], *, are_wanted: bool) -> "RayParts":
        chosen = [[held._replace(kinds=kinds, are_wanted=are_wanted) for held in part] for part in self.partitions]
        return replace(self, partitions=chosen)


@dataclass(frozen=True)
class InStore(Generic[Value]):
    """A `Broadcast` by Ray's object store."""

    reference: Any

    @property
    def value(self) -> Value:
        import ray  # noqa: PLC0415

        found: Value = ray.get(self.reference)
        return found


class RayEngine:
    """Runs tasks in Ray, one a logical CPU."""

    least_shard_rows = 150_000

    @property
    def parallelism(self) -> int:
        import ray  # noqa: PLC0415

        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        return max(1, int(resources.get("CPU", 1)))

    def over(self, rows: pa.Table, *, task_bytes: int) -> RayParts:
        """Rows about files, spread over tasks."""
        import ray  # noqa: PLC0415

        sizes = bytes_to_read(rows)
        tasks = pa.array(spread(sizes, task_bytes=task_bytes, parallelism=self.parallelism), pa.int32())
        chosen = (rows.filter(pc.equal(tasks, task)) for task in sorted(set(tasks.to_pylist())))
        return RayParts([[Held(ray.put(files), 0)] for files in chosen], sum(sizes))

    def broadcast(self, value: Value) -> InStore[Value]:
        import ray  # noqa: PLC0415

        return InStore(ray.put(value))

    def close(self) -> None:
        """Nothing is kept."""


@dataclass
class RayRun(TaskRun):
    """A run of a Ray job."""

    @cached_property
    def engine(self) -> RayEngine:
        """Ray."""
        return RayEngine()


def run_task(task: Task, given: Mapping[str, Any], held: Sequence[Held], *tables: pa.Table) -> Iterator[Any]:
    """Run a task on tables of parts; yields the shards of what it makes, then a table of each.

    Raises:
        TaskError: the task has failed.
    """
    received = (batch for one, table in zip(held, tables, strict=True) for batch in _wanted(one, table))
    made: dict[int, list[pa.RecordBatch]] = {}
    try:
        for shard, batch in by_shard(task(received, **given)):
            made.setdefault(shard, []).append(batch)
    except Exception:
        raise TaskError(traceback.format_exc()) from None
    yield sorted(made)
    for shard in sorted(made):
        yield pa.Table.from_batches(made[shard])


def _held(shards: Iterable[int], tables: Iterable[Any]) -> list[Held]:
    return [Held(table, shard) for shard, table in zip(shards, tables, strict=True)]


def _wanted(held: Held, table: pa.Table) -> Iterable[pa.RecordBatch]:
    return of_kinds(table.to_batches(), held.kinds, are_wanted=held.are_wanted)
