"""A Ray head of its own with a job server, for tests of what submits jobs."""

import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from lib.engines.ray_cluster import client_of
from lib.runs.errors import RetryableError

POLL_SECONDS = 0.5
START_SECONDS = 180


@dataclass
class LocalCluster:
    """A Ray head on this machine, reached through its job server with its own token."""

    address: str
    process: subprocess.Popen[bytes]
    folder: Path

    def stop(self) -> None:
        """Stop the head and everything that it started."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def start_local_cluster(log: Path) -> LocalCluster:
    """Start a head with token authentication; it ends with this process, even if that is killed.

    Raises:
        RetryableError: it did not start; its output is in `log`.
    """
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    port, dashboard_port, agent_port = _free_ports(3)
    # The cluster gets its own folder (with a short path, since it holds sockets) and its own agent port. By default two
    # clusters on one machine share both, and the jobs of one then find the other cluster, or no agent at all.
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    command = [
        _executable("ray"), "start", "--head", "--block", "--disable-usage-stats", f"--port={port}",
        "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard_port}",
        "--num-cpus=4", "--object-store-memory=2000000000",
        f"--dashboard-agent-listen-port={agent_port}", f"--temp-dir={folder}",
    ]  # fmt: skip
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    # The head stops at once when told to: it serves one walk, and a job must not outlive that by the 30 s that draining
    # takes.
    at_once = {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
    environment = {**os.environ, **at_once, "PATH": path, "OMP_NUM_THREADS": "1"}
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            env=environment,
            preexec_fn=_die_with_parent,  # noqa: PLW1509
        )
    cluster = LocalCluster(f"http://127.0.0.1:{dashboard_port}", process, folder)
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if _answers(dashboard_port):
            return cluster
        time.sleep(POLL_SECONDS)
    cluster.stop()
    raise RetryableError(f"the local Ray cluster did not start within {START_SECONDS} s; its output is in {log}")


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        if probe.connect_ex(("127.0.0.1", port)) != 0:
            return False
    try:
        client_of(f"http://127.0.0.1:{port}").list_jobs()
    except (OSError, RuntimeError, ValueError):  # not ready yet; the caller retries until the deadline
        return False
    return True


def _executable(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _free_ports(number: int) -> list[int]:
    """Ports below Ray's worker ports (10002-19999) that nobody listens on."""
    first, free = 9100 + secrets.randbelow(400), []
    for port in range(first, 10000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                free.append(port)
        if len(free) == number:
            return free
    raise RetryableError(f"no {number} free ports between {first} and 9999 for the local Ray cluster")


def _die_with_parent() -> None:
    """Ask the kernel (Linux) to end this child when its parent dies, however it dies."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
