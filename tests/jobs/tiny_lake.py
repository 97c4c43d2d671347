"""What the tests of several jobs share: a tiny log's mapping, a lake whose tables are written by hand, a killer of workers."""

import os
import signal
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from acceptance.processes import descendants
from lib.lake.lake import Lake
from lib.lake.writes import commit_files, conform, write_files
from lib.tables import contract

START, END = (datetime(2026, 1, day, tzinfo=UTC) for day in (1, 31))
EVENT = {"item_id": "a", "event_type": "purchase", "is_bot": False, "source_record": "lines:part-0.csv:1"}


def mapping(valid_from: datetime, test_from: datetime) -> str:
    """A mapping file of purchases with these times, up to END."""
    return f"""
name: tiny
currency: EUR
times: {{valid_from: {valid_from.isoformat()}, test_from: {test_from.isoformat()}, end: {END.isoformat()}}}
sources:
  lines:
    files: "*.csv"
    names: {{user_id: user, item_id: item, event_time: time}}
    events: [{{type: purchase}}]
"""


class TinyLake:
    """A lake that knows its log's times: two events, at its start and at its end."""

    VALID_FROM, TEST_FROM = (datetime(2026, 1, day, tzinfo=UTC) for day in (16, 21))

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.lake = Lake(str(folder / "lake"))
        self.mapping = folder / "tiny.yaml"
        self.mapping.write_text(mapping(self.VALID_FROM, self.TEST_FROM))
        times = (START, END - timedelta(seconds=1))
        events = [EVENT | {"event_id": f"e{t}", "event_time": t, "event_date": t.date()} for t in times]
        self.put("silver/events", events)

    def put(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Make these rows the table's content; a column that a row leaves out is null."""
        table = contract(name)
        whole = [dict.fromkeys(table.schema.names) | row for row in rows]
        conforming = conform(table, pa.Table.from_pylist(whole, schema=table.schema))
        files = write_files(self.lake, table, [conforming] if rows else [])
        commit_files(self.lake, table, files, transaction="test", number=1)

    def read(self, name: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.lake.dataset(name).to_table().to_pylist()
        return rows

    @property
    def shared_settings(self) -> dict[str, Any]:
        """Settings that every job takes which runs on this lake."""
        return {"lake": {"path": self.lake.path}, "log": {"format": str(self.mapping)}}


class WorkerKiller(threading.Thread):
    """Kills one training worker of this process once some checkpoints were seen in a folder."""

    def __init__(self, folder: Path, *, after_checkpoints: int, patience_seconds: float) -> None:
        super().__init__(daemon=True)
        self.folder, self.seen, self.killed = folder, set[str](), list[int]()
        self.after_checkpoints, self.patience_seconds = after_checkpoints, patience_seconds

    def run(self) -> None:
        deadline = time.monotonic() + self.patience_seconds
        while len(self.seen) < self.after_checkpoints and time.monotonic() < deadline:
            self.seen |= {found.name for found in self.folder.glob("*/*/checkpoint_*")}
            time.sleep(0.02)
        workers = [process.pid for process in descendants(os.getpid()) if "RayTrainWorker" in process.command]
        if len(self.seen) >= self.after_checkpoints and workers:
            os.kill(workers[-1], signal.SIGKILL)
            self.killed.append(workers[-1])
