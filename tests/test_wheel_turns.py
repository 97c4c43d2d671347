"""The whole order of jobs: on a small market by the command a user types, and on a log that holds next to nothing."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pytest

from lib.cli.jobs import plan
from lib.cli.walk import walk
from lib.lake.lake import Lake
from lib.pipeline import JOBS, PIPELINE
from lib.runs import history

ROOT = Path(__file__).parents[1]
RUN_JOBS = [job.name for job in PIPELINE]
SMALL = {
    "simulate": {"num-users": 60, "num-items": 60, "days": 20, "sessions-per-user": 4, "num-files": 2},
    "als": {"rank": 4, "num-iterations": 2},
    "train_encoder": {"num-epochs": 2, "two-tower-epochs": 1, "num-resamples": 100},
    "evaluate": {"num-resamples": 100, "num-shards": 2},
    "train_policy": {"num-updates": 100, "num-resamples": 100, "true-value-sessions": 100},
    "train_gan": {"num-epochs": 2, "num-start-epochs": 1, "steps-per-epoch": 4, "num-resamples": 100},
    "make_creatives": {"num-items": 2, "num-candidates": 2, "min-quality": 0},
}
NOTHING_KNOWN = """
name: counter
sources:
  lines:
    files: "*.csv"
    names: {item_id: item, event_time: time}
    events: [{type: purchase}]
