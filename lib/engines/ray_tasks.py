"""Tasks in Ray: what a task makes lies in Ray's object store, or on the disk that this spills to, until the next takes it.

An engine works inside a `ray_session` (lib/engines/ray_train.py). Imports ray only inside the functions that need it.
"""

import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

import pyarrow as pa

from lib.engines.arrow_tasks import by_shard
from lib.engines.held_parts import Held, HeldParts, by_task
from lib.engines.parts import Task, TaskRun
from lib.runs.errors import TaskError

Value = TypeVar("Value")
InRay = Held[Any]  # its place is a reference into Ray's object store


def batches_of(held: Sequence[InRay]) -> Iterator[pa.RecordBatch]:
    """The parts themselves, in whatever process of the cluster asks for them."""
    import ray  # noqa: PLC0415

    for one in held:
        table: pa.Table = ray.get(one.place)
        yield from one.wanted(table.to_batches())


@dataclass(frozen=True)
class RayParts(HeldParts[Any]):
    """`Parts` in Ray's object store."""

    def then(self, task: Task, **given: Any) -> "RayParts":
        import ray  # noqa: PLC0415

        if self.are_small:
            found = [list(run_task(task, given, held, *(ray.get(one.place) for one in held))) for held in self.work()]
            num_bytes = sum(table.nbytes for _, *tables in found for table in tables)
            return RayParts([_held(numbers, map(ray.put, tables)) for numbers, *tables in found], num_bytes)
        remote = ray.remote(num_returns="streaming")(run_task)
        running = [
            remote.remote(task, given, [one._replace(place=None) for one in held], *(one.place for one in held))
            for held in self.work()
        ]
        # What a task gives first is waited for, and raises what the task has raised.
        return RayParts([_held(ray.get(numbers), tables) for numbers, *tables in running], None)

    def drop(self) -> None:
        """Ray lets go of what no reference names any more."""

    def batches(self) -> Iterator[pa.RecordBatch]:
        return batches_of(list(self.pieces()))


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

        files, num_bytes = by_task(rows, task_bytes=task_bytes, parallelism=self.parallelism)
        return RayParts([[Held(ray.put(of_task), 0)] for of_task in files], num_bytes)

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


def run_task(task: Task, given: Mapping[str, Any], held: Sequence[InRay], *tables: pa.Table) -> Iterator[Any]:
    """Run a task on tables of parts; yields the shards of what it makes, then a table of each.

    Raises:
        TaskError: the task has failed.
    """
    received = (batch for one, table in zip(held, tables, strict=True) for batch in one.wanted(table.to_batches()))
    made: dict[int, list[pa.RecordBatch]] = {}
    try:
        for shard, batch in by_shard(task(received, **given)):
            made.setdefault(shard, []).append(batch)
    except Exception:
        raise TaskError(traceback.format_exc()) from None
    yield sorted(made)
    for shard in sorted(made):
        yield pa.Table.from_batches(made[shard])


def _held(shards: Iterable[int], tables: Iterable[Any]) -> list[InRay]:
    return [Held(table, shard) for shard, table in zip(shards, tables, strict=True)]
