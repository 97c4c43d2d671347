"""Walking the pipeline: stages here are small functions in the jobs' places, and the real ingest where a job must fail by itself."""

import errno
import fcntl
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lib.cli.jobs import Stage, plan
from lib.cli.walk import JobError, walk
from lib.lake.lake import Lake
from lib.pipeline import JOBS
from lib.runs import history
from lib.runs.errors import RetryableError, SettingError
from lib.runs.run import start_run
from lib.settings import JobSettings


class CleanSettings(JobSettings):
    """Stands for clean's."""


class DecisionsSettings(JobSettings):
    """Stands for those of decisions."""


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    return tmp_path / "lake"


def stage(lake: Path, main: Callable[[JobSettings], None], kind: type[JobSettings] = CleanSettings) -> Stage:
    settings = kind(lake={"path": str(lake)}, log={"format": "rees46"})
    return Stage(JOBS[settings.job], [], settings, main)


def log_of(lake: Path) -> str:
    (log,) = (lake / "logs").glob("run-*.log")
    return log.read_text()


def unexpected(settings: JobSettings) -> None:
    pytest.fail("this job was not to run")


@pytest.mark.bad_input("an unknown setting")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--cleen.session-gap-minutes", "3"], r"--cleen.session-gap-minutes: no job or section is named 'cleen'"),
        (["--clean.sesion-gap-minutes", "3"], r"--clean.sesion-gap-minutes"),
        (
            ["--clean.session-gap-minutes", "0"],
            r"clean.session_gap_minutes = '0': should be greater than or equal to 1",
        ),
        (["--session-gap-minutes", "3"], r"no job or section is named 'session_gap_minutes'"),
    ],
)
def test_a_wrong_flag_of_any_job_stops_a_walk_before_the_first_one(lake: Path, arguments: list[str], told: str) -> None:
    with pytest.raises(ValueError, match=told) as error:
        plan(["ingest", "clean"], ["--lake.path", str(lake), *arguments])
    assert "\n" not in str(error.value)
    assert not lake.exists()


def test_each_job_is_given_its_own_flags_and_the_shared_ones(lake: Path) -> None:
    ingest, clean = plan(["ingest", "clean"], ["--lake.path", str(lake), "--clean.session-gap-minutes", "45"])
    assert ingest.arguments == ["--lake.path", str(lake)]
    assert clean.arguments == ["--lake.path", str(lake), "--clean.session-gap-minutes", "45"]
    assert clean.settings.session_gap_minutes == 45
    assert ingest.settings.lake.path == str(lake)


