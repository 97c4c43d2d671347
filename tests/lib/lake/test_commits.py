"""The commits of a table, each with its own number, whoever commits meanwhile."""

from pathlib import Path

from lib.lake.commits import newest_first
from lib.lake.lake import Lake
from lib.lake.writes import commit_files
from lib.tables import contract

TABLE = "bronze/lines"


def commit(lake: Lake, number: int) -> None:
    commit_files(lake, contract(TABLE), [], transaction="test", number=number, mode="append", run_id=f"run-{number}")


def test_a_commit_that_comes_after_a_table_was_opened_moves_no_number(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    commit(lake, 1)
    opened = lake.open(TABLE)
    before = [*newest_first(opened, lake.uri(TABLE))]
    commit(lake, 2)
    assert [*newest_first(opened, lake.uri(TABLE))] == before
    assert before[0]["version"] == opened.version()
    assert before[0]["userMetadata"] == "run-1"


def test_runs_are_those_between_two_versions_and_a_log_without_its_beginning_is_read_as_far_as_it_goes(
    tmp_path: Path,
) -> None:
    lake = Lake(str(tmp_path))
    for number in range(1, 6):
        commit(lake, number)
    last = lake.open(TABLE).version()
    assert lake.runs_between(TABLE, last - 3, last - 1) == ["run-3", "run-4"]
    opened = lake.open(TABLE)
    for version in range(last - 1):
        (tmp_path / TABLE / "_delta_log" / f"{version:020d}.json").unlink()
    assert [each["version"] for each in newest_first(opened, lake.uri(TABLE))] == [last, last - 1]
