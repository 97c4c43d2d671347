"""The rows of ops/runs: what ran, on what, and how it ended. The table stays small."""

from collections.abc import Iterable
from typing import Any

import pyarrow.compute as pc

from lib.lake.lake import Lake
from lib.lake.writes import rows_of, upsert
from lib.tables.ops import RUNS


def runs(lake: Lake, job: str | None = None) -> list[dict[str, Any]]:
    """Rows of ops/runs, of one job or of all, oldest first."""
    return rows_of(lake, RUNS, "started_at", None if job is None else pc.field("job") == job)


def last_run(lake: Lake, job: str) -> dict[str, Any] | None:
    """The job's run with the highest number."""
    return newest(runs(lake, job))


def newest(rows: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """Of a job's runs the one with the highest number."""
    return max(rows, key=lambda row: int(row["number"]), default=None)


def save_run(lake: Lake, row: dict[str, Any]) -> None:
    """Insert or update a row of ops/runs."""
    upsert(lake, RUNS, [row])
