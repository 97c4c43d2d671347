"""What the engines besides Spark share: what a task makes is held in pieces of one shard each, so that no shuffle moves it."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Generic, NamedTuple, Self, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from lib.engines.arrow_tasks import of_kinds
from lib.engines.parts import Task, bytes_to_read, spread

Place = TypeVar("Place")  # where a piece is held: a file, or a reference into a store
HERE_BYTES = 16 << 20  # what reads no more is done in the process that asks, before others would have started


class Held(NamedTuple, Generic[Place]):
    """Where a table with parts of one shard is held, and which kinds of them are wanted: these, or all but these."""

    place: Place
    shard: int
    kinds: frozenset[str] = frozenset()
    are_wanted: bool = False

    def wanted(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Those of its parts that are wanted."""
        return of_kinds(batches, self.kinds, are_wanted=self.are_wanted)


@dataclass(frozen=True)
class HeldParts(ABC, Generic[Place]):
    """`Parts` in pieces; an engine's own say how a task runs on them, how they are read, and how they are dropped."""

    partitions: list[list[Held[Place]]]
    num_bytes: int | None  # that tasks over them read; None: unknown, for other processes have made them

    @abstractmethod
    def then(self, task: Task, **given: Any) -> Self:
        """Run the task now."""

    @abstractmethod
    def drop(self) -> None:
        """Let go of the pieces."""

    @abstractmethod
    def batches(self) -> Iterator[pa.RecordBatch]:
        """The parts of all pieces that are wanted."""

    def to_shards(self, num_shards: int) -> Self:
        """Nothing moves: each piece is of one shard."""
        shards: list[list[Held[Place]]] = [[] for _ in range(num_shards)]
        for held in self.pieces():
            shards[held.shard % num_shards].append(held)
        return replace(self, partitions=shards)

    def union(self, other: Self) -> Self:
        is_known = self.num_bytes is not None and other.num_bytes is not None
        num_bytes = (self.num_bytes or 0) + (other.num_bytes or 0) if is_known else None
        return replace(self, partitions=self.partitions + other.partitions, num_bytes=num_bytes)

    def of(self, *kinds: str) -> Self:
        return self._only(frozenset(kinds), are_wanted=True)

    def but(self, *kinds: str) -> Self:
        return self._only(frozenset(kinds), are_wanted=False)

    def keep(self) -> Self:
        """They are kept in any case."""
        return self

    def collected(self) -> list[tuple[str, bytes]]:
        parts = (part for batch in self.batches() for part in batch.select(["kind", "content"]).to_pylist())
        return [(part["kind"], part["content"]) for part in parts]

    def pieces(self) -> Iterator[Held[Place]]:
        """Of all partitions."""
        return (held for partition in self.partitions for held in partition)

    def work(self) -> list[list[Held[Place]]]:
        """The partitions that hold anything: one task each."""
        return [partition for partition in self.partitions if partition]

    @property
    def are_small(self) -> bool:
        """Whether tasks over them are done here before other processes would have started."""
        return self.num_bytes is not None and self.num_bytes <= HERE_BYTES

    def _only(self, kinds: frozenset[str], *, are_wanted: bool) -> Self:
        chosen = [[held._replace(kinds=kinds, are_wanted=are_wanted) for held in part] for part in self.partitions]
        return replace(self, partitions=chosen)


def by_task(rows: pa.Table, *, task_bytes: int, parallelism: int) -> tuple[list[pa.Table], int]:
    """The rows about files that each task gets, and how many bytes all of them read."""
    sizes = bytes_to_read(rows)
    tasks = pa.array(spread(sizes, task_bytes=task_bytes, parallelism=parallelism), pa.int32())
    return [rows.filter(pc.equal(tasks, task)) for task in sorted(set(tasks.to_pylist()))], sum(sizes)
