"""Which commands Airflow runs and what it makes of their ends, with a script that ends with the exit code that its job is told."""

import json
import shlex
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from lib.pipeline import PIPELINE, jobs_before
from tests.airflow.engine import Airflow
from tests.processes import await_end

TASKS = {job.name: job for job in PIPELINE if not job.makes_log}
GAP = "--clean.session-gap-minutes=45"
pytestmark = [pytest.mark.slow, pytest.mark.airflow]
# `--clean=1,0`: clean ends with 1 at its first try and 0 at its second. `--clean=sleep` starts another process and stays.
SCRIPT = """
import json, os, subprocess, sys, time
from pathlib import Path
job, folder, flags = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
print(f"{job} says {flags}", *(name for name in os.environ if name.startswith("AIRFLOW")), flush=True)
with (folder / "calls").open("a") as calls:
    calls.write(json.dumps([job, *flags]) + "\\n")
ends = next((flag.partition("=")[2] for flag in flags if flag.startswith(f"--{job}=")), "0").split(",")
if ends == ["sleep"]:
    child = subprocess.Popen(["sleep", "1000"])
    print(f"submitted {job}-x; it goes on", flush=True)
    (folder / "pids.part").write_text(json.dumps([os.getpid(), child.pid]))
    (folder / "pids.part").rename(folder / "pids")
    time.sleep(1000)
print("error: it is the key\\nall output: elsewhere", flush=True)
tries = sum(json.loads(line) == [job, *flags] for line in (folder / "calls").open())
sys.exit(int(ends[min(tries, len(ends)) - 1]))
"""


class Engine:
    """The Airflow, where its script keeps what it has done, and the alerts that have come."""

    def __init__(self, airflow: Airflow, folder: Path, alerts: list[dict[str, Any]]) -> None:
        self.airflow, self.folder, self.alerts = airflow, folder, alerts

    def calls(self) -> list[list[str]]:
        """Each command so far: its job and its flags."""
        return [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]

    def calls_since(self, number: int) -> dict[str, list[list[str]]]:
        """The flags of each command of each job after so many commands."""
        found: dict[str, list[list[str]]] = {}
        for job, *flags in self.calls()[number:]:
            found.setdefault(job, []).append(flags)
        return found

    def runs(self, kind: str) -> list[dict[str, Any]]:
        """The pipeline's runs of a kind."""
        return [run for run in self.airflow.runs() if run["run_type"] == kind]

    def alerts_of(self, run: str) -> list[dict[str, Any]]:
        return [alert for alert in self.alerts if alert["run"] == run]


