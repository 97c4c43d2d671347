"""The real operators on the node: Spark's as a process beside it, Ray's and Kueue as pods by their own manifests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.one_node import images
from tests.one_node.control_plane import kubeconfig, kubectl
from tests.one_node.network import NODE_IP
from tests.one_node.programs import KUBERAY, KUEUE, SPARK_OPERATOR, Module, sources
from tests.one_node.services import FOLDER, Services

NAMESPACE = "cartwheel"
DEFINITIONS = "config/crd/bases"
KUEUE_FEATURES = "SparkApplicationIntegration=true"
KUEUE_QUEUES = ("batch/job", "ray.io/rayjob", "sparkoperator.k8s.io/sparkapplication")  # the kinds that it holds back
KUEUE_CONFIG = "controller_manager_config.yaml"
KUBERAY_NAMESPACE = "kuberay"
USER = 65532


def define(module: Module) -> None:
    """Give the API server an operator's kinds of objects; server-side, for some are too large to be applied by a client."""
    folder = sources(module) / DEFINITIONS
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(folder))
    kubectl("wait", "--for=condition=Established", "--timeout=60s", "-f", str(folder))


def start_spark_operator(services: Services, spark_home: Path) -> None:
    """What turns a SparkApplication into spark-submit and follows its driver."""
    define(SPARK_OPERATOR)
    command = [str(SPARK_OPERATOR.program("operator")), "controller", "start"]
    command += [f"--namespaces={NAMESPACE}", "--controller-threads=2", "--enable-metrics=false", "--zap-log-level=info"]
    command += ["--leader-election=false", "--health-probe-bind-address=127.0.0.1:9081"]
    variables = {"KUBECONFIG": str(kubeconfig("admin")), "SPARK_HOME": str(spark_home), "SPARK_CONF_DIR": str(FOLDER)}
    variables |= {"KUBERNETES_SERVICE_HOST": NODE_IP, "KUBERNETES_SERVICE_PORT": "6443"}  # what it tells spark-submit
    services.start("spark-operator", command, variables)


def start_kuberay() -> None:
    """What turns a RayJob into a cluster of Ray and a job on it; in the cluster, for it finds heads by the names of services."""
    rendered = kubectl("kustomize", str(sources(KUBERAY) / "config" / "default"))
    objects = list(yaml.safe_load_all(rendered.replace("namespace: default", f"namespace: {KUBERAY_NAMESPACE}")))
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": KUBERAY_NAMESPACE}}
    program = KUBERAY.program("ray-operator")
    start_in_cluster([namespace, *objects], "kuberay", program, f"{KUBERAY_NAMESPACE}/kuberay-operator")


def start_kueue() -> None:
    """What holds jobs back until there is room for them."""
    objects = list(yaml.safe_load_all(kubectl("kustomize", str(sources(KUEUE) / "config" / "default"))))
    (config,) = (each["data"] for each in objects if KUEUE_CONFIG in each.get("data", {}))
    settings = yaml.safe_load(config[KUEUE_CONFIG])
    settings["integrations"]["frameworks"] = [*KUEUE_QUEUES]
    settings["leaderElection"] = {"leaderElect": False}
    config[KUEUE_CONFIG] = yaml.safe_dump(settings)
    flags = (f"--feature-gates={KUEUE_FEATURES}",)
    start_in_cluster(objects, "kueue", KUEUE.program("kueue"), "kueue-system/kueue-controller-manager", flags)


def start_in_cluster(
    objects: Sequence[dict[str, Any]], name: str, program: Path, deployment: str, flags: Sequence[str] = ()
) -> None:
    """Apply an operator's own manifests, with an image of its program, and wait until it runs."""
    image = f"docker.io/local/{name}:test"
    images.give_program(image, program, "/manager")
    for each in (each for each in objects if each["kind"] == "Deployment"):
        each["spec"]["replicas"] = 1
        pod = each["spec"]["template"]["spec"]
        pod["securityContext"] = {**pod.get("securityContext", {}), "runAsUser": USER}  # such an image names none
        (container,) = pod["containers"]
        container |= {"image": image, "imagePullPolicy": "Never", "args": [*container.get("args", ()), *flags]}
        container["resources"] = {"requests": {"cpu": "50m", "memory": "128Mi"}}
    kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", given=yaml.safe_dump_all(objects))
    namespace, _, found = deployment.partition("/")
    kubectl("-n", namespace, "rollout", "status", f"deployment/{found}", "--timeout=120s")
