"""Lakes that a test fills by hand: rows become the content of a table by its contract, without Spark."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from lib.lake.lake import Lake
from lib.lake.writes import commit_files, conform, write_files
from lib.tables import Table, contract
from lib.tables.gold import REWARD_WEIGHTS
from lib.tables.silver import CLOCKS, SESSION_GAP

# Folders in which a lake may lie.
STRANGE_NAMES = (
    "a lake ",
    "50 % off",
    "größe",
    "[1]{2}*",
    'it\'s "x"',
    "a;b&c=d,e+f",
    "a:b",
    "日本",
    "a~b",
    "$x@!()|<>^`",
)

Row = Mapping[str, Any]
NOTHING: Row = {}

START, VALID_FROM, TEST_FROM, END = (datetime(2026, 1, day, tzinfo=UTC) for day in (1, 11, 21, 31))
MAPPING = f"""
name: tiny
currency: EUR
times: {{valid_from: {VALID_FROM.isoformat()}, test_from: {TEST_FROM.isoformat()}, end: {END.isoformat()}}}
sources:
  lines:
    files: "*.csv"
    names: {{user_id: user, item_id: item, event_time: time}}
    events: [{{type: purchase}}]
"""
# What the writers of these tables set beside their rows.
PROPERTIES = {
    "silver/events": {SESSION_GAP: "30", CLOCKS: '{"lines": "second"}'},
    "gold/decisions": {REWARD_WEIGHTS: '{"click": 1, "cart": 1, "purchase": 3}'},
}
EVENT: Row = {"item_id": "a", "event_type": "purchase", "is_bot": False, "source_record": "lines:part-0.csv:1"}


def whole_rows(table: Table, rows: Iterable[Row], base: Row = NOTHING) -> list[dict[str, Any]]:
    """Each row is `base` with its own overrides; a column that both leave out is null, or the date of the event's time."""
    whole = [dict.fromkeys(table.schema.names) | {**base, **row} for row in rows]
    for row in whole:
        if "event_date" in table.schema.names and row["event_date"] is None and row.get("event_time"):
            row["event_date"] = row["event_time"].astimezone(UTC).date()
    return whole


def arrow_rows(table: Table, *rows: Row, base: Row = NOTHING) -> pa.Table:
    """The rows with the contract's columns and types, not yet checked."""
    return pa.Table.from_pylist(whole_rows(table, rows, base), schema=table.schema)


def put(lake: Lake, table: str | Table, *rows: Row, base: Row = NOTHING) -> int:
    """Make these rows the table's content, whatever it held before; returns the version that holds them."""
    kind = contract(table) if isinstance(table, str) else table
    checked = conform(kind, arrow_rows(kind, *rows, base=base))
    files = write_files(lake, kind, [checked] if rows else [])
    number = lake.last_committed_run(kind.name, "test") + 1
    properties = PROPERTIES.get(kind.name)
    return commit_files(lake, kind, files, transaction="test", number=number, properties=properties)


def content(lake: Lake, table: str) -> list[dict[str, Any]]:
    """The table's rows in the order of its key; none where there is no table."""
    if not lake.exists(table):
        return []
    order = [(column, "ascending") for column in contract(table).key]
    rows: list[dict[str, Any]] = lake.dataset(table).to_table().sort_by(order).to_pylist()
    return rows


class SmallLake:
    """A lake that knows its log's times: purchases at START and at the last second before END."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.lake = Lake(str(folder / "lake"))
        self.mapping = folder / "tiny.yaml"
        self.mapping.write_text(MAPPING)
        self.put_events({"event_time": START}, {"event_time": END - timedelta(seconds=1)})

    def put(self, table: str, *rows: Row, base: Row = NOTHING) -> None:
        """Make these rows, each `base` with overrides, the table's content."""
        put(self.lake, table, *rows, base=base)

    def put_events(self, *overrides: Row) -> None:
        """Make purchases of item a, with overrides, the content of silver/events."""
        rows = [{**EVENT, "event_id": f"e{number}", **override} for number, override in enumerate(overrides)]
        self.put("silver/events", *({**row, "event_date": row["event_time"].date()} for row in rows))

    def read(self, table: str) -> list[dict[str, Any]]:
        """The table's rows in the order of its key; none where there is no table."""
        return content(self.lake, table)

    @property
    def shared_settings(self) -> dict[str, Any]:
        """Settings that every job takes which runs on this lake."""
        return {
            "lake": {"path": self.lake.path},
            "log": {"format": str(self.mapping)},
            "cluster": {"driver_memory": "1g"},
        }
