"""Submit a job to a cluster, see how it goes, read what it prints, and end it."""

import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from lib.kubernetes.cluster import KINDS, Cluster
from lib.kubernetes.plain_job import ACCOUNT, plain_job
from lib.kubernetes.pods import INSTANCE_LABEL, NAME_LABEL, Submission, resources, template
from lib.kubernetes.ray_job import HEAD_ACCOUNT, ray_job
from lib.kubernetes.ray_service import ray_service
from lib.kubernetes.spark_application import DRIVER_ACCOUNT, scheduled_spark_application, spark_application
from lib.kubernetes.troubles import end_of, in_one_line, trouble_of, waiting_for, warning_of
from lib.pipeline import Job
from lib.runs.errors import RETRY_IS_IN_VAIN, ExitCode, RetryableError, SettingError
from lib.settings import KubernetesSettings

POLL_SECONDS = 1.0
STUCK_SECONDS = 20.0  # a fetch of an image that failed once may succeed the next time
MAIN_CONTAINERS = ("spark-kubernetes-driver", "ray-job-submitter", "job")  # of the pods that print what a job says
State = Literal["queued", "starting", "running", "retrying", "done", "failed", "scheduled"]
FINAL = ("done", "failed", "scheduled")


@dataclass(frozen=True)
class Progress:
    """How a submission goes: a word, and what else its user should know."""

    state: State
    told: str = ""


HELD_BACK = Progress("queued", "held back by its queue until there is room")


def new_submission(
    job: Job,
    arguments: Sequence[str],
    settings: KubernetesSettings,
    *,
    ends: bool = False,
    variables: tuple[str, ...] = (),
) -> Submission:
    """A submission with a name of its own; what goes on has its job's, so that there is one of it in a namespace."""
    name = job.name.replace("_", "-")
    if not job.goes_on or ends:
        name += f"-{datetime.now(UTC):%m%d-%H%M%S}-{secrets.token_hex(2)}"
    return Submission(job, name, tuple(arguments), settings, ends, variables)


def manifest_of(submission: Submission, schedule: str | None = None) -> dict[str, Any]:
    """The object that runs the job, of the kind that its engine asks for.

    Raises:
        SettingError: a schedule was given for a job that the spark-operator does not run, or that does not end.
    """
    engine = submission.job.engine
    if schedule is not None and submission.goes_on:
        raise SettingError(f"{submission.job.name} goes on until it is cancelled; a schedule starts what ends")
    if schedule is not None:
        if engine != "spark":
            raise SettingError(
                f"{submission.job.name} is no Spark job: start it from your scheduler by `cartwheel submit`"
            )
        return scheduled_spark_application(submission, schedule)
    if engine == "ray" and submission.goes_on:
        return ray_service(submission)
    return {"spark": spark_application, "ray": ray_job, "local": plain_job}[engine](submission)


def start(cluster: Cluster, manifest: dict[str, Any], *, goes_on: bool, try_only: bool = False) -> None:
    """Make a submission's object. What goes on may be there already, and becomes what the manifest says.

    Raises:
        SettingError: it is refused, or something is missing.
        RetryableError: the server does not answer, or there is no room in the namespace's quota.
    """
    (cluster.apply if goes_on else cluster.create)(manifest, try_only=try_only)


def require(cluster: Cluster, submission: Submission, manifest: dict[str, Any] | None) -> None:
    """Check that the cluster would take the submission and its first pod, before any of it is made.

    The API server is asked to create both without keeping them, which finds a missing operator, role, service account or
    namespace, a quota without room and a pod that Pod Security refuses; what they name is looked for.

    Raises:
        SettingError: something is missing or refused.
        RetryableError: the server does not answer, or there is no room in the quota.
    """
    settings = submission.settings
    if manifest is not None:
        start(cluster, manifest, goes_on=submission.goes_on, try_only=True)
    cluster.create(first_pod(submission), try_only=True)
    if cluster.read("ConfigMap", settings.config_map) is None:
        raise SettingError(
            f"{settings.namespace} has no ConfigMap {settings.config_map}: kubectl apply -k conf/kubernetes/..."
        )
    held = set[str]()
    for name in settings.secrets:
        secret = cluster.read("Secret", name)
        if secret is None:
            raise SettingError(f"{settings.namespace} has no Secret {name}: create it (docs/operations.md)")
        held |= (secret.get("data") or {}).keys()
    for variable in submission.variables:
        if variable not in held:
            raise SettingError(
                f"no Secret of {', '.join(settings.secrets)} has the key {variable}, which {submission.job.name} needs: add it"
            )
    if submission.queue is not None:
        require_queue(cluster, submission, submission.queue)


