"""kill -9 of the Spark driver between two commits of clean: the rerun ends with the same tables."""

import os
import signal
from pathlib import Path

from acceptance import lakes
from acceptance.claims import Claim, environment, run_command
from acceptance.elsewhere import shipped, spark_submit
from lib.lake.lake import Lake
from lib.runs import history
from tests.processes import await_end, descendants, started, wait_for
from tests.same import differences

FIRST, SECOND = "silver/events", "silver/items"
MOST_SECONDS = 180


def check() -> list[Claim]:
    """On a copy of the small market's lake: clean commits its first table anew and is killed before the second."""
    folder, reference = shipped(), lakes.small_market()
    lake = lakes.copy_of(reference, "killed_driver")
    command = spark_submit("clean", "local[2]", ["--lake.path", str(lake), "--clean.rebuild=true"])
    before = {table: last_commit(lake, table) for table in (FIRST, SECOND)}
    number = history.runs(Lake(str(lake)), "clean")[-1]["number"] + 1
    with started(command, log=folder / "clean.log", cwd=folder, env=environment()) as driver:
        wait_for(
            lambda: last_commit(lake, FIRST) > before[FIRST] or None,
            seconds=MOST_SECONDS,
            what=f"a commit of clean to {FIRST}",
            started=driver,
        )
        pids = [driver.pid, *(process.pid for process in descendants(driver.pid))]
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
        await_end(pids)
    killed = {table: last_commit(lake, table) - before[table] for table in (FIRST, SECOND)}
    status = history.runs(Lake(str(lake)), "clean")[-1]["status"]
    run_command(command, cwd=folder)
    after = {table: last_commit(lake, table) - before[table] for table in (FIRST, SECOND)}
    run = history.runs(Lake(str(lake)), "clean")[-1]
    apart = differences(lake, reference)
    return [
        Claim(
            "kill -9 of the Spark driver between two commits of clean",
            f"{killed[FIRST]} commit to {FIRST}, {killed[SECOND]} to {SECOND}; {len(pids)} processes killed, the run stands as {status}",
            killed == {FIRST: 1, SECOND: 0} and status == "running",
        ),
        Claim(
            "the rerun takes the run up and commits nothing twice",
            f"{run['run_id']} {run['status']}; commits in all: {after[FIRST]} to {FIRST}, {after[SECOND]} to {SECOND}",
            run["number"] == number and run["status"] == "done" and after == {FIRST: 1, SECOND: 1},
        ),
        Claim("the rerun ends with the same tables", f"different: {'; '.join(apart) or 'none'}", not apart),
    ]


def last_commit(lake: Path, table: str) -> int:
    """The newest version in the table's log."""
    return max(int(file.stem) for file in (lake / table / "_delta_log").glob("*.json") if file.stem.isdigit())
