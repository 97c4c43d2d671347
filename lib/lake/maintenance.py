"""Keeps a table's files few and its folder clean, without changing what it says."""

from datetime import timedelta
from typing import NamedTuple

from deltalake import WriterProperties
from deltalake.exceptions import CommitFailedError

from lib.lake.lake import Lake
from lib.lake.writes import ROW_GROUP_ROWS


class Maintained(NamedTuple):
    """What was done to a table."""

    num_compacted: int  # files that were brought together into fewer
    num_removed: int  # files that no version within the retention holds, of a commit that never came among them
    was_busy: bool = False  # another writer committed meanwhile: it is compacted the next time


def maintain(lake: Lake, table: str, *, target_bytes: int, retention: timedelta) -> Maintained:
    """Bring small files together, remove files past their retention, and checkpoint the log.

    Every version of the last `retention` can still be read, and so can its files that tasks have written and not yet
    committed. The log itself stays whole: it says which run has made which version.
    """
    delta = lake.open(table)
    num_compacted, was_busy = 0, False
    try:
        groups = WriterProperties(compression="ZSTD", max_row_group_size=ROW_GROUP_ROWS)
        compacted = delta.optimize.compact(target_size=target_bytes, writer_properties=groups)
        num_compacted = int(compacted["numFilesRemoved"])
    except CommitFailedError:
        was_busy = True
    delta = lake.open(table)
    hours = retention / timedelta(hours=1)
    removed = delta.vacuum(round(hours), dry_run=False, enforce_retention_duration=False, full=True)
    delta.create_checkpoint()
    return Maintained(num_compacted, len(removed), was_busy)
