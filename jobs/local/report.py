"""report: every table of silver and gold -> `<lake>/files/report/index.html`, one page that needs no network.

The page is written to a temporary file and then moved, so that a reader never sees an incomplete page.
"""

from pathlib import Path

from pydantic import Field

from lib.report import write_report
from lib.runs.run import start_run
from lib.settings import JobSettings


class ReportSettings(JobSettings):
    """The page's name and place."""

    name: str | None = Field(
        None, description="name of the log or shop on the page; unset: the name of the lake's folder"
    )
    out: str | None = Field(None, description="where to write the page; unset: `<lake>/files/report/index.html`")


def main(settings: ReportSettings) -> None:
    with start_run("report", settings) as run:
        page = write_report(run.lake, Path(settings.out) if settings.out else None, name=settings.name)
        run.log(f"wrote {page}")


if __name__ == "__main__":
    main(ReportSettings.from_command_line())
