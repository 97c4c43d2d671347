"""What a job asks of the engine that runs its tasks: functions over Arrow (lib/engines/arrow_tasks.py), in two ways.

On a cluster, and wherever spark-submit has started it, the engine is Spark (lib/engines/spark.py). On one machine, where
nothing need be distributed, it is processes of that machine (lib/engines/local_tasks.py). Does not import Spark.
"""

import heapq
from collections.abc import Callable, Iterator, Sequence
from math import ceil
from typing import Any, Protocol, Self, TypeVar

import pyarrow as pa
from deltalake.transaction import AddAction

from lib.engines.arrow_tasks import Broadcast, written

Task = Callable[..., Iterator[pa.RecordBatch]]  # of batches, and of what is given to all tasks by name
Value = TypeVar("Value")


class Parts(Protocol):
    """Rows in partitions, each of which one task gets whole: first about files, then the parts that tasks make."""

    def then(self, task: Task, **given: Any) -> Self:
        """The parts that a task makes of each partition."""
        ...

    def to_shards(self, num_shards: int) -> Self:
        """The parts of each shard brought together in a partition."""
        ...

    def union(self, other: Self) -> Self:
        """The partitions of both."""
        ...

    def of(self, *kinds: str) -> Self:
        """Only the parts of these kinds."""
        ...

    def but(self, *kinds: str) -> Self:
        """Only the parts of other kinds."""
        ...

    def keep(self) -> Self:
        """The same, kept when they are first used, so that they need not be made again."""
        ...

    def drop(self) -> None:
        """Let go of what was kept."""
        ...

    def collected(self) -> list[tuple[str, bytes]]:
        """The kind and content of parts that are few and small."""
        ...


class Engine(Protocol):
    """What runs the tasks."""

    @property
    def parallelism(self) -> int:
        """How many tasks run at once."""
        ...

    @property
    def least_shard_rows(self) -> int:
        """Shards of fewer rows cost more than they save."""
        ...

    def over(self, rows: pa.Table, *, task_bytes: int, least_bytes: int = 0) -> Parts:
        """Rows about files, with their `num_bytes`, spread over tasks that read about `task_bytes` each.

        A file counts for at least `least_bytes`, where many may be small and each costs something to open.
        """
        ...

    def broadcast(self, value: Value) -> Broadcast[Value]:
        """A value that every task gets beside the plan, such as a secret."""
        ...

    def close(self) -> None:
        """Let go of all that is kept."""
        ...


def spread(sizes: Sequence[int], *, task_bytes: int, parallelism: int) -> list[int]:
    """The task of each file, so that tasks read about equally much: the largest first, each to the task with the least so far."""
    num_tasks = max(min(len(sizes), parallelism), ceil(sum(sizes) / task_bytes))
    loads = [(0, task) for task in range(num_tasks)]
    chosen = [0] * len(sizes)
    for place in sorted(range(len(sizes)), key=lambda place: -sizes[place]):
        load, chosen[place] = heapq.heappop(loads)
        heapq.heappush(loads, (load + sizes[place], chosen[place]))
    return chosen


def files_written(parts: Parts) -> list[AddAction]:
    """The files that tasks wrote, and said so in parts."""
    return [written(content) for _, content in parts.collected()]
