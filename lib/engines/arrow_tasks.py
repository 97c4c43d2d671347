"""Code that runs in Spark tasks without Spark: Polars over shards of users, and values shared by all tasks."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import polars as pl
import pyarrow as pa


def apply_to_shard(
    batches: Iterable[pa.RecordBatch], *, function: Callable[[pl.DataFrame], pl.DataFrame], schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Call `function` with all rows of a shard and yield its result as batches of `schema`, columns selected by name.

    A shard without batches yields nothing. A shard must fit in its worker's memory.
    """
    received = list(batches)
    if not received:
        return
    shard = pl.from_arrow(pa.Table.from_batches(received))
    assert isinstance(shard, pl.DataFrame)
    yield from function(shard).to_arrow().select(schema.names).cast(schema).to_batches()


Value = TypeVar("Value")
Value_co = TypeVar("Value_co", covariant=True)


class Broadcast(Protocol[Value_co]):
    """Holds a value that is the same in every task."""

    @property
    def value(self) -> Value_co: ...


@dataclass(frozen=True)
class InProcess(Generic[Value]):
    """A `Broadcast` for tasks that run in this process, without Spark."""

    value: Value
