"""ops/files: by what each file of the log is known, so that one that has not changed is not opened again."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from lib.formats.log_files import LogFile
from lib.lake.lake import Lake
from lib.lake.writes import rows_of, upsert
from lib.tables.ops import FILES

AT_ONCE = timedelta(seconds=2)  # within which a file may change twice and bear the same time


def hashes(lake: Lake, files: Iterable[LogFile]) -> dict[str, str]:
    """The SHA-256, by location, of those of the files that are as they were when they were hashed.

    One that had just been changed then may have been changed again since without a trace.
    """
    seen = {row["location"]: row for row in rows_of(lake, FILES, "location")}

    def is_same(file: LogFile) -> bool:
        row = seen.get(file.location)
        if row is None or file.modified_at is None:
            return False
        as_it_was = (row["num_bytes"], row["modified_at"]) == (file.num_bytes, file.modified_at)
        return as_it_was and row["hashed_at"] - row["modified_at"] > AT_ONCE

    return {file.location: seen[file.location]["sha256"] for file in files if is_same(file)}


def save_hashes(lake: Lake, files: Sequence[LogFile], sha256: Mapping[str, str], hashed_at: datetime) -> None:
    """Keep the SHA-256 of files, given by location; `hashed_at` is a time before they were hashed."""
    rows = [
        {
            "location": file.location,
            "num_bytes": file.num_bytes,
            "modified_at": file.modified_at,
            "sha256": sha256[file.location],
            "hashed_at": hashed_at,
        }
        for file in files
        if file.location in sha256 and file.modified_at is not None
    ]
    if rows:
        upsert(lake, FILES, rows)
