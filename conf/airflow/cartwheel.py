"""The pipeline as a DAG of Airflow 3: the jobs, and which follows which, stand in pipeline.json beside this file.

Each task is one command of `cartwheel` in a process of its own, for Airflow lives in another Python than Cartwheel does.

**A daily run** takes what is new, whatever its date. **A backfill** makes each of its UTC days anew: clean and featurize a
day a run, ingest in none, and all other jobs once, in the last. With `from_date` and `to_date` a triggered run does the
same for a range of days at once.

**The exit code** decides: 1 is tried again, 2 and 4 are not, 3 (bad files were set aside) is a success with an alert.

Variables of Airflow (or `AIRFLOW_VAR_CARTWHEEL_COMMAND` and so on in the environment):

- `cartwheel_command`: the command of a job, `{job}` in it its name, in the words of a shell. On one machine:
  `cartwheel run --from {job} --to {job} --lake /mnt/lake --logs /mnt/logs --format rees46`
- `cartwheel_maintain`: the command of the weekly upkeep, such as `cartwheel maintain --lake /mnt/lake`
- `cartwheel_drift`: the command that measures drift, such as `cartwheel submit drift --lake.path /mnt/lake`; where it says that the
  release has drifted, the DAG `cartwheel_drift` starts a run of the pipeline, if that DAG is not paused
- `cartwheel_cancel`: what ends a submission, `{name}` in it, after its task has been ended
- `cartwheel_alert_url`: where an alert is posted, as JSON; unset: it stands in the task's log alone

`CARTWHEEL_POOL` in the environment of the DAG processor names the pool of all tasks: of one slot where jobs run on one
machine, for there one job runs at a time.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import urllib.request
from contextlib import suppress
from datetime import timedelta
from http.client import HTTPException
from pathlib import Path
from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, BaseOperator, Context, CronDataIntervalTimetable, Param, TriggerRule, Variable
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

PIPELINE = json.loads((Path(__file__).parent / "pipeline.json").read_text())
COMMANDS = {
    "cartwheel_command": "cartwheel submit {job} --on kubernetes --wait",
    "cartwheel_maintain": "cartwheel submit maintain --on kubernetes --wait",
    "cartwheel_drift": "cartwheel submit drift --on kubernetes --wait",
    "cartwheel_cancel": "cartwheel cancel {name}",
}
FILES_SET_ASIDE = 3
WRONG_SETTING = 2
NOT_RETRIED = {WRONG_SETTING: "a wrong setting", 4: "the log or a table was refused"}
KILL_SECONDS = 3  # Airflow itself gives a task 5 seconds to end


def command(variable: str, **names: str) -> list[str]:
    """The words of a command that a Variable holds, with the names in it."""
    words = shlex.split(Variable.get(variable, default=COMMANDS[variable]))
    for name, value in names.items():
        words = [word.replace(f"{{{name}}}", value) for word in words]
    return words


def dates(context: Context) -> dict[str, str]:
    """The UTC days that a run makes anew, as flags with their dates, both included; none where it takes what is new."""
    run = context["dag_run"]
    if run.run_type == "backfill":
        return dict.fromkeys(("--from-date", "--to-date"), f"{run.data_interval_start:%Y-%m-%d}")
    given = {"--from-date": context["params"]["from_date"], "--to-date": context["params"]["to_date"]}
    return {flag: date for flag, date in given.items() if date}


def alert(context: Context) -> None:
    """Post what has become of a job.

    No line that it has printed is in it but that of a wrong setting: others may quote a value of the shop's log.
    """
    instance, task = context["ti"], context["task"]
    told = {
        "job": task.task_id,
        "run": instance.run_id,
        "try": instance.try_number,
        "exit_code": getattr(task, "exit_code", None),
        "told": str(context.get("exception") or "done, but bad files were set aside"),
        "log": instance.log_url,
    }
    print(f"alert: {json.dumps(told)}")
    url = Variable.get("cartwheel_alert_url", default=None)
    if url:
        request = urllib.request.Request(url, json.dumps(told).encode(), {"Content-Type": "application/json"})
        try:
            urllib.request.urlopen(request, timeout=10).close()
        except (OSError, ValueError, HTTPException) as error:
            print(f"the alert could not be posted: {error}")


class CommandOperator(BaseOperator):
    """Runs one command and ends as its exit code says; a task that is ended ends its command, and what that submitted."""

    exit_code: int | None = None
    process: "subprocess.Popen[str] | None" = None
    cancel: "list[str] | None" = None
    has_drifted: bool = False

    def words(self, context: Context) -> list[str]:
        """The command."""
        raise NotImplementedError

    def execute(self, context: Context) -> None:
        """Run the command, its output in the task's log.

        Raises:
            AirflowFailException: it cannot be started, or a retry cannot mend how it ended.
            AirflowException: it failed; a retry may help.
        """
        words = self.words(context)
        print(shlex.join(words), flush=True)
        # The jobs need not know where Airflow keeps its records, nor by which password.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "errors": "replace"}
        try:
            self.process = subprocess.Popen(words, env=environment, text=True, start_new_session=True, **pipes)
        except OSError as error:
            raise AirflowFailException(f"{words[0]} cannot be started: {error}") from None
        error = ""
        for line in self.process.stdout or ():
            print(line, end="", flush=True)
            if re.match(r"(error|failed)\b", line):
                error = line.strip()
            self.has_drifted |= re.search(r"release \S+ has drifted: ", line) is not None
            if submitted := re.match(r"submitted ([\w.-]+);", line):
                self.cancel = command("cartwheel_cancel", name=submitted[1])
        self.exit_code = self.process.wait()
        self.cancel = None
        if self.exit_code in NOT_RETRIED:
            which = f": {error}" if self.exit_code == WRONG_SETTING else ""
            raise AirflowFailException(f"exit code {self.exit_code}, {NOT_RETRIED[self.exit_code]}{which}")
        if self.exit_code == FILES_SET_ASIDE:
            self.log.warning("bad files were set aside: they are in bronze/rejects")
            alert(context)
        elif self.exit_code:
            raise AirflowException(f"exit code {self.exit_code}, failed")

    def on_kill(self) -> None:
        """End the command and all that it started, and what it has submitted to a cluster."""
        if self.process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(KILL_SECONDS)
            os.killpg(self.process.pid, signal.SIGKILL)
        if self.cancel:
            subprocess.Popen(self.cancel, start_new_session=True)


class JobOperator(CommandOperator):
    """One job of the pipeline."""

    def __init__(self, *, job: dict[str, Any], **arguments: Any) -> None:
        super().__init__(doc=job["does"], **arguments)
        self.job = job

    def words(self, context: Context) -> list[str]:
        """The job's command, with the run's further settings and, for clean and featurize, its days.

        Raises:
            AirflowSkipException: the job has no part in this run.
        """
        days, instance = dates(context), context["ti"]
        if days and self.job["finds_new_files"]:
            raise AirflowSkipException("a run of given days takes no new files")
        is_backfill = context["dag_run"].run_type == "backfill"
        if is_backfill and not self.job["by_day"] and instance.get_dr_count(self.dag_id, states=["queued"]):
            raise AirflowSkipException("more days are waiting: the last of them makes what is not made by day")
        given = [f"{flag}={date}" for flag, date in days.items()] if self.job["by_day"] else []
        return [*command("cartwheel_command", job=self.job["name"]), *shlex.split(context["params"]["flags"]), *given]


class MaintainOperator(CommandOperator):
    """The upkeep of the lake, while no run of the pipeline is at work."""

    def words(self, context: Context) -> list[str]:
        """The upkeep's command.

        Raises:
            AirflowException: a run is at work; it is tried again later.
        """
        if context["ti"].get_dr_count("cartwheel", states=["running"]):
            raise AirflowException("a run of the pipeline is at work on the lake")
        return command("cartwheel_maintain")


class DriftOperator(CommandOperator):
    """Measures drift; skipped, with what follows, where nothing has drifted."""

    def words(self, context: Context) -> list[str]:
        """The command that measures it."""
        return command("cartwheel_drift")

    def execute(self, context: Context) -> None:
        """Run the command.

        Raises:
            AirflowSkipException: it says of no drift.
        """
        super().execute(context)
        if not self.has_drifted:
            raise AirflowSkipException("the release has not drifted")


EVERY_TASK = {
    "retries": 3,
    "retry_exponential_backoff": 2,  # from [core] default_task_retry_delay on, 5 minutes where nothing else is set
    "max_retry_delay": timedelta(hours=1),
    "pool": os.environ.get("CARTWHEEL_POOL", "default_pool"),
    "on_failure_callback": alert,
}

with DAG(
    "cartwheel",
    description="From the shop's logs to recommendations, a decision policy, creatives and experiments",
    doc_md=__doc__,
    schedule=CronDataIntervalTimetable("0 0 * * *", timezone="UTC"),
    catchup=False,  # a run takes all that is new, however many days have passed
    max_active_runs=1,
    # A backfill has a limit of runs of its own, which this one does not bind: at least no job works twice at a time.
    default_args={**EVERY_TASK, "max_active_tis_per_dag": 1, "trigger_rule": TriggerRule.NONE_FAILED},
    params={
        "from_date": Param(None, type=["null", "string"], format="date", description="first UTC day to be made anew"),
        "to_date": Param(None, type=["null", "string"], format="date", description="the last such day, included"),
        "flags": Param("", type="string", description="further settings, such as --clean.session-gap-minutes=45"),
    },
):
    tasks = {job["name"]: JobOperator(task_id=job["name"], job=job) for job in PIPELINE}
    for job in PIPELINE:
        tasks[job["name"]].set_upstream([tasks[name] for name in job["after"]])

with DAG(
    "cartwheel_maintain",
    description="Brings the lake's small files together and removes what is past its retention",
    schedule=CronDataIntervalTimetable("0 12 * * 0", timezone="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args=EVERY_TASK,
):
    MaintainOperator(task_id="maintain", retries=12)  # for half a day: a run of the pipeline may be long

with DAG(
    "cartwheel_drift",
    description="Measures drift since the release that serves, and has the pipeline run where there is some",
    schedule=CronDataIntervalTimetable("0 6 * * *", timezone="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args=EVERY_TASK,
):
    DriftOperator(task_id="drift") >> TriggerDagRunOperator(task_id="retrain", trigger_dag_id="cartwheel")