def require_queue(cluster: Cluster, submission: Submission, name: str) -> None:
    """Check that a queue exists and could ever hold the submission.

    Raises:
        SettingError: it does not, or its quota is too small even when nothing else runs.
    """
    queue = cluster.read("LocalQueue", name)
    if queue is None:
        raise SettingError(f"{submission.settings.namespace} has no LocalQueue {name}: kubernetes.queue names one")
    cluster_queue = cluster.read("ClusterQueue", queue["spec"]["clusterQueue"])
    if cluster_queue is None:
        raise SettingError(f"the queue {name} belongs to {queue['spec']['clusterQueue']}, which does not exist")
    asked = asked_of_queue(submission)
    for resource, quota in quotas_of(cluster_queue).items():
        if asked.get(resource, 0.0) > quota:
            raise SettingError(
                f"{submission.job.name} asks for {asked[resource]:g} {resource}, and the queue {name} has {quota:g} in all: "
                "lower kubernetes.cpu_frac, kubernetes.memory_frac or kubernetes.num_workers"
            )


def asked_of_queue(submission: Submission) -> dict[str, float]:
    """What all of a submission's pods ask for together: cores, bytes and GPUs by the name of the resource."""
    settings = submission.settings
    total: dict[str, float] = {}
    sizes = [submission.driver, *([submission.worker] * submission.num_workers)]
    for size in sizes:
        for resource, amount in resources(size, settings)["requests"].items():
            total[resource] = total.get(resource, 0.0) + quantity(amount)
    return total


def quotas_of(cluster_queue: dict[str, Any]) -> dict[str, float]:
    """The most that a ClusterQueue lends of each resource, over all its flavours; with a cohort it may borrow more."""
    if cluster_queue["spec"].get("cohortName"):
        return {}
    quotas: dict[str, float] = {}
    for group in cluster_queue["spec"].get("resourceGroups", ()):
        for flavor in group["flavors"]:
            for resource in flavor["resources"]:
                name = resource["name"]
                quotas[name] = quotas.get(name, 0.0) + quantity(resource["nominalQuota"])
    return quotas


def quantity(text: str | int) -> float:
    """A quantity as Kubernetes writes it, as a number."""
    from kubernetes.utils.quantity import parse_quantity  # noqa: PLC0415

    return float(parse_quantity(text))


def first_pod(submission: Submission) -> dict[str, Any]:
    """A pod like the first that the submission starts, for the API server to check."""
    own = {"image": submission.image, "resources": resources(submission.driver, submission.settings)}
    account = {"spark": DRIVER_ACCOUNT, "ray": HEAD_ACCOUNT, "local": ACCOUNT}[submission.job.engine]
    pod = template(submission, "check", size=submission.driver, account=account, own=own)
    metadata = {**submission.metadata, "labels": submission.labels}  # no queue is to hold it back
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod["spec"]}


def find(cluster: Cluster, name: str) -> dict[str, Any]:
    """A submission's object, with its kind.

    Raises:
        SettingError: none has that name.
    """
    for kind in KINDS:
        for found in _submitted(cluster, kind, name):
            return found
    raise SettingError(f"no submission is named {name} in {cluster.settings.namespace}; `cartwheel status` lists them")


def find_again(cluster: Cluster, name: str) -> dict[str, Any]:
    """The object of a submission that was there before.

    Raises:
        RetryableError: it is there no more.
    """
    try:
        return find(cluster, name)
    except SettingError:
        raise RetryableError(f"{name} is gone: it was cancelled, or its driver was deleted") from None


def everything(cluster: Cluster) -> list[dict[str, Any]]:
    """All submissions that the cluster still knows, the newest first."""
    found = [each for kind in KINDS for each in _submitted(cluster, kind)]
    return sorted(found, key=lambda each: str(each["metadata"]["creationTimestamp"]), reverse=True)


def pods_of(cluster: Cluster, submitted: dict[str, Any]) -> list[dict[str, Any]]:
    """The pods of a submission."""
    return cluster.submitted("Pod", name_of(submitted))


