"""The rows of bronze/rejects about files that were set aside, and about rows of pictures that are none."""

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import pyarrow.compute as pc

from lib.formats.mapping import LogMapping
from lib.ingestion.staged import FoundFile
from lib.lake.lake import Lake
from lib.tables.bronze import NO_DAY

Row = dict[str, Any]


def refusals(lake: Lake) -> list[Row]:
    """Those that the lake holds."""
    if not lake.exists("bronze/rejects"):
        return []
    rows: list[Row] = lake.dataset("bronze/rejects").to_table(filter=pc.field("stage") == "ingest").to_pylist()
    return rows


def judged_before(rows: Iterable[Row], mapping: LogMapping) -> set[str]:
    """SHA-256 of the files that were set aside under this mapping: they would be set aside again."""
    files = (json.loads(row["raw"]) for row in rows)
    return {file["sha256"] for file in files if file["sha256"] and file["mapping_sha256"] == mapping.sha256}


def not_looked_at(rows: Sequence[Row], files: Sequence[FoundFile]) -> list[Row]:
    """The rows about files that are not among `files`.

    Of a file that was gone or changed, what now has its path is looked at in its place.
    """
    contents, paths = {file.sha256 or file.path for file in files}, {file.path for file in files}

    def is_looked_at(row: Row) -> bool:
        raw = json.loads(row["raw"])
        is_replaced = raw["mapping_sha256"] is None and row["source_file"] in paths
        return is_replaced or (raw["sha256"] or row["source_file"]) in contents

    return [row for row in rows if not is_looked_at(row)]


def refusals_of(file: FoundFile, mapping: LogMapping, *, batch_id: str, arrived_at: datetime) -> list[Row]:
    """The row about a file that is set aside, or the rows about its rows that are no pictures.

    A file is looked at again if it or the mapping changes; one whose problem may pass, in any case.
    """
    judged_under = None if file.may_pass else mapping.sha256
    whole = {
        "stage": "ingest",
        "source": file.source,
        "source_file": file.path,
        "source_record": None,
        "reason": f"file:{file.problem}",
        "raw": json.dumps({"sha256": file.sha256, "mapping_sha256": judged_under}),
        "day": NO_DAY,
        "event_time": None,
        "user_key": None,
        "batch_id": batch_id,
        "arrived_at": arrived_at,
    }
    if file.problem:
        return [whole]
    return [whole | {"source_record": f"{file.path}:{number}", "reason": reason} for number, reason in file.refused]
