"""The process of a walk's Ray jobs: what jobs say and how they end comes back, and nothing is left of it."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lib.cli.ray_host import RayHost
from lib.runs import history
from lib.runs.errors import ExitCode, JobEndedError
from tests.lakes import SmallLake
from tests.processes import await_end, descendants, running


@pytest.fixture
def host(tmp_path: Path) -> Iterator[RayHost]:
    started = RayHost(tmp_path / "run.log")
    yield started
    started.stop()


@pytest.mark.slow
def test_jobs_run_one_after_the_other_and_nothing_is_left_of_their_ray(
    host: RayHost, small_lake: SmallLake, tmp_path: Path
) -> None:
    said: list[str] = []
    arguments = ["--lake.path", small_lake.lake.path, "--log.format", str(small_lake.mapping)]
    host.get_ready("train_ranker", arguments)
    host.get_ready("train_gan", [*arguments, "--train_gan.batch-size", "0"])  # is told when it is asked for
    assert host.run("train_ranker", arguments, said.append) == ExitCode.DONE
    with pytest.raises(JobEndedError, match=r"^train_gan\.batch_size = ") as refused:
        host.run("train_gan", [*arguments, "--train_gan.batch-size", "0"], said.append)
    assert refused.value.code == ExitCode.WRONG_SETTING
    assert host.run("make_creatives", arguments, said.append) == ExitCode.DONE
    messages = [json.loads(line)["message"] for line in said]
    assert [message.partition(":")[0] for message in messages] == ["skipped", "skipped"]
    assert {row["job"]: row["status"] for row in history.runs(small_lake.lake)} == {
        "train_ranker": "skipped",
        "make_creatives": "skipped",
    }
    mine = [host.process.pid, *(process.pid for process in descendants(host.process.pid))]
    assert len(mine) > 3
    host.stop()
    assert await_end(mine, seconds=20), [running()[pid].command for pid in mine if pid in running()]
    assert "Traceback" in (tmp_path / "run.log").read_text()


def test_a_killed_process_is_one_line(host: RayHost, small_lake: SmallLake) -> None:
    host.process.kill()
    with pytest.raises(JobEndedError, match=r"^the process of the Ray jobs ended with -9$") as killed:
        host.run("train_ranker", ["--lake.path", small_lake.lake.path], print)
    assert killed.value.code == ExitCode.FAILED


@pytest.mark.slow
def test_nothing_is_left_of_a_process_that_was_getting_ready(host: RayHost, small_lake: SmallLake) -> None:
    host.get_ready("train_ranker", ["--lake.path", small_lake.lake.path])
    deadline = time.monotonic() + 60
    while len(descendants(host.process.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    mine = [host.process.pid, *(process.pid for process in descendants(host.process.pid))]
    assert len(mine) > 2
    host.stop()
    assert await_end(mine, seconds=20), [running()[pid].command for pid in mine if pid in running()]
