"""The sessions job: visits of a small shop, day by day, and what a changed day costs."""

import random
from datetime import date, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lib.cli.jobs import load_job
from lib.lake.writes import commit_files, conform, write_files
from lib.pipeline import JOBS
from lib.tables import contract
from tests.lakes import END, EVENT, PROPERTIES, START, TEST_FROM, VALID_FROM, SmallLake, arrow_rows

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)


@pytest.fixture(scope="module")
def job() -> ModuleType:
    return load_job(JOBS["sessions"])


def seen(session: str | None, item: str, at: datetime, **overrides: Any) -> dict[str, Any]:
    user = None if session is None else f"user of {session}"
    name = f"{session} {item} {at}"
    base = {"event_id": name, "session_id": session, "user_key": user, "item_id": item, "event_time": at}
    return base | {"event_type": "view"} | overrides


def run(job: ModuleType, lake: SmallLake, **settings: Any) -> None:
    job.main(job.SessionsSettings(**lake.shared_settings, **settings))


def test_a_visit_holds_what_somebody_did_and_nothing_of_bots_and_the_shop(
    job: ModuleType, small_lake: SmallLake
) -> None:
    small_lake.put_events(
        seen("s", "a", START),
        seen("s", "shown", START + MINUTE, event_type="impression"),
        seen("s", "b", START + 2 * MINUTE, event_type="cart"),
        seen("s", "back", START + 3 * MINUTE, event_type="return"),
        seen("over midnight", "c", VALID_FROM - MINUTE),
        seen("over midnight", "d", VALID_FROM + MINUTE),
        seen("robot", "e", START, is_bot=True),
        seen(None, "f", START),
        seen("late", "g", TEST_FROM),
        seen("end", "g", END - MINUTE),
    )
    run(job, small_lake)
    found = {row["session_id"]: row for row in small_lake.read("gold/sessions")}
    assert {name: (row["items"], row["split"], row["event_date"]) for name, row in found.items()} == {
        "s": (["a", "b"], "train", date(2026, 1, 1)),
        "over midnight": (["c", "d"], "train", date(2026, 1, 10)),
        "late": (["g"], "test", date(2026, 1, 21)),
        "end": (["g"], "test", date(2026, 1, 30)),
    }
    assert found["s"] == {
        "session_id": "s",
        "user_key": "user of s",
        "event_date": date(2026, 1, 1),
        "split": "train",
        "started_at": START,
        "ended_at": START + 2 * MINUTE,
        "num_events": 2,
        "items": ["a", "b"],
        "event_types": ["view", "cart"],
        "event_times": [START, START + 2 * MINUTE],
    }


def random_log(seed: int) -> list[dict[str, Any]]:
    """Visits of every day, some over midnight."""
    draw = random.Random(seed)
    log = [seen("first", "a", START), seen("last", "a", END - MINUTE)]
    for number in range(150):
        at = START + timedelta(minutes=draw.randrange(29 * 1440))
        for _ in range(draw.randint(1, 4)):
            log.append(seen(f"s{number}", draw.choice("abcde"), at))
            at += timedelta(minutes=draw.randint(1, 29))
    return log


def files_by_day(lake: SmallLake) -> dict[date, set[str]]:
    actions = lake.lake.actions("gold/sessions")
    found: dict[date, set[str]] = {}
    for day, path in zip(actions["partition.event_date"].to_pylist(), actions["path"].to_pylist(), strict=True):
        found.setdefault(day, set()).add(path)
    return found


def put_days(lake: SmallLake, days: range, log: list[dict[str, Any]]) -> None:
    """Replace these days of silver/events by the log's, each with its own files, and leave the others as they are."""
    table = contract("silver/events")
    dates = [(START + number * DAY).date() for number in days]
    rows = [{**EVENT, **row} for row in log if row["event_time"].date() in dates]
    files = write_files(lake.lake, table, [conform(table, arrow_rows(table, *rows))] if rows else [])
    number = lake.lake.last_committed_run("silver/events", "test") + 1
    where = {"event_date": [str(day) for day in dates]}
    commit_files(
        lake.lake, table, files, transaction="test", number=number, where=where, properties=PROPERTIES["silver/events"]
    )


def test_a_changed_day_makes_anew_that_day_and_its_neighbours_and_gives_the_table_of_all_at_once(
    job: ModuleType, tmp_path: Path
) -> None:
    grown, whole, log = SmallLake(tmp_path / "grown"), SmallLake(tmp_path / "whole"), random_log(0)
    first = [row for row in log if row["event_time"].date() != date(2026, 1, 12)]
    grown.put_events(*first)
    run(job, grown)
    before = files_by_day(grown)
    put_days(grown, range(11, 12), log)
    run(job, grown)
    after = files_by_day(grown)
    assert {day for day in before.keys() | after.keys() if before.get(day) != after.get(day)} == {
        date(2026, 1, 11),
        date(2026, 1, 12),
    }
    whole.put_events(*log)
    run(job, whole)
    assert grown.read("gold/sessions") == whole.read("gold/sessions")
    assert sum(row["num_events"] for row in whole.read("gold/sessions")) == len(log)


def test_where_the_splits_move_only_days_between_are_made_anew(job: ModuleType, small_lake: SmallLake) -> None:
    small_lake.put_events(*random_log(1))
    run(job, small_lake)
    before, stated = files_by_day(small_lake), small_lake.mapping.read_text()
    small_lake.mapping.write_text(stated.replace(VALID_FROM.isoformat(), (VALID_FROM + 2 * DAY).isoformat()))
    run(job, small_lake)
    after = files_by_day(small_lake)
    assert {day for day in before if before[day] != after[day]} <= {date(2026, 1, number) for number in (11, 12, 13)}
    split = {row["session_id"]: (row["started_at"], row["split"]) for row in small_lake.read("gold/sessions")}
    assert all(name == "train" for at, name in split.values() if at < VALID_FROM + 2 * DAY)
    assert all(name == "valid" for at, name in split.values() if VALID_FROM + 2 * DAY <= at < TEST_FROM)


@pytest.mark.bad_input("a log without sessions")
def test_a_log_without_sessions_is_told_in_one_line_and_no_table_is_made(
    job: ModuleType, small_lake: SmallLake, capsys: pytest.CaptureFixture[str]
) -> None:
    run(job, small_lake)
    assert "skipped: no event of a person belongs to a session" in capsys.readouterr().out
    assert not small_lake.lake.exists("gold/sessions")
