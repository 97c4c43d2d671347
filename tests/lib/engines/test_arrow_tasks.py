"""What tasks do without Spark: rows packed for other tasks, and files written by the contract."""

from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from lib.engines import arrow_tasks
from lib.engines.arrow_tasks import packed, shards_by, table_rows, unpacked, write_rows, written
from lib.lake.lake import Lake
from lib.lake.writes import commit_files, num_rows, remove_files
from lib.tables import contract
from tests.lakes import arrow_rows, put

VECTORS = contract("gold/vectors")
ROW = {
    **{"model": "als", "version": "als-000001", "kind": "user", "id": "u"},
    **{"values": [1.0], "as_of": datetime(2026, 1, 1, tzinfo=UTC)},
}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def batches(*overrides: dict[str, object]) -> list[pa.RecordBatch]:
    """Each row in a batch of its own."""
    return [batch for override in overrides for batch in arrow_rows(VECTORS, ROW | override).to_batches()]


def files_of(parts: list[pa.RecordBatch]) -> list[bytes]:
    return [content for part in parts for content in part["content"].to_pylist()]


def test_rows_come_back_from_parts_whatever_their_order_and_those_of_a_kind_may_lack_a_column() -> None:
    rows = pl.DataFrame({"n": [1, 2, 3, None], "texts": [["a", None], [], None, ["b"]]})
    by_shard = [*packed(rows, "one", pl.Series([2, 0, 2, 7]))]
    assert [(part["shard"][0].as_py(), part["kind"][0].as_py()) for part in by_shard] == [
        (2, "one"),
        (0, "one"),
        (7, "one"),
    ]
    more = packed(pl.DataFrame({"n": [4]}), "one")
    other = packed(pl.DataFrame({"x": ["y"]}), "another")
    found = unpacked([*other, *reversed(by_shard), *more])
    assert [*found] == ["another", "one"]
    together = pl.concat([rows, pl.DataFrame({"n": [4], "texts": [None]}, schema=rows.schema)])
    assert sorted(map(str, found["one"].rows())) == sorted(map(str, together.rows()))
    assert not [*packed(rows.clear(), "none")]
    assert unpacked([]) == {}


def test_a_task_writes_files_that_count_for_nothing_until_they_are_committed(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrow_tasks, "FILE_BYTES", 1)
    rows = batches({"id": "a"}, {"id": "b"}, {"model": "encoder", "id": "c"})
    parts = [*write_rows([rows[0].slice(0, 0), *rows], lake=lake, table=VECTORS)]
    assert {part["kind"][0].as_py() for part in parts} == {"gold/vectors"}
    assert not lake.exists("gold/vectors")
    first, *others = map(written, files_of(parts))
    assert num_rows([first, *others]) == 3
    remove_files(lake, "gold/vectors", [first])
    commit_files(lake, VECTORS, others, transaction="test", number=1)
    assert sorted(lake.dataset("gold/vectors").to_table()["id"].to_pylist()) == ["b", "c"]
    assert {file.partition_values["model"] for file in others} == {"als", "encoder"}
    left = [*Path(lake.uri("gold/vectors")).rglob("*.parquet")]
    assert len(left) == 2


@pytest.mark.parametrize(
    ("override", "told"), [({"id": None}, "1 rows have no id"), ({"kind": "shop"}, "1 rows break the check known_kind")]
)
def test_a_task_refuses_rows_that_break_the_contract(lake: Lake, override: dict[str, object], told: str) -> None:
    schema = pa.schema([field.with_nullable(True) for field in VECTORS.schema])
    rows = pa.Table.from_pylist([ROW | override], schema=schema).to_batches()
    with pytest.raises(ValueError, match=told):
        list(write_rows(rows, lake=lake, table=VECTORS))
    assert not Path(lake.uri("gold/vectors")).exists()


def test_files_of_other_partitions_than_those_replaced_are_refused(lake: Lake) -> None:
    files = [written(content) for content in files_of([*write_rows(batches({}), lake=lake, table=VECTORS)])]
    with pytest.raises(ValueError, match=r"rows outside \{'model': 'encoder'\} by their model"):
        commit_files(lake, VECTORS, files, transaction="test", number=1, where={"model": "encoder"})


def test_rows_are_made_of_what_a_task_is_given(lake: Lake) -> None:
    names = pa.RecordBatch.from_pydict({"name": ["a", "b"]})

    def vectors(given: object) -> list[pa.RecordBatch]:
        return batches(*({"id": name} for batch in given for name in batch["name"].to_pylist()))  # type: ignore[attr-defined]

    (content,) = files_of([*write_rows(vectors([names]), lake=lake, table=VECTORS)])
    assert num_rows([written(content)]) == 2


@pytest.mark.parametrize("folder", ["lake", "a;b&c=d,e+f", "model=x"])
def test_a_table_files_rows_have_the_columns_of_their_partition(tmp_path: Path, folder: str) -> None:
    lake = Lake(str(tmp_path / folder))
    version = put(lake, "gold/vectors", ROW, ROW | {"kind": "item", "id": "a"})
    names = ("kind", "id", "model", "values")
    schema = pa.schema([*(VECTORS.schema.field(name) for name in names), ("other", pa.int64())])
    found = [rows for place, _ in lake.data_files("gold/vectors", version) for rows in table_rows(place, schema)]
    assert sorted(pl.concat(found).rows()) == [("item", "a", "als", [1.0], None), ("user", "u", "als", [1.0], None)]


def test_texts_read_as_categories_are_the_same_texts_and_go_to_the_same_shards(tmp_path: Path) -> None:
    stored = pl.DataFrame({"user": ["b", None, "a", "b", "c"], "n": [1, 2, 3, 4, 5]})
    stored.write_parquet(tmp_path / "part.parquet")
    schema = pa.schema([("user", pa.string()), ("n", pa.int64())])
    (plain,) = table_rows(str(tmp_path / "part.parquet"), schema)
    (read,) = table_rows(str(tmp_path / "part.parquet"), schema, categorical=["user"])
    assert plain.equals(stored)
    assert read["user"].dtype == pl.Categorical
    assert read.with_columns(pl.col("user").cast(pl.String)).equals(stored)
    assert shards_by(read["user"], 1000).equals(shards_by(plain["user"], 1000))