"""


class Turn(NamedTuple):
    """What `cartwheel run` printed and left behind."""

    code: int
    printed: str
    versions: dict[str, int]  # of every table but ops
    runs: dict[str, int]  # of each job

    def lines(self, job: str) -> list[str]:
        """What a job said of itself, without its name."""
        return [line[15:] for line in self.printed.splitlines() if line.startswith(f"{job:<15}")]


def turn(folder: Path, *arguments: str) -> Turn:
    flags = [f"--{job}.{key}={value}" for job, values in SMALL.items() for key, value in values.items()]
    command = [str(Path(sys.executable).parent / "cartwheel"), "run", "--lake", str(folder), *arguments]
    done = subprocess.run(
        [*command, "--cluster.driver-memory=1g", *flags],
        cwd=ROOT,
        env=os.environ
        | {
            "COLUMNS": "200",
            "OMP_NUM_THREADS": "1",
            "JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=540,
    )
    lake = Lake(str(folder))
    versions = {name: lake.open(name).version() for name in lake.tables() if not name.startswith("ops/")}
    assert done.stderr == ""  # what Spark and Ray say goes to the log
    return Turn(done.returncode, done.stdout, versions, dict(Counter(row["job"] for row in history.runs(lake))))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("wheel") / "lake"


@pytest.fixture(scope="module")
def first(folder: Path) -> Turn:
    return turn(folder)


@pytest.mark.slow
def test_one_turn_runs_every_job_and_fills_every_table(first: Turn, folder: Path):
    assert first.code == 0, first.printed
    lake = Lake(str(folder))
    assert {row["job"]: row["status"] for row in history.runs(lake)} == dict.fromkeys(RUN_JOBS, "done")
    written = {table for job in PIPELINE for table in job.writes if table != "bronze/*"}
    assert {table: lake.num_rows(table) > 0 for table in written} == dict.fromkeys(written, True)
    records = sum(lake.num_rows(table) for table in lake.sources() if table != "bronze/items")
    refused = lake.num_rows("bronze/rejects")
    accepted = set(lake.dataset("silver/events").to_table(columns=["source_record"])["source_record"].to_pylist())
    assert records == len(accepted) + refused


@pytest.mark.slow
def test_a_turn_shows_each_stage_and_ends_with_the_summary_and_the_report(first: Turn, folder: Path):
    begun = [line.partition(" ")[2].partition(":")[0] for line in first.printed.splitlines() if line.startswith("[")]
    assert begun == RUN_JOBS
    assert all(line.endswith(" s") for job in RUN_JOBS for line in first.lines(job))
    summary = {line.strip().split("  ")[0]: line for line in first.printed.rpartition("\n\n")[2].splitlines()}
    assert {"read", "rejected", "kept", "policy", "experiment", "tables"} <= set(summary)
    assert " 6 made and accepted" in summary["adverts"]  # two products in three sizes
    assert summary["report"].split()[1:] == [str(folder / "files" / "report" / "index.html")]
    assert len([name for name in summary if name.startswith("NDCG@10")]) == 2
    assert (folder / "files" / "report" / "index.html").stat().st_size > 100_000


@pytest.mark.slow
def test_a_second_turn_runs_no_job_and_changes_no_table(first: Turn, folder: Path):
    second = turn(folder)
    assert second.code == 0
    assert second.versions == first.versions
    assert second.runs == first.runs | {"ingest": 2}
    for job in RUN_JOBS:
        (line,) = second.lines(job)[-1:]
        assert line.startswith("skipped: no new files" if job == "ingest" else "unchanged (done)")


@pytest.mark.slow
def test_a_bad_file_is_set_aside_and_the_wheel_goes_on_with_exit_code_2(first: Turn, folder: Path):
    lake = Lake(str(folder))
    before = lake.num_rows("bronze/events")
    shutil.copytree(folder, folder.with_name("other"), ignore=shutil.ignore_patterns("files"))
    other = folder.with_name("other")
    shutil.copy(folder.with_name("lake.key"), other.with_name("other.key"))
    events = other / "raw" / "market" / "events"
    record = {"event_time": "2026-06-30T12:00:00Z", "event_type": "view", "user_id": "u00000001", "item_id": "p00001"}
    (events / "late.jsonl").write_text(json.dumps(record) + "\n")
    (events / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"event_time": 1}\n' * 1000)[:-9])

    third = turn(other, "--to", "clean")

    assert third.code == 2, third.printed
    assert any(
        line.startswith("set aside events/cut.jsonl.gz: it is a gzip file that was cut off")
        for line in third.lines("ingest")
    )
    assert third.runs == first.runs | {"ingest": first.runs["ingest"] + third.runs["ingest"] - 1, "clean": 2}
    lake = Lake(str(other))
    assert lake.num_rows("bronze/events") == before + 1
    records = lake.dataset("silver/events").to_table(columns=["source_record"])["source_record"].to_pylist()
    assert "events/events/late.jsonl:1" in records


@pytest.mark.slow
def test_a_log_without_users_impressions_and_pictures_skips_their_stages_with_one_line_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "log").mkdir()
    lines = [f"i{number % 5},2026-01-{number % 28 + 1:02d}" for number in range(200)]
    (tmp_path / "log" / "1.csv").write_text("\n".join(["item,time", *dict.fromkeys(lines)]) + "\n")
    (tmp_path / "own.yaml").write_text(NOTHING_KNOWN)
    lake = tmp_path / "lake"
    places = ["--lake.path", str(lake), "--log.path", str(tmp_path / "log"), "--log.format", str(tmp_path / "own.yaml")]
    stages = plan([name for name in RUN_JOBS if name != "simulate"], [*places, "--cluster.driver-memory=1g"])
    for engine, some in groupby(stages, key=lambda stage: stage.job.engine):
        if engine == "spark":
            assert walk(list(some), lake, lambda line: None) == 0
        else:
            for stage in some:
                stage.main(stage.settings)  # as the job that the wheel would submit: it ends before it needs Ray

    said = capsys.readouterr().out.splitlines()
    status = {row["job"]: row["status"] for row in history.runs(Lake(str(lake)))}
    assert {job for job, what in status.items() if what == "done"} == {"ingest", "clean", "featurize"}
    skipped = [job for job, what in status.items() if what == "skipped"]
    assert sorted(skipped) == sorted(set(JOBS) - {"simulate", "ingest", "clean", "featurize", "report"})
    for job in skipped:
        (line,) = (line[15:] for line in said if line.startswith(f"{job:<15}skipped: "))
        assert len(line) > len("skipped: ") + 10
