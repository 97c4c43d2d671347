"""The report job: a page in its place, recorded as a run, and written anew only where a table has changed."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lib.cli.jobs import load_job
from lib.pipeline import JOBS
from lib.runs import history
from lib.runs.freshness import outcome_if_unchanged
from tests.lakes import SmallLake


def test_the_page_is_written_where_it_is_asked_for_and_the_run_is_recorded(tmp_path: Path) -> None:
    lake = SmallLake(tmp_path)
    job = load_job(JOBS["report"])
    job.main(job.ReportSettings(**lake.shared_settings))
    assert "purchase" in (lake.lake.folder / "files" / "report" / "index.html").read_text()
    job.main(job.ReportSettings(**lake.shared_settings, out=str(tmp_path / "shop.html"), name="Corner shop"))
    assert "<h1>Corner shop</h1>" in (tmp_path / "shop.html").read_text()
    assert [row["status"] for row in history.runs(lake.lake, "report")] == ["done", "done"]


def test_the_page_is_up_to_date_until_any_table_changes(tmp_path: Path) -> None:
    lake = SmallLake(tmp_path)
    job = load_job(JOBS["report"])
    settings = job.ReportSettings(**lake.shared_settings)
    job.main(settings)
    assert outcome_if_unchanged(JOBS["report"], settings) == "done"
    lake.put("silver/items", {"item_id": "a", "title": "A lamp"})
    assert outcome_if_unchanged(JOBS["report"], settings) is None


@pytest.mark.bad_input("a table of the lake that cannot be read")
@pytest.mark.parametrize(
    "harm",
    [
        lambda file: file.unlink(),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(file.read_bytes()[:50]),
    ],
    ids=["gone", "empty", "cut"],
)
def test_a_broken_table_is_one_line_that_names_it_and_the_page_stays(
    tmp_path: Path, harm: Callable[[Path], object]
) -> None:
    lake = SmallLake(tmp_path)
    lake.put("silver/items", {"item_id": "a", "title": "A lamp"})
    job = load_job(JOBS["report"])
    settings = job.ReportSettings(**lake.shared_settings)
    job.main(settings)
    page = lake.lake.folder / "files" / "report" / "index.html"
    before = page.read_bytes()
    harm(next((lake.lake.folder / "silver" / "items").glob("**/*.parquet")))
    with pytest.raises(ValueError) as error:
        job.main(settings)
    assert str(error.value).startswith("silver/items cannot be read: ")
    assert str(error.value).endswith("; restore its files, or remove its folder and run the job that writes it again")
    assert "\n" not in str(error.value)
    assert page.read_bytes() == before
    assert [file.name for file in page.parent.iterdir()] == [page.name]
    assert [row["status"] for row in history.runs(lake.lake, "report")] == ["done", "failed"]


def test_a_table_that_is_gone_is_a_section_that_says_so(tmp_path: Path) -> None:
    lake = SmallLake(tmp_path)
    job = load_job(JOBS["report"])
    shutil.rmtree(lake.lake.folder / "silver")
    job.main(job.ReportSettings(**lake.shared_settings))
    assert "experiment has not run on this lake." in (lake.lake.folder / "files/report/index.html").read_text()
