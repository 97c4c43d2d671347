from pathlib import Path

import pytest
import yaml
from deltalake import DeltaTable

from lib.cli import docs
from lib.lake.lake import Lake
from lib.pipeline import ROOT
from lib.tables import TABLES, contract


def section(page: str, heading: str) -> list[str]:
    """The lines of a page from a heading to the next one of its depth."""
    lines = page.splitlines()
    begin = lines.index(heading) + 1
    depth = heading.split(maxsplit=1)[0] + " "
    end = next((n for n, line in enumerate(lines[begin:], begin) if line.startswith(depth)), len(lines))
    return lines[begin:end]


def rows_of(lines: list[str]) -> list[list[str]]:
    """The cells of a section's table, without its heading."""
    return [[cell.strip() for cell in line.split(" | ")] for line in lines if line.startswith("| ")][1:]


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("lake", ["path"]),
        ("time", ["as_of", "from_date", "to_date"]),
        (
            "experiment",
            ["control", "shares", "primary", "sample_ratio_threshold", "min_arm_units", "min_arm_frac"],
        ),
        ("sessions", ["events_per_shard"]),
    ],
)
def test_a_section_of_the_settings_page_has_a_row_for_each_of_its_keys(name: str, keys: list[str]) -> None:
    rows = rows_of(section(docs.settings_page(), f"### {name}"))
    assert [row[0].removeprefix("| ") for row in rows] == keys


def test_every_key_of_the_shipped_settings_files_stands_on_the_page() -> None:
    page = docs.settings_page()
    given = [
        (name, key)
        for file in ("local.yaml", "cluster.yaml")
        for name, values in yaml.safe_load((ROOT / "conf" / file).read_text()).items()
        for key in values
    ]
    assert given
    for name, key in given:
        assert key in [row[0].removeprefix("| ") for row in rows_of(section(page, f"### {name}"))], (name, key)


def test_a_key_stands_with_its_type_default_bounds_and_meaning() -> None:
    (row,) = (line for line in section(docs.settings_page(), "### clean") if line.startswith("| session_gap_minutes"))
    assert row == (
        "| session_gap_minutes | int | `30` | ≥ 1, ≤ 1440 | "
        "a silence longer than this ends a session; on a clock that is not finer it is a user's day or hour |"
    )


def test_a_table_stands_whole_on_the_page() -> None:
    assert section(docs.tables_page(), "## gold/scaling") == [
        "",
        "Bounds of each feature of gold/examples, fitted on the train split alone.",
        "",
        "Key: `feature`, `as_of`. Contract version 1.",
        "Written by `featurize`.",
        "",
        "| column | type | | meaning |",
        "|---|---|---|---|",
        "| feature | string | required | the feature's name |",
        "| as_of | timestamp[us, tz=UTC] | required | the row uses only what was known before this time (UTC) |",
        "| position | int32 | required | index in gold/examples.features, from 0 |",
        "| min | double | required | value that is scaled to 0 |",
        "| max | double | required | value that is scaled to 1 |",
        "| num_clipped | int64 | required | values of valid and test outside the bounds, which were clipped |",
        "",
    ]


def test_a_table_says_who_writes_and_who_reads_it_its_partitions_and_its_checks() -> None:
    page = docs.tables_page()
    lines = section(page, "## gold/interactions")
    assert "Key: `user_key`, `item_id`, `event_time`. Contract version 3." in lines
    readers = (
        "`als`, `train_encoder`, `train_sequence`, `train_content`, `train_ranker`, `recommend`, `evaluate`, `publish`"
    )
    assert f"Written by `featurize`; read by {readers}." in lines
    vectors = section(page, "## gold/vectors")
    assert "Partitioned by `model`, `kind`." in vectors
    assert "- check `known_kind`: `kind IN ('user', 'item')`" in vectors


@pytest.mark.parametrize("name", [name for name in TABLES if name != "bronze/source"])
def test_the_page_says_of_each_table_what_the_table_itself_says(tmp_path: Path, name: str) -> None:
    Lake(str(tmp_path)).ensure(contract(name))
    table = DeltaTable(tmp_path / name)
    lines = section(docs.tables_page(), f"## {name}")
    assert table.metadata().description in lines
    columns = [(field.name, field.nullable, field.metadata["comment"]) for field in table.schema().fields]
    cells = [(row[0].removeprefix("| "), row[2], row[3].removesuffix(" |")) for row in rows_of(lines)]
    assert [(column, "required" not in marks, meaning) for column, marks, meaning in cells] == columns
    checks = {key for key in table.metadata().configuration if key.startswith("delta.constraints.")}
    told = {line.split("`")[1] for line in lines if line.startswith("- check")}
    assert {f"delta.constraints.{name}" for name in told} == checks


def test_a_stale_page_is_named_in_one_line_and_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    assert docs.main(check=False) == 0
    assert docs.main(check=True) == 0
    page = tmp_path / "docs" / "tables.md"
    page.write_text("typed by hand")
    assert docs.main(check=True) == 1
    assert capsys.readouterr().err == "stale: docs/tables.md; run `make docs` and commit\n"
    assert page.read_text() == "typed by hand"
