"""The server as KubeRay takes it: a cluster of Ray that serves, a Service before it, and another cluster for each change of it."""

import hashlib
from typing import Any

import yaml

from lib.engines.ray_serve import NO_ACCESS_LOG, variables
from lib.kubernetes.pods import Submission
from lib.kubernetes.ray_job import API_VERSION, ray_cluster
from lib.runs.errors import SettingError

PORT = 8000  # of the Service, and of HAProxy in each pod; KubeRay's own
HEALTH_PATH = "/healthz"  # 200 as soon as a release is there
HAPROXY_FOLDER = "/tmp/haproxy"
HAPROXY_PORTS = {"RAY_SERVE_HAPROXY_STATS_PORT": "8404", "RAY_SERVE_HAPROXY_METRICS_PORT": "8405"}  # a pod has its own
SERVED_ANNOTATION = "cartwheel/served"  # a digest of what is served
OLD_SECONDS = 60  # that the cluster before answers what it had begun
NOT_HERE = ("--serve.host", "--serve.port")


def ray_service(submission: Submission) -> dict[str, Any]:
    """The RayService of the server.

    Whatever changes in it, KubeRay starts a second cluster, lets the Service go over to it as soon as it answers, and
    then ends the first: also for a change of flags alone, which Ray would carry out by stopping a replica before it
    starts another. Releases change in the replicas, and not by this object.

    Raises:
        SettingError: a flag says where to listen, which is the Service's matter.
    """
    served = yaml.safe_dump(serve_config(submission), sort_keys=False)
    cluster = ray_cluster(submission)
    digest = hashlib.sha256(served.encode()).hexdigest()[:16]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        group["template"]["metadata"]["annotations"] |= {SERVED_ANNOTATION: digest}
        (container,) = group["template"]["spec"]["containers"]
        container["env"] = [*container["env"], *_haproxy()]
    for group in cluster["workerGroupSpecs"]:
        group |= {"replicas": 1, "minReplicas": 1}
        (container,) = group["template"]["spec"]["containers"]
        container["ports"] = [{"name": "serve", "containerPort": PORT}]
        container["readinessProbe"] = {
            "httpGet": {"path": HEALTH_PATH, "port": "serve"},
            "periodSeconds": 5,
            "timeoutSeconds": 3,
        }
    return {
        "apiVersion": API_VERSION,
        "kind": "RayService",
        "metadata": submission.metadata,
        "spec": {
            "serveConfigV2": served,
            "excludeHeadPodFromServeSvc": True,  # it holds no replica, and may be busy with others
            "rayClusterDeletionDelaySeconds": OLD_SECONDS,
            "upgradeStrategy": {"type": "NewCluster"},
            "rayClusterConfig": cluster,
        },
    }


def serve_config(submission: Submission) -> dict[str, Any]:
    """What Ray Serve is to serve: the job's own application, by the job's own flags.

    Raises:
        SettingError: a flag says where to listen.
    """
    for given in submission.arguments:
        if given.partition("=")[0].replace("_", "-") in NOT_HERE:
            raise SettingError(f"{given}: on Kubernetes the server listens at port {PORT} of its Service")
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": PORT},
        "logging_config": NO_ACCESS_LOG,
        "applications": [
            {
                "name": "cartwheel",
                "route_prefix": "/",
                "import_path": f"{'.'.join(submission.job.path.with_suffix('').parts)}:application",
                "args": {"arguments": [*submission.flags]},
            }
        ],
    }


def _haproxy() -> list[dict[str, str]]:
    """The variables by which Ray Serve passes requests on by HAProxy, as on one machine."""
    given = {**variables(HAPROXY_FOLDER), **HAPROXY_PORTS}
    return [{"name": name, "value": value} for name, value in sorted(given.items())]
