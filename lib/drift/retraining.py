"""Has the pipeline run again for a release that has drifted: once, whatever is killed, and again only where it failed.

The pipeline is `cartwheel run` of the same checkout, with the same lake, log and settings: it passes over what is unchanged and takes
up what was killed, so that a second one makes nothing twice.
"""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from lib.lake.lake import Lake
from lib.lake.writes import rows_of, upsert
from lib.pipeline import ROOT
from lib.tables.ops import RETRAININGS

FIRST, LAST = "featurize", "publish"


def command_of(lake: Lake, arguments: Sequence[str]) -> list[str]:
    """The words of the pipeline's command, after Python's: of drift's own arguments all but those of its section, which bear on no other job."""
    kept, keep = [], True
    for argument in arguments:
        if argument.startswith("--"):
            keep = not re.match(r"--(drift|lake)\.", argument)
        if keep:
            kept.append(argument)
    return ["-m", "lib.cli", "run", "--from", FIRST, "--to", LAST, "--lake", lake.path, *kept]


def is_done(lake: Lake, release: str) -> bool:
    """Whether the pipeline has run for a release and ended well."""
    return any(row["release"] == release and row["status"] == "done" for row in rows_of(lake, RETRAININGS, "release"))


def settle_others(lake: Lake, release: str) -> None:
    """Close what was killed after it had made the release that is current now."""
    open_rows = [row for row in rows_of(lake, RETRAININGS, "release") if row["status"] == "running"]
    changed = [
        {**row, "status": "done", "finished_at": datetime.now(UTC)} for row in open_rows if row["release"] != release
    ]
    if changed:
        upsert(lake, RETRAININGS, changed)


def retrain(lake: Lake, release: str, run_id: str, drifted: str, arguments: Sequence[str]) -> int:
    """Run the pipeline for a release, and record it; returns its exit code. What it says goes where this process's does."""
    known = next((row for row in rows_of(lake, RETRAININGS, "release") if row["release"] == release), None)
    begun = known or {"release": release, "run_id": run_id, "drifted": drifted, "started_at": datetime.now(UTC)}
    row = {**begun, "status": "running", "finished_at": None, "exit_code": None}
    upsert(lake, RETRAININGS, [row])
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    code = subprocess.run(
        [sys.executable, *command_of(lake, arguments)], env={**os.environ, "PYTHONPATH": paths}, check=False
    ).returncode
    status = "done" if code in (0, 3) else "failed"
    upsert(lake, RETRAININGS, [{**row, "status": status, "finished_at": datetime.now(UTC), "exit_code": code}])
    return code
