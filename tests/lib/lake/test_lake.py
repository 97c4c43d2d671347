import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from deltalake.transaction import AddAction

from lib.lake import writes
from lib.lake.lake import CONTRACT_VERSION, Lake
from lib.lake.query import query
from lib.lake.writes import commit_files, conform, require_keys, upsert, write_files
from lib.pipeline import ROOT
from lib.settings import lake_place
from lib.tables import contract
from lib.tables.silver import PSEUDONYM_KEY, SESSION_GAP
from tests.lakes import EVENT, STRANGE_NAMES, arrow_rows, content, put

VECTORS = contract("gold/vectors")
BASE = {
    "model": "als",
    "version": "als-000001",
    "kind": "user",
    "id": "u1",
    "values": [0.5, -0.5],
    "as_of": datetime(2026, 1, 1, tzinfo=UTC),
}


def vectors(*overrides: dict[str, Any]) -> pa.Table:
    return arrow_rows(VECTORS, *overrides, base=BASE)


def commit(lake: Lake, rows: pa.Table, *, number: int, where: dict[str, str] | None = None) -> int:
    files = write_files(lake, VECTORS, [rows])
    return commit_files(lake, VECTORS, files, transaction="test", number=number, where=where)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def test_what_was_written_is_read_with_equal_rows_by_delta_rs_and_duckdb(lake: Lake) -> None:
    rows = vectors({}, {"id": "u2", "values": []}, {"kind": "item", "id": "i1"})
    commit(lake, rows, number=1)

    by_delta_rs = lake.dataset("gold/vectors").to_table().select(VECTORS.schema.names).sort_by("id")
    dataset = lake.dataset("gold/vectors")  # noqa: F841 - DuckDB finds it by its name
    by_duckdb = duckdb.sql("SELECT * FROM dataset ORDER BY id").to_arrow_table().select(VECTORS.schema.names)

    assert by_delta_rs.to_pylist() == rows.sort_by("id").to_pylist()
    assert by_duckdb.to_pylist() == rows.sort_by("id").to_pylist()


def test_files_are_read_without_calls_back_into_python(lake: Lake) -> None:
    """Arrow's threads would abort the process where it ends while one of them is in Python: three of twenty did."""
    commit(lake, vectors({}), number=1)
    filesystem = lake.dataset("gold/vectors").filesystem
    assert not filesystem.type_name.startswith("py::")
    script = f"from lib.lake.lake import Lake; Lake({lake.path!r}).dataset('gold/vectors').to_table()"
    codes = [subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode for _ in range(3)]
    assert codes == [0, 0, 0]


def test_a_run_number_commits_once(lake: Lake) -> None:
    first = commit(lake, vectors({}), number=1)
    again = commit(lake, vectors({"id": "other"}), number=1)

    assert again == first
    assert lake.dataset("gold/vectors").to_table().column("id").to_pylist() == ["u1"]


def test_a_share_of_a_table_is_replaced_and_the_rest_stays(lake: Lake) -> None:
    commit(lake, vectors({}, {"model": "encoder"}), number=1)
    commit(lake, vectors({"id": "new"}), number=2, where={"model": "als"})

    held = lake.dataset("gold/vectors").to_table().to_pylist()
    assert {(row["model"], row["id"]) for row in held} == {("als", "new"), ("encoder", "u1")}


def test_files_carry_statistics_that_let_a_reader_skip_them(lake: Lake) -> None:
    commit(lake, vectors({"id": "a"}, {"id": "b"}), number=1)
    actions = lake.actions("gold/vectors")
    assert actions["min.version"].to_pylist() == ["als-000001"]
    assert actions["max.version"].to_pylist() == ["als-000001"]
    assert actions["num_records"].to_pylist() == [2]
    assert "min.id" not in actions.schema.names, "a log does not keep who is in a file"


