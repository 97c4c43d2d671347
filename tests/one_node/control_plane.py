"""The cluster's store, API server, controllers and scheduler, and those who may talk to it."""

import csv
import json
import secrets
import subprocess
from pathlib import Path

from tests.one_node import network
from tests.one_node.network import NODE_IP, SERVICES
from tests.one_node.programs import CONTROL_PLANE, ETCD
from tests.one_node.services import FOLDER, Services, wait_until

SERVER = f"https://{NODE_IP}:6443"
# Who may talk to the API server, and the groups that its own roles know them by.
USERS = {
    "admin": "system:masters",
    "system:kube-controller-manager": "",
    "system:kube-scheduler": "",
    "system:kube-proxy": "",
    "system:node:node": "system:nodes",
    "dns": "",
}


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
