"""What the node leaves on the machine beside its folder and its network, and how it is taken away again."""

import json
import shutil
import subprocess
from pathlib import Path

from tests.one_node.services import FOLDER, end
from tests.one_node.worker import SOCKET

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
FOUND = FOLDER / "machine.json"


def note() -> None:
    """Note how the machine is before the node starts."""
    strays = [str(folder) for folder in STRAY_FOLDERS if not folder.exists()]
    FOUND.write_text(json.dumps({"settings": {name: setting(name) for name in MACHINE_WIDE}, "strays": strays}))


def remove() -> None:
    """Bring the machine back to what was noted; the node's processes have ended."""
    for mounted in mounts():
        subprocess.run(["umount", "--lazy", mounted], check=False, capture_output=True)
    if FOUND.is_file():
        found = json.loads(FOUND.read_text())
        for name, value in found["settings"].items():
            (Path("/proc/sys") / name).write_text(value)
        for folder in found["strays"]:
            shutil.rmtree(folder, ignore_errors=True)
    remove_groups()
    for link in Path("/var/log/containers").glob("*.log") if Path("/var/log/containers").is_dir() else ():
        if str(link.readlink()).startswith(str(FOLDER)):
            link.unlink()


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