def test_compaction_is_no_newer_data(lake: Lake) -> None:
    commit(lake, vectors({}), number=1)
    version = commit(lake, vectors({"model": "encoder"}), number=2, where={"model": "encoder"})
    DeltaTable(lake.uri("gold/vectors")).optimize.compact()
    DeltaTable(lake.uri("gold/vectors")).alter.set_table_properties({"delta.logRetentionDuration": "interval 9 days"})
    assert lake.data_version("gold/vectors") == version
    assert lake.data_version("gold/absent") is None


@pytest.mark.bad_input("a table of another contract version")
def test_rows_that_are_merged_one_by_one_lie_in_few_files(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writes, "MOST_FILES", 4)
    rows = [{"digest": f"{number:02d}", "erased_at": datetime(2024, 1, 1, tzinfo=UTC)} for number in range(12)]
    for row in rows:
        upsert(lake, contract("ops/erasures"), [row])
        assert len(lake.data_files("ops/erasures")) <= 5
    assert content(lake, "ops/erasures") == rows
    assert writes.rows_of(lake, contract("ops/erasures"), "digest", pc.field("digest") == "07") == rows[7:8]


def test_a_table_of_another_contract_version_is_refused(lake: Lake) -> None:
    commit(lake, vectors({}), number=1)
    DeltaTable(lake.uri("gold/vectors")).alter.set_table_properties({CONTRACT_VERSION: "7"}, raise_if_not_exists=False)
    with pytest.raises(ValueError, match=r"gold/vectors has contract version 7, but this release needs version 1"):
        lake.open("gold/vectors")


@pytest.mark.bad_input("a lake of a newer version")
@pytest.mark.parametrize(
    ("protocol", "told"),
    [
        ({"minReaderVersion": 9, "minWriterVersion": 9}, "was written by a newer Delta than this release reads"),
        (
            {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["deletionVectors"]}
            | {"writerFeatures": ["deletionVectors"]},
            "uses deletionVectors, which Ray and DuckDB read wrongly",
        ),
    ],
)
def test_a_table_of_a_newer_delta_is_refused(lake: Lake, protocol: dict[str, Any], told: str) -> None:
    put(lake, "silver/events", EVENT | {"event_id": "e", "event_time": datetime(2024, 1, 1, tzinfo=UTC)})
    number = lake.open("silver/events").version() + 1
    log = lake.folder / "silver" / "events" / "_delta_log"
    (log / f"{number:020d}.json").write_text(json.dumps({"protocol": protocol}) + "\n")
    with pytest.raises(ValueError, match=told):
        lake.open("silver/events")


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (vectors({}).drop_columns(["values"]), r"missing columns \['values'\]"),
        (vectors({}).append_column("extra", pa.array([1])), r"unknown columns \['extra'\]"),
        (vectors({}).set_column(3, "id", pa.array([None], pa.string())), "1 rows have no id"),
        (vectors({"kind": "shop"}), "1 rows break the check known_kind"),
        (vectors({}, {}), "more than one row has the key"),
    ],
)
def test_rows_that_break_the_contract_are_refused(rows: pa.Table, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        require_keys(VECTORS, conform(VECTORS, rows))


def test_a_value_that_does_not_fit_is_not_quoted() -> None:
    rows = vectors({}).set_column(5, "as_of", pa.array(["ann@shop"]))
    assert rows.schema.names == VECTORS.schema.names
    with pytest.raises(
        ValueError, match=r"gold/vectors\.as_of: a value of type string does not fit timestamp"
    ) as error:
        conform(VECTORS, rows)
    assert "ann@shop" not in str(error.value)


def test_money_and_dates_survive_the_files(lake: Lake) -> None:
    table = contract("silver/events")
    row: dict[str, Any] = {
        "event_id": "e",
        "item_id": "i",
        "event_type": "purchase",
        "event_time": datetime(2026, 3, 29, 1, 30, 0, 123456, tzinfo=UTC),
        "event_date": date(2026, 3, 29),
        "price": Decimal("19.9900"),
        "quantity": 2,
        "context": [("page", "home")],
        "is_bot": False,
        "source_record": "lines:a.csv:1",
    }
    put(lake, table, row)
    (read,) = lake.dataset("silver/events").to_table().to_pylist()
    assert read == dict.fromkeys(table.schema.names) | row


def test_a_changed_property_stands_from_the_next_version_on_and_is_no_newer_data(lake: Lake) -> None:
    events = contract("silver/events")
    lake.ensure(events, {SESSION_GAP: "30"})
    before = lake.data_version("silver/events")
    lake.ensure(events, {SESSION_GAP: "45"})
    assert lake.table_property("silver/events", SESSION_GAP) == "45"
    assert lake.table_property("silver/events", SESSION_GAP, before) == "30"
    assert lake.table_property("silver/events", PSEUDONYM_KEY) is None
    assert lake.data_version("silver/events") == before
    with pytest.raises(AssertionError, match="silver/events declares no such property"):
        lake.ensure(events, {"cartwheel.other": "1"})


@pytest.mark.parametrize("name", STRANGE_NAMES)
def test_a_lake_of_any_name_is_written_and_read(tmp_path: Path, name: str) -> None:
    lake = Lake(str(tmp_path / lake_place(name)))
    commit(lake, vectors({}), number=1)
    put(lake, "ops/models")
    assert lake.tables() == ["gold/vectors", "ops/models"]
    assert query(lake, "SELECT count(*) FROM gold.vectors", limit=1)[1] == [(1,)]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_lake_is_found_by_a_relative_path_a_slash_at_the_end_and_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    commit(Lake("lake/"), vectors({}), number=1)
    (tmp_path / "folder").mkdir()
    places = (
        "lake",
        "./lake",
        "lake/",
        "lake//",
        "~/lake",
        f"{tmp_path}/lake/",
        "folder/../lake",
        "./folder/.././lake",
    )
    assert [Lake(place).num_rows("gold/vectors") for place in places] == [1] * len(places)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "lake"]


