"""The report job: a page in its place, recorded as a run, and written anew only where a table has changed."""

from pathlib import Path

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
