"""Which rows of a table are one worker's: it reads them itself, and opens no other files."""

from collections.abc import Mapping, Sequence
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lib.lake.lake import Lake
from lib.lake.places import filesystem_of


def rows_of_share(
    lake: Lake,
    table: str,
    version: int,
    columns: Sequence[str],
    *,
    where: Mapping[str, str],
    share: int,
    num_shares: int,
) -> pa.Table:
    """Rows of one of `num_shares` shares of some partitions: equally many, give or take one, and none in two shares.

    A share is a run of the rows, file after file; files are ordered by what they hold, so that the share depends on the
    table and on nothing else.

    Args:
        lake: the lake.
        table: the table.
        version: its version.
        columns: which are read, none of them a partition column.
        where: the value of each partition column that matters.
        share: which one, from 0.
        num_shares: how many there are.
    """
    files = lake.actions(table, lake.kept_version(table, version))
    for column, value in where.items():
        files = files.filter(pc.equal(files[f"partition.{column}"], value))
    files = files.sort_by([(name, "ascending") for name in ("num_records", "size_bytes", "path")])
    sizes, total = files["num_records"].to_pylist(), pc.sum(files["num_records"]).as_py() or 0
    first, end = total * share // num_shares, total * (share + 1) // num_shares
    taken, begin = [lake.dataset(table, version).schema.empty_table().select(list(columns))], 0
    for path, size in zip(files["path"].to_pylist(), sizes, strict=True):
        if begin < end and begin + size > first:
            own = slice(max(first - begin, 0), min(end - begin, size))
            taken.append(_rows_of_file(lake.uri(f"{table}/{unquote(path)}"), columns, own))
        begin += size
    return pa.concat_tables(taken, promote_options="permissive")


def _rows_of_file(location: str, columns: Sequence[str], rows: slice) -> pa.Table:
    """Rows of a file by their numbers; row groups without one of them are not read."""
    filesystem, path = filesystem_of(location)
    with filesystem.open_input_file(path) as opened:
        file = pq.ParquetFile(opened)
        begin, first = 0, 0
        groups: list[int] = []
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            if begin < rows.stop and begin + size > rows.start:
                first = first if groups else begin
                groups.append(group)
            begin += size
        read = file.read_row_groups(groups, columns=list(columns), use_threads=False)
        return read.slice(rows.start - first, rows.stop - rows.start)
