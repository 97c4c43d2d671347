"""What an acceptance check returns, and how it runs the pipeline: as a user does, by the command line."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lib.pipeline import ROOT

SHARED = ROOT.parent / "shared"
DATA = SHARED / "data"
CARTWHEEL = str(Path(sys.executable).parent / "cartwheel")


@dataclass(frozen=True)
class Claim:
    """One sentence of what must be shown, what was measured, and whether it holds."""

    says: str
    measured: str
    holds: bool


def environment() -> dict[str, str]:
    """The environment of a user who has activated nothing: this Python's tools first on the path, Ray as it comes."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }


def run_pipeline(lake: Path, *arguments: str) -> tuple[float, str]:
    """`cartwheel run` on a lake; returns its seconds and what it printed.

    Raises:
        RuntimeError: it failed, with the end of its output.
    """
    began = time.monotonic()
    told = run_command([CARTWHEEL, "run", "--lake", str(lake), *arguments], cwd=ROOT)
    return time.monotonic() - began, told


def run_command(command: Sequence[str], *, cwd: Path, extra: Mapping[str, str] | None = None) -> str:
    """Run a command to its end; returns its output.

    Raises:
        RuntimeError: it failed, with the end of its output.
    """
    done = subprocess.run(
        command, cwd=cwd, env={**environment(), **(extra or {})}, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
    return done.stdout
