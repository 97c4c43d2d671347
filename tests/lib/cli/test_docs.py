from pathlib import Path

import pytest

from lib.cli import docs
from lib.cli.jobs import settings_class
from lib.pipeline import PIPELINE
from lib.settings import SHARED_SECTIONS


def section(page: str, heading: str) -> list[str]:
    """The lines of a page from a heading to the next one of its depth."""
    lines = page.splitlines()
    begin = lines.index(heading) + 1
    depth = heading.split(maxsplit=1)[0] + " "
    end = next((n for n, line in enumerate(lines[begin:], begin) if line.startswith(depth)), len(lines))
    return lines[begin:end]


def test_the_settings_page_names_every_key_of_every_section():
    page = docs.settings_page()
    jobs = {job.name: settings_class(job).own_fields() for job in PIPELINE}
    for name, fields in {**{name: kind.model_fields for name, kind in SHARED_SECTIONS.items()}, **jobs}.items():
        rows = [line for line in section(page, f"### {name}") if line.startswith("| ")][1:]
        assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == list(fields), name


def test_a_key_stands_with_its_type_default_bounds_and_meaning():
    (row,) = (line for line in section(docs.settings_page(), "### clean") if line.startswith("| session_gap_minutes"))
    assert row == "| session_gap_minutes | int | `30` | ≥ 1, ≤ 1440 | a silence longer than this ends a session |"


def test_a_table_says_its_key_its_version_who_writes_and_who_reads_it():
    lines = section(docs.tables_page(), "## gold/interactions")
    assert "Key: `user_key`, `item_id`, `split`. Contract version 1." in lines
    assert "Written by `featurize`; read by `als`, `train_encoder`, `recommend`, `evaluate`." in lines


def test_a_stale_page_is_named_in_one_line_and_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    assert docs.main(check=False) == 0
    assert docs.main(check=True) == 0
    page = tmp_path / "docs" / "tables.md"
    page.write_text("typed by hand")
    assert docs.main(check=True) == 1
    assert capsys.readouterr().err == "stale: docs/tables.md; run `make docs` and commit\n"
    assert page.read_text() == "typed by hand"
