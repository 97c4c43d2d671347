from datetime import UTC, datetime
from pathlib import Path

import pytest

from lib.lake.lake import Lake
from lib.lake.query import print_csv, query
from tests.lakes import put

ROW = {
    "model": "als",
    "version": "als-000001",
    "kind": "user",
    "values": [0.5],
    "as_of": datetime(2026, 1, 1, tzinfo=UTC),
}


def put_users(lake: Lake, *ids: str) -> None:
    put(lake, "gold/vectors", *({"id": name} for name in ids), base=ROW)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(str(tmp_path / "lake"))
    put_users(lake, "u2", "u1", "u3")
    return lake


def test_a_table_is_asked_by_its_layer_and_name(lake: Lake) -> None:
    names, rows = query(lake, "SELECT id, model FROM gold.vectors ORDER BY id", limit=2)
    assert (names, rows) == (["id", "model"], [("u1", "als"), ("u2", "als")])
    assert query(lake, "  from gold.vectors select count(*)", limit=None)[1] == [(3,)]


def test_the_answer_is_of_the_newest_version(lake: Lake) -> None:
    put_users(lake, "u9")
    assert query(lake, "SELECT id FROM gold.vectors", limit=None)[1] == [("u9",)]


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM gold.vectors",
        "INSERT INTO gold.vectors SELECT * FROM gold.vectors",
        "DROP VIEW gold.vectors",
        "COPY gold.vectors TO 'out.csv'",
        "ATTACH 'other.db'",
    ],
)
def test_what_is_no_query_is_refused_before_it_runs(lake: Lake, statement: str) -> None:
    with pytest.raises(ValueError, match="only queries are run: begin with SELECT"):
        query(lake, statement, limit=None)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1; COPY gold.vectors TO '{folder}/out.csv'",
        "SELECT 1; SET enable_external_access = true; COPY gold.vectors TO '{folder}/out.csv'",
        "WITH one AS (SELECT 1) INSERT INTO gold.vectors SELECT * FROM gold.vectors",
        "SELECT * FROM read_text('{folder}/secret')",
        "FROM '{folder}/lake/gold/vectors/*.parquet'",
    ],
)
def test_a_write_or_a_file_behind_a_query_is_refused_in_one_line(lake: Lake, tmp_path: Path, statement: str) -> None:
    (tmp_path / "secret").write_text("secret")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError) as error:
        query(lake, statement.format(folder=tmp_path), limit=None)
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before
    assert lake.num_rows("gold/vectors") == 3


def test_a_table_that_is_not_there_is_one_line_with_a_near_one(lake: Lake) -> None:
    with pytest.raises(ValueError, match=r"vectorz does not exist! Did you mean \"vectors\"") as error:
        query(lake, "SELECT * FROM gold.vectorz", limit=None)
    assert "\n" not in str(error.value)


def test_csv_keeps_what_a_comma_would_break(capsys: pytest.CaptureFixture[str]) -> None:
    print_csv(["id", "title"], [("a", 'red, "big"'), ("b", None)])
    assert capsys.readouterr().out.splitlines() == ["id,title", 'a,"red, ""big"""', "b,"]
