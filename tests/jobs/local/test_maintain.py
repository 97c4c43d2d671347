"""The maintain job: fewer files, nothing lost, nothing stale, and every version of the retention still readable."""

import os
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from lib.cli.jobs import load_job
from lib.lake.lake import Lake
from lib.lake.writes import ROW_GROUP_ROWS, commit_files, write_files
from lib.pipeline import JOBS
from lib.tables import contract
from tests.lakes import put

HOUR = 3600


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """A lake whose table of items was written anew five times, in three files each time."""
    lake = Lake(str(tmp_path / "lake"))
    for number in range(5):
        put(lake, "silver/items", *({"item_id": f"i{place}", "title": f"title {number}"} for place in range(3)))
    return lake


def maintain(lake: Lake, **settings: int) -> None:
    job = load_job(JOBS["maintain"])
    job.main(job.MaintainSettings(lake={"path": lake.path}, **settings))


def parquet_files(lake: Lake) -> list[Path]:
    return sorted((lake.folder / "silver/items").glob("*.parquet"))


def grow_old(*files: Path, hours: float) -> None:
    at = time.time() - hours * HOUR
    for file in files:
        os.utime(file, (at, at))


def titles(lake: Lake, version: int | None = None) -> set[str]:
    return set(lake.dataset("silver/items", version).to_table()["title"].to_pylist())


def test_small_files_become_one_and_the_data_keeps_its_version(lake: Lake) -> None:
    table = contract("silver/items")
    rows = lake.dataset("silver/items").to_table()
    files = write_files(lake, table, [rows.slice(place, 1) for place in range(rows.num_rows)])
    commit_files(lake, table, files, transaction="in small files", number=1)
    version = lake.data_version("silver/items")
    assert len(lake.data_files("silver/items")) == 3
    maintain(lake)
    assert len(lake.data_files("silver/items")) == 1
    assert lake.data_version("silver/items") == version, "nothing becomes stale"
    assert titles(lake, version) == {"title 4"}
    assert lake.dataset("silver/items").to_table(filter=pc.field("item_id") == "i1").num_rows == 1
    before = lake.open("silver/items").version()
    maintain(lake)
    assert len(lake.data_files("silver/items")) == 1
    assert titles(lake) == {"title 4"}
    assert lake.open("silver/items").version() >= before


def test_versions_within_the_retention_can_be_read_and_older_files_go(lake: Lake) -> None:
    versions = [commit["version"] for commit in lake.open("silver/items").history() if commit["operation"] == "WRITE"]
    maintain(lake)
    assert {title for version in versions for title in titles(lake, version)} == {f"title {n}" for n in range(5)}
    num_files = len(parquet_files(lake))
    assert num_files >= 5
    assert titles(lake) == {"title 4"}


def test_files_that_no_commit_names_go_when_they_are_old(lake: Lake) -> None:
    table = contract("silver/items")
    rows = lake.dataset("silver/items").to_table()
    (old,) = write_files(lake, table, [rows])
    (fresh,) = write_files(lake, table, [rows])
    folder = lake.folder / "silver/items"
    grow_old(folder / old.path, hours=200)
    maintain(lake)
    left = {file.name for file in parquet_files(lake)}
    assert old.path not in left
    assert fresh.path in left, "a run may be about to commit it"
    assert titles(lake) == {"title 4"}


def test_row_groups_are_small_before_and_after_files_are_brought_together(lake: Lake) -> None:
    table = contract("silver/items")
    row = lake.dataset("silver/items").to_table().slice(0, 1)
    many = pa.concat_tables([row] * 100_000).set_column(0, table.schema.field(0), pa.array(map(str, range(100_000))))
    files = write_files(lake, table, [many, many.slice(0, 30_000)])
    commit_files(lake, table, files, transaction="many rows", number=1)
    assert largest_groups(lake) == [30_000, ROW_GROUP_ROWS]
    maintain(lake)
    assert largest_groups(lake) == [ROW_GROUP_ROWS]


def largest_groups(lake: Lake) -> list[int]:
    """The most rows of a row group in each file of the table."""
    files = [pq.ParquetFile(location).metadata for location, _ in lake.data_files("silver/items")]
    return sorted(max(file.row_group(place).num_rows for place in range(file.num_row_groups)) for file in files)
