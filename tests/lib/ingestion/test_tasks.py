"""A task of ingest writes the records of the files that it can read to their end, and nothing of the others."""

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lib.engines.arrow_tasks import written
from lib.formats import log_files
from lib.formats.mapping import LogMapping, Source
from lib.ingestion import tasks
from lib.ingestion.staged import FoundFile, Staged
from lib.lake.lake import Lake
from lib.lake.writes import commit_files
from lib.tables import contract

MAPPING = LogMapping(
    name="own",
    sources={
        "log": Source(files="*", names={"item_id": "item", "event_time": "time"}, events=[{"type": "view"}]),
    },
)
LINES = b"item,time\n" + b"".join(b"%d,t\n" % number for number in range(100))


def staged(folder: Path, contents: dict[str, bytes], **columns: tuple[str, ...]) -> Staged:
    """What one task makes of files."""
    rows = []
    for name, content in contents.items():
        (folder / name).write_bytes(content)
        rows.append({"location": str(folder / name), "path": name, "num_bytes": len(content), "source": "log"})
    table = pa.Table.from_pylist([row | {"sha256": row["path"] * 8} for row in rows], schema=tasks.FILES)
    work = tasks.IngestWork(
        Lake(str(folder / "lake")), MAPPING, "ingest-000001", datetime(2026, 1, 1, tzinfo=UTC), columns
    )
    parts = pa.Table.from_batches(tasks.stage_files(table.to_batches(), work=work)).to_pylist()
    found = [FoundFile.of_json(json.loads(part["content"])) for part in parts if part["kind"] == tasks.FOUND]
    files = [written(part["content"]) for part in parts if part["kind"] == "bronze/log"]
    good, bad = ([file for file in found if (file.problem is None) is is_good] for is_good in (True, False))
    return Staged(good, bad, {"bronze/log": files})


def parquet_files(folder: Path) -> list[pa.Table]:
    return [pq.read_table(file) for file in sorted((folder / "lake/bronze/log").glob("*.parquet"))]


def test_small_files_share_a_file_of_the_table(tmp_path: Path) -> None:
    found = staged(tmp_path, {"a": LINES, "b": b"item\n1\n", "c": b"time,item,note\nt,1,x\n"})
    assert [file.path for file in found.good] == ["a", "c"]
    assert [(file.path, file.problem) for file in found.bad] == [("b", "has no column 'time'; it has item")]
    (table,) = parquet_files(tmp_path)
    assert table["source_file"].to_pylist() == ["a"] * 100 + ["c"]
    assert table["record_number"].to_pylist() == [*range(1, 101), 1]
    assert table["note"].to_pylist() == [None] * 100 + ["x"]


def test_a_large_file_becomes_several_and_none_if_it_is_damaged_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_files, "BLOCK_BYTES", 100)
    monkeypatch.setattr(tasks, "FILE_BYTES", 1000)
    found = staged(tmp_path, {"a": LINES, "cut": gzip.compress(LINES * 9)[:-9], "z": b"item,time\n7,t\n"})
    assert [(file.path, file.problem) for file in found.bad] == [("cut", "is a gzip file that was cut off")]
    tables = parquet_files(tmp_path)
    assert len(tables) == len(found.written["bronze/log"]) > 2
    numbers = [(row["source_file"], row["record_number"]) for table in tables for row in table.to_pylist()]
    assert sorted(numbers) == [*(("a", number) for number in range(1, 101)), ("z", 1)]


def test_columns_are_spelled_as_the_table_spells_them(tmp_path: Path) -> None:
    staged(tmp_path, {"a": b"item,time,Note\n1,t,x\n", "b": b"item,TIME,NOTE\n2,t,y\n"}, log=("ITEM", "time"))
    (table,) = parquet_files(tmp_path)
    assert table.select(["ITEM", "time", "Note"]).to_pylist() == [
        {"ITEM": "1", "time": "t", "Note": "x"},
        {"ITEM": "2", "time": "t", "Note": "y"},
    ]


def test_what_was_read_is_kept_as_it_was(tmp_path: Path) -> None:
    found = staged(tmp_path, {"a": LINES, "b": b""})
    assert Staged.kept(tmp_path) is None
    found.keep(tmp_path)
    assert Staged.kept(tmp_path) == found
    lake, table = Lake(str(tmp_path / "lake")), contract("bronze/log").with_source_columns(found.good[0].columns)
    commit_files(lake, table, found.written["bronze/log"], transaction="t", number=1, mode="append")
    assert lake.num_rows("bronze/log") == 100
