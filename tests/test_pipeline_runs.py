"""The whole order of jobs: on a small market by the command a user types, and on a log that holds next to nothing."""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from lib.cli.jobs import plan
from lib.cli.walk import walk
from lib.lake.lake import Lake
from lib.runs import history

ROOT = Path(__file__).parents[1]
ORDER = [
    *("simulate", "ingest", "clean", "featurize", "sessions", "als", "train_encoder", "train_sequence"),
    *("train_content", "train_ranker", "recommend", "evaluate", "decisions", "train_policy", "experiment"),
    *("train_gan", "make_creatives", "publish", "track", "report"),
]
TABLES = {
    *(
        "bronze/events",
        "bronze/images",
        "bronze/items",
        "bronze/rejects",
        "silver/events",
        "silver/items",
        "silver/descriptions",
    ),
    *("gold/daily", "gold/user_days", "gold/item_days"),
    *("gold/user_profiles", "gold/item_profiles", "gold/interactions", "gold/examples", "gold/scaling", "gold/vectors"),
    *("gold/sessions", "gold/model_metrics", "gold/candidates", "gold/recommendations", "gold/ranking_metrics"),
    *("gold/propensity_to_buy", "gold/decisions", "gold/policy_values"),
    *("gold/experiments", "gold/creatives"),
}
SMALL = {
    "simulate": {"num-users": 60, "num-items": 60, "days": 20, "sessions-per-user": 4, "num-files": 2},
    "als": {"rank": 4, "num-iterations": 2},
    "train_encoder": {"num-epochs": 2, "two-tower-epochs": 1, "num-resamples": 100},
    "train_sequence": {"num-epochs": 1, "dimensions": 8},
    "train_content": {"picture-epochs": 1, "fusion-epochs": 1, "num-batches": 10},
    "train_ranker": {"max-trees": 20, "min-leaf-candidates": 5},
    "evaluate": {"num-resamples": 100, "num-shards": 2},
    "train_policy": {"num-updates": 100, "num-resamples": 100, "true-value-sessions": 100},
    "train_gan": {"num-epochs": 2, "num-start-epochs": 1, "steps-per-epoch": 4, "num-resamples": 100},
    "make_creatives": {"num-items": 2, "num-candidates": 2, "min-quality": 0, "max-colour-difference": 300},
}
NOTHING_KNOWN = """
name: counter
sources:
  lines:
    files: "*.csv"
    names: {item_id: item, event_time: time}
    events: [{type: purchase}]
"""


class PipelineRun(NamedTuple):
    """What `cartwheel run` printed and left behind."""

    code: int
    printed: str
    versions: dict[str, int]  # of every table but ops
    runs: Counter[str]  # of each job, earlier ones too

    def lines(self, job: str) -> list[str]:
        """What a job said of itself, without its name."""
        return [line[15:] for line in self.printed.splitlines() if line.startswith(f"{job:<15}")]


def num_runs(folder: Path) -> Counter[str]:
    """How often each job has run on a lake."""
    return Counter(row["job"] for row in history.runs(Lake(str(folder))))