def test_a_version_is_read_after_a_compaction_and_a_vacuum_removed_its_files(lake: Lake) -> None:
    files = write_files(lake, VECTORS, [vectors({}), vectors({"id": "u2"})])
    version = commit_files(lake, VECTORS, files, transaction="test", number=1)
    delta = DeltaTable(lake.uri("gold/vectors"))
    assert delta.optimize.compact()["numFilesRemoved"] == 2
    delta.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    assert lake.data_version("gold/vectors") == version
    assert lake.is_whole("gold/vectors", version)
    assert sorted(lake.dataset("gold/vectors", version).to_table()["id"].to_pylist()) == ["u1", "u2"]


def test_a_version_whose_files_were_vacuumed_away_is_not_whole(lake: Lake) -> None:
    first = commit(lake, vectors({}), number=1)
    second = commit(lake, vectors({"id": "u2"}), number=2)
    assert [lake.is_whole("gold/vectors", version) for version in (first, second, 99)] == [True, True, False]
    DeltaTable(lake.uri("gold/vectors")).vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    assert [lake.is_whole("gold/vectors", version) for version in (first, second)] == [False, True]
    assert not lake.is_whole("gold/absent", 0)


def test_a_table_of_an_earlier_release_gets_the_columns_that_its_contract_has_gained(tmp_path: Path) -> None:
    lake, now = Lake(str(tmp_path)), contract("gold/experiments")
    row = {"experiment": "e", "arm": "b", "control": "a", "metric": "ctr", "num_arm": 1, "num_control": 1}
    row |= {"verdict": "undecided", "reason": "few"}
    gained = {"is_primary", "p_adjusted", "notes"}
    before = put(lake, replace(now, columns=tuple(c for c in now.columns if c.name not in gained)), row)
    assert gained.isdisjoint(lake.dataset(now.name).schema.names)
    lake.ensure(now)
    assert lake.data_version("gold/experiments") == before  # a column makes nothing stale
    assert content(lake, "gold/experiments") == [dict.fromkeys(now.schema.names) | row]
    put(lake, now, row | {"notes": "new"})
    assert [told["notes"] for told in content(lake, "gold/experiments")] == ["new"]


