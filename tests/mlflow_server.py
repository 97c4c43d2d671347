"""A real tracking server of MLflow, of an environment of its own: ours has the client alone."""

import os
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from lib.engines.ports import free_ports
from tests.environments import environment
from tests.processes import started, wait_for

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
    with started(command, log=folder / "server.log", env=known) as process:
        wait_for(partial(_answer, address), seconds=START_SECONDS, what="MLflow", started=process, poll_seconds=0.25)
        yield address


def _answer(address: str) -> bool | None:
    """Whether the server says that it is well; None as long as it does not answer."""
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5):
            return True
    except OSError:
        return None