def progress_of(cluster: Cluster, submitted: dict[str, Any], pods: Sequence[dict[str, Any]]) -> Progress:
    """How a submission with these pods goes, and what keeps it where it does not."""
    progress = PROGRESS[submitted["kind"]](submitted)
    if progress.state in ("done", "scheduled"):
        return progress
    if progress.state == "failed":
        main = main_pod(pods)
        ended = end_of(main) if main else None
        return Progress("failed", ended[1] if ended and ended[0] else progress.told)
    if progress.state in ("queued", "starting") and not pods:
        return Progress(progress.state, warning_of(cluster.events_of(name_of(submitted))) or progress.told)
    kept = [*filter(None, map(trouble_of, pods)), *filter(None, map(waiting_for, pods)), progress.told]
    return Progress(progress.state, kept[0])


def await_start(cluster: Cluster, name: str, show: Callable[[str], object]) -> Progress:
    """Wait until a submission runs, has ended or is held back by a queue; undo one that can never start.

    Raises:
        SettingError: it could not start; nothing of it is left.
        RetryableError: somebody deleted it meanwhile.
    """
    told, stuck_since = "", None
    while True:
        submitted = find_again(cluster, name)
        pods = pods_of(cluster, submitted)
        progress = progress_of(cluster, submitted, pods)
        if progress.state not in ("starting", "retrying"):
            return progress
        if any(map(trouble_of, pods)):
            stuck_since = stuck_since or time.monotonic()
            if time.monotonic() - stuck_since > STUCK_SECONDS:
                cluster.delete(submitted["kind"], submitted["metadata"]["name"])
                raise SettingError(f"{name} was withdrawn: {progress.told}")
        else:
            stuck_since = None
        if progress.told and progress.told != told:
            told = progress.told
            show(told)
        time.sleep(POLL_SECONDS)


def follow(cluster: Cluster, name: str, show: Callable[[str], object]) -> tuple[int, Progress]:
    """Give every line that a job prints to `show`, over restarts of its driver, until it ends; returns exit code and end.

    The spark-operator knows no exit codes: a submission whose retry would end alike is withdrawn before it is retried.

    Raises:
        SettingError: no submission has that name.
        RetryableError: somebody deleted it meanwhile, or its driver was lost and nothing starts it again.
    """
    read: set[str] = set()
    submitted = find(cluster, name)
    while True:
        submitted = find_again(cluster, name)
        pods = pods_of(cluster, submitted)
        progress, main = progress_of(cluster, submitted, pods), main_pod(pods)
        if main and main["metadata"]["uid"] not in read and main["status"]["phase"] != "Pending":
            read.add(main["metadata"]["uid"])
            for line in lines_of(cluster, main, follow=True):
                show(line)
            pod = cluster.ended(main["metadata"]["name"])
            code, told = (pod and end_of(pod)) or (ExitCode.FAILED, "")
            if submitted["kind"] == "SparkApplication" and code in RETRY_IS_IN_VAIN:
                cluster.delete(submitted["kind"], submitted["metadata"]["name"])
                return code, Progress("failed", f"{told}; withdrawn, for a retry would end alike")
        elif progress.state in FINAL:
            return exit_code_of(submitted, progress, main), progress
        else:
            time.sleep(POLL_SECONDS)


def lines_of(cluster: Cluster, pod: dict[str, Any], *, follow: bool) -> Iterator[str]:
    """What a pod's main container prints."""
    container = next(each["name"] for each in pod["spec"]["containers"] if each["name"] in MAIN_CONTAINERS)
    return cluster.log(pod["metadata"]["name"], container, follow=follow)


