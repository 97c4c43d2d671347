"""Shares of a table: every row is in one of them, they are equal, and a worker opens no file but its own."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lib.lake.lake import Lake
from lib.lake.shares import rows_of_share
from lib.lake.writes import commit_files, conform, write_files
from lib.tables import contract
from tests.lakes import TEST_FROM, arrow_rows

EXAMPLES = contract("gold/examples")


def put_files(lake: Lake, *sizes: int) -> None:
    """A file of train for each size, in several row groups, and one row of valid; each row has a user of its own."""
    files, first = [], 0
    for size in sizes:
        rows = [
            {"user_key": f"u{user:03d}", "as_of": TEST_FROM, "split": "train", "features": [1.0], "label": user % 2}
            for user in range(first, first + size)
        ]
        first += size
        (file,) = write_files(lake, EXAMPLES, [conform(EXAMPLES, arrow_rows(EXAMPLES, *rows))])
        path = lake.folder / EXAMPLES.name / file.path
        pq.write_table(pq.read_table(path, partitioning=None), path, row_group_size=3)
        files.append(file)
    valid = arrow_rows(EXAMPLES, {"user_key": "v", "as_of": TEST_FROM, "split": "valid", "features": [1.0]})
    files += write_files(lake, EXAMPLES, [conform(EXAMPLES, valid)])
    commit_files(lake, EXAMPLES, files, transaction="test", number=1)


def share(lake: Lake, number: int, num_shares: int) -> pa.Table:
    version = lake.data_version(EXAMPLES.name)
    assert version is not None
    columns, where = ["user_key", "label"], {"split": "train"}
    return rows_of_share(lake, EXAMPLES.name, version, columns, where=where, share=number, num_shares=num_shares)


@pytest.mark.parametrize("num_shares", [1, 2, 3, 7, 30])
def test_every_row_is_in_one_share_and_shares_are_equal(tmp_path: Path, num_shares: int) -> None:
    lake = Lake(str(tmp_path))
    put_files(lake, 8, 1, 11)
    shares = [share(lake, number, num_shares)["user_key"].to_pylist() for number in range(num_shares)]
    assert sorted(user for users in shares for user in users) == [f"u{user:03d}" for user in range(20)]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_share_opens_only_its_own_files(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    put_files(lake, 4, 5, 6)
    first = share(lake, 0, 3)
    for path, size in lake.data_files(EXAMPLES.name):
        if size and pq.read_metadata(path).num_rows > 5:
            Path(path).unlink()
    assert share(lake, 0, 3).equals(first)
    with pytest.raises(FileNotFoundError):
        share(lake, 2, 3)


def test_a_split_without_rows_has_empty_shares_with_the_columns(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    put_files(lake)
    assert share(lake, 1, 2).schema.names == ["user_key", "label"]
    assert share(lake, 1, 2).num_rows == 0