def test_partitions_are_replaced_together_and_found_by_their_values(lake: Lake) -> None:
    def events(number: int, *days: int) -> list[AddAction]:
        rows = [
            EVENT
            | {
                "event_id": f"{number}-{day}",
                "event_time": datetime(2026, 1, day, 12, tzinfo=UTC),
                "event_date": date(2026, 1, day),
            }
            for day in days
        ]
        return write_files(
            lake,
            contract("silver/events"),
            [conform(contract("silver/events"), arrow_rows(contract("silver/events"), *rows))],
        )

    def ids() -> list[str]:
        return sorted(lake.dataset("silver/events").to_table(columns=["event_id"])["event_id"].to_pylist())

    given = {"transaction": "t", "number": 1, "run_id": "clean-000001", "metadata": {"cartwheel.said": "this"}}
    commit_files(lake, contract("silver/events"), events(1, 1, 2, 3, 3), **given)
    assert lake.rows_by_partition("silver/events", "event_date") == {
        date(2026, 1, 1): 1,
        date(2026, 1, 2): 1,
        date(2026, 1, 3): 2,
    }
    where = {"event_date": ["2026-01-02", "2026-01-03", "2026-01-04"]}
    commit_files(
        lake, contract("silver/events"), events(2, 3, 4), where=where, transaction="t", number=2, run_id="clean-000002"
    )
    assert ids() == ["1-1", "2-3", "2-4"]
    with pytest.raises(ValueError, match="rows outside"):
        commit_files(lake, contract("silver/events"), events(3, 9), where=where, transaction="t", number=3)
    (found,) = lake.data_files("silver/events", holding={"event_date": {date(2026, 1, 4)}})
    assert "event_date=2026-01-04" in found[0]
    assert [lake.data_files("silver/events", holding={"item_id": {name}}) != [] for name in ("a", "zz")] == [
        True,
        False,
    ]
    assert lake.newest_run("silver/events", "clean") == "clean-000002"
    assert lake.runs_between("silver/events", 0, 99) == ["clean-000001", "clean-000002"]
    assert lake.runs_between("silver/events", lake.version_of_run("silver/events", "clean-000001") or 0, 99) == [
        "clean-000002"
    ]
    assert lake.metadata_of_run("silver/events", "clean-000001", "cartwheel.said") == "this"


def test_texts_are_written_with_a_dictionary_and_fractions_and_lists_without(lake: Lake) -> None:
    candidates = contract("gold/candidates")
    ann = {"as_of": datetime(2026, 1, 1, tzinfo=UTC), "user_key": "ann", "source": "als", "score": 0.5, "rank": 1}
    rows = conform(candidates, arrow_rows(candidates, *({**ann, "item_id": item} for item in "abc")))
    (of_candidates,) = write_files(lake, candidates, [rows])
    (of_vectors,) = write_files(lake, VECTORS, [vectors({})])

    def with_dictionary(file: str) -> dict[str, bool]:
        group = pq.ParquetFile(file).metadata.row_group(0)
        columns = [group.column(number) for number in range(group.num_columns)]
        return {column.path_in_schema: column.has_dictionary_page for column in columns}

    assert with_dictionary(f"{lake.uri('gold/candidates')}/{of_candidates.path}") == {
        **dict.fromkeys(("as_of", "user_key", "item_id", "rank"), True),
        "score": False,
    }
    assert not with_dictionary(f"{lake.uri('gold/vectors')}/{of_vectors.path}")["values.list.element"]
