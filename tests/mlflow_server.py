"""A real tracking server of MLflow, of an environment of its own: ours has the client alone."""

import os
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.environments import environment
from tests.object_store import free_ports

REQUIREMENTS = Path(__file__).parent / "requirements-mlflow.lock"
START_SECONDS = 90


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """The address of a server that keeps what it is told in a folder, as long as the block runs.

    Raises:
        RuntimeError: its environment could not be made, it ended, or did not answer in time.
    """
    programs = environment("mlflow", REQUIREMENTS) / "bin"
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}"
    store = ["--backend-store-uri", f"sqlite:///{folder / 'runs.db'}", "--artifacts-destination", str(folder / "files")]
    command = [str(programs / "mlflow"), "server", *store, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    known = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "MLFLOW_DISABLE_TELEMETRY": "true"}
    log = folder / "server.log"
    with log.open("wb") as told:
        process = subprocess.Popen(command, stdout=told, stderr=told, env=known, start_new_session=True)
    try:
        _wait_for(address, process, log)
        yield address
    finally:
        os.killpg(process.pid, 9)  # and what it has started
        process.wait()


def _wait_for(address: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(START_SECONDS * 4):
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return
        except OSError:
            if process.poll() is not None:
                break
            time.sleep(0.25)
    raise RuntimeError(f"the server did not start: {log.read_text(errors='replace')[-2000:]}")
