"""What runs the pods: containerd, the kubelet, what leads services' addresses to them, and their names."""

import json
import os
from typing import IO

from tests.one_node import network
from tests.one_node.control_plane import kubeconfig, kubectl
from tests.one_node.network import NODE_IP, PODS
from tests.one_node.programs import CONTAINERD, CONTROL_PLANE, COREDNS, NETWORK_PLUGINS
from tests.one_node.services import FOLDER, Services, wait_until

SOCKET = FOLDER / "containerd" / "containerd.sock"
PAUSE = "docker.io/local/pause:1"


def start_containerd(services: Services) -> None:
    """What runs the containers, with runc and the bridge that joins the pods."""
    folder = FOLDER / "containerd"
    (folder / "network").mkdir(parents=True)
    (folder / "config.toml").write_text(
        f"""version = 3
root = "{folder / "root"}"
state = "{folder / "state"}"
disabled_plugins = ["io.containerd.nri.v1.nri"]
[grpc]
  address = "{SOCKET}"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{PAUSE}"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["{NETWORK_PLUGINS.folder}"]
  conf_dir = "{folder / "network"}"
"""
    )
    bridge = {
        "type": "bridge",
        "bridge": "pods",
        "isGateway": True,
        "ipMasq": True,
        "ipMasqBackend": "nftables",
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": PODS}]],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": str(folder / "addresses"),
        },
    }
    plugins = [bridge, {"type": "portmap", "backend": "nftables", "capabilities": {"portMappings": True}}]
    network_of_pods = {"cniVersion": "1.0.0", "name": "cartwheel-node", "plugins": plugins}
    (folder / "network" / "10-pods.conflist").write_text(json.dumps(network_of_pods))
    path = f"{CONTAINERD.folder}{os.pathsep}{os.environ.get('PATH', '')}"
    command = [str(CONTAINERD.program("containerd")), "--config", str(folder / "config.toml")]
    services.start("containerd", command, {"PATH": path})
    wait_until(lambda: bool(ctr("version")), "containerd", services)


def ctr(*arguments: str, given: IO[bytes] | None = None) -> str:
    """What containerd's own client says of the images and containers of Kubernetes.

    Raises:
        RuntimeError: it refused.
    """
    command = [str(CONTAINERD.program("ctr")), "--address", str(SOCKET), "--namespace", "k8s.io", *arguments]
    return network.run(network.inside(command), given=given)


def start_kubelet(services: Services) -> None:
    """What starts the pods, and what leads services' addresses to them."""
    config = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": NODE_IP,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(FOLDER / "kubelet-client.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        "containerRuntimeEndpoint": f"unix://{SOCKET}",
        "clusterDNS": [NODE_IP],
        "clusterDomain": "cluster.local",
        "podLogsDir": str(FOLDER / "pod-logs"),
        "evictionHard": {"nodefs.available": "1Gi", "imagefs.available": "1Gi", "memory.available": "200Mi"},
        "imageGCHighThresholdPercent": 100,
        "maxPods": 60,
        "resolvConf": str(FOLDER / "resolv.conf"),
    }
    (FOLDER / "resolv.conf").write_text(f"nameserver {NODE_IP}\n")
    (FOLDER / "kubelet.json").write_text(json.dumps(config))
    services.start(
        "kubelet",
        [
            str(CONTROL_PLANE.program("kubelet")),
            f"--config={FOLDER / 'kubelet.json'}",
            f"--kubeconfig={kubeconfig('system:node:node')}",
            f"--root-dir={FOLDER / 'kubelet'}",
            f"--cert-dir={FOLDER / 'kubelet-certificates'}",
            "--hostname-override=node",
            f"--node-ip={NODE_IP}",
        ],
    )
    proxy = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": str(kubeconfig("system:kube-proxy"))},
        "clusterCIDR": PODS,
        "hostnameOverride": "node",
        "conntrack": {"maxPerCore": 0},
        "bindAddress": NODE_IP,
    }
    (FOLDER / "proxy.json").write_text(json.dumps(proxy))
    services.start("kube-proxy", [str(CONTROL_PLANE.program("kube-proxy")), f"--config={FOLDER / 'proxy.json'}"])


def start_dns(services: Services) -> None:
    """The names of services."""
    kubectl("create", "clusterrolebinding", "dns", "--clusterrole=view", "--user=dns")
    (FOLDER / "Corefile").write_text(
        f".:53 {{\n  bind {NODE_IP}\n  errors\n  cache 5\n"
        f"  kubernetes cluster.local in-addr.arpa {{\n    kubeconfig {kubeconfig('dns')}\n  }}\n}}\n"
    )
    services.start("coredns", [str(COREDNS.program("coredns")), "-conf", str(FOLDER / "Corefile")])


def ready_condition() -> str:
    """Whether the node says that it takes pods."""
    return kubectl("get", "node", "node", "-o", "jsonpath={.status.conditions[?(@.type=='Ready')].status}")
