"""The Python that the peers run with: an environment of their own, outside the checkout, made once from requirements.lock."""

import hashlib
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

REQUIREMENTS = Path(__file__).parent / "requirements.lock"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cartwheel" / "peers"


@cache
def python() -> str:
    """The environment's Python.

    Raises:
        RuntimeError: the environment could not be made.
    """
    folder = CACHE / hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:16]
    executable, ready = str(folder / "bin" / "python"), folder / ".ready"
    if not ready.exists():
        _uv("venv", "--allow-existing", "--python", sys.executable, str(folder))
        _uv("pip", "sync", "--require-hashes", "--python", executable, str(REQUIREMENTS))
        ready.touch()
    return executable


def _uv(*arguments: str) -> None:
    command = [sys.executable, "-m", "uv", *arguments, "--quiet"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(f"the environment of the peers could not be made: {ended.stderr.strip()}")
