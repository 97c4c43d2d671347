"""Images without a registry and without Docker: built by buildah from a base of Debian's packages, and given to the node."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from lib.pipeline import ROOT
from tests.one_node.programs import CACHE, NoNodeError
from tests.one_node.worker import PAUSE, ctr

BUILDAH = (
    "buildah",
    "--root",
    str(CACHE / "images"),
    "--runroot",
    "/run/cartwheel-buildah",
    "--storage-driver",
    "overlay",
)
BASE = "docker.io/local/debian:bookworm"
BASE_PACKAGES = "ca-certificates,libgomp1,openjdk-17-jre-headless,python3,python3-venv,tini"
FILES = ROOT / "conf" / "image"
OWN_CERTIFICATES = Path("/usr/local/share/ca-certificates")
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
PAUSE_PROGRAM = 'package main\n\nimport (\n\t"os"\n\t"os/signal"\n\t"syscall"\n)\n\nfunc main() {\n\tended := make(chan os.Signal, 1)\n\tsignal.Notify(ended, syscall.SIGINT, syscall.SIGTERM)\n\t<-ended\n}\n'


def name_of(kind: str) -> str:
    """The name of the image of Spark or Ray jobs."""
    return f"docker.io/local/cartwheel-{kind}:test"


def build_base(show: Callable[[str], object]) -> None:
    """A small Debian with Java and Python, where a public image is out of reach.

    Raises:
        NoNodeError: the tools are missing, or a package cannot be had.
    """
    missing = [name for name in ("buildah", "mmdebstrap") if shutil.which(name) is None]
    if missing:
        raise NoNodeError(f"images need {', '.join(missing)}, of the distribution's packages")
    if _is_built(BASE):
        return
    show("installing Debian's packages into the base image")
    packed = CACHE / "base.tar"
    packed.parent.mkdir(parents=True, exist_ok=True)
    # A machine behind a proxy may trust certificates of its own, by which the image's tools must fetch packages too.
    trust = (f'cp -r {OWN_CERTIFICATES}/. "$1"{OWN_CERTIFICATES}/', 'chroot "$1" update-ca-certificates')
    hooks = [f"--customize-hook={hook}" for hook in (trust if OWN_CERTIFICATES.is_dir() else ())]
    _run("mmdebstrap", "--variant=minbase", f"--include={BASE_PACKAGES}", *hooks, "bookworm", str(packed))
    container = _run(*BUILDAH, "from", "scratch").strip()
    _run(*BUILDAH, "add", container, str(packed), "/")
    _run(*BUILDAH, "config", "--env", f"PIP_CERT={CERTIFICATES}", "--env", f"SSL_CERT_FILE={CERTIFICATES}", container)
    _run(*BUILDAH, "commit", "--rm", container, BASE)
    packed.unlink()


def build(kind: str, show: Callable[[str], object]) -> None:
    """The project's image of Spark or Ray jobs, by the shipped Containerfile; unchanged layers are kept."""
    show(f"building the image of {kind} jobs")
    _run(
        *(*BUILDAH, "bud", "--layers", "--isolation", "chroot", "--format", "docker"),
        *("--build-arg", f"BASE={BASE}", "--target", kind, "--tag", name_of(kind)),
        *("--file", str(FILES / "Containerfile"), "--ignorefile", str(FILES / "Containerfile.dockerignore"), str(ROOT)),
    )


def give(name: str) -> None:
    """Give an image to the node, unless it has it."""
    digest = json.loads(_run(*BUILDAH, "inspect", "--type", "image", name))["FromImageDigest"]
    marker = f"{name}@{digest}"
    if marker in ctr("images", "ls", "-q"):
        return
    push = [*BUILDAH, "push", name, f"docker-archive:/dev/stdout:{name}"]
    with subprocess.Popen(push, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as packed:
        ctr("images", "import", "--local", "--discard-unpacked-layers", "-", given=packed.stdout)
    ctr("images", "tag", "--force", name, marker)


def give_pause() -> None:
    """The program that holds a pod's namespaces."""
    folder = CACHE / "pause"
    if not (folder / "pause").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "main.go").write_text(PAUSE_PROGRAM)
        environment = ("env", "CGO_ENABLED=0", "GO111MODULE=off")
        _run(*environment, "go", "build", "-ldflags", "-s -w", "-o", str(folder / "pause"), str(folder / "main.go"))
    give_program(PAUSE, folder / "pause", "/pause")


def give_program(name: str, program: Path, place: str) -> None:
    """Give the node an image of nothing but one program."""
    if not _is_built(name):
        container = _run(*BUILDAH, "from", "scratch").strip()
        _run(*BUILDAH, "add", container, str(program), place)
        _run(*BUILDAH, "config", "--entrypoint", f'["{place}"]', container)
        _run(*BUILDAH, "commit", "--rm", "--format", "docker", container, name)
    give(name)


def _is_built(name: str) -> bool:
    return (
        subprocess.run([*BUILDAH, "inspect", "--type", "image", name], capture_output=True, check=False).returncode == 0
    )


def _run(*command: str) -> str:
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        log = CACHE / f"{command[0]}.log"
        log.write_text(ended.stdout + ended.stderr)
        raise NoNodeError(f"{command[0]} failed; what it says is in {log}")
    return ended.stdout
