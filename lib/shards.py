"""Polars over shards of whole users: what Spark's `mapInArrow` calls after one shuffle by user. Needs no Spark itself."""

from collections.abc import Callable, Iterable, Iterator

import polars as pl
import pyarrow as pa


def apply_to_shard(
    batches: Iterable[pa.RecordBatch], *, function: Callable[[pl.DataFrame], pl.DataFrame], schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Give `function` all rows of a shard at once, and yield its rows as batches of `schema`, columns picked by name.

    A shard of no batches yields nothing. A shard must fit in its worker's memory.
    """
    received = list(batches)
    if not received:
        return
    shard = pl.from_arrow(pa.Table.from_batches(received))
    assert isinstance(shard, pl.DataFrame)
    yield from function(shard).to_arrow().select(schema.names).cast(schema).to_batches()