def run_pipeline(folder: Path, *arguments: str) -> PipelineRun:
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
    return PipelineRun(done.returncode, done.stdout, versions, num_runs(folder))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake whose path every engine must read right."""
    return tmp_path_factory.mktemp("pipeline") / "50 % größer [1]" / "lake"


@pytest.fixture(scope="module")
def first(folder: Path) -> PipelineRun:
    return run_pipeline(folder)


@pytest.mark.slow
def test_one_run_runs_every_job_and_fills_every_table(first: PipelineRun, folder: Path) -> None:
    assert first.code == 0, first.printed
    lake = Lake(str(folder))
    assert [(row["job"], row["status"]) for row in history.runs(lake)[: len(ORDER)]] == [(job, "done") for job in ORDER]
    assert {table for table in lake.tables() if lake.num_rows(table) > 0} == TABLES | {
        "ops/files",
        "ops/models",
        "ops/runs",
    }
    assert first.runs == dict.fromkeys(ORDER, 1)


@pytest.mark.slow
def test_every_record_of_the_log_is_in_bronze_and_then_an_event_or_refused(first: PipelineRun, folder: Path) -> None:
    lake = Lake(str(folder))
    files = sorted((folder / "raw" / "market" / "events").glob("*.jsonl.gz"))
    assert len([file for file in files if file.name.startswith("part-")]) == SMALL["simulate"]["num-files"]
    num_lines = sum(len(gzip.decompress(file.read_bytes()).splitlines()) for file in files)
    assert num_lines > 1000
    assert lake.num_rows("bronze/events") == num_lines
    accepted = lake.dataset("silver/events").to_table(columns=["source_record"])["source_record"].unique()
    assert len(accepted) + lake.num_rows("bronze/rejects") == num_lines
    assert len(accepted) > 0.9 * num_lines


@pytest.mark.slow
def test_a_run_shows_each_stage_and_ends_with_the_summary_and_the_report(first: PipelineRun, folder: Path) -> None:
    begun = [line.partition(" ")[2].partition(":")[0] for line in first.printed.splitlines() if line.startswith("[")]
    assert begun == ORDER
    for job in ORDER:
        assert first.lines(job), job
        assert all(re.search(r" [0-9.]+ s$", line) for line in first.lines(job)), job
    summary = {line.strip().split("  ")[0]: line for line in first.printed.rpartition("\n\n")[2].splitlines()}
    assert {"read", "rejected", "kept", "policy", "experiment", "tables"} <= set(summary)
    assert " 6 adverts accepted, 0 refused" in summary["adverts"]  # two products in three sizes
    assert summary["report"].split(maxsplit=1)[1].strip() == str(folder / "files" / "report" / "index.html")
    assert len([name for name in summary if name.startswith("NDCG@10")]) == 2
    assert (folder / "files" / "report" / "index.html").stat().st_size > 100_000


@pytest.mark.slow
def test_a_second_run_runs_no_job_and_changes_no_table(first: PipelineRun, folder: Path) -> None:
    second = run_pipeline(folder)
    assert second.code == 0
    assert second.versions == first.versions
    assert second.runs == dict.fromkeys(ORDER, 1) | {"ingest": 2}
    for job in ORDER:
        (line,) = second.lines(job)[-1:]
        assert line.startswith("skipped: no new files" if job == "ingest" else "unchanged (done)")


@pytest.mark.slow
def test_a_bad_file_is_set_aside_and_the_pipeline_goes_on_with_exit_code_3(first: PipelineRun, folder: Path) -> None:
    lake = Lake(str(folder))
    before = lake.num_rows("bronze/events")
    shutil.copytree(folder, folder.with_name("other"), ignore=shutil.ignore_patterns("files"))
    other = folder.with_name("other")
    shutil.copy(folder.with_name("lake.key"), other.with_name("other.key"))
    runs_before = num_runs(other)
    events = other / "raw" / "market" / "events"
    record = {"event_time": "2026-06-30T12:00:00Z", "event_type": "view", "user_id": "u00000001", "item_id": "p00001"}
    (events / "late.jsonl").write_text(json.dumps(record) + "\n")
    (events / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"event_time": 1}\n' * 1000)[:-9])

    third = run_pipeline(other, "--to", "clean")

    assert third.code == 3, third.printed
    assert any(
        line.startswith("set aside events/cut.jsonl.gz: it is a gzip file that was cut off")
        for line in third.lines("ingest")
    )
    assert third.runs - runs_before == {"ingest": 1, "clean": 1}  # and none of those that nothing is new for
    lake = Lake(str(other))
    assert lake.num_rows("bronze/events") == before + 1
    records = lake.dataset("silver/events").to_table(columns=["source_record"])["source_record"].to_pylist()
    assert "events/events/late.jsonl:1" in records


@pytest.mark.slow
def test_a_log_without_users_impressions_and_pictures_skips_their_stages_with_one_line_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log").mkdir()
    lines = [f"i{number % 5},2026-01-{number % 28 + 1:02d}" for number in range(200)]
    (tmp_path / "log" / "1.csv").write_text("\n".join(["item,time", *dict.fromkeys(lines)]) + "\n")
    (tmp_path / "own.yaml").write_text(NOTHING_KNOWN)
    lake = tmp_path / "lake"
    places = ["--lake.path", str(lake), "--log.path", str(tmp_path / "log"), "--log.format", str(tmp_path / "own.yaml")]
    stages = plan([name for name in ORDER if name != "simulate"], [*places, "--cluster.driver-memory=1g"])
    assert (
        walk(stages, Lake(str(lake)), lambda line: None) == 0
    )  # and no Ray cluster starts, for no job has anything to do there

    said = capsys.readouterr().out.splitlines()
    status = {row["job"]: row["status"] for row in history.runs(Lake(str(lake)))}
    skipped = [
        *("sessions", "als", "train_encoder", "train_sequence", "train_content", "train_ranker", "recommend"),
        *("evaluate", "decisions", "train_policy", "experiment"),
        *("train_gan", "make_creatives", "publish", "track"),
    ]
    assert status == dict.fromkeys(("ingest", "clean", "featurize", "report"), "done") | dict.fromkeys(
        skipped, "skipped"
    )
    for job in skipped:
        (line,) = (line[15:] for line in said if line.startswith(f"{job:<15}skipped: "))
        assert len(line) > len("skipped: ") + 10
