"""A peer beside the job serve: Gorse (https://github.com/gorse-io/gorse), all of it in one process, its tables and lists in SQLite.

Its binary is built from Go's registry: `go build github.com/zhenghaoz/gorse/cmd/gorse-in-one` in a module that requires v0.4.15, with
that module's own `replace` lines. It answers from lists that it has made before; an event is stored, hides its item, and counts for lists when
they are made the next time.
"""

import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.synthetic_release import EVENTS
from lib.engines.ports import free_ports

NAME = "Gorse 0.4.15"
LISTS = "Generate offline recommendation"
MADE_SECONDS = 1500  # that its lists may take
AT_ONCE = 10_000  # rows in a request
CONFIG = """
[database]
data_store = "sqlite://{folder}/data.db"
cache_store = "sqlite://{folder}/cache.db"
[master]
port = {rpc}
host = "127.0.0.1"
http_port = {port}
http_host = "127.0.0.1"
n_jobs = 2
[server]
default_n = 10
[recommend]
cache_size = 100
[recommend.data_source]
positive_feedback_types = ["purchase", "view"]
read_feedback_types = ["impression"]
[recommend.collaborative]
model_fit_epoch = 20
model_search_epoch = 1
model_search_trials = 1
model_search_period = "10h"
[recommend.offline]
enable_collaborative_recommend = true
refresh_recommend_period = "24h"
[recommend.online]
fallback_recommend = ["item_based", "latest"]
"""


@contextmanager
def peer(binary: Path, folder: Path, *, users: int, items: int) -> Iterator[int]:
    """Gorse on a free port, with lists of all users of a random log; its port."""
    rpc, port = free_ports(2)
    (folder / "config.toml").write_text(CONFIG.format(folder=folder, rpc=rpc, port=port))
    with running(binary, folder, port):
        fill(port, users, items)
    with running(binary, folder, port):  # it reads its tables when it starts
        until_lists_are_made(port, users)
        yield port


@contextmanager
def running(binary: Path, folder: Path, port: int) -> Iterator[None]:
    """The process."""
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen([binary, "--config", folder / "config.toml"], stdout=log, stderr=log, cwd=folder)
    try:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with suppress(urllib.error.URLError, OSError):
                call(port, "/api/dashboard/stats")
                break
            time.sleep(0.5)
        yield
    finally:
        process.terminate()
        process.wait(60)


def fill(port: int, users: int, items: int) -> None:
    """Items, users, and EVENTS events of each user, on popular items more often."""
    draw = np.random.default_rng(0)
    popularity = draw.zipf(1.3, items).clip(max=100_000).astype(float)
    share = popularity / popularity.sum()
    when = "2025-12-{:02d}T00:00:00Z"
    catalogue = [{"ItemId": f"i{number:08d}", "Timestamp": when.format(1)} for number in range(items)]
    events = [
        {
            "FeedbackType": "purchase" if draw.random() < 0.2 else "view",
            "UserId": f"u{user}",
            "ItemId": f"i{item:08d}",
            "Timestamp": when.format(draw.integers(1, 29)),
        }
        for user in range(users)
        for item in draw.choice(items, EVENTS, p=share)
    ]
    for path, rows in (("/api/items", catalogue), ("/api/feedback", events)):
        for first in range(0, len(rows), AT_ONCE):
            call(port, path, rows[first : first + AT_ONCE])


def until_lists_are_made(port: int, users: int) -> None:
    """Wait for the lists of all users.

    Raises:
        RuntimeError: they are not made in time.
    """
    until, is_begun = time.monotonic() + MADE_SECONDS, False
    while time.monotonic() < until:
        tasks = {task["Name"]: task for task in call(port, "/api/dashboard/tasks")}
        status = tasks.get(LISTS, {}).get("Status")
        is_begun |= status == "Running"
        if is_begun and status == "Complete":
            return
        time.sleep(2)
    raise RuntimeError(f"{NAME} has made no lists of {users} users in {MADE_SECONDS} s")


def call(port: int, path: str, body: Any = None) -> Any:
    """An answer of its interface."""
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", content, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.load(answer)
