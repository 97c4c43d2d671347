"""The simulator's files: for a range of users their records as gzip JSON lines, and beside them what is true of the dirty ones."""

import gzip
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rl.market.market import Market
from rl.market.records import DirtRates, records

LOG_FOLDER, TRUTH_FOLDER = "market", "market-truth"
WRITTEN = "file string, num_records bigint, num_dirty bigint"


def write_events(
    batches: Iterator[pa.RecordBatch], *, market: Market, bots_per_user: float, raw: Path
) -> Iterator[pa.RecordBatch]:
    """For each row (first, last, file): the records of these users to a gzip file, the truth of the dirty ones beside it."""
    for batch in batches:
        for row in batch.to_pylist():
            made = records(market, row["first"], row["last"], DirtRates(), bots_per_user)
            name = f"events/part-{row['file']:05d}.jsonl.gz"
            target = raw / LOG_FOLDER / name
            with gzip.GzipFile(target.with_suffix(".part"), "wb", compresslevel=3, mtime=0) as file:
                file.write("".join(f"{record.line}\n" for record in made).encode())
            target.with_suffix(".part").replace(target)
            dirty = [(number, record) for number, record in enumerate(made, 1) if record.kind is not None]
            truth = pa.table(
                {
                    "file": pa.array([name] * len(dirty), pa.string()),
                    "record_number": pa.array([number for number, _ in dirty], pa.int64()),
                    "kind": pa.array([record.kind for _, record in dirty], pa.string()),
                    "column": pa.array([record.column for _, record in dirty], pa.string()),
                    "user": pa.array([record.user for _, record in dirty], pa.int64()),
                    "time_ms": pa.array([record.time_ms for _, record in dirty], pa.int64()),
                }
            )
            pq.write_table(truth, raw / TRUTH_FOLDER / f"part-{row['file']:05d}.parquet")
            yield pa.RecordBatch.from_pydict(
                {"file": [name], "num_records": [len(made)], "num_dirty": [len(dirty)]},
            )
