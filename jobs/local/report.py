"""report: every table of silver and gold -> `<lake>/files/report/index.html`, one page that needs no network.

The page is written beside its place and moved there, so that a reader never sees half of it.
"""

from pathlib import Path

from pydantic import Field

from lib.report import write_report
from lib.runs.run import start_run
from lib.settings import JobSettings


class ReportSettings(JobSettings):
    """What the page is called, and where it lies."""

    name: str | None = Field(None, description="what the page calls the log or shop; unset: the lake's folder")
    out: str | None = Field(None, description="where the page is written; unset: `<lake>/files/report/index.html`")


def main(settings: ReportSettings) -> None:
    with start_run("report", settings) as run:
        page = write_report(run.lake.folder, Path(settings.out) if settings.out else None, name=settings.name)
        run.log(f"wrote {page}", bytes=page.stat().st_size)


if __name__ == "__main__":
    main(ReportSettings.from_command_line())
