"""A backfill of two days by Airflow, with the real jobs: the tables are those of `cartwheel run` without Airflow."""

import json
import shlex
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from lib.lake.lake import Lake
from lib.pipeline import ROOT
from lib.runs import history
from tests.airflow.engine import Airflow
from tests.same import differences
from tests.test_pipeline_runs import SMALL

DAYS = ("2026-06-24", "2026-06-25")  # of the simulated market
# With it double clicks are other ones, so that a day that is made anew is another.
FLAGS = "--clean.double-click-seconds=30"
CARTWHEEL = Path(sys.executable).parent / "cartwheel"


def run(lake: Path, *flags: str) -> None:
    command = [CARTWHEEL, "run", "--lake", lake, "--config", lake.parent / "small.yaml", *flags]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.fixture
def lakes(tmp_path: Path) -> list[Path]:
    """Two lakes that hold the same small market without pictures, cleaned, with its features."""
    small = {job: {key.replace("-", "_"): value for key, value in values.items()} for job, values in SMALL.items()}
    made = tmp_path / "made"
    made.mkdir()
    (made / "small.yaml").write_text(yaml.safe_dump({**small, "cluster": {"driver_memory": "1g"}}))
    run(made / "lake", "--to", "simulate")
    shutil.rmtree(made / "lake" / "raw" / "market" / "images")
    run(made / "lake", "--from", "ingest", "--to", "featurize")
    for name in ("alone", "scheduled"):
        shutil.copytree(made, tmp_path / name)
    return [tmp_path / name / "lake" for name in ("alone", "scheduled")]


@pytest.mark.slow
@pytest.mark.airflow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(
    f"{datetime.now(UTC):%Y-%m-%d}" <= DAYS[1],
    reason="Airflow makes no backfill of days to come, as the market's are here",
)
def test_a_backfill_of_two_days_by_airflow_makes_the_tables_that_cartwheel_makes_alone(
    tmp_path: Path, lakes: list[Path]
) -> None:
    alone, scheduled = lakes
    before = tmp_path / "made" / "lake"
    run(alone, "--from-date", DAYS[0], "--to-date", DAYS[1], FLAGS)

    words = [CARTWHEEL, "run", "--from", "{job}", "--to", "{job}", "--lake", scheduled]
    command = shlex.join(map(str, [*words, "--config", scheduled.parent / "small.yaml"]))
    airflow = Airflow(tmp_path / "airflow", {"cartwheel_command": command})
    with airflow.started(slots=1):
        (daily,) = airflow.await_runs(1, "running")  # of yesterday, which is not what is asked here
        airflow.api("PATCH", f"dags/cartwheel/dagRuns/{daily['dag_run_id']}", state="failed")
    airflow.backfill(*DAYS, "--dag-run-conf", json.dumps({"flags": FLAGS}))
    with airflow.started(slots=1):
        runs = airflow.await_runs(3)
    days = [run for run in runs if run["run_type"] == "backfill"]
    assert [(run["logical_date"][:10], run["state"]) for run in days] == [(day, "success") for day in DAYS]

    made = [row for row in history.runs(Lake(str(scheduled))) if row["from_date"] is not None]
    assert [(row["job"], str(row["from_date"]), str(row["to_date"])) for row in made] == [
        (job, day, day) for day in DAYS for job in ("clean", "featurize")
    ]
    assert differences(scheduled, alone) == []
    assert any("silver/events" in difference for difference in differences(before, alone)), "the days are other ones"
    assert Lake(str(scheduled)).num_rows("gold/ranking_metrics") > 0
