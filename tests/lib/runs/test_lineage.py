"""Events of runs, as a server of this machine receives them, and what a server costs that is down."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import openlineage.client  # noqa: F401 - its import may take seconds, which a job need not wait for, but a test's server does
import pytest

from lib.runs import history
from lib.runs.lineage import WAIT_SECONDS
from lib.runs.run import start_run
from lib.settings import JobSettings
from lib.tables import contract
from tests.lakes import SmallLake, arrow_rows

RESULT = {"experiment": "x", "arm": "a", "control": "b", "metric": "ctr", "num_arm": 1, "num_control": 1}
RESULT |= {"verdict": "undecided", "reason": "too few"}
WARNING = "experiment     the lineage server was not told of all of this run: "


class ExperimentSettings(JobSettings):
    """Of the job that reads silver/events and writes gold/experiments."""


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """The events that a server gets, which the environment names."""
    events: list[dict[str, Any]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            events.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(201)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """It says nothing."""

    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("OPENLINEAGE__TRANSPORT__TYPE", "http")
        monkeypatch.setenv("OPENLINEAGE__TRANSPORT__URL", f"http://127.0.0.1:{server.server_port}")
        yield events
        server.shutdown()


def run_once(lake: SmallLake, error: Exception | None = None) -> None:
    with start_run("experiment", ExperimentSettings(**lake.shared_settings)) as run:
        run.commit_arrow("gold/experiments", arrow_rows(contract("gold/experiments"), RESULT))
        if error:
            raise error


def test_a_run_tells_its_start_and_end_with_tables_versions_and_rows(
    small_lake: SmallLake, received: list[dict[str, Any]]
) -> None:
    run_once(small_lake)
    lake = small_lake.lake
    start, end = received
    assert [event["eventType"] for event in received] == ["START", "COMPLETE"]
    assert start["run"]["runId"] == end["run"]["runId"]
    assert (end["job"]["namespace"], end["job"]["name"]) == (lake.path, "experiment")
    (read,), (wrote,) = end["inputs"], end["outputs"]
    assert (read["namespace"], read["name"]) == (lake.path, "silver/events")
    assert read["facets"]["version"]["datasetVersion"] == str(lake.data_version("silver/events"))
    assert (wrote["namespace"], wrote["name"]) == (lake.path, "gold/experiments")
    assert wrote["outputFacets"]["outputStatistics"]["rowCount"] == 1


def test_a_run_that_failed_says_so_without_a_value_and_is_the_same_run_when_it_is_taken_up(
    small_lake: SmallLake, received: list[dict[str, Any]]
) -> None:
    with pytest.raises(KeyError):
        run_once(small_lake, KeyError("ann@shop"))
    run_once(small_lake)
    assert [event["eventType"] for event in received] == ["START", "FAIL", "START", "COMPLETE"]
    assert received[1]["run"]["facets"]["errorMessage"]["message"] == "KeyError"
    assert len({event["run"]["runId"] for event in received}) == 1
    assert "ann@shop" not in json.dumps(received)


@pytest.mark.parametrize("trouble", ["down", "silent", "wrong"])
def test_a_lineage_server_that_does_not_answer_costs_seconds_and_one_line(
    trouble: str, small_lake: SmallLake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listens:
        address = f"http://127.0.0.1:{listens.getsockname()[1]}"
        if trouble == "down":
            listens.close()
        monkeypatch.setenv("OPENLINEAGE__TRANSPORT__TYPE", "http")
        monkeypatch.setenv("OPENLINEAGE__TRANSPORT__URL", "no address" if trouble == "wrong" else address)
        began = time.monotonic()
        run_once(small_lake)
        assert time.monotonic() - began < WAIT_SECONDS + 3
    assert [row["status"] for row in history.runs(small_lake.lake)] == ["done"]
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith(WARNING)]
    assert warnings == [f"{WARNING}{'ValueError' if trouble == 'wrong' else f'no answer in {WAIT_SECONDS:g} s'}"]
