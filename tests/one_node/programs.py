"""The programs of a Kubernetes node and of its operators, built once from Go modules and kept outside the checkout."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests import environments

KUBERNETES = "v1.36.3"
CACHE = environments.CACHE / "kubernetes"
BUILD_SECONDS = 1800
STAMPS = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")  # kubectl refuses a server without a version


class NoNodeError(Exception):
    """No Kubernetes can run on this machine; the message says why."""


@dataclass(frozen=True)
class Module:
    """A Go module and the commands that are built from it, each by the package that holds its main function."""

    path: str
    version: str
    commands: tuple[str, ...]
    is_kubernetes: bool = False

    @property
    def folder(self) -> Path:
        """Where its programs are kept."""
        return CACHE / self.path.replace("/", "_") / self.version

    def program(self, name: str) -> Path:
        """One of its programs."""
        return self.folder / name


CONTROL_PLANE = Module(
    "k8s.io/kubernetes",
    KUBERNETES,
    tuple(
        f"cmd/{name}"
        for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl")
    ),
    is_kubernetes=True,
)
ETCD = Module("go.etcd.io/etcd/server/v3", "v3.6.16", (".",))
CONTAINERD = Module(
    "github.com/containerd/containerd/v2",
    "v2.2.9",
    ("cmd/containerd", "cmd/containerd-shim-runc-v2", "cmd/ctr"),
)
COREDNS = Module("github.com/coredns/coredns", "v1.12.4", (".",))
NETWORK_PLUGINS = Module(
    "github.com/containernetworking/plugins",
    "v1.9.0",
    ("plugins/main/bridge", "plugins/main/loopback", "plugins/ipam/host-local", "plugins/meta/portmap"),
)
SPARK_OPERATOR = Module("github.com/kubeflow/spark-operator/v2", "v2.5.2", ("cmd/operator",))
KUBERAY = Module("github.com/ray-project/kuberay/ray-operator", "v1.6.2", (".",))
KUEUE = Module("sigs.k8s.io/kueue", "v0.17.0", ("cmd/kueue",))
NODE = (ETCD, CONTROL_PLANE, CONTAINERD, COREDNS, NETWORK_PLUGINS)
OPERATORS = (SPARK_OPERATOR, KUBERAY, KUEUE)


def build(modules: Sequence[Module], show: Callable[[str], object]) -> None:
    """Build what is not built yet; all of it takes 25 minutes on two cores.

    Raises:
        NoNodeError: there is no Go, or a module cannot be fetched or built.
    """
    for module in modules:
        if not module.folder.is_dir():
            show(f"building {module.path} {module.version}")
            _build(module)


def sources(module: Module) -> Path:
    """The module's sources in Go's cache, from which the operators' definitions are read.

    Raises:
        NoNodeError: they cannot be fetched.
    """
    fetched = _go(["mod", "download", "-json", f"{module.path}@{module.version}"], cwd=CACHE)
    return Path(json.loads(fetched)["Dir"])


def _build(module: Module) -> None:
    if shutil.which("go") is None:
        raise NoNodeError("the programs of a Kubernetes node are not built, and there is no Go to build them")
    module.folder.parent.mkdir(parents=True, exist_ok=True)
    folder = module.folder.with_name(f".build-{os.getpid()}")
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "bin").mkdir(parents=True)
    replaced = "".join(f"replace {name} => {name} {version}\n" for name, version in _staging(module))
    (folder / "go.mod").write_text(f"module node\n\ngo 1.26\n\nrequire {module.path} {module.version}\n\n{replaced}")
    packages = [module.path if command == "." else f"{module.path}/{command}" for command in module.commands]
    if not module.is_kubernetes:
        _go(["get", *(f"{package}@{module.version}" for package in packages)], cwd=folder)
    stamps = " ".join(f"-X {place}.gitVersion={module.version}" for place in STAMPS) if module.is_kubernetes else ""
    _go(["build", "-trimpath", "-ldflags", f"-s -w {stamps}", "-o", "bin/", *packages], cwd=folder)
    (folder / "bin").replace(module.folder)
    shutil.rmtree(folder, ignore_errors=True)


def _staging(module: Module) -> list[tuple[str, str]]:
    """The modules that Kubernetes carries within its own sources, and the versions under which they are published."""
    if not module.is_kubernetes:
        return []
    go_mod = (sources(module) / "go.mod").read_text()
    return [(name, module.version.replace("v1.", "v0.")) for name in re.findall(r"^\s*(\S+) v0\.0\.0$", go_mod, re.M)]


def _go(arguments: Sequence[str], *, cwd: Path) -> str:
    cwd.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "GOFLAGS": "-mod=mod", "CGO_ENABLED": "0"}
    try:
        return subprocess.run(
            ["go", *arguments],
            cwd=cwd,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
            timeout=BUILD_SECONDS,
        ).stdout
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        said = str(error.stderr or "").strip()[-300:]
        raise NoNodeError(f"go {' '.join(arguments[:2])} failed: {said or error}") from None
