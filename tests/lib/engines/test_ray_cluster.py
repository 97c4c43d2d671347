"""The local Ray cluster and its job server: one cluster for all tests of this file."""

import http.server
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lib.engines.ray_cluster import exit_code_of_job, run_job
from lib.engines.ray_train import scaling_config
from lib.runs.errors import ExitCode, JobEndedError
from lib.settings import ClusterSettings
from tests.lib.engines.ray_head import LocalCluster, start_local_cluster
from tests.processes import await_end, descendants, running

SPEAKS = 'import os; print("mine", os.environ["OMP_NUM_THREADS"]); print("done")'


class Answers404(http.server.BaseHTTPRequestHandler):
    """A server that is no Ray."""

    def do_GET(self) -> None:
        self.send_error(404)

    def do_POST(self) -> None:
        self.send_error(404)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def stranger() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers404) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs") / "run.log"


@pytest.fixture(scope="module")
def cluster(log: Path) -> Iterator[LocalCluster]:
    before = dict(os.environ)
    started = start_local_cluster(log)
    yield started
    started.stop()
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.bad_input("no Ray cluster at the given address")
def test_no_ray_cluster_at_the_address_is_one_line_at_once(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"^no Ray job server answers at http://127\.0\.0\.1:9 ") as error:
        run_job("http://127.0.0.1:9", "true", print, tmp_path / "log")
    assert "\n" not in str(error.value)
    assert time.monotonic() - began < 30


def test_another_server_at_the_address_is_one_line(stranger: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^no Ray job server answers at {stranger} ") as error:
        run_job(stranger, "true", print, tmp_path / "log")
    assert "\n" not in str(error.value)


def test_a_worker_asks_for_its_share_of_cpus_and_for_a_gpu_where_settings_say_so() -> None:
    on_cpus = scaling_config(ClusterSettings(num_workers=3, cpus_per_worker=0.25))
    assert (on_cpus.num_workers, on_cpus.use_gpu, on_cpus.resources_per_worker) == (3, False, {"CPU": 0.25})
    on_gpus = scaling_config(ClusterSettings(use_gpu=True))
    assert (on_gpus.num_workers, on_gpus.use_gpu, on_gpus.resources_per_worker) == (2, True, {"CPU": 0.5, "GPU": 1})


@pytest.mark.slow
def test_a_job_shows_its_lines_keeps_them_and_an_error_is_its_last_line(cluster: LocalCluster, log: Path) -> None:
    shown: list[str] = []
    run_job(cluster.address, f"python -c '{SPEAKS}'", shown.append, log)
    assert shown[-2:] == ["mine 1", "done"]
    assert "mine 1\ndone\n" in log.read_text()

    fails = 'import sys; print("error: the log holds no label"); sys.exit(4)'
    with pytest.raises(JobEndedError, match=r"^the log holds no label$") as refused:
        run_job(cluster.address, f"python -c '{fails}'", shown.append, log)
    assert refused.value.code == ExitCode.REFUSED
    assert exit_code_of_job(cluster.address, f"python -c '{fails}'") == ExitCode.REFUSED
    assert run_job(cluster.address, "python -c 'raise SystemExit(3)'", shown.append, log) == ExitCode.FILES_SET_ASIDE
    with pytest.raises(JobEndedError, match=r"^the Ray job ended as FAILED$") as killed:
        run_job(cluster.address, "python -c 'import os; os.kill(os.getpid(), 9)'", shown.append, log)
    assert killed.value.code == ExitCode.FAILED


@pytest.mark.slow
def test_a_stopped_cluster_leaves_no_process(cluster: LocalCluster) -> None:
    head = cluster.process.pid
    mine = [head, *(process.pid for process in descendants(head))]
    assert len(mine) > 3
    cluster.stop()
    assert await_end(mine, seconds=20), [running()[pid].command for pid in mine if pid in running()]
