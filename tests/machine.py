"""The machine that a check ran on: cores, memory, versions; no name of it."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("pyspark", "delta-spark", "deltalake", "duckdb", "ray", "torch", "polars")


def machine() -> str:
    """One line: cores, memory, system, and the versions that bear on speed."""
    gibibytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"{len(os.sched_getaffinity(0))} cores ({_processor()}), {gibibytes:.0f} GiB, {platform.system()} "
        f"{platform.machine()}; Python {platform.python_version()}, {_java()}, {packages}"
    )


def _processor() -> str:
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "unknown processor")


def _java() -> str:
    told = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False).stderr.splitlines()
    quoted = told[0].split('"') if told else []
    return f"Java {quoted[1]}" if len(quoted) > 1 else "no Java"
