"""What a job asks of the engine that runs its tasks: functions over Arrow (lib/engines/arrow_tasks.py), in three ways.

Of a Spark job it is Spark, on a cluster and wherever spark-submit has started it (lib/engines/spark.py); on one machine,
where nothing need be distributed, processes of that machine (lib/engines/local_tasks.py). Of a Ray job it is Ray
(lib/engines/ray_tasks.py). Does not import Spark or Ray.
"""

import heapq
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Literal, Protocol, Self, TypeVar, runtime_checkable

import pyarrow as pa
from deltalake.transaction import AddAction

from lib.engines.arrow_tasks import TABLE_FILES, Broadcast, written
from lib.lake.writes import Where, commit_files, remove_files, transaction_id
from lib.runs.errors import RetryableError, SettingError
from lib.runs.run import Run
from lib.tables import Table, contract

FILE_COST = 32 << 10  # bytes that are read in the time that it takes to open a file
TASK_BYTES = 64 << 20  # of a table's files that one task reads
PEER_IS_LOST = "a task that this one works with is lost"  # said by what only shares another's failure
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


class Gang(Protocol):
    """Tasks that run together, one for each partition, as one of them sees it."""

    @property
    def rank(self) -> int:
        """Which of them it is, from 0."""
        ...

    @property
    def size(self) -> int:
        """How many they are."""
        ...

    @property
    def host(self) -> str:
        """Where the others reach this one."""
        ...

    def gather(self, message: str) -> list[str]:
        """What each of them says, by rank; waits until all have spoken."""
        ...


@runtime_checkable
class GangParts(Parts, Protocol):
    """Parts of an engine that can run the tasks of all partitions at once: Spark, and this machine's processes."""

    def together(self, task: Task, num_tasks: int, **given: Any) -> Self:
        """The parts of so many shards brought together, and what tasks make of them which know each other.

        Each task is given its `gang`, and all run at once. If one is lost, all fail; a cluster then begins all again.

        Raises:
            SettingError: there is not room for so many tasks at once.
        """
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

    def over(self, rows: pa.Table, *, task_bytes: int) -> Parts:
        """Rows about files, with their `num_bytes`, spread over tasks that read about `task_bytes` each."""
        ...

    def broadcast(self, value: Value) -> Broadcast[Value]:
        """A value that every task gets beside the plan, such as a secret."""
        ...

    def close(self) -> None:
        """Let go of all that is kept."""
        ...


@runtime_checkable
class GangEngine(Engine, Protocol):
    """An engine whose parts are GangParts."""

    @property
    def slots(self) -> int:
        """How many tasks can surely run at once."""
        ...


