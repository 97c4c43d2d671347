"""A Ray job as KubeRay takes it: a cluster of its own, the job on it, and its end; and that cluster, for what serves too."""

import shlex
from typing import Any

from lib.kubernetes.pods import CONTAINER_SECURITY, POD_SECURITY, Submission, resources, scraped_at, template
from lib.pipeline import Size
from lib.runs.errors import SettingError

HEAD_ACCOUNT, WORKER_ACCOUNT = "ray-head", "ray-worker"
RAY_VERSION = "2.60.0"
API_VERSION = "ray.io/v1"
IDLE_SECONDS = 60  # until a worker without work is given back
SHARED_MEMORY_FRAC = 0.3  # of a pod's memory, for Ray's store of objects
METRICS_PORT = 8080
SUBMITTER = Size(cores=0.1, memory=0.5)


def ray_job(submission: Submission) -> dict[str, Any]:
    """The RayJob of one run of a job; token authentication is on, and KubeRay makes the token."""
    return {
        "apiVersion": API_VERSION,
        "kind": "RayJob",
        "metadata": submission.metadata,
        "spec": {
            "entrypoint": shlex.join(("python", *submission.command, *sized_flags(submission))),
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 0,  # the cluster goes at once, its object stays
            "submissionMode": "K8sJobMode",
            "submitterPodTemplate": _submitter(submission),
            "submitterConfig": {"backoffLimit": 0},
            "rayClusterSpec": ray_cluster(submission),
        },
    }


def ray_cluster(submission: Submission) -> dict[str, Any]:
    """The cluster of Ray of one submission, by the sizes that its job declares."""
    return {
        "rayVersion": RAY_VERSION,
        "authOptions": {"mode": "token"},
        "enableInTreeAutoscaling": _is_elastic(submission),
        "autoscalerOptions": {
            "idleTimeoutSeconds": IDLE_SECONDS,
            "securityContext": CONTAINER_SECURITY,
            "resources": resources(SUBMITTER, submission.settings),
        },
        "headGroupSpec": {
            # Where there are workers, the head is left to Ray and to the job's own process.
            "rayStartParams": {"dashboard-host": "0.0.0.0", **_start_params(_head_cpus(submission))},
            "template": _node(submission, submission.driver, "ray-head", HEAD_ACCOUNT),
        },
        "workerGroupSpecs": [_workers(submission)] if submission.num_workers else [],
    }


def sized_flags(submission: Submission) -> list[str]:
    """The flags by which a training job asks Ray for just the workers that its cluster may have.

    Raises:
        SettingError: they were given, which would ask for others.
    """
    if not submission.num_workers:
        return []
    worker = submission.worker
    wanted = {
        "--cluster.num-workers": str(submission.num_workers),
        "--cluster.cpus-per-worker": str(max(1, int(worker.cores))),
        "--cluster.use-gpu": str(worker.gpus > 0).lower(),
    }
    for given in submission.arguments:
        if given.partition("=")[0].replace("_", "-") in wanted:
            raise SettingError(f"{given}: on Kubernetes workers are declared, and kubernetes.num_workers says how many")
    return [f"{flag}={value}" for flag, value in wanted.items()]


def _is_elastic(submission: Submission) -> bool:
    """Whether workers come when the job asks for them; a queue has to find room for all of them at once."""
    return submission.num_workers > 0 and submission.queue is None


def _workers(submission: Submission) -> dict[str, Any]:
    at_first = 0 if _is_elastic(submission) else submission.num_workers
    return {
        "groupName": "gpu" if submission.worker.gpus else "cpu",
        "replicas": at_first,
        "minReplicas": at_first,
        "maxReplicas": submission.num_workers,
        "rayStartParams": _start_params(max(1, int(submission.worker.cores))),
        "template": _node(submission, submission.worker, "ray-worker", WORKER_ACCOUNT),
    }


def _start_params(cpus: int) -> dict[str, str]:
    return {"num-cpus": str(cpus), "metrics-export-port": str(METRICS_PORT)}


def _head_cpus(submission: Submission) -> int:
    return 0 if submission.num_workers else max(1, int(submission.driver.cores))


def _node(submission: Submission, size: Size, name: str, account: str) -> dict[str, Any]:
    """A pod of the cluster; Ray's store of objects is shared memory."""
    own = {"image": submission.image, "resources": resources(size, submission.settings)}
    pod = template(submission, name, size=size, account=account, own=own)
    pod["metadata"]["annotations"] = scraped_at(METRICS_PORT, "/metrics")
    shared = {"medium": "Memory", "sizeLimit": f"{int(size.memory * SHARED_MEMORY_FRAC * 1024)}Mi"}
    pod["spec"]["volumes"].append({"name": "shared-memory", "emptyDir": shared})
    pod["spec"]["containers"][0]["volumeMounts"].append({"name": "shared-memory", "mountPath": "/dev/shm"})
    return pod


def _submitter(submission: Submission) -> dict[str, Any]:
    """The pod that gives the job to its cluster and says what it prints."""
    return {
        "metadata": {"labels": submission.labels},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "serviceAccountName": WORKER_ACCOUNT,
            "securityContext": POD_SECURITY,
            "containers": [
                {
                    "name": "ray-job-submitter",
                    "image": submission.image,
                    "resources": resources(SUBMITTER, submission.settings),
                    "securityContext": CONTAINER_SECURITY,
                    "env": [{"name": "HOME", "value": "/tmp"}],
                    "volumeMounts": [{"name": "temporary", "mountPath": "/tmp"}],
                }
            ],
            "volumes": [{"name": "temporary", "emptyDir": {}}],
        },
    }
