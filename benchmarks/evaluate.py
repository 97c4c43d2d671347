"""`python -m benchmarks.evaluate`: what evaluate takes for many users, on lists that are drawn, not recommended.

Each size of lake has lists of ten of three strategies to both questions for all its users, of whom three in ten want two items in the test window. Told are
the seconds and the most memory that the driver held, and the largest worker: the first should not grow with users.
"""

import argparse
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from lib.lake.lake import Lake
from lib.lake.writes import commit_files, conform, write_files
from lib.pipeline import ROOT
from lib.tables import Table, contract
from lib.tables.gold import QUESTIONS
from lib.tables.silver import CLOCKS, SESSION_GAP

START, VALID_FROM, TEST_FROM, END = (datetime(2026, 1, day, tzinfo=UTC) for day in (1, 11, 21, 31))
MAPPING = f"""
name: drawn
currency: EUR
times: {{valid_from: {VALID_FROM.isoformat()}, test_from: {TEST_FROM.isoformat()}, end: {END.isoformat()}}}
sources:
  lines: {{files: "*.csv", names: {{user_id: user, item_id: item, event_time: time}}, events: [{{type: purchase}}]}}
"""
STRATEGIES = ("als", "popularity", "rebuy")
NUM_ITEMS, LENGTH, NUM_KNOWN, NUM_WANTED = 20_000, 10, 12, 2
WANT_FRAC = 0.3
USERS_AT_ONCE = 100_000
SAMPLE_SECONDS = 0.2


def draw_lake(folder: Path, num_users: int) -> None:
    """Write the tables that evaluate reads."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "drawn.yaml").write_text(MAPPING)
    lake = Lake(str(folder / "lake"))
    ends = pl.DataFrame({"event_time": [START, END - timedelta(seconds=1)], "event_id": ["0", "1"]}).with_columns(
        **{"item_id": pl.lit("i0"), "event_type": pl.lit("purchase"), "is_bot": pl.lit(False)},
        **{"source_record": pl.lit("lines:part.csv:1"), "event_date": pl.col("event_time").dt.date()},
    )
    put(lake, contract("silver/events"), iter([ends]), {SESSION_GAP: "30", CLOCKS: '{"lines": "second"}'})
    put(lake, contract("gold/interactions"), (drawn_pairs(*chunk) for chunk in chunks(num_users)))
    put(
        lake,
        contract("gold/recommendations"),
        (drawn_lists(*chunk, strategy) for chunk in chunks(num_users) for strategy in STRATEGIES),
    )


def put(lake: Lake, table: Table, frames: Iterator[pl.DataFrame], properties: dict[str, str] | None = None) -> None:
    """Make the frames the table's content; a column that they lack is null."""
    files = [file for frame in frames for file in write_files(lake, table, [conform(table, whole(table, frame))])]
    commit_files(lake, table, files, transaction="drawn", number=1, properties=properties)


def whole(table: Table, frame: pl.DataFrame) -> pa.Table:
    """The frame with the contract's columns and types."""
    found = frame.to_arrow()
    columns = [
        found[field.name].cast(field.type) if field.name in found.column_names else pa.nulls(found.num_rows, field.type)
        for field in table.schema
    ]
    return pa.Table.from_arrays(columns, schema=table.schema)


def chunks(num_users: int) -> Iterator[tuple[int, pl.Series]]:
    """Some users at a time: a number and their keys."""
    for first in range(0, num_users, USERS_AT_ONCE):
        numbers = np.arange(first, min(first + USERS_AT_ONCE, num_users), dtype=np.uint64)
        hashes = numbers * np.uint64(0x9E3779B97F4A7C15)
        yield first, pl.Series("user_key", [f"{number:016x}{number ^ 0xFFFFFFFF:016x}" for number in hashes.tolist()])


