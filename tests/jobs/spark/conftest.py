"""A lake of tiny tables: a test puts rows in, runs a job by its `main`, and reads the whole output."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lib.lake.lake import Lake
from lib.lake.writes import commit_files, conform, write_files
from lib.tables import contract
from lib.tables.silver import SESSION_GAP
from tests.jobs.tiny_lake import END, EVENT, START, mapping

VALID_FROM, TEST_FROM = (datetime(2026, 1, day, tzinfo=UTC) for day in (11, 21))


class SmallLake:
    """Tables of a few rows, written and read without Spark; the log has two events, at its start and at its end."""

    def __init__(self, folder: Path) -> None:
        self.lake = Lake(str(folder / "lake"))
        self.mapping = folder / "tiny.yaml"
        self.mapping.write_text(mapping(VALID_FROM, TEST_FROM))
        self.writes = 0
        self.put_events({"event_time": START}, {"event_time": END - timedelta(seconds=1)})

    def put(self, name: str, *rows: dict[str, Any]) -> None:
        """Make these rows the table's content; a column that a row leaves out is null."""
        self.writes += 1
        table = contract(name)
        whole = [dict.fromkeys(table.schema.names) | row for row in rows]
        files = write_files(self.lake, table, [conform(table, pa.Table.from_pylist(whole, schema=table.schema))])
        properties = {SESSION_GAP: "30"} if name == "silver/events" else None
        commit_files(self.lake, table, files, transaction="test", number=self.writes, properties=properties)

    def put_events(self, *overrides: dict[str, Any]) -> None:
        """Make purchases of item a, with overrides, the content of silver/events."""
        rows = [EVENT | {"event_id": f"e{number}"} | override for number, override in enumerate(overrides)]
        self.put("silver/events", *(row | {"event_date": row["event_time"].date()} for row in rows))

    def read(self, name: str) -> list[dict[str, Any]]:
        """The table's rows in the order of its key; none where there is no table."""
        if not self.lake.exists(name):
            return []
        order = [(column, "ascending") for column in contract(name).key]
        rows: list[dict[str, Any]] = self.lake.dataset(name).to_table().sort_by(order).to_pylist()
        return rows

    def settings(self) -> dict[str, Any]:
        """Settings that every job takes which runs on this lake."""
        return {
            "lake": {"path": self.lake.path},
            "log": {"format": str(self.mapping)},
            "cluster": {"driver_memory": "1g"},
        }


@pytest.fixture
def small_lake(tmp_path: Path) -> SmallLake:
    return SmallLake(tmp_path)
