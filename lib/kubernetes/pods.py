"""The pods of jobs: what every one has, whoever makes it (spark-submit, the spark-operator, KubeRay, Kubernetes itself)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lib.pipeline import Job, Size
from lib.runs.logs import FORMAT_VARIABLE
from lib.settings import KubernetesSettings

PART_OF = "cartwheel"
NAME_LABEL, INSTANCE_LABEL, PART_OF_LABEL = (f"app.kubernetes.io/{kind}" for kind in ("name", "instance", "part-of"))
QUEUE_LABEL, PRIORITY_LABEL = "kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class"
CODE = "/opt/cartwheel"  # where the images have the checkout
SETTINGS_FOLDER, SETTINGS_FILE = "/etc/cartwheel", "settings.yaml"  # the ConfigMap's
USER = 10001  # of the images
RETRIES = 2  # of a job that failed or was lost
KEPT_SECONDS = 86_400  # that an ended job can still be looked at
SMALLEST_HEAP = 0.5  # GiB; Spark starts with no less
# What the restricted standard of Pod Security asks of a container and of a pod.
CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}
POD_SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "seccompProfile": {"type": "RuntimeDefault"},
}


@dataclass(frozen=True)
class Submission:
    """One job on its way to a cluster: its object's name, its flags, and the settings that say where it runs.

    `ends`: these flags let a job end that else goes on. `variables`: those that a Secret has to give.
    """

    job: Job
    name: str
    arguments: tuple[str, ...]
    settings: KubernetesSettings
    ends: bool = False
    variables: tuple[str, ...] = ()

    @property
    def goes_on(self) -> bool:
        """Whether it runs until it is cancelled, and is started again whenever it has ended."""
        return self.job.goes_on and not self.ends

    @property
    def queue(self) -> str | None:
        """The queue that takes it in. What goes on waits in none: it would hold its room for ever."""
        return None if self.goes_on else self.settings.queue

    @property
    def labels(self) -> dict[str, str]:
        """How the submission's objects are found."""
        name = self.job.name.replace("_", "-")
        return {PART_OF_LABEL: PART_OF, NAME_LABEL: name, INSTANCE_LABEL: self.name}

    @property
    def metadata(self) -> dict[str, Any]:
        """Of the object that is submitted; a queue takes it in by its label."""
        settings = self.settings
        queued = {QUEUE_LABEL: self.queue, PRIORITY_LABEL: self.queue and settings.priority}
        labels = {**self.labels, **{label: value for label, value in queued.items() if value}}
        return {"name": self.name, "namespace": settings.namespace, "labels": labels}

    @property
    def image(self) -> str:
        """The image of the job's pods."""
        return self.settings.ray_image if self.job.engine == "ray" else self.settings.spark_image

    @property
    def driver(self) -> Size:
        """What the driver asks of this cluster."""
        return scaled(self.job.driver, self.settings)

    @property
    def worker(self) -> Size:
        """What each executor or training worker asks of this cluster."""
        assert self.job.workers is not None
        return scaled(self.job.workers.size, self.settings)

    @property
    def num_workers(self) -> int:
        """The most executors, or the training workers."""
        return self.settings.num_workers or self.job.workers.at_most if self.job.workers else 0

    @property
    def command(self) -> tuple[str, ...]:
        """The job's file and its flags: first those of the cluster's own settings."""
        return (f"{CODE}/{self.job.path}", *self.flags)

    @property
    def flags(self) -> tuple[str, ...]:
        """The job's flags: the file of the cluster's own settings, and what was given."""
        return ("--config", f"{SETTINGS_FOLDER}/{SETTINGS_FILE}", *self.arguments)


def scaled(size: Size, settings: KubernetesSettings) -> Size:
    """A declared size on a cluster that gives a part of it."""
    memory, cores = settings.memory_frac, settings.cpu_frac
    heap = max(size.heap * memory, SMALLEST_HEAP) if size.heap else 0
    gpus = size.gpus if settings.use_gpus else 0
    return Size(size.cores * cores, max(size.memory * memory, heap + SMALLEST_HEAP), heap, gpus)


def template(
    submission: Submission, container: str, *, size: Size, account: str, own: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A pod with one container; its secrets come as variables by reference, its writable folders are empty ones.

    Who runs it adds the command, and in Spark's case the image and the resources; `own` is what else the container has.
    """
    settings = submission.settings
    described: dict[str, Any] = {
        "name": container,
        "env": [{"name": "HOME", "value": "/tmp"}, {"name": FORMAT_VARIABLE, "value": "json"}],
        "envFrom": [{"secretRef": {"name": name}} for name in settings.secrets],
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": [
            {"name": "temporary", "mountPath": "/tmp"},
            {"name": "settings", "mountPath": SETTINGS_FOLDER, "readOnly": True},
        ],
        **(own or {}),
    }
    spec: dict[str, Any] = {
        "serviceAccountName": account,
        "securityContext": POD_SECURITY,
        "containers": [described],
        "volumes": [
            {"name": "temporary", "emptyDir": {}},
            {"name": "settings", "configMap": {"name": settings.config_map}},
        ],
        **placement(size, settings),
    }
    return {"metadata": {"labels": submission.labels}, "spec": spec}


def scraped_at(port: int, path: str) -> dict[str, str]:
    """Annotations of a pod by which Prometheus finds its metrics."""
    return {"prometheus.io/scrape": "true", "prometheus.io/port": str(port), "prometheus.io/path": path}


def placement(size: Size, settings: KubernetesSettings) -> dict[str, Any]:
    """On which nodes a pod may run: one with a GPU bears that GPU nodes are kept free of others."""
    selector = {**settings.node_selector, **(settings.gpu_node_selector if size.gpus else {})}
    placed: dict[str, Any] = {"nodeSelector": selector} if selector else {}
    if size.gpus:
        placed["tolerations"] = [{"key": settings.gpu_resource, "operator": "Exists", "effect": "NoSchedule"}]
    return placed


def resources(size: Size, settings: KubernetesSettings) -> dict[str, dict[str, str]]:
    """What a container asks for. Memory and GPUs are also its limits; cores are not, so that idle ones are used."""
    limits = {"memory": mebibytes(size.memory)}
    if size.gpus:
        limits[settings.gpu_resource] = str(size.gpus)
    return {"requests": {"cpu": millicores(size.cores), **limits}, "limits": limits}


def millicores(cores: float) -> str:
    """Cores as Kubernetes takes parts of them."""
    return f"{math.ceil(cores * 1000)}m"


def mebibytes(gibibytes: float) -> str:
    """Memory as Kubernetes takes it."""
    return f"{math.ceil(gibibytes * 1024)}Mi"
