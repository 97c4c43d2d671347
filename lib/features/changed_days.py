"""Which days of silver/events a table that is made by day must have made anew: those of other events, and those of another split."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

from lib.runs.run import Run


@dataclass(frozen=True)
class MadeFrom:
    """What tables of days were made from."""

    work: str  # hash of code, settings and whatever else decides on their rows
    events: int  # the version of silver/events
    valid_from: str
    test_from: str


def made_before(run: Run, tables: Sequence[str], name: str) -> MadeFrom | None:
    """What tables of days, in the order of their commits, are made from, as the last of them says under `name`.

    None where one is missing, or a run was cut off in between.
    """
    newest = [run.lake.newest_run(table, run.job.name) for table in tables]
    last = newest[-1]
    if last is None or any(by is None or by > last for by in newest):
        return None
    stated = run.lake.metadata_of_run(tables[-1], last, name)
    return MadeFrom(**json.loads(stated)) if stated else None


def changed_days(run: Run, before: MadeFrom | None, now: MadeFrom) -> set[date] | None:
    """The days whose events are in other files now than before; None where all days must be made anew."""
    if before is None or before.work != now.work:
        return None
    return run.lake.partitions_changed("silver/events", "event_date", before.events, now.events)


def days_of_other_splits(before: MadeFrom, now: MadeFrom, days: Collection[date]) -> set[date]:
    """Those of some days on which the split of an event may be another one than before."""
    moved = [
        days_between(datetime.fromisoformat(one), datetime.fromisoformat(other))
        for one, other in ((before.valid_from, now.valid_from), (before.test_from, now.test_from))
    ]
    return {day for day in days if any(first <= day <= last for first, last in moved)}


def days_between(one: datetime, other: datetime) -> tuple[date, date]:
    """The first and last UTC date between two moments; none lies between where they are equal."""
    if one == other:
        return date.max, date.min
    first, last = sorted((one, other))
    return first.astimezone(UTC).date(), last.astimezone(UTC).date()
