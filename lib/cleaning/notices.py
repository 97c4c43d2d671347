"""The lines that clean says about a log as a whole: its clocks, its strays and silences, and what came twice."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from typing import Any

from lib.cleaning.whole_log import longest_silence
from lib.formats.mapping import LogMapping
from lib.formats.rules import NOT_ASKED, Clock

LEAST_SILENCE, SILENT_FRAC = timedelta(days=30), 0.5  # a silence that is longer than both, in parts of the log, is said


def about_clocks(clocks: Mapping[str, Clock], mapping: LogMapping) -> Iterator[str]:
    """A line for each source whose clock is coarse."""
    for source, clock in clocks.items():
        if clock in NOT_ASKED:
            is_stated = mapping.sources[source].clock is not None
            origin = "as the mapping says" if is_stated else "found from its times (the mapping may say `clock:`)"
            yield f"the clock of {source} is the {clock}, {origin}: {NOT_ASKED[clock]}"


def about_days(events_by_day: Mapping[date, int], first: date, last: date) -> Iterator[str]:
    """A line about the events outside the days `first` to `last`, and one about a silence that fills half of these."""
    strays = {day: number for day, number in events_by_day.items() if not first <= day <= last}
    if strays:
        yield (
            f"the log lies between {first} and {last}; far outside it are {sum(strays.values()):,} events, from "
            f"{min(strays)} to {max(strays)}: refused as stray_time, since their clocks are wrong "
            "(clean.max_stray_frac=0 keeps them)"
        )
    covered = {day: number for day, number in events_by_day.items() if day not in strays}
    before, after = longest_silence(covered)
    if after - before > max(LEAST_SILENCE, SILENT_FRAC * (last - first)):
        earlier = sum(number for day, number in covered.items() if day <= before)
        yield (
            f"no event lies between {before} and {after}, more than half of the log; {earlier:,} of "
            f"{sum(covered.values()):,} come before: if clocks are wrong on either side, mend them or give the mapping "
            "its times"
        )


def about_repeats(
    counts: Sequence[Mapping[str, Any]], mapping: LogMapping, clocks: Mapping[str, Clock]
) -> Iterator[str]:
    """A line for each source of events some of whose records came twice."""
    for row in counts:
        source = mapping.sources[row["source"]]
        if row["outcome"] != "duplicate" or not row["num_records"] or source.kind != "events":
            continue
        clock = clocks.get(row["source"])
        twice = f"{row['num_records']:,} records of {row['source']} equal another in every column and count once"
        if clock in NOT_ASKED:
            yield (
                f"{twice}; on a clock of the {clock} they may be events of their own: "
                "`equal_records_are_separate: true` in the mapping keeps them"
            )
        elif not source.record_key:
            yield (
                f"{twice}; one that is sent again with a correction is an event of its own, unless the mapping names a "
                "`record_key`"
            )
