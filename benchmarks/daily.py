"""A day more: the files of 30 days in a lake, and then that of the 31st, beside all of them at once."""

import gzip
import re
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from benchmarks.clean import CARTWHEEL, make_log
from benchmarks.measured import measure
from lib.lake.lake import Lake
from lib.lake.query import query

NUM_DAYS, LAST_DAY = 31, date(2026, 6, 30)  # of the simulated market
DATE = re.compile(rb'"event_time": ?"(\d{4}-\d\d-\d\d)')
STAGES = ("ingest", "clean", "featurize")
OUTCOMES = (
    "SELECT 'accepted' AS outcome, count(*) FROM silver.events UNION ALL "
    "SELECT reason, count(*) FROM bronze.rejects WHERE source = 'events' GROUP BY reason ORDER BY outcome"
)


@dataclass(frozen=True)
class Daily:
    """What the last day cost, beside the whole log."""

    num_records: int
    of_last_day: int
    at_once: dict[str, float]  # seconds by job, and `all`: of the process, from its start to its end
    last_day: dict[str, float]
    are_equal: bool  # the outcomes of both lakes

    @property
    def lines(self) -> list[str]:
        """The table of the page."""
        columns = (*STAGES, "all")
        rows = {
            f"all {NUM_DAYS} days at once ({self.num_records:,} records)": [self.at_once[name] for name in columns],
            f"the last day, after the others ({self.of_last_day:,} records)": [self.last_day[name] for name in columns],
            "its share": [self.last_day[name] / self.at_once[name] for name in columns],
        }
        shown = [f"| {name} | {' | '.join(f'{value:.2f}' for value in values)} |" for name, values in rows.items()]
        same = "Both lakes have the same outcomes." if self.are_equal else "**The outcomes of the lakes differ.**"
        head = ["| seconds | " + " | ".join((*STAGES, "the whole process")) + " |", "|" + "---|" * (len(columns) + 1)]
        return [*head, *shown, "", same]


def compare(folder: Path, *, num_users: int) -> Daily:
    """Run both on the log of a market of 31 days, split into daily files."""
    raw = make_log(folder / "log", num_users=num_users, flags=("--simulate.days", str(NUM_DAYS)))
    days = split(raw, folder / "days")
    log = folder / "logs"
    shutil.rmtree(log, ignore_errors=True)
    for part in ("items", "images"):
        shutil.copytree(raw / part, log / part)
    (log / "events").mkdir()
    for day in days[:-1]:
        (log / "events" / day.name).symlink_to(day)
    grown, whole = folder / "grown", folder / "whole"
    for lake in (grown, whole):
        shutil.rmtree(lake, ignore_errors=True)
    run(grown, log)
    before = rows_of_bronze(grown)
    (log / "events" / days[-1].name).symlink_to(days[-1])
    last_day, at_once = run(grown, log), run(whole, log)
    found = [query(Lake(str(lake)), OUTCOMES, limit=None)[1] for lake in (grown, whole)]
    return Daily(rows_of_bronze(whole), rows_of_bronze(grown) - before, at_once, last_day, found[0] == found[1])


def split(raw: Path, folder: Path, *, num_days: int = NUM_DAYS) -> list[Path]:
    """The market's events in a file for each day, once; a record without a date of these goes where the one before it went."""
    done = folder / "done"
    known = {str(LAST_DAY - timedelta(days=number)) for number in range(num_days)}
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with ExitStack() as stack:
            files = {day: stack.enter_context(gzip.open(folder / f"{day}.jsonl.gz", "wb", 1)) for day in known}
            for part in sorted((raw / "events").glob("*.gz")):
                day = min(known)
                with gzip.open(part) as lines:
                    for line in lines:
                        found = DATE.search(line)
                        day = found[1].decode() if found and found[1].decode() in known else day
                        files[day].write(line)
        done.touch()
    return sorted(folder.glob("*.jsonl.gz"))


def run(lake: Path, log: Path) -> dict[str, float]:
    """Ingest, clean and featurize; the seconds of each, and of the whole process."""
    places = ["--lake", str(lake), "--logs", str(log), "--format", "market"]
    measured = measure([CARTWHEEL, "run", *places, "--from", "ingest", "--to", "featurize"])
    _, rows = query(Lake(str(lake)), "SELECT job, seconds FROM ops.runs ORDER BY started_at", limit=None)
    return {**dict(rows), "all": measured.seconds}


def rows_of_bronze(lake: Path) -> int:
    """How many records of events a lake holds."""
    return Lake(str(lake)).num_rows("bronze/events")
