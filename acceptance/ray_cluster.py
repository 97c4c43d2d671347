"""`ray job submit` of train_encoder to a cluster of two nodes, and kill -9 of a training worker in mid-epoch."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acceptance import lakes
from acceptance.claims import Claim, environment
from acceptance.results import STATE
from lib.cli.jobs import arguments_of
from lib.cli.submit import command
from lib.engines.ports import free_ports
from lib.lake.lake import Lake
from lib.pipeline import JOBS, ROOT
from lib.runs import history
from lib.settings import ClusterSettings
from tests.markets import SMALL_MARKET
from tests.processes import kill
from tests.same import differences

NODES, STORE_BYTES = 2, 300_000_000
EPOCHS_BEFORE_KILL = 3
MOST_SECONDS = 400


@dataclass
class Watched:
    """What was seen of a job while it ran."""

    exit_code: int
    seconds: float
    workers: dict[int, str]  # process of each training worker -> its node
    killed: int | None = None


def check() -> list[Claim]:
    """On a copy of the small market's lake: the job is submitted twice, the second time a worker of it is killed."""
    reference = lakes.small_market()
    lake = lakes.copy_of(reference, "ray_cluster")
    with two_nodes() as address:
        plain = submitted(address, lake, kill_a_worker=False)
        apart = differences(lake, reference)
        disturbed = submitted(address, lake, kill_a_worker=True)
        apart_after_kill = differences(lake, reference)
    statuses = [row["status"] for row in history.runs(Lake(str(lake)), "train_encoder")]
    nodes = set(plain.workers.values())
    return [
        Claim(
            "ray job submit of train_encoder to a two-node ray.cluster_utils.Cluster",
            f"exit code {plain.exit_code} in {plain.seconds:.0f} s; {len(plain.workers)} workers on {len(nodes)} nodes",
            plain.exit_code == 0 and statuses[1] == "done" and len(nodes) == NODES,
        ),
        Claim("it ends with the same tables", f"different: {'; '.join(apart) or 'none'}", not apart),
        Claim(
            "kill -9 of a training worker in mid-epoch: the job goes on with new workers",
            f"killed {'one' if disturbed.killed else 'none'} of {len(disturbed.workers)} workers seen, exit code "
            f"{disturbed.exit_code} in {disturbed.seconds:.0f} s",
            disturbed.killed is not None
            and disturbed.exit_code == 0
            and len(disturbed.workers) > NODES
            and statuses[2] == "done",
        ),
        Claim(
            "and ends with the same tables", f"different: {'; '.join(apart_after_kill) or 'none'}", not apart_after_kill
        ),
    ]


@contextmanager
def two_nodes() -> Iterator[str]:
    """A cluster of two nodes of one CPU each on this machine, so that two workers never share one; gives its job server."""
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "PATH": environment()["PATH"]}
    import ray  # noqa: PLC0415 - it reads its mode when it is imported
    from ray.cluster_utils import Cluster  # noqa: PLC0415

    port, agent_port = free_ports(2)
    size: dict[str, Any] = {"num_cpus": 1, "object_store_memory": STORE_BYTES}
    own: dict[str, Any] = {
        "temp_dir": tempfile.mkdtemp(prefix="ray-", dir="/tmp"),
        "dashboard_agent_listen_port": agent_port,
    }
    head = {**size, **own, "include_dashboard": True, "dashboard_host": "127.0.0.1", "dashboard_port": port}
    cluster: Any = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(NODES - 1):
            cluster.add_node(**size)
        ray.init(address=cluster.address, log_to_driver=False)
        yield f"http://127.0.0.1:{port}"
    finally:
        ray.shutdown()
        cluster.shutdown()
        shutil.rmtree(own["temp_dir"], ignore_errors=True)


def submitted(address: str, lake: Path, *, kill_a_worker: bool) -> Watched:
    """Submit the job by the command line and watch its workers; kill one when some epochs are behind it."""
    own = arguments_of(JOBS["train_encoder"], SMALL_MARKET)
    arguments = ["--lake.path", str(lake), "--cluster.cpus-per-worker", "1", *own]
    job = command(JOBS["train_encoder"], "standalone", ClusterSettings(ray_address=address), arguments)
    env = {**environment(), "RAY_AUTH_MODE": "disabled"}
    began, watched = time.monotonic(), Watched(-1, 0.0, {})
    checkpoints = set(lake.glob("files/encoder/*/*/checkpoint_*"))
    with (STATE / "ray_job.log").open("wb") as output:
        process = subprocess.Popen(job, cwd=ROOT, env=env, stdout=output, stderr=subprocess.STDOUT)
    while process.poll() is None and time.monotonic() - began < MOST_SECONDS:
        watched.workers |= training_workers()
        num_epochs = len(set(lake.glob("files/encoder/*/*/checkpoint_*")) - checkpoints)
        if kill_a_worker and watched.killed is None and num_epochs and watched.workers:
            watched.killed = max(watched.workers)
            kill(watched.killed)
        time.sleep(0.1)
    if process.poll() is None:
        process.kill()
    watched.exit_code, watched.seconds = process.wait(), time.monotonic() - began
    return watched


def training_workers() -> dict[int, str]:
    """Process and node of every living worker of Ray Train."""
    from ray.util.state import list_actors  # noqa: PLC0415

    filters: Any = [("class_name", "=", "RayTrainWorker"), ("state", "=", "ALIVE")]
    actors: list[Any] = list_actors(filters=filters)
    return {actor.pid: actor.node_id for actor in actors}
