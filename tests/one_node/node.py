"""A real Kubernetes of one node on this machine: etcd, the control plane, containerd, the kubelet and DNS, as processes.

Needs root, Linux with network namespaces and overlayfs, and runc and nft of the distribution. Leaves nothing behind: its files are in
one folder, its network in one namespace, and what the kubelet sets for the whole machine is set back.
"""

import csv
import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.one_node import network
from tests.one_node.network import NODE_IP, PODS, SERVICES
from tests.one_node.programs import CONTAINERD, CONTROL_PLANE, COREDNS, ETCD, NETWORK_PLUGINS, NoNodeError
from tests.one_node.services import Services, end

FOLDER = Path("/var/lib/cartwheel-node")
SERVER = f"https://{NODE_IP}:6443"
SOCKET = FOLDER / "containerd" / "containerd.sock"
PAUSE = "docker.io/local/pause:1"
START_SECONDS = 120
MACHINE_WIDE = ("vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops")  # what the kubelet sets
# Folders that the node's programs make wherever they are told to keep their files.
STRAY_FOLDERS = tuple(
    Path(name)
    for name in (
        "/etc/cni",
        "/run/containerd",
        "/var/lib/cni",
        "/var/lib/kubelet",
        "/var/log/containers",
        "/var/log/pods",
    )
)
# Who may talk to the API server, and the groups that its own roles know them by.
USERS = {
    "admin": "system:masters",
    "system:kube-controller-manager": "",
    "system:kube-scheduler": "",
    "system:kube-proxy": "",
    "system:node:node": "system:nodes",
    "dns": "",
}


def start(show: Callable[[str], object], prepare: Callable[[], object]) -> None:
    """Start the node and wait until it takes pods; its programs are built before.

    `prepare` gives containerd the image of PAUSE before there is a pod.

    Raises:
        NoNodeError: this machine lacks something, or a process ended.
    """
    require_machine()
    FOLDER.mkdir(parents=True)
    found = {name: setting(name) for name in MACHINE_WIDE}
    strays = [str(folder) for folder in STRAY_FOLDERS if not folder.exists()]
    (FOLDER / "machine.json").write_text(json.dumps({"settings": found, "strays": strays}))
    network.start()
    services = Services(FOLDER)
    tokens = write_tokens()
    write_keys()
    for name, started in (
        ("etcd", lambda: start_etcd(services)),
        ("kube-apiserver", lambda: start_apiserver(services, tokens)),
        ("kube-controller-manager", lambda: start_managers(services)),
        ("containerd", lambda: start_containerd(services)),
        ("the first image", prepare),
        ("kubelet", lambda: start_kubelet(services)),
        ("coredns", lambda: start_dns(services)),
    ):
        show(f"starting {name}")
        started()
    wait_until(lambda: "True" in ready_condition(), "the node to be ready", services)


def stop() -> None:
    """End all that the node runs and remove all that it left, as far as there is any."""
    services = Services(FOLDER)
    for name in ("kubelet", "kube-proxy"):
        services.stop(name)
    end_pods()
    for name in reversed(list(services.running())):
        services.stop(name)
    for mounted in mounts():
        subprocess.run(["umount", "--lazy", mounted], check=False, capture_output=True)
    network.stop()
    if (FOLDER / "machine.json").is_file():
        found = json.loads((FOLDER / "machine.json").read_text())
        for name, value in found["settings"].items():
            (Path("/proc/sys") / name).write_text(value)
        for folder in found["strays"]:
            shutil.rmtree(folder, ignore_errors=True)
    remove_groups()
    for link in Path("/var/log/containers").glob("*.log") if Path("/var/log/containers").is_dir() else ():
        if str(link.readlink()).startswith(str(FOLDER)):
            link.unlink()
    shutil.rmtree(FOLDER, ignore_errors=True)


def running() -> dict[str, int]:
    """The node's processes that run."""
    return Services(FOLDER).running()


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


def kubectl(*arguments: str, given: str | None = None) -> str:
    """What `kubectl` says, as the cluster's administrator.

    Raises:
        RuntimeError: it refused.
    """
    command = [str(CONTROL_PLANE.program("kubectl")), "--kubeconfig", str(kubeconfig("admin")), *arguments]
    return network.run(command, given=given)


def write_tokens() -> dict[str, str]:
    """A token for each user, and a file by which each finds the API server with it."""
    tokens = {user: secrets.token_hex(16) for user in USERS}
    with (FOLDER / "tokens.csv").open("w") as file:
        rows = csv.writer(file)
        for user, token in tokens.items():
            rows.writerow([token, user, user, USERS[user]])
    for user, token in tokens.items():
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "node", "cluster": {"server": SERVER, "certificate-authority": str(certificate())}}],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": "node", "context": {"cluster": "node", "user": user}}],
            "current-context": "node",
        }
        kubeconfig(user).write_text(json.dumps(config))
        kubeconfig(user).chmod(0o600)
    return tokens


def kubeconfig(user: str) -> Path:
    """The file by which a user finds the API server."""
    return FOLDER / f"{user.replace(':', '-')}.kubeconfig"


