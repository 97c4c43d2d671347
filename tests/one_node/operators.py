"""The real operators on the node: their definitions from their modules' sources, their controllers as processes beside it.

Kueue runs as a pod, for the API server must reach its webhooks by a service.
"""

from pathlib import Path

import yaml

from tests.one_node import images
from tests.one_node.network import NODE_IP
from tests.one_node.node import FOLDER, kubeconfig, kubectl
from tests.one_node.programs import KUBERAY, KUEUE, SPARK_OPERATOR, Module, sources
from tests.one_node.services import Services

NAMESPACE = "cartwheel"
DEFINITIONS = "config/crd/bases"
KUEUE_IMAGE = "docker.io/local/kueue:test"
KUEUE_FEATURES = "SparkApplicationIntegration=true"
KUEUE_QUEUES = ("batch/job", "ray.io/rayjob", "sparkoperator.k8s.io/sparkapplication")  # the kinds that it holds back
KUEUE_NAMESPACE = "kueue-system"


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


def start_kuberay(services: Services) -> None:
    """What turns a RayJob into a cluster of Ray and a job on it."""
    define(KUBERAY)
    command = [str(KUBERAY.program("ray-operator")), f"--watch-namespace={NAMESPACE}", "--enable-leader-election=false"]
    command += ["--metrics-addr=127.0.0.1:9082", "--health-probe-bind-address=127.0.0.1:9083"]
    services.start("kuberay", command, {"KUBECONFIG": str(kubeconfig("admin"))})


def start_kueue() -> None:
    """What holds jobs back until there is room for them: its own manifests, with the image and the kinds of this node."""
    images.give_program(KUEUE_IMAGE, KUEUE.program("kueue"), "/manager")
    rendered = kubectl("kustomize", str(sources(KUEUE) / "config" / "default"))
    objects = [fitted(each) for each in yaml.safe_load_all(rendered)]
    kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", given=yaml.safe_dump_all(objects))
    kubectl("-n", KUEUE_NAMESPACE, "rollout", "status", "deployment/kueue-controller-manager", "--timeout=120s")


def fitted(manifest: dict) -> dict:
    """One of Kueue's objects as this node takes it."""
    if manifest["kind"] == "ConfigMap" and "controller_manager_config.yaml" in manifest.get("data", {}):
        config = yaml.safe_load(manifest["data"]["controller_manager_config.yaml"])
        config["integrations"]["frameworks"] = [*KUEUE_QUEUES]
        config["leaderElection"] = {"leaderElect": False}
        manifest["data"]["controller_manager_config.yaml"] = yaml.safe_dump(config)
    if manifest["kind"] == "Deployment":
        manifest["spec"]["replicas"] = 1
        pod = manifest["spec"]["template"]["spec"]
        pod["securityContext"] = {
            **pod.get("securityContext", {}),
            "runAsUser": 65532,
        }  # an image of one program names none
        (container,) = pod["containers"]
        container |= {"image": KUEUE_IMAGE, "imagePullPolicy": "Never"}
        container["resources"] = {"requests": {"cpu": "50m", "memory": "128Mi"}}
        container["args"] = [*container["args"], f"--feature-gates={KUEUE_FEATURES}"]
    return manifest