def drawn_pairs(first: int, users: pl.Series) -> pl.DataFrame:
    """What users knew, of items of which few are known to many, and what some of them want in the test window."""
    rng = np.random.default_rng(first)
    wants = np.flatnonzero(rng.random(len(users)) < WANT_FRAC)
    user = np.r_[np.repeat(np.arange(len(users)), NUM_KNOWN), np.repeat(wants, NUM_WANTED)]
    item = np.tile(7 * np.arange(NUM_KNOWN), len(users))
    item = (item + rng.integers(0, NUM_ITEMS, len(users)).repeat(NUM_KNOWN)) % NUM_ITEMS
    item = np.r_[item, (rng.integers(0, NUM_ITEMS // 2, len(wants))[:, None] + [0, 1]).ravel()]
    is_late = np.arange(len(user)) >= len(users) * NUM_KNOWN
    moment = np.where(is_late, TEST_FROM.timestamp(), (START + timedelta(days=1)).timestamp())
    seconds = rng.integers(0, 86_400, len(user))
    return pl.DataFrame(
        {
            "user_key": users.gather(user),
            "item_id": named_items().gather(item),
            "event_time": pl.Series((moment + seconds) * 1e6).cast(pl.Int64).cast(pl.Datetime("us", "UTC")),
            "split": pl.Series(is_late).replace_strict({True: "test", False: "train"}, return_dtype=pl.String),
        }
    ).with_columns(
        event_date=pl.col("event_time").dt.date(), weight=pl.lit(1.0), count=pl.lit(1), num_relevant=pl.lit(1)
    )


def drawn_lists(first: int, users: pl.Series, strategy: str) -> pl.DataFrame:
    """Lists of neighbouring items from a drawn one on, of popularity from the first on."""
    rng = np.random.default_rng([first, STRATEGIES.index(strategy)])
    begin = rng.integers(0, 1 if strategy == "popularity" else NUM_ITEMS // 2, 2 * len(users))
    items = named_items().gather((begin[:, None] + np.arange(LENGTH)).ravel())
    of_question = users.gather(np.repeat(np.arange(len(users)), LENGTH))
    num_rows = len(of_question)
    return pl.DataFrame(
        {
            "user_key": pl.concat([of_question, of_question]),
            "item_id": items,
            "rank": np.tile(np.arange(1, LENGTH + 1), 2 * len(users)),
            "question": pl.concat([pl.repeat(name, num_rows, eager=True) for name in QUESTIONS]),
        }
    ).with_columns(as_of=pl.lit(TEST_FROM), strategy=pl.lit(strategy), score=pl.lit(1.0), reason=pl.lit("drawn"))


def named_items() -> pl.Series:
    """The ids of all items."""
    return pl.Series("item_id", [f"i{number:05d}" for number in range(NUM_ITEMS)])


def judge(folder: Path, num_workers: int) -> tuple[float, float, int, int]:
    """Run the job: seconds, CPU seconds, and the most bytes that its driver held, and that a worker did."""
    command = [sys.executable, str(ROOT / "jobs" / "spark" / "evaluate.py"), "--lake.path", str(folder / "lake")]
    command += ["--log.format", str(folder / "drawn.yaml"), "--cluster.num-workers", str(num_workers)]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.Popen(command, start_new_session=True)
    most: dict[int, int] = {}
    while process.poll() is None:
        for place in Path("/proc").iterdir():
            with suppress(OSError):
                if place.name.isdigit() and os.getsid(int(place.name)) == process.pid:
                    found = re.search(r"^VmHWM:\s+(\d+) kB", (place / "status").read_text(), re.MULTILINE)
                    held = int(found[1]) << 10 if found else 0  # none once it has ended
                    most[int(place.name)] = max(most.get(int(place.name), 0), held)
        time.sleep(SAMPLE_SECONDS)
    if process.returncode:
        raise SystemExit(f"evaluate failed with {process.returncode}")
    after, took = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - began
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    driver = most.pop(process.pid)
    return took, cpu, driver, max(most.values(), default=0)


def main() -> None:
    """Draw each lake, judge it, and tell in a line of a table what it took."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluate", description=__doc__)
    parser.add_argument("--users", type=int, nargs="+", default=[250_000, 1_000_000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("~/.cache/cartwheel/evaluate").expanduser())
    options = parser.parse_args()
    print(
        "| users | rows of lists | seconds | CPU seconds | driver | a worker |\n|---|---|---|---|---|---|", flush=True
    )
    for num_users in options.users:
        draw_lake(options.folder, num_users)
        took, cpu, driver, worker = judge(options.folder, options.workers)
        lists = num_users * len(STRATEGIES) * len(QUESTIONS) * LENGTH
        print(
            f"| {num_users:,} | {lists:,} | {took:.0f} | {cpu:.0f} | {driver / 1e6:,.0f} MB | {worker / 1e6:,.0f} MB |",
            flush=True,
        )
    shutil.rmtree(options.folder)


if __name__ == "__main__":
    main()
