"""The vectors of versions that stay, written again beside those of a run: gold/vectors is replaced a model at a time."""

from collections.abc import Collection, Iterable, Iterator

import polars as pl
import pyarrow as pa

from lib.engines.arrow_tasks import rows_of, table_rows, write_rows
from lib.lake.lake import Lake
from lib.tables.gold import VECTORS_TABLE


def copy_vectors(
    files: Iterable[pa.RecordBatch], *, lake: Lake, model: str, versions: Collection[str]
) -> Iterator[pa.RecordBatch]:
    """Write the rows of some versions in files of gold/vectors again; a file's kind is that of its vectors."""

    def kept() -> Iterator[pa.RecordBatch]:
        for file in rows_of(files):
            for found in table_rows(file["location"], VECTORS_TABLE.schema):
                of_versions = found.filter(pl.col("version").is_in([*versions]))
                # A partition's values are not in its files.
                whole = of_versions.with_columns(model=pl.lit(model), kind=pl.lit(file["kind"]))
                yield from whole.to_arrow().cast(VECTORS_TABLE.schema).to_batches()

    yield from write_rows(kept(), lake=lake, table=VECTORS_TABLE)
