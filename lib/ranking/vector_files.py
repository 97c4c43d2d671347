"""The vectors of versions that stay, written again beside those of a run: gold/vectors is replaced a model at a time."""

from collections.abc import Iterable, Iterator

import polars as pl
import pyarrow as pa
from deltalake.transaction import AddAction

from lib.engines.arrow_tasks import rows_of, table_rows, write_rows
from lib.engines.parts import TaskRun, files_written
from lib.lake.lake import Lake
from lib.runs.model_registry import version_of
from lib.tables.gold import VECTORS_TABLE


def copied_vectors(run: TaskRun, model: str, version: str | None, *, before: bool = False) -> list[AddAction]:
    """Files with the vectors of all fits of a model's version, as they are now, or as they were `before` this run wrote; of None, none."""
    if version is None:
        return []
    stored = run.files_of({"": VECTORS_TABLE.name}, holding={"model": [model]}, now=not before, before=before)
    return files_written(stored.then(copy_vectors, lake=run.lake.absolute(), version=version))


def copy_vectors(files: Iterable[pa.RecordBatch], *, lake: Lake, version: str) -> Iterator[pa.RecordBatch]:
    """Write the rows of a version's fits in files of gold/vectors again."""

    def kept() -> Iterator[pa.RecordBatch]:
        for file in rows_of(files):
            for found in table_rows(file["location"], VECTORS_TABLE.schema):
                fits = [fit for fit in found["version"].unique() if version_of(fit) == version]
                of_version = found.filter(pl.col("version").is_in(fits))
                yield from of_version.to_arrow().cast(VECTORS_TABLE.schema).to_batches()

    yield from write_rows(kept(), lake=lake, table=VECTORS_TABLE)
