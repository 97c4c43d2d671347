"""maintain: every table -> the same table in fewer files, without what is past its retention.

Changes no table's content and makes no job's result stale. Versions within the retention can still be read. Not part of a
run of the pipeline: a scheduler starts it, when no job is at work on the lake. A rerun or a kill changes nothing.
"""

from datetime import timedelta

from pydantic import Field

from lib.lake.maintenance import maintain
from lib.runs.run import start_run
from lib.settings import JobSettings


class MaintainSettings(JobSettings):
    """How large files become, and how long old versions are kept."""

    target_megabytes: int = Field(128, ge=1, le=4096, description="size of the files into which small ones are brought")
    retention_hours: int = Field(
        168, ge=1, description="how long files are kept that the newest version of a table no longer holds"
    )


def main(settings: MaintainSettings) -> None:
    with start_run("maintain", settings) as run:
        retention = timedelta(hours=settings.retention_hours)
        tables = run.lake.tables()
        for table in tables:
            done = maintain(run.lake, table, target_bytes=settings.target_megabytes << 20, retention=retention)
            if done.num_compacted or done.num_removed or done.was_busy:
                busy = {"busy": True} if done.was_busy else {}
                run.log(f"maintained {table}", compacted=done.num_compacted, removed=done.num_removed, **busy)
        run.log("maintained all", tables=len(tables))


if __name__ == "__main__":
    main(MaintainSettings.from_command_line())
