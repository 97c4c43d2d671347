"""Two runs of clean at once on one lake: one waits its turn, and where nothing tells it to, it loses and changes nothing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lib.pipeline import ROOT
from tests.shops import Shop

MAPPING = """
name: own
sources:
  lines:
    files: "*.csv"
    names: {user_id: user, item_id: item, event_time: time}
    events: [{type: view}]
"""


def a_day(number: int) -> str:
    """A day's file: a hundred users' views, and a record without a time that can be read."""
    rows = [f"u{user},i{number},2024-01-{number:02d} 10:00:00" for user in range(100)]
    return "\n".join(["user,item,time", *rows, f"u1,i{number},never"]) + "\n"


def ingest(shop: Shop, number: int) -> None:
    shop.put(f"{number}.csv", a_day(number))
    assert shop.run_job("ingest") == 0


def a_clean(shop: Shop) -> "subprocess.Popen[str]":
    """A run of clean in a process of its own."""
    places = [f"--lake.path={shop.lake.path}", f"--log.path={shop.log}", f"--log.format={shop.mapping}"]
    command = [sys.executable, "jobs/spark/clean.py", *places, "--clean.max-reject-frac=1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    told, _ = process.communicate(timeout=120)
    return process.returncode, told


def rejects_and_events(shop: Shop) -> dict[str, list[str]]:
    return {
        table: sorted(
            str([row[name] for name in ("item_id", "event_time", "source_record") if name in row])
            for row in shop.read(table)
        )
        for table in ("silver/events", "bronze/rejects")
    }


@pytest.mark.slow
@pytest.mark.parametrize("later_ends_first", [True, False])
@pytest.mark.bad_input("two runs of a job at once")
def test_of_two_cleans_at_once_one_is_refused_and_one_that_was_not_seen_loses_and_doubles_nothing(
    tmp_path: Path, later_ends_first: bool
) -> None:
    shop, alone = Shop.with_key(tmp_path / "both", MAPPING), Shop.with_key(tmp_path / "alone", MAPPING)
    for number in (1, 2, 3):
        ingest(alone, number)
    assert ended(a_clean(alone))[0] == 0
    ingest(shop, 1)
    assert ended(a_clean(shop))[0] == 0

    ingest(shop, 2)
    wins = a_clean(shop)
    halt_when_it_has_written(wins, shop)
    ingest(shop, 3)
    code, told = ended(a_clean(shop))
    assert (code, "another run of clean is under way" in told) == (1, True), told
    (Path(shop.lake.path) / ".clean").unlink()  # as on an object store, which has no locks
    loses = a_clean(shop)
    halt_when_it_has_written(loses, shop)
    if later_ends_first:
        wins, loses = loses, wins
    wins.send_signal(signal.SIGCONT)
    code, told = ended(wins)
    assert code == 0, told
    loses.send_signal(signal.SIGCONT)
    code, told = ended(loses)
    assert code == 1, told
    assert told.strip().splitlines()[-1].endswith("; run it again"), told
    assert ended(a_clean(shop))[0] == 0, "the next run goes on"
    assert rejects_and_events(shop) == rejects_and_events(alone)


def halt_when_it_has_written(process: "subprocess.Popen[str]", shop: Shop) -> None:
    """Halt a run as soon as it has written a file of silver/events that it has not committed."""
    folder = Path(shop.lake.uri("silver/events"))
    held = {*folder.rglob("*.parquet")}
    version = shop.lake.open("silver/events").version()
    while not {*folder.rglob("*.parquet")} - held:
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGSTOP)
    assert shop.lake.open("silver/events").version() == version, "it has committed already"
