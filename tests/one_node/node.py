"""A real Kubernetes of one node on this machine: etcd, the control plane, containerd, the kubelet and DNS, as processes.

Needs root, Linux with network namespaces and overlayfs, and runc and nft of the distribution. Leaves nothing behind: its files are in
one folder, its network in one namespace, and what the kubelet sets for the whole machine is set back.
"""

import os
import shutil
from collections.abc import Callable

from tests.one_node import control_plane, network, traces, worker
from tests.one_node.control_plane import kubeconfig, kubectl
from tests.one_node.programs import NoNodeError
from tests.one_node.services import FOLDER, Services, wait_until


def start(show: Callable[[str], object], prepare: Callable[[], object]) -> None:
    """Start the node and wait until it takes pods; its programs are built before.

    `prepare` gives containerd the image of PAUSE before there is a pod.

    Raises:
        NoNodeError: this machine lacks something, or a process ended.
    """
    require_machine()
    FOLDER.mkdir(parents=True)
    traces.note()
    network.start()
    services = Services()
    tokens = control_plane.write_tokens()
    control_plane.write_keys()
    for name, started in (
        ("etcd", lambda: control_plane.start_etcd(services)),
        ("kube-apiserver", lambda: control_plane.start_apiserver(services, tokens)),
        ("kube-controller-manager", lambda: control_plane.start_managers(services)),
        ("containerd", lambda: worker.start_containerd(services)),
        ("the first image", prepare),
        ("kubelet", lambda: worker.start_kubelet(services)),
        ("coredns", lambda: worker.start_dns(services)),
    ):
        show(f"starting {name}")
        started()
    wait_until(lambda: "True" in worker.ready_condition(), "the node to be ready", services)


def stop() -> None:
    """End all that the node runs and remove all that it left, as far as there is any."""
    services = Services()
    for name in ("kubelet", "kube-proxy"):
        services.stop(name)
    traces.end_pods()
    for name in reversed(list(services.running())):
        services.stop(name)
    network.stop()
    traces.remove()
    shutil.rmtree(FOLDER, ignore_errors=True)


def running() -> dict[str, int]:
    """The node's processes that run."""
    return Services().running()


def status() -> str:
    """What runs, in a few lines."""
    if not running():
        return "no node runs here; `make cluster` starts one"
    nodes = kubectl("get", "nodes,pods", "--all-namespaces", "-o", "wide")
    return f"export KUBECONFIG={kubeconfig('admin')}\nprocesses: {', '.join(sorted(running()))}\n{nodes}"


def require_machine() -> None:
    """Check what a node needs of the machine.

    Raises:
        NoNodeError: something is missing, or a node runs.
    """
    if os.geteuid() != 0:
        raise NoNodeError("a Kubernetes node needs root")
    missing = [name for name in ("ip", "nsenter", "runc", "nft") if shutil.which(name) is None]
    if missing:
        raise NoNodeError(f"a Kubernetes node needs {', '.join(missing)}, of the distribution's packages")
    if FOLDER.exists():
        raise NoNodeError(f"a node runs, or one was left in the middle ({FOLDER}); stop it first")
