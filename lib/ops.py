"""The rows of ops/runs and ops/models: what ran and which model versions there are. Both tables stay small."""

import time
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from lib.lake.lake import Lake
from lib.tables import Table
from lib.tables.ops import MODELS, RUNS

MAX_ATTEMPTS = 8


def runs(lake: Lake, job: str | None = None) -> list[dict[str, Any]]:
    """Rows of ops/runs, of one job or of all, the oldest first."""
    return [row for row in _rows(lake, RUNS, "started_at") if job is None or row["job"] == job]


def last_run(lake: Lake, job: str) -> dict[str, Any] | None:
    """The job's run with the highest number."""
    return max(runs(lake, job), key=lambda row: int(row["number"]), default=None)


def save_run(lake: Lake, row: dict[str, Any]) -> None:
    """Insert or update a row of ops/runs."""
    _upsert(lake, RUNS, [row])


def models(lake: Lake) -> list[dict[str, Any]]:
    """Rows of ops/models, the oldest first."""
    return _rows(lake, MODELS, "created_at")


def current_model(lake: Lake, model: str) -> dict[str, Any] | None:
    """The promoted version of a model."""
    promoted = [row for row in models(lake) if row["model"] == model and row["status"] == "promoted"]
    return promoted[-1] if promoted else None


def register_model(lake: Lake, row: dict[str, Any]) -> None:
    """Insert or update a model version; one that is promoted retires those before it in the same transaction."""
    changed = [row]
    if row["status"] == "promoted":
        changed += [
            {**old, "status": "retired"}
            for old in models(lake)
            if old["model"] == row["model"] and old["version"] != row["version"] and old["status"] == "promoted"
        ]
    _upsert(lake, MODELS, changed)


def _rows(lake: Lake, table: Table, order: str) -> list[dict[str, Any]]:
    if not lake.exists(table.name):
        return []
    rows: list[dict[str, Any]] = lake.dataset(table.name).to_table().sort_by(order).to_pylist()
    return rows


def _upsert(lake: Lake, table: Table, rows: list[dict[str, Any]]) -> None:
    """Merge rows by the table's key; two runs may save at once, so a conflict is tried again."""
    source = pa.Table.from_pylist(rows, schema=table.schema)
    same_key = " AND ".join(f"target.{column} = source.{column}" for column in table.key)
    for attempt in range(MAX_ATTEMPTS):
        delta: DeltaTable = lake.ensure(table)
        merge = delta.merge(source, same_key, source_alias="source", target_alias="target")
        try:
            merge.when_matched_update_all().when_not_matched_insert_all().execute()
        except CommitFailedError:
            if attempt == MAX_ATTEMPTS - 1:
                raise
            time.sleep(0.05 * 2**attempt)
        else:
            return
