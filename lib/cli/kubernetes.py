"""What the command line does on Kubernetes: submit, status, logs and cancel."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import yaml
from rich.table import Table as Grid

from lib.cli import submit as submitting
from lib.cli.jobs import settings_class
from lib.kubernetes import submission as jobs
from lib.kubernetes.cluster import Cluster
from lib.kubernetes.pods import Submission
from lib.kubernetes.spark_application import spark_submit
from lib.online.open_state import REDIS
from lib.pipeline import ROOT, Job
from lib.runs.errors import ExitCode, RetryableError, SettingError
from lib.runs.logs import error_in, say_again
from lib.settings import flags_of, kubernetes_settings

TEMPLATES = ROOT / "dist" / "kubernetes"  # what spark-submit reads of a submission
Show = Callable[[str], object]


def submit(
    job: Job,
    arguments: Sequence[str],
    *,
    way: str,
    schedule: str | None,
    wait: bool,
    dry_run: bool,
    show: Show,
) -> int:
    """Submit a job, by its operator or by spark-submit; returns once it runs or queues, or with `wait` its exit code.

    With `dry_run` the manifest or command is printed, and no cluster is asked.

    Raises:
        SettingError: something that the submission needs is missing or refused; nothing is left of it.
        RetryableError: the cluster does not answer, or has no room in a quota.
    """
    settings: Any = settings_class(job).read([*arguments])
    ends, variables = bool(getattr(settings, "available_now", False)), ()
    if job.goes_on:
        require_live(settings)
        variables = tuple(filter(None, [getattr(settings, "token_variable", None)]))
    submission = jobs.new_submission(
        job, flags_of(job.name, arguments), settings.kubernetes, ends=ends, variables=variables
    )
    if wait and job.engine == "ray" and submission.goes_on:
        raise SettingError(f"{job.name} goes on until it is cancelled: there is nothing to --wait for")
    by_spark_submit = way == "spark-submit"
    if by_spark_submit and (job.engine != "spark" or schedule is not None):
        raise ValueError(f"--with spark-submit starts Spark jobs, once; {job.name} needs --with operator")
    if dry_run:
        print(_command(submission) if by_spark_submit else _manifest(submission, schedule))
        return ExitCode.DONE
    cluster = Cluster.of(settings.kubernetes)
    if by_spark_submit:
        _by_spark_submit(cluster, submission)
    else:
        manifest = jobs.manifest_of(submission, schedule)
        jobs.require(cluster, submission, manifest)
        jobs.start(cluster, manifest, goes_on=submission.goes_on)
    look = "status" if submission.goes_on else f"logs {submission.name} --follow"
    show(f"submitted {submission.name}; cartwheel {look}")
    progress = jobs.await_start(cluster, submission.name, show)
    show(f"{progress.state}{': ' + progress.told if progress.told else ''}")
    if not wait:
        return ExitCode.FAILED if progress.state == "failed" else ExitCode.DONE
    return follow(cluster, submission.name, show)


def follow(cluster: Cluster, name: str, show: Show) -> int:
    """Show what a job prints until it ends, and how it ended; returns its exit code."""
    require_log(jobs.find(cluster, name))
    code, progress = jobs.follow(cluster, name, _shown(show))
    show(f"{name} {progress.state}{': ' + progress.told if progress.told else ''}")
    return code


def show_log(cluster: Cluster, name: str, show: Show) -> None:
    """Show what a job has printed so far.

    Raises:
        RetryableError: it has not started.
    """
    submitted = jobs.find(cluster, name)
    require_log(submitted)
    pods = jobs.pods_of(cluster, submitted)
    main = jobs.main_pod(pods)
    if main is None or main["status"]["phase"] == "Pending":
        progress = jobs.progress_of(cluster, submitted, pods)
        raise RetryableError(f"{name} has printed nothing yet: {progress.state} {progress.told}".rstrip())
    say = _shown(show)
    for line in jobs.lines_of(cluster, main, follow=False):
        say(line)


def require_log(submitted: dict[str, Any]) -> None:
    """Check that something prints what a submission says.

    Raises:
        SettingError: it is Ray Serve, whose replicas write files.
    """
    if submitted["kind"] == "RayService":
        raise SettingError(
            f"what the replicas of {jobs.name_of(submitted)} say is in /tmp/ray/session_latest/logs/serve of its pods: kubectl exec"
        )


def require_live(settings: Any) -> None:
    """Check that the stream or the server would find in pods what it needs there.

    Raises:
        SettingError: a setting is missing, or names a file, which no pod has.
    """
    live, serves = settings.live, settings.job == "serve"
    where = f"{settings.job} on Kubernetes"
    if live.kafka is None and (serves or settings.log.path is None):
        other = "" if serves else ", or log.path to a folder on the store into which files come"
        raise SettingError(f"{where} needs the live log: set live.kafka to Kafka's bootstrap servers{other}")
    for name in ("kafka_ca", "kafka_certificate"):
        if getattr(live, name) is not None:
            raise SettingError(
                f"live.{name}: no pod has that file; what an image's own certificates vouch for needs none"
            )
    keeps_state = serves or (settings.keep_state and live.kafka is not None)
    if keeps_state and not str(live.state).startswith(REDIS):
        raise SettingError(f"{where} keeps the online state in a Redis: set live.state to redis://host:6379/0")
    if serves and settings.token_file is not None:
        raise SettingError(
            f"{where} has no file of tokens: give them to a Secret and name its key by serve.token_variable"
        )
    if serves and settings.token_variable is None and not settings.allow_anonymous:
        raise SettingError(
            f"{where} answers nobody without tokens: name the Secret's key that holds them by serve.token_variable, "
            "or set serve.allow_anonymous"
        )


def cancel(cluster: Cluster, name: str) -> None:
    """End a job and remove its pods; what it has committed stays."""
    submitted = jobs.find(cluster, name)
    cluster.delete(submitted["kind"], submitted["metadata"]["name"])


def status(cluster: Cluster) -> Grid:
    """What was submitted and is still known, the newest first."""
    grid = Grid("name", "job", "state", "since", "what else", box=None)
    for submitted in jobs.everything(cluster):
        progress = jobs.progress_of(cluster, submitted, jobs.pods_of(cluster, submitted))
        since = datetime.fromisoformat(submitted["metadata"]["creationTimestamp"]).astimezone(UTC)
        words = (
            jobs.name_of(submitted),
            jobs.job_of(submitted),
            progress.state,
            f"{since:%Y-%m-%d %H:%M}Z",
            progress.told,
        )
        grid.add_row(*words)
    return grid


def cluster_of(arguments: Sequence[str]) -> Cluster:
    """The cluster that flags, the environment and `--config FILE` name.

    Raises:
        SettingError: none is found.
    """
    return Cluster.of(kubernetes_settings([*arguments]))


def _manifest(submission: Submission, schedule: str | None) -> str:
    manifest = json.loads(json.dumps(jobs.manifest_of(submission, schedule)))  # no part stands for another
    return yaml.dump(manifest, Dumper=_Dumper, sort_keys=False).rstrip()


class _Dumper(yaml.SafeDumper):
    """Writes a text of several lines, such as a manifest in a manifest, as lines."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _command(submission: Submission) -> str:
    return shlex.join(spark_submit(submission, "https://API-SERVER", TEMPLATES))


def _by_spark_submit(cluster: Cluster, submission: Submission) -> None:
    command = spark_submit(submission, cluster.server, TEMPLATES)
    submitting.require_java()
    jobs.require(cluster, submission, None)
    ended = subprocess.run(command, cwd=ROOT, env=submitting.environment(), check=False, capture_output=True, text=True)
    if ended.returncode:
        sys.stderr.write(ended.stderr)
        raise RetryableError(f"spark-submit ended with exit code {ended.returncode}; it says why above")


def _shown(show: Show) -> Callable[[str], None]:
    """Show a job's own lines as every job's, and leave out those of the engines."""

    def say(line: str) -> None:
        if not say_again(line) and error_in(line) is not None:
            show(line)

    return say
