"""`make demo` in a fresh clone with empty package caches, and again."""

import os
import shutil
import sys
import time
from pathlib import Path

from acceptance.claims import Claim, run_command
from acceptance.results import STATE
from acceptance.watched import watched_run
from lib.lake.lake import Lake
from lib.pipeline import PIPELINE, ROOT

TABLES = sorted({table for job in PIPELINE for table in job.writes if not table.endswith("*")})
FOLDER = STATE / "fresh"
CLONE = FOLDER / "checkout"
MOST_MINUTES, MOST_MINUTES_OF_SETUP = 15, 5
MOST_SECONDS_TO_START = 30


def check() -> list[Claim]:
    """The README's first command: environment, Java packages and the pipeline, from nothing."""
    clone()
    first, again = (
        watched_run(["make", "demo"], log=FOLDER / "demo.log", cwd=CLONE, extra=empty_caches()) for _ in range(2)
    )
    lake = Lake(str(CLONE / "lake"))
    empty = [table for table in TABLES if not lake.num_rows(table)]
    page = lake.folder / "files" / "report" / "index.html"
    return [
        Claim(
            f"make demo in a fresh clone with an empty package cache: under {MOST_MINUTES} minutes on 2 cores, "
            f"under {MOST_MINUTES_OF_SETUP} of them set-up",
            f"{first.seconds / 60:.1f} minutes, {first.start_seconds / 60:.1f} of them set-up",
            first.seconds < MOST_MINUTES * 60 and first.start_seconds < MOST_MINUTES_OF_SETUP * 60,
        ),
        Claim(
            "make demo in a fresh clone fills every table and writes the report",
            f"{len(TABLES)} tables, empty: {', '.join(empty) or 'none'}; {'a' if page.is_file() else 'no'} report",
            not empty and page.is_file(),
        ),
        Claim(
            "a second make demo sets up nothing and starts in seconds",
            f"{again.start_seconds:.0f} s to the first stage, {again.seconds:.0f} s to its end, "
            f"{again.num_passed_over} jobs passed over",
            "setup  " not in again.text and again.start_seconds < MOST_SECONDS_TO_START and again.num_passed_over > 0,
        ),
    ]


def clone() -> Path:
    """A clone of what is committed, without caches of Python packages and of Java's; the folder shared/ stands beside it."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    run_command(["git", "clone", "-q", str(ROOT), str(CLONE)], cwd=FOLDER)
    if (ROOT.parent / "shared").exists():
        (FOLDER / "shared").symlink_to(ROOT.parent / "shared")
    return CLONE


def make(target: str) -> tuple[float, str]:
    """`make` of a target in the clone; returns its seconds and what it printed."""
    began = time.monotonic()
    told = run_command(["make", target], cwd=CLONE, extra=empty_caches())
    return time.monotonic() - began, told


def empty_caches() -> dict[str, str]:
    """A fresh machine's environment: uv and Spark's Ivy keep their packages below the fresh folder; nothing of this checkout."""
    java_home, own = FOLDER / "java_home", {str(Path(sys.executable).parent), str(ROOT / ".venv" / "bin")}
    java_home.mkdir(exist_ok=True)
    return {
        "PATH": os.pathsep.join(folder for folder in os.environ["PATH"].split(os.pathsep) if folder not in own),
        "UV_CACHE_DIR": str(FOLDER / "uv_cache"),
        "JAVA_TOOL_OPTIONS": f"-Duser.home={java_home}",
        **dict.fromkeys(("PYTHONPATH", "VIRTUAL_ENV", "MAKEFLAGS"), ""),
    }
