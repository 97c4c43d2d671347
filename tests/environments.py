"""Environments of Python outside the checkout, for programs that do not go with ours: each made once from a lock file."""

import hashlib
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cartwheel"


@cache
def environment(name: str, lock: Path) -> Path:
    """The folder of an environment that holds what the lock file pins.

    Raises:
        RuntimeError: it could not be made.
    """
    folder = CACHE / name / hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
    ready = folder / ".ready"
    if not ready.exists():
        _uv("venv", "--allow-existing", "--python", sys.executable, str(folder))
        _uv("pip", "sync", "--require-hashes", "--python", str(folder / "bin" / "python"), str(lock))
        ready.touch()
    return folder


def _uv(*arguments: str) -> None:
    command = [sys.executable, "-m", "uv", *arguments, "--quiet"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(f"the environment could not be made: {ended.stderr.strip()}")
