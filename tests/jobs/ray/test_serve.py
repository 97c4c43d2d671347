"""The serve job in a real Ray Serve behind HAProxy: it answers over the network, changes releases under load, ends when it is told to."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests

from lib.cli.jobs import load_job
from lib.engines.ports import free_ports
from lib.lake.lake import Lake
from lib.online.open_state import open_state
from lib.pipeline import JOBS, ROOT
from lib.runs.errors import SettingError
from lib.settings import LiveSettings
from tests.lib.serving.served import AS_OF, MAPPING, publish, small_release

TOKEN = "a-token-of-a-test-0001"
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
PERSON = "a.very.secret.person@example.org"
START_SECONDS, CHANGE_SECONDS = 90, 20


class Server(NamedTuple):
    """A server that runs."""

    folder: Path
    lake: Lake
    process: subprocess.Popen[str]
    url: str
    began: float

    def ask(self, **question: Any) -> requests.Response:
        return self.post("/recommendations", question)

    def post(self, path: str, body: Any) -> requests.Response:
        return requests.post(f"{self.url}{path}", json=body, headers=AUTHORIZED, timeout=20)

    def get(self, path: str) -> requests.Response:
        return requests.get(f"{self.url}{path}", headers=AUTHORIZED, timeout=20)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("serve")
    lake, (port,) = Lake(str(folder / "lake")), free_ports(1)
    publish(lake, small_release())
    (folder / "live.yaml").write_text(MAPPING)
    (folder / "tokens").write_text(TOKEN)
    flags = {
        "lake.path": lake.path,
        "log.path": folder / "log",
        "log.format": folder / "live.yaml",
        "serve.port": port,
        "serve.token-file": folder / "tokens",
        "serve.look-seconds": 0.2,
        "serve.starts-at": AS_OF.isoformat(),
        "serve.num-replicas": 2,
        "cluster.num-workers": 1,
    }
    command = [sys.executable, "jobs/ray/serve.py", *(f"--{name}={value}" for name, value in flags.items())]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)}
    environment.pop("RAY_ADDRESS", None)
    told, began = (folder / "told").open("w"), time.time()
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=told, stderr=told, text=True) as process:
        server = Server(folder, lake, process, f"http://127.0.0.1:{port}", began)
        try:
            wait_for(lambda: answers(server), START_SECONDS, (folder / "told").read_text)
            yield server
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            finally:
                process.kill()


def answers(server: Server) -> bool:
    try:
        return server.get("/healthz").status_code == 200
    except requests.RequestException:
        return False


def wait_for(holds: Any, seconds: float, told: Any = lambda: "") -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, told()[-3000:]
        time.sleep(0.05)


@pytest.mark.slow
def test_events_that_one_replica_takes_change_what_the_other_answers(server: Server) -> None:
    before = [server.ask(user_id=PERSON).json() for _ in range(6)]
    assert {one["policy"] for one in before} == {"popular"} and {one["release"] for one in before} == {"first"}
    sent = server.post("/events", {"user_id": PERSON, "item_id": "i00000007", "event_type": "view"})
    assert sent.status_code == 200, sent.text
    after = [server.ask(user_id=PERSON).json() for _ in range(6)]
    assert {one["policy"] for one in after} == {"ranked+visit"}
    assert len({tuple(item["item_id"] for item in one["items"]) for one in after}) == 1
    assert server.post("/events", {"user_id": PERSON}).status_code == 422
    assert requests.post(f"{server.url}/events", json={}, timeout=20).status_code == 401
    page = requests.get(f"{server.url}/", timeout=20)
    assert "<h1>Live shop</h1>" in page.text and "sha256-" in page.headers["Content-Security-Policy"]
    assert "app;dur=" in page.headers["Server-Timing"]
    assert server.get("/openapi.json").json()["paths"].keys() >= {"/recommendations", "/events", "/ads"}


@pytest.mark.slow
def test_releases_change_under_load_and_no_request_is_dropped(server: Server) -> None:
    statuses: list[int] = []
    releases: list[str] = []
    ended = threading.Event()

    def ask() -> None:
        with requests.Session() as http:
            http.headers.update(AUTHORIZED)
            while not ended.is_set():
                found = http.post(f"{server.url}/recommendations", json={"user_id": "bob", "k": 5}, timeout=20)
                statuses.append(found.status_code)
                releases.append(found.json().get("release", ""))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for one in threads:
        one.start()
    state = open_state(LiveSettings(), server.lake.path)
    try:
        for number, version in enumerate(("second", "third"), start=1):
            state.set_release(version, publish(server.lake, small_release(version, number)))
            wait_for(lambda version=version: releases[-8:] == [version] * 8, CHANGE_SECONDS)
    finally:
        ended.set()
        for one in threads:
            one.join()
        state.close()
    assert set(statuses) == {200} and len(statuses) > 20
    assert list(dict.fromkeys(releases))[-1] == "third" and set(releases) <= {"first", "second", "third"}


@pytest.mark.slow
def test_it_ends_when_it_is_told_to_with_its_files_finished_and_nobody_named_in_a_log(server: Server) -> None:
    sent = server.post("/events", {"user_id": PERSON, "item_id": "i00000008", "event_type": "cart"})
    assert sent.status_code == 200
    of_ray = [folder for folder in Path("/tmp").glob("ray-*") if folder.stat().st_mtime > server.began]
    logs = [file for folder in of_ray for file in folder.glob("session_*/logs/**/*") if file.is_file()]
    assert any("replica" in file.name for file in logs), [file.name for file in logs]
    assert [file for file in logs if PERSON.encode() in file.read_bytes()] == []
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(40) == 0, (server.folder / "told").read_text()[-3000:]
    files = [file for file in (server.folder / "log").rglob("*") if file.is_file()]
    assert files and all(file.suffix == ".jsonl" for file in files)
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert sum(row.get("user") == PERSON and row["kind"] in ("view", "cart") for row in rows) == 2
    others = [file for file in server.folder.rglob("*") if file.is_file() and file not in files]
    assert [file for file in others if PERSON.encode() in file.read_bytes()] == []
    assert "has ended" in (server.folder / "told").read_text()


@pytest.mark.bad_input("a server without tokens")
def test_it_does_not_start_without_tokens_or_with_a_log_that_it_cannot_write(tmp_path: Path) -> None:
    job = load_job(JOBS["serve"])
    with pytest.raises(SettingError, match=r"set serve.token_variable or serve.token_file, or serve.allow_anonymous"):
        job.main(job.ServeSettings(lake={"path": str(tmp_path)}))
    log = {"format": "online_retail"}
    with pytest.raises(
        ValueError, match=r"online_retail: a live log in files is written as JSON lines.*with live.kafka"
    ):
        job.main(job.ServeSettings(lake={"path": str(tmp_path)}, log=log, allow_anonymous=True))
    assert list(tmp_path.iterdir()) == []