def certificate() -> Path:
    """The API server's certificate, which it makes itself."""
    return FOLDER / "apiserver" / "apiserver.crt"


def write_keys() -> None:
    """The key that service accounts' tokens are signed with, and the certificate that the API server shows the kubelet."""
    accounts, client = FOLDER / "accounts", FOLDER / "kubelet-client"
    for command in (
        f"genrsa -out {accounts}.key 2048",
        f"rsa -in {accounts}.key -pubout -out {accounts}.pub",
        f"req -x509 -newkey rsa:2048 -nodes -days 365 -subj /O=system:masters/CN=apiserver -keyout {client}.key -out {client}.crt",
    ):
        subprocess.run(["openssl", *command.split()], check=True, capture_output=True)


def start_etcd(services: Services) -> None:
    """The store of the cluster's objects; it need not survive a loss of power."""
    services.start(
        "etcd",
        [
            str(ETCD.program("server")),
            f"--data-dir={FOLDER / 'etcd'}",
            "--unsafe-no-fsync",
            *(f"--{kind}-client-urls=http://127.0.0.1:2379" for kind in ("listen", "advertise")),
            "--listen-peer-urls=http://127.0.0.1:2380",
        ],
    )


def start_apiserver(services: Services, tokens: dict[str, str]) -> None:
    """The API server with authentication by token and authorization by role."""
    services.start(
        "kube-apiserver",
        [
            str(CONTROL_PLANE.program("kube-apiserver")),
            "--etcd-servers=http://127.0.0.1:2379",
            f"--bind-address={NODE_IP}",
            f"--advertise-address={NODE_IP}",
            f"--cert-dir={certificate().parent}",
            f"--service-cluster-ip-range={SERVICES}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={FOLDER / 'accounts.pub'}",
            f"--service-account-signing-key-file={FOLDER / 'accounts.key'}",
            f"--token-auth-file={FOLDER / 'tokens.csv'}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            "--kubelet-preferred-address-types=InternalIP",
            f"--kubelet-client-certificate={FOLDER / 'kubelet-client.crt'}",
            f"--kubelet-client-key={FOLDER / 'kubelet-client.key'}",
        ],
    )
    wait_until(lambda: kubectl("get", "--raw", "/readyz") == "ok", "the API server", services)


def start_managers(services: Services) -> None:
    """The controllers and the scheduler."""
    services.start(
        "kube-controller-manager",
        [
            str(CONTROL_PLANE.program("kube-controller-manager")),
            f"--kubeconfig={kubeconfig('system:kube-controller-manager')}",
            f"--service-account-private-key-file={FOLDER / 'accounts.key'}",
            f"--root-ca-file={certificate()}",
            "--use-service-account-credentials=true",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            f"--cert-dir={FOLDER / 'controller-manager'}",
        ],
    )
    services.start(
        "kube-scheduler",
        [
            str(CONTROL_PLANE.program("kube-scheduler")),
            f"--kubeconfig={kubeconfig('system:kube-scheduler')}",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            f"--cert-dir={FOLDER / 'scheduler'}",
        ],
    )


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


def ctr(*arguments: str) -> str:
    """What containerd's own client says of the images and containers of Kubernetes.

    Raises:
        RuntimeError: it refused.
    """
    command = [str(CONTAINERD.program("ctr")), "--address", str(SOCKET), "--namespace", "k8s.io", *arguments]
    return network.run(network.inside(command))


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


def wait_until(condition: Callable[[], bool], what: str, services: Services) -> None:
    """Wait until a condition holds.

    Raises:
        NoNodeError: it did not in time, or a process of the node ended meanwhile.
    """
    known = set(services.running())
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except RuntimeError:
            pass  # it does not answer yet
        for name in known - set(services.running()):
            raise NoNodeError(f"{name} ended: {services.last_words(name)}")
        time.sleep(0.25)
    raise NoNodeError(f"waited {START_SECONDS} s in vain for {what}; the logs are in {FOLDER / 'logs'}")


def end_pods() -> None:
    """End what the containers run: the shims are containerd's children no more and would outlive it."""
    shims = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                command = (folder / "cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if command[0].endswith(b"containerd-shim-runc-v2") and str(SOCKET).encode() in command:
                shims.append(int(folder.name))
    contained = [int(pid) for shim in shims for pid in children(shim)]
    end(contained, seconds=1)
    end(shims, seconds=1)


def children(pid: int) -> list[str]:
    """The processes that one started and that still run."""
    try:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def mounts() -> list[str]:
    """What is mounted in the node's folder, the innermost first."""
    lines = Path("/proc/mounts").read_text().splitlines()
    return sorted((line.split()[1] for line in lines if line.split()[1].startswith(f"{FOLDER}/")), reverse=True)


def setting(name: str) -> str:
    """A setting of the whole machine."""
    return (Path("/proc/sys") / name).read_text().strip()


def remove_groups() -> None:
    """Remove the control groups of pods, which are empty now; a folder of files that cannot be removed is the kernel's way."""
    for top in Path("/sys/fs/cgroup").glob("**/kubepods"):
        for folder in sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True):
            folder.rmdir()
        top.rmdir()