@dataclass
class TaskRun(Run):
    """A run of a job whose work is done by tasks."""

    held: dict[str, int | None] = field(default_factory=dict)  # tables, and what other runs had written to them last

    @property
    @abstractmethod
    def engine(self) -> Engine:
        """What runs the job's tasks."""

    def hold(self, *tables: str) -> None:
        """Go by these tables of the job's own as they are: once another of its runs has written to one, this run commits nothing more."""
        self.held = {table: self._others_wrote(table) for table in tables}

    def require_held(self) -> None:
        """Check that no other run of the job has written to the tables that this one holds.

        Raises:
            RetryableError: one has.
        """
        for table, version in self.held.items():
            if self._others_wrote(table) != version:
                other = self.lake.newest_run(table, self.job.name, but=[self.run_id])
                raise RetryableError(
                    f"another run of {self.job.name} ({other}) has written {table} while {self.run_id} went by what was there "
                    "before, which therefore ends; run it again"
                )

    def _others_wrote(self, table: str) -> int | None:
        return self.lake.newest_commit(table, self.job.name, but=self.run_id)

    def files_of(
        self,
        tables: Mapping[str, str],
        *,
        holding: Mapping[str, Collection[Any]] | None = None,
        now: bool = False,
        before: bool = False,
    ) -> Parts:
        """The files of input tables at their pinned versions, each named by a kind, spread over tasks.

        Or of tables that the job itself writes: as they are `now`, or were `before` this run wrote. Of all files, or of those that may hold rows with one
        of the values `holding` in each of its columns.
        """
        rows = [
            {"location": location, "num_bytes": num_bytes, "kind": kind}
            for kind, table in tables.items()
            for version in [self.version_before(table) if before else None if now else self.version_of(table)]
            for location, num_bytes in self.lake.data_files(table, version, holding=holding)
        ]
        return self.engine.over(pa.Table.from_pylist(rows, schema=TABLE_FILES), task_bytes=TASK_BYTES)

    def num_shards(self, num_rows: int, *, rows_per_shard: int) -> int:
        """Into how many shards so many rows are divided: equally many for each core, where that saves time."""
        num_cores = self.engine.parallelism
        of_size = ceil(num_rows / rows_per_shard)
        if of_size > num_cores:
            return ceil(of_size / num_cores) * num_cores
        return max(1, of_size, min(num_cores, ceil(num_rows / self.engine.least_shard_rows)))

    def commit_written(
        self,
        table: str,
        files: Sequence[AddAction],
        *,
        where: Where | None = None,
        mode: Literal["overwrite", "append"] = "overwrite",
        declared: Table | None = None,
        properties: Mapping[str, str] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Commit files that tasks wrote, in one transaction, once per run: if it has committed before, they are removed.

        They replace the table's content, or its partitions `where`, or are appended. `declared` is the contract of an open
        table with its source's own columns.

        Raises:
            RetryableError: another run has written to a table that this one holds.
        """
        self.require_held()
        self.keep_files()
        transaction = transaction_id(self.job.name, table, where)
        if self.lake.last_committed_run(table, transaction) >= self.number:
            remove_files(self.lake, table, files)
            files = []
        version = commit_files(
            self.lake,
            declared or contract(table),
            files,
            transaction=transaction,
            number=self.number,
            where=where,
            mode=mode,
            properties=properties,
            run_id=self.run_id,
            metadata=metadata,
        )
        self.record_output(table, version, self.lake.rows_of_commit(table, version))


def in_a_gang(parts: Parts, task: Task, num_tasks: int, **given: Any) -> Parts:
    """The parts that tasks make which run together, one for each shard; see GangParts."""
    assert isinstance(parts, GangParts), "this engine does not run tasks together"
    return parts.together(task, num_tasks, **given)


def slots_of(engine: Engine) -> int:
    """How many tasks an engine can surely run at once."""
    assert isinstance(engine, GangEngine), "this engine does not run tasks together"
    return engine.slots


def require_room(num_tasks: int, *, slots: int) -> None:
    """Check that so many tasks can run at once.

    Raises:
        SettingError: they cannot.
    """
    if num_tasks > slots:
        raise SettingError(
            f"{num_tasks} tasks must run at once, but there is room for {slots}: give Spark more executors or cores, or "
            "let each task do more"
        )


def bytes_to_read(rows: pa.Table) -> list[int]:
    """The `num_bytes` of each file, of which a small one counts for what could be read while it is opened."""
    return [max(size, FILE_COST) for size in rows["num_bytes"].to_pylist()]


def spread(sizes: Sequence[int], *, task_bytes: int, parallelism: int) -> list[int]:
    """The task of each file, so that tasks read about equally much: the largest first, each to the task with the least so far."""
    num_tasks = min(len(sizes), max(parallelism, ceil(sum(sizes) / task_bytes)))
    loads = [(0, task) for task in range(num_tasks)]
    chosen = [0] * len(sizes)
    for place in sorted(range(len(sizes)), key=lambda place: -sizes[place]):
        load, chosen[place] = heapq.heappop(loads)
        heapq.heappush(loads, (load + sizes[place], chosen[place]))
    return chosen


def files_written(parts: Parts) -> list[AddAction]:
    """The files that tasks wrote, and said so in parts."""
    return [written(content) for _, content in parts.collected()]
