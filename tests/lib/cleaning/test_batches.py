"""What clean's tasks look at before they clean: clocks of times wherever a source keeps them, and corrections by key."""

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from lib.cleaning.batches import CLOCK_COUNTS, clock_batches, mark_superseded_batches
from lib.cleaning.fields import SUPERSEDED
from lib.formats.mapping import LogMapping
from lib.tables.bronze import SOURCE

ORIGIN = {"source_file": "2024/a.csv", "source_file_sha256": "0", "malformed": None, "batch_id": "b"}


def batches(*rows: dict[str, Any]) -> list[pa.RecordBatch]:
    """Each record in a batch of its own, as bronze holds it."""
    arrived = {"arrived_at": datetime(2026, 1, 1, tzinfo=UTC)}
    full = [row | ORIGIN | arrived | {"record_number": number} for number, row in enumerate(rows, start=1)]
    schema = SOURCE.with_source_columns(tuple(rows[0])).schema
    return [pa.RecordBatch.from_pylist([row], schema=schema) for row in full]


def mapping(**source: Any) -> LogMapping:
    given = {"files": "{year}/*.csv", "events": [{"type": "view"}], "names": {"item_id": "item"}, **source}
    return LogMapping(name="own", timezone="Europe/Berlin", sources={"clicks": given})


def clocks(rows: list[dict[str, Any]], **source: Any) -> dict[str, int]:
    given = mapping(**source)
    counts = pa.Table.from_batches(clock_batches(batches(*rows), source="clicks", mapping=given), schema=CLOCK_COUNTS)
    return dict(zip(counts["clock"].to_pylist(), counts["num_times"].to_pylist(), strict=True))


@pytest.mark.parametrize(
    ("rows", "source"),
    [
        ([{"at": "2024-01-01"}, {"at": "2024-07-01"}, {"at": "soon"}], {"names": {"event_time": "at"}}),
        ([{"at": "2023-12-31T23:00:00Z"}, {"at": "2024-06-30T22:00:00Z"}], {"names": {"event_time": "at"}}),
        ([{"m": '{"at": "01.01.2024"}'}, {"m": '{"at": "02.01.2024"}'}], {"names": {"event_time": "m.at"}}),
        ([{"at": "01-01"}, {"at": "07-01"}], {"names": {"event_time": {"template": "{year}-{at}"}}}),
        (
            [{"seen": '[{"at": "01.01.2024"}, {"at": "02.01.2024"}]'}],
            {"names": {"event_time": "seen.at"}, "explode": "seen"},
        ),
    ],
)
def test_the_clock_of_times_is_counted_wherever_they_are_kept(
    rows: list[dict[str, Any]], source: dict[str, Any]
) -> None:
    names = {"item_id": "item", **source["names"]}
    pattern = {"time_format": "%d.%m.%Y"} if "01.01.2024" in str(rows) else {}
    assert clocks(rows, **{**source, "names": names}, **pattern) == {"day": 2}


def test_records_of_a_shard_come_back_whole_with_what_supersedes_them() -> None:
    given = mapping(names={"item_id": "item", "event_time": "at"}, record_key="line")
    rows = [{"line": "1", "item": item, "at": "2024-01-01"} for item in ("i", "j")]
    received = batches(*rows, {"line": "2", "item": "i", "at": "2024-01-01"})
    schema = received[0].schema.append(pa.field(SUPERSEDED, pa.bool_()))
    marked = pa.Table.from_batches(
        mark_superseded_batches(received, source="clicks", mapping=given, schema=schema), schema=schema
    )
    assert marked[SUPERSEDED].to_pylist() == [True, False, False]
    assert marked.drop_columns(SUPERSEDED).to_pylist() == pa.Table.from_batches(received).to_pylist()
    assert not list(mark_superseded_batches([], source="clicks", mapping=given, schema=schema))
