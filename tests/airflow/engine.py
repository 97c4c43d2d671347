"""A real Airflow: its own Python, database, scheduler, API server and log, all ended with the test."""

import json
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lib.engines.ports import free_ports
from lib.pipeline import ROOT
from tests.environments import environment
from tests.processes import started, wait_for

DAGS = ROOT / "conf" / "airflow"
START_SECONDS, RUN_SECONDS = 240, 3000
ENDED = ("success", "failed", "skipped", "upstream_failed", "removed")


class Airflow:
    """One installation, its files in a folder of its own."""

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        self.folder = folder
        self.bin = environment("airflow", DAGS / "requirements.lock") / "bin"
        self.port, *log_ports = free_ports(3)
        settings = {
            "CORE__DAGS_FOLDER": str(DAGS),
            "CORE__LOAD_EXAMPLES": "False",
            "CORE__PARALLELISM": "4",
            "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "CORE__DEFAULT_TASK_RETRY_DELAY": "1",
            "API__HOST": "127.0.0.1",
            "API__PORT": str(self.port),
            "API__BASE_URL": f"http://127.0.0.1:{self.port}",
            "API__WORKERS": "1",
            "LOGGING__WORKER_LOG_SERVER_PORT": str(log_ports[0]),
            "LOGGING__TRIGGER_LOG_SERVER_PORT": str(log_ports[1]),
        }
        named = {f"AIRFLOW__{name}": value for name, value in settings.items()}
        given = {f"AIRFLOW_VAR_{name.upper()}": value for name, value in variables.items()}
        places = {"AIRFLOW_HOME": str(folder), "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}"}
        self.environment = {**os.environ, **places, "CARTWHEEL_POOL": "cartwheel", **named, **given}
        self.token = ""

    def run(self, *arguments: str) -> str:
        """What a command of `airflow` prints."""
        command = [str(self.bin / arguments[0]), *arguments[1:]]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @contextmanager
    def started(self, *, slots: int) -> Iterator["Airflow"]:
        """Scheduler, DAG processor and API server meanwhile; so many jobs run at a time."""
        with started(
            [str(self.bin / "airflow"), "standalone"], log=self.folder / "standalone.log", env=self.environment
        ) as process:
            self.process = process
            self._await(self._token, "the API server", START_SECONDS)
            if not self._found("pools/cartwheel"):
                self.api("POST", "pools", name="cartwheel", slots=slots)
            self.switch_on("cartwheel")
            yield self

    def api(self, method: str, path: str, /, **body: Any) -> dict[str, Any]:
        """What the REST API answers."""
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        content = json.dumps(body).encode() if body else None
        address = f"http://127.0.0.1:{self.port}/api/v2/{path}"
        request = urllib.request.Request(address, content, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            told: dict[str, Any] = json.load(answer)
            return told

    def trigger(self, run: str, **params: Any) -> None:
        """Start a run of the pipeline by hand."""
        self.api("POST", "dags/cartwheel/dagRuns", dag_run_id=run, logical_date=None, conf=params)

    def backfill(self, first: str, last: str, *options: str) -> None:
        """Make a backfill of the pipeline's days, one run at a time, as a person types it, for when Airflow is started again.

        Beside a scheduler it could find the database locked: SQLite has one writer at a time.
        """
        command = ("airflow", "backfill", "create", "--dag-id", "cartwheel", "--max-active-runs", "1")
        self.run(*command, "--from-date", first, "--to-date", last, *options)

    def switch_on(self, dag: str) -> None:
        """Let a DAG run by its schedule, once it is there: the run of the last period starts at once."""
        self._await(lambda: self._found(f"dags/{dag}"), f"the DAG {dag}", START_SECONDS)
        self.api("PATCH", f"dags/{dag}", is_paused=False)

    def runs(self, dag: str = "cartwheel") -> list[dict[str, Any]]:
        """The runs of a DAG, in the order of their dates."""
        return list(self.api("GET", f"dags/{dag}/dagRuns?order_by=run_after")["dag_runs"])

    def tasks(self, run: str, dag: str = "cartwheel") -> dict[str, dict[str, Any]]:
        """The tasks of a run, by their names."""
        told = self.api("GET", f"dags/{dag}/dagRuns/{run}/taskInstances")
        return {task["task_id"]: task for task in told["task_instances"]}

    def await_task(self, run: str, task: str, *states: str, dag: str = "cartwheel") -> dict[str, Any]:
        """A task of a run when it is in one of these states, by default when it has ended."""

        def reached() -> dict[str, Any] | None:
            found = self.tasks(run, dag).get(task, {"state": None})
            return found if found["state"] in (states or ENDED) else None

        return self._await(reached, f"{task} of {run}", RUN_SECONDS)

    def await_runs(self, number: int, *states: str, dag: str = "cartwheel") -> list[dict[str, Any]]:
        """The runs of a DAG when so many are there, all in one of these states, by default when they have ended."""

        def reached() -> list[dict[str, Any]] | None:
            runs = self.runs(dag)
            return runs if len(runs) >= number and all(run["state"] in (states or ENDED) for run in runs) else None

        return self._await(reached, f"{number} runs of {dag}", RUN_SECONDS)

    def await_file(self, file: Path) -> str:
        """What a file holds when it is there."""
        return str(self._await(lambda: file.read_text() if file.exists() else None, str(file), START_SECONDS))

    def _await(self, condition: Callable[[], Any], what: str, seconds: float) -> Any:
        return wait_for(condition, seconds=seconds, what=what, started=self.process, poll_seconds=0.5)

    def _token(self) -> str | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/auth/token", timeout=10) as answer:
                self.token = json.load(answer)["access_token"]
        except OSError:
            return None
        return self.token

    def _found(self, path: str) -> dict[str, Any] | None:
        try:
            return self.api("GET", path)
        except urllib.error.HTTPError:
            return None