@contextmanager
def webhook(alerts: list[dict[str, Any]]) -> Iterator[str]:
    """The address of an HTTP server that keeps what is posted."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            alerts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/alerts"
        server.shutdown()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("exit_codes")
    (folder / "script.py").write_text(SCRIPT)
    alerts: list[dict[str, Any]] = []
    with webhook(alerts) as url:
        script = shlex.join([sys.executable, str(folder / "script.py"), "{job}", str(folder)])
        variables = {
            "cartwheel_command": script,
            "cartwheel_maintain": script.replace("{job}", "maintain"),
            "cartwheel_cancel": f"touch {folder}/cancelled-{{name}}",
            "cartwheel_alert_url": url,
        }
        airflow = Airflow(folder / "airflow", variables)
        with airflow.started(slots=2):
            airflow.await_runs(1)
        airflow.backfill("2024-03-03", "2024-03-04", "--dag-run-conf", json.dumps({"flags": GAP}))
        with airflow.started(slots=2):
            airflow.await_runs(3)
            yield Engine(airflow, folder, alerts)


def test_a_daily_run_is_every_job_once_in_order_with_no_flag(engine: Engine) -> None:
    (run,) = engine.runs("scheduled")
    assert run["state"] == "success"
    order = [job for job, *flags in engine.calls()[: len(TASKS)] if not flags]
    assert sorted(order) == sorted(TASKS)
    assert all(order.index(before) < order.index(name) for name, job in TASKS.items() for before in jobs_before(job))
    assert engine.alerts == []


def test_a_backfill_makes_its_days_one_after_the_other_and_the_rest_once_after_the_last(engine: Engine) -> None:
    days = engine.runs("backfill")
    assert [run["state"] for run in days] == ["success", "success"]
    calls = engine.calls_since(len(TASKS))
    by_day = [[GAP, f"--from-date=2024-03-0{day}", f"--to-date=2024-03-0{day}"] for day in (3, 4)]
    assert calls.pop("clean") == calls.pop("featurize") == by_day
    assert calls == {name: [[GAP]] for name, job in TASKS.items() if not (job.finds_new_files or job.by_day)}
    assert all(engine.airflow.tasks(run["dag_run_id"])["ingest"]["state"] == "skipped" for run in days)


def test_a_run_of_given_days_makes_them_at_once(engine: Engine) -> None:
    before = len(engine.calls())
    engine.airflow.trigger("range", from_date="2024-03-03", to_date="2024-03-05")
    assert engine.airflow.await_task("range", "report")["state"] == "success"
    calls = engine.calls_since(before)
    days = [["--from-date=2024-03-03", "--to-date=2024-03-05"]]
    assert calls == {name: days if job.by_day else [[]] for name, job in TASKS.items() if not job.finds_new_files}
    assert engine.airflow.tasks("range")["ingest"]["state"] == "skipped"


def test_1_is_tried_again_and_2_is_not_and_nothing_after_it_runs(engine: Engine) -> None:
    engine.airflow.trigger("wrong", flags="--ingest=1,1,0 --clean=2")
    clean = engine.airflow.await_task("wrong", "clean")
    tasks = engine.airflow.tasks("wrong")
    assert (tasks["ingest"]["state"], tasks["ingest"]["try_number"]) == ("success", 3)
    assert (clean["state"], clean["try_number"]) == ("failed", 1)
    assert engine.airflow.await_task("wrong", "report")["state"] == "upstream_failed"
    assert ["featurize", "--ingest=1,1,0", "--clean=2"] not in engine.calls()
    (alert,) = engine.alerts_of("wrong")  # none for a try that another one follows
    assert (alert["job"], alert["exit_code"], alert["try"]) == ("clean", 2, 1)
    assert alert["told"] == "exit code 2, a wrong setting: error: it is the key"
    assert alert["log"].startswith(engine.airflow.environment["AIRFLOW__API__BASE_URL"])


def test_3_is_a_success_that_alerts_and_4_is_not_tried_again_nor_is_a_line_of_the_log_sent(engine: Engine) -> None:
    engine.airflow.trigger("refused", flags="--ingest=3 --clean=4")
    clean = engine.airflow.await_task("refused", "clean")
    assert (clean["state"], clean["try_number"]) == ("failed", 1)
    ingest = engine.airflow.tasks("refused")["ingest"]
    assert (ingest["state"], ingest["try_number"]) == ("success", 1)
    warned, refused = engine.alerts_of("refused")
    assert (warned["job"], warned["exit_code"]) == ("ingest", 3)
    assert warned["told"] == "done, but bad files were set aside"
    assert (refused["job"], refused["exit_code"]) == ("clean", 4)
    assert refused["told"] == "exit code 4, the log or a table was refused"


def test_tries_end_at_last_and_then_there_is_one_alert(engine: Engine) -> None:
    engine.airflow.trigger("hopeless", flags="--ingest=1")
    ingest = engine.airflow.await_task("hopeless", "ingest", "failed", "success")
    assert (ingest["state"], ingest["try_number"]) == ("failed", 4)
    (alert,) = engine.alerts_of("hopeless")
    assert (alert["job"], alert["exit_code"], alert["try"]) == ("ingest", 1, 4)


def test_upkeep_waits_for_a_run_and_a_task_that_is_ended_ends_its_command_and_what_that_submitted(
    engine: Engine,
) -> None:
    engine.airflow.trigger("ended", flags="--ingest=sleep")
    engine.airflow.await_task("ended", "ingest", "running")
    pids = engine.airflow.await_file(engine.folder / "pids")
    upkeep = "cartwheel_maintain"
    engine.airflow.switch_on(upkeep)
    run = engine.airflow.await_runs(1, "running", dag=upkeep)[0]["dag_run_id"]
    engine.airflow.await_task(run, "maintain", "up_for_retry", dag=upkeep)
    assert ["maintain"] not in engine.calls()
    engine.airflow.api("PATCH", "dags/cartwheel/dagRuns/ended", state="failed")
    assert await_end(json.loads(pids))
    engine.airflow.await_file(engine.folder / "cancelled-ingest-x")
    assert engine.airflow.await_task(run, "maintain", dag=upkeep)["state"] == "success"
    assert engine.calls()[-1] == ["maintain"]


def test_the_log_holds_the_command_and_what_it_says_and_the_command_knows_nothing_of_airflow(engine: Engine) -> None:
    log = json.dumps(engine.airflow.api("GET", "dags/cartwheel/dagRuns/wrong/taskInstances/clean/logs/1"))
    assert "clean says ['--ingest=1,1,0', '--clean=2']\"" in log