def main_pod(pods: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The newest pod that prints what the job says."""
    main = [pod for pod in pods if any(each["name"] in MAIN_CONTAINERS for each in pod["spec"]["containers"])]
    return max(main, key=lambda pod: str(pod["metadata"]["creationTimestamp"])) if main else None


def exit_code_of(submitted: dict[str, Any], progress: Progress, main: dict[str, Any] | None) -> int:
    """The exit code of a job that has ended; Ray tells it in words."""
    if submitted["kind"] == "RayJob":
        said = re.search(r"exit code (\d+)", str(submitted.get("status", {}).get("message", "")))
        return int(said[1]) if said else int(ExitCode.DONE if progress.state == "done" else ExitCode.FAILED)
    ended = end_of(main) if main else None
    if progress.state == "done":
        return int(ExitCode.DONE)
    known = ended[0] if ended else int(ExitCode.FAILED)
    return known if known in [*ExitCode][1:] else int(ExitCode.FAILED)


def name_of(submitted: dict[str, Any]) -> str:
    """The submission's name."""
    return str(submitted["metadata"]["labels"][INSTANCE_LABEL])


def job_of(submitted: dict[str, Any]) -> str:
    """The name of the submission's job."""
    return str(submitted["metadata"]["labels"][NAME_LABEL]).replace("-", "_")


def _submitted(cluster: Cluster, kind: str, name: str | None = None) -> Iterator[dict[str, Any]]:
    """The submissions of a kind; a pod is one only where spark-submit made it."""
    for found in cluster.submitted(kind, name):
        labels = found["metadata"].get("labels", {})
        made_by_operator = "sparkoperator.k8s.io/app-name" in labels or found["metadata"].get("ownerReferences")
        if kind != "Pod" or (labels.get("spark-role") == "driver" and not made_by_operator):
            yield {**found, "kind": kind}


def _of_spark(submitted: dict[str, Any]) -> Progress:
    if submitted["spec"].get("suspend"):
        return HELD_BACK
    told = submitted.get("status", {}).get("applicationState", {})
    states: dict[str, State] = {
        "RUNNING": "running",
        "SUCCEEDING": "running",
        "COMPLETED": "done",
        "FAILED": "failed",
        "SUBMISSION_FAILED": "retrying",
        "FAILING": "retrying",
        "PENDING_RERUN": "retrying",
        "INVALIDATING": "retrying",
    }
    return Progress(states.get(told.get("state", ""), "starting"), in_one_line(told.get("errorMessage", "")))


def _of_ray(submitted: dict[str, Any]) -> Progress:
    if submitted["spec"].get("suspend"):
        return HELD_BACK
    status = submitted.get("status", {})
    states: dict[str, State] = {"Running": "running", "Complete": "done", "Failed": "failed", "Retrying": "retrying"}
    state = states.get(status.get("jobDeploymentStatus", ""), "starting")
    if state == "done" and status.get("jobStatus") != "SUCCEEDED":
        state = "failed"
    message = str(status.get("message", "")).partition(", last available logs")[0]  # they are shown by themselves
    return Progress(state, in_one_line(message))


def _of_service(submitted: dict[str, Any]) -> Progress:
    conditions = {each["type"]: each for each in submitted.get("status", {}).get("conditions", ())}
    ready, upgrade = (conditions.get(kind, {}) for kind in ("Ready", "UpgradeInProgress"))
    if ready.get("reason") in ("ValidationFailed", "InitializingTimeout"):
        return Progress("failed", in_one_line(ready.get("message", "")))
    if ready.get("status") != "True":
        return Progress("starting", in_one_line(ready.get("message", "")))
    is_changing = upgrade.get("status") == "True"
    return Progress("running", "as it was, until what was submitted since answers" if is_changing else "")


def _of_job(submitted: dict[str, Any]) -> Progress:
    if submitted["spec"].get("suspend"):
        return HELD_BACK
    for condition in submitted.get("status", {}).get("conditions", ()):
        if condition["status"] == "True" and condition["type"] in ("Complete", "Failed"):
            return Progress("done" if condition["type"] == "Complete" else "failed", str(condition.get("message", "")))
    return Progress("running" if submitted.get("status", {}).get("ready") else "starting")


def _of_pod(submitted: dict[str, Any]) -> Progress:
    states: dict[str, State] = {"Running": "running", "Succeeded": "done", "Failed": "failed"}
    return Progress(states.get(submitted["status"].get("phase", ""), "starting"))


def _of_schedule(submitted: dict[str, Any]) -> Progress:
    status = submitted.get("status", {})
    return Progress("scheduled", f"{submitted['spec']['schedule']}; next {status.get('nextRun', 'unknown')}")


PROGRESS: dict[str, Callable[[dict[str, Any]], Progress]] = {
    "SparkApplication": _of_spark,
    "ScheduledSparkApplication": _of_schedule,
    "RayJob": _of_ray,
    "RayService": _of_service,
    "Job": _of_job,
    "Pod": _of_pod,
}
