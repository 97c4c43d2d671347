"""What the command line does on Kubernetes: submit, status, logs and cancel."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import yaml
from rich.table import Table as Grid

from lib.cli import submit as submitting
from lib.cli.jobs import settings_class
from lib.kubernetes import submission as jobs
from lib.kubernetes.cluster import Cluster
from lib.kubernetes.pods import Submission
from lib.kubernetes.spark_application import spark_submit
from lib.pipeline import ROOT, Job
from lib.runs.errors import ExitCode, RetryableError
from lib.runs.logs import say_again
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
    settings = settings_class(job).read([*arguments])
    submission = jobs.new_submission(job, flags_of(job.name, arguments), settings.kubernetes)
    if way == "spark-submit":
        if job.engine != "spark" or schedule is not None:
            raise ValueError(f"--with spark-submit starts Spark jobs, once; {job.name} needs --with operator")
        _by_spark_submit(submission, dry_run=dry_run)
    else:
        _by_operator(submission, schedule, dry_run=dry_run)
    if dry_run:
        return ExitCode.DONE
    cluster = Cluster.of(settings.kubernetes)
    show(f"submitted {submission.name}; cartwheel logs {submission.name} --follow")
    progress = jobs.await_start(cluster, submission.name, show)
    show(f"{progress.state}{': ' + progress.told if progress.told else ''}")
    if not wait:
        return ExitCode.FAILED if progress.state == "failed" else ExitCode.DONE
    return follow(cluster, submission.name, show)


def follow(cluster: Cluster, name: str, show: Show) -> int:
    """Show what a job prints until it ends, and how it ended; returns its exit code."""
    code = jobs.follow(cluster, name, _shown(show))
    progress = jobs.progress_of(cluster, jobs.find(cluster, name))
    show(f"{name} {progress.state}{': ' + progress.told if progress.told else ''}")
    return code


def show_log(cluster: Cluster, name: str, show: Show) -> None:
    """Show what a job has printed so far.

    Raises:
        RetryableError: it has not started.
    """
    submitted = jobs.find(cluster, name)
    main = jobs.main_pod(cluster.submitted("Pod", name))
    if main is None or main["status"]["phase"] == "Pending":
        progress = jobs.progress_of(cluster, submitted)
        raise RetryableError(f"{name} has printed nothing yet: {progress.state} {progress.told}".rstrip())
    for line in jobs.lines_of(cluster, main, follow=False):
        _shown(show)(line)


def cancel(cluster: Cluster, name: str) -> None:
    """End a job and remove its pods; what it has committed stays."""
    submitted = jobs.find(cluster, name)
    cluster.delete(submitted["kind"], submitted["metadata"]["name"])


def status(cluster: Cluster) -> Grid:
    """What was submitted and is still known, the newest first."""
    grid = Grid("name", "job", "state", "since", "what else", box=None)
    for submitted in jobs.everything(cluster):
        progress = jobs.progress_of(cluster, submitted)
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


def _by_operator(submission: Submission, schedule: str | None, *, dry_run: bool) -> None:
    manifest = jobs.manifest_of(submission, schedule)
    if dry_run:
        print(yaml.safe_dump(json.loads(json.dumps(manifest)), sort_keys=False), end="")  # no part stands for another
        return
    cluster = Cluster.of(submission.settings)
    jobs.require(cluster, submission, manifest)
    cluster.create(manifest)


def _by_spark_submit(submission: Submission, *, dry_run: bool) -> None:
    cluster = None if dry_run else Cluster.of(submission.settings)
    command = spark_submit(submission, cluster.server if cluster else "https://API-SERVER", TEMPLATES)
    if cluster is None:
        print(shlex.join(command))
        return
    submitting.require_java()
    jobs.require(cluster, submission, None)
    ended = subprocess.run(command, cwd=ROOT, env=submitting.environment(), check=False, capture_output=True, text=True)
    if ended.returncode:
        sys.stderr.write(ended.stderr)
        raise RetryableError(f"spark-submit ended with exit code {ended.returncode}; it says why above")


def _shown(show: Show) -> Callable[[str], None]:
    """Show a job's own lines as every job's, and leave out those of the engines."""

    def say(line: str) -> None:
        if not say_again(line) and line.startswith("error: "):
            show(line)

    return say
