"""Rows of Parquet files: as text, or as they are."""

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from lib.formats.arrow_texts import arrow_texts
from lib.formats.log_files import LogFile, UnreadableError, open_file

ROWS_PER_BATCH = 50_000


def parquet_names(file: LogFile) -> tuple[str, ...]:
    """The names of a Parquet file's columns.

    Raises:
        UnreadableError: it is not a Parquet file, or a damaged one.
    """
    try:
        with open_file(file.location) as stream:
            return tuple(pq.ParquetFile(stream).schema_arrow.names)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(error) from None


def parquet_records(file: LogFile) -> Iterator[pa.RecordBatch]:
    """The rows as text: the columns, named by position, then `malformed`, which is null."""
    for batch in parquet_batches(file):
        arrays = [*map(arrow_texts, batch.columns), pa.nulls(len(batch), pa.string())]
        yield pa.record_batch(arrays, names=[str(place) for place in range(len(arrays))])


def parquet_batches(
    file: LogFile, columns: Sequence[str] | None = None, *, batch_size: int = ROWS_PER_BATCH
) -> Iterator[pa.RecordBatch]:
    """The rows as they are.

    Raises:
        UnreadableError: the file is damaged.
    """
    try:
        with open_file(file.location) as stream:
            # In nanoseconds, the default, an INT96 time after 2262 would wrap to another century.
            parquet = pq.ParquetFile(stream, coerce_int96_timestamp_unit="us")
            yield from parquet.iter_batches(batch_size=batch_size, columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(error) from None


def _damaged(error: Exception) -> UnreadableError:
    return UnreadableError(f"is no Parquet file, or a damaged one: {str(error).partition(chr(10))[0]}")
