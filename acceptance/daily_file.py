"""One more daily file is the only one ingested, and every table is then the same as a run on all the files gives.

On the last months of Online Retail (its windows for validation and test begin in them) with short training, to be quick.
"""

import os
import shutil
from pathlib import Path

from acceptance import lakes
from acceptance.claims import DATA, Claim, run_pipeline
from acceptance.results import STATE
from lib.lake.lake import Lake
from lib.runs import history
from tests.same import differences

FIRST_DAY = "2011-10-01"
SHORT_TRAINING = (
    *("--train-encoder.num-epochs", "2", "--train-encoder.two-tower-epochs", "1"),
    *("--als.rank", "16", "--als.num-iterations", "3"),
)


def check() -> list[Claim]:
    """One lake gets all files but the last, then the last; another all at once, with the same pseudonym key."""
    files = sorted(file for file in (DATA / "online_retail").glob("*.csv") if file.stem >= FIRST_DAY)
    logs = STATE / "daily_files"
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)
    for file in files[:-1]:
        shutil.copy2(file, logs)
    lake = lakes.empty("grown")
    run_on(lake, logs)
    shutil.copy2(files[-1], logs)
    seconds = run_on(lake, logs)
    fresh = lakes.empty("at_once", key_of_lake=lake)
    whole_seconds = run_on(fresh, logs)
    ingested = [
        [Path(file["path"]).name for file in row["input_files"]] for row in history.runs(Lake(str(lake)), "ingest")
    ]
    apart = differences(lake, fresh)
    num_tables = len([name for name in Lake(str(lake)).tables() if not name.startswith("ops/")])
    return [
        Claim(
            "one more daily file added to the folder is the only one ingested",
            f"{len(ingested[0])} files, then {', '.join(ingested[-1])} ({seconds:.0f} s)",
            len(ingested[0]) == len(files) - 1 and ingested[1:] == [[files[-1].name]],
        ),
        Claim(
            "every table is then the same as a run on all files gives",
            f"{num_tables} tables, {os.cpu_count()} cores, {whole_seconds:.0f} s at once; different: {'; '.join(apart) or 'none'}",
            not apart,
        ),
    ]


def run_on(lake: Path, logs: Path) -> float:
    """The whole pipeline on the files that lie there now; returns its seconds."""
    seconds, _ = run_pipeline(lake, "--logs", str(logs), "--format", "online_retail", *SHORT_TRAINING)
    return seconds