def test_a_job_that_is_done_is_passed_over_until_something_changes(
    lake: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    began = []

    def main(settings: JobSettings) -> None:
        with start_run(settings.job, settings) as run:
            began.append(run.run_id)

    shown: list[str] = []
    assert walk([stage(lake, main)], Lake(str(lake)), shown.append) == 0
    assert walk([stage(lake, main)], Lake(str(lake)), shown.append) == 0
    assert began == ["clean-000001"]
    assert shown == ["[1/1] clean: " + JOBS["clean"].does] * 2
    assert capsys.readouterr().out == "clean          unchanged (done)\n"


def test_a_job_that_set_a_file_aside_makes_the_exit_code_3_and_the_pipeline_goes_on(lake: Path) -> None:
    ran = []

    def set_aside(settings: JobSettings) -> None:
        raise SystemExit(3)

    stages = [stage(lake, set_aside), stage(lake, lambda settings: ran.append(settings.job), DecisionsSettings)]
    assert walk(stages, Lake(str(lake)), lambda line: None) == 3
    assert ran == ["decisions"]


def test_what_a_job_writes_to_standard_error_is_in_the_log_alone(lake: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def noisy(settings: JobSettings) -> None:
        os.write(2, b"WARN something that Java says\n")

    walk([stage(lake, noisy)], Lake(str(lake)), print)
    os.write(2, b"after the walk\n")
    shown, noise = capfd.readouterr()
    assert "WARN" not in shown
    assert noise == "after the walk\n"
    assert log_of(lake) == "WARN something that Java says\n"


@pytest.mark.parametrize(
    ("error", "told", "code"),
    [
        (ValueError("412 of 1,000 rows have no event_time"), "clean: 412 of 1,000 rows have no event_time", 4),
        (SettingError("no pseudonym key"), "clean: no pseudonym key", 2),
        (RetryableError("no Ray job server answers"), "clean: no Ray job server answers", 1),
        (RuntimeError("the fan is loud\nat line 3"), "clean: RuntimeError: the fan is loud", 1),
        (OSError(errno.ENOSPC, "No space left on device", "part-0"), "clean: the disk is full", 1),
        (KeyError(), "clean: KeyError", 1),
        (SystemExit(7), "clean: ended with exit code 7", 7),
    ],
)
def test_a_job_that_fails_ends_the_walk_with_one_line_its_code_and_the_path_of_the_log(
    lake: Path, error: BaseException, told: str, code: int
) -> None:
    def fails(settings: JobSettings) -> None:
        raise error

    with pytest.raises(JobError) as failure:
        walk([stage(lake, fails), stage(lake, unexpected, DecisionsSettings)], Lake(str(lake)), lambda line: None)
    first, second = str(failure.value).splitlines()
    assert (first, failure.value.code) == (told, code)
    assert second == f"all output: {next((lake / 'logs').glob('run-*.log'))}"
    assert "Traceback" in log_of(lake)


def test_a_real_job_that_fails_has_changed_no_table_and_says_why_in_one_line(lake: Path, tmp_path: Path) -> None:
    stages = plan(["ingest", "clean"], ["--lake.path", str(lake), "--log.path", str(tmp_path / "absent")])
    shown: list[str] = []
    with pytest.raises(JobError) as failure:
        walk(stages, Lake(str(lake)), shown.append)
    assert str(failure.value).splitlines()[0].startswith(f"ingest: there is no log at {tmp_path / 'absent'}; set")
    assert [line for line in shown if line.startswith("[")] == [f"[1/2] ingest: {JOBS['ingest'].does}"]
    held = Lake(str(lake))
    assert held.tables() == ["ops/runs"]
    assert [row["status"] for row in history.runs(held)] == ["failed"]


def test_one_lake_has_one_walk_at_a_time(lake: Path) -> None:
    lake.mkdir()
    with (lake / ".walk").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match=f"another `cartwheel run` is running on {lake}"):
            walk([stage(lake, unexpected)], Lake(str(lake)), lambda line: None)
    assert walk([stage(lake, lambda settings: None)], Lake(str(lake)), lambda line: None) == 0


@pytest.mark.bad_input("an unwritable lake")
def test_a_lake_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"the lake .*/file/lake cannot be written: Not a directory"):
        walk([stage(tmp_path / "file" / "lake", unexpected)], Lake(str(tmp_path / "file" / "lake")), lambda line: None)


@pytest.mark.bad_input("no Ray cluster at the given address")
def test_no_ray_cluster_at_the_address_ends_the_walk_and_changes_no_table(lake: Path) -> None:
    def unused(settings: JobSettings) -> None: ...

    ray_job = Stage(
        replace(JOBS["train_policy"], reads=()),
        [],
        CleanSettings(lake={"path": str(lake)}, cluster={"ray_address": "http://127.0.0.1:9"}),
        unused,
    )
    with pytest.raises(JobError, match=r"train_policy: no Ray job server answers at http://127\.0\.0\.1:9"):
        walk([ray_job], Lake(str(lake)), lambda line: None)
    assert Lake(str(lake)).tables() == []


def test_a_ray_job_without_its_input_is_skipped_before_a_cluster_starts(
    lake: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--lake.path", str(lake), "--cluster.ray-address", "http://127.0.0.1:9"]
    assert walk(plan(["train_policy"], arguments), Lake(str(lake)), lambda line: None) == 0
    assert "train_policy   skipped: there is no gold/decisions" in capsys.readouterr().out
    (row,) = history.runs(Lake(str(lake)))
    assert (row["job"], row["status"]) == ("train_policy", "skipped")
