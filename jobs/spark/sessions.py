"""sessions: silver/events -> gold/sessions.

A row is a visit: what somebody did with which items, in order. Impressions, returns and bots are left out, and events that
belong to no session (of nobody). The table has a partition for each day that visits begin on. Only days whose events have changed since the last
run are made anew, with the days before them from which visits go on, and those of another split. Makes nothing of a log without sessions, and
says so.

The tasks (lib/next_item/sessions.py) run in Spark or in processes of one machine, and write their rows into files, which are committed at
the end in one transaction. A rerun, a retry or a kill changes nothing.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, date

from pydantic import Field

from lib.engines.parts import files_written
from lib.engines.spark import SparkRun, start_run
from lib.features.changed_days import MadeFrom, changed_days, days_of_other_splits, made_before
from lib.features.days import DayShards
from lib.next_item import sessions as tasks
from lib.next_item.sessions import SessionsWork
from lib.settings import JobSettings

SESSIONS = "gold/sessions"
MADE_FROM = "cartwheel.sessions"  # in a commit of the table: what it was made from


class SessionsSettings(JobSettings):
    """How the work is shared."""

    events_per_shard: int = Field(
        1_000_000,
        ge=1000,
        le=20_000_000,
        description="approximate number of events per task; they must fit in its memory",
    )


def last_days(run: SparkRun) -> dict[date, date]:
    """By the day that stored visits begin on, the last day with an event of theirs; files' statistics tell."""
    if not run.lake.num_rows(SESSIONS):
        return {}
    last: dict[date, date] = {}
    files = run.lake.actions(SESSIONS)
    for first, ended in zip(files["partition.event_date"].to_pylist(), files["max.ended_at"].to_pylist(), strict=True):
        day = ended.date() if ended.tzinfo is None else ended.astimezone(UTC).date()
        last[first] = max(last.get(first, first), day)
    return last


def made_from(run: SparkRun) -> MadeFrom:
    """What this run makes the table from."""
    work = hashlib.sha256(json.dumps([run.code_version]).encode()).hexdigest()
    moments = (run.times.valid_from.isoformat(), run.times.test_from.isoformat())
    return MadeFrom(work, run.version_of("silver/events"), *moments)


def write_sessions(
    run: SparkRun,
    settings: SessionsSettings,
    made: set[date],
    held: Mapping[date, date],
    *,
    now: MadeFrom,
    are_all: bool,
) -> None:
    """Make the visits anew that begin on some days, or all."""
    num_events = run.lake.rows_by_partition("silver/events", "event_date", now.events)
    begin = {day: num_events[day] for day in made if day in num_events}
    files = []
    if begin:
        read = tasks.days_to_read(begin, held, num_events)
        rows = sum(num_events[day] for day in read)
        num_shards = run.num_shards(rows, rows_per_shard=settings.events_per_shard)
        shards = DayShards.of(begin, num_shards=num_shards)
        work = SessionsWork(run.lake.absolute(), run.times.valid_from, run.times.test_from)
        events = run.files_of({tasks.EVENT: "silver/events"}, holding={"event_date": read})
        by_visit = events.then(tasks.spread_events, num_shards=num_shards).to_shards(num_shards)
        by_day = by_visit.then(tasks.gather_visits, work=work, shards=shards).to_shards(shards.num_shards)
        files = files_written(by_day.then(tasks.write_visits, work=work))
    if are_all and not files:
        run.skip("no event of a person belongs to a session: the log names no users, or only bots")
    where = None if are_all else {"event_date": sorted(map(str, made))}
    run.commit_written(SESSIONS, files, where=where, metadata={MADE_FROM: json.dumps(asdict(now))})


def main(settings: SessionsSettings) -> None:
    with start_run("sessions", settings) as run:
        now, before = made_from(run), made_before(run, (SESSIONS,), MADE_FROM)
        changed, held = changed_days(run, before, now), last_days(run)
        if before is None or changed is None:
            days = set(run.lake.rows_by_partition("silver/events", "event_date", now.events))
            write_sessions(run, settings, days, held, now=now, are_all=True)
            return
        made = tasks.days_that_begin_visits(changed, held) | days_of_other_splits(before, now, held)
        run.log("days", made=len(made), kept=len(held.keys() - made))
        if made:
            write_sessions(run, settings, made, held, now=now, are_all=False)


if __name__ == "__main__":
    main(SessionsSettings.from_command_line())
