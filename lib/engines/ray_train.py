"""Ray inside a job: the session, and training on Ray Train's workers.

Imports ray only inside the functions that need it.
"""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lib.lake.places import filesystem_of, is_address
from lib.settings import ClusterSettings

LOCAL_LOGICAL_CPUS = 4  # more workers would only compete for two cores
LOCAL_OBJECT_STORE_BYTES = 2_000_000_000
STATE_FILE = "state.pt"  # in a checkpoint
CHECKPOINT_SECONDS = 10.0  # that a kill may cost where epochs are shorter
KEPT_CHECKPOINTS = 2  # the newest may be lost if it was reported just before a kill
REPORT_SECONDS = "0.2"  # how often Ray Train collects reports; its default of 2 s would hold up short epochs


@contextmanager
def ray_session(cluster: ClusterSettings, *, variables: Mapping[str, str] | None = None) -> Iterator[None]:
    """Connect to the cluster that the job was submitted to, else start a local one until the block ends.

    The job's processes there, and this one, have the `variables`.
    """
    os.environ.update(variables or {})
    import ray  # noqa: PLC0415

    inside = "RAY_ADDRESS" in os.environ
    started = not ray.is_initialized()
    own: dict[str, Any] = {}
    if started:
        if not inside:
            own = _own_cluster(cluster)
        # What workers print is Ray's to keep: a traceback there is no word to the user, who is told by the driver's error.
        if variables:
            own["runtime_env"] = {"env_vars": dict(variables)}
        ray.init(address=None if inside else "local", log_to_driver=False, logging_level=30, **own)
    try:
        yield
    finally:
        if started:
            ray.shutdown()
            shutil.rmtree(own.get("_temp_dir", ""), ignore_errors=True)


def _own_cluster(cluster: ClusterSettings) -> dict[str, Any]:
    """How a Ray of this machine alone is started."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # workers of one machine share its cores
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # nobody takes the machine away: a process less
    return {
        "num_cpus": max(LOCAL_LOGICAL_CPUS, round(cluster.num_workers * cluster.cpus_per_worker)),
        "object_store_memory": LOCAL_OBJECT_STORE_BYTES,
        "include_dashboard": False,
        "_temp_dir": tempfile.mkdtemp(prefix="ray-", dir="/tmp"),  # a short path, since it holds sockets
    }


def ships_code_of(module: str) -> None:
    """Let Ray's workers get the functions of a module that was loaded by its path, which they could not import."""
    from ray import cloudpickle  # noqa: PLC0415

    cloudpickle.register_pickle_by_value(sys.modules[module])  # type: ignore[no-untyped-call]


def scaling_config(cluster: ClusterSettings) -> Any:
    """Ray Train's ScalingConfig: the settings' number of workers and CPUs per worker, and a GPU each if `use_gpu`."""
    from ray.train import ScalingConfig  # noqa: PLC0415

    return ScalingConfig(
        num_workers=cluster.num_workers,
        use_gpu=cluster.use_gpu,
        resources_per_worker={"CPU": cluster.cpus_per_worker, **({"GPU": 1} if cluster.use_gpu else {})},
    )


def fit_on_workers(
    worker: Callable[[dict[str, Any]], None],
    task: Any,
    cluster: ClusterSettings,
    *,
    name: str,
    storage: str,
    max_failures: int,
) -> Any:
    """Run `worker({"task": task})` on every training worker; returns the state last given to `report_epoch`.

    A training run of the same name continues from its last checkpoint under `storage`, a folder or an address; lost
    workers are restarted up to `max_failures` times.
    """
    from ray.train import CheckpointConfig, FailureConfig, RunConfig  # noqa: PLC0415
    from ray.train.torch import TorchConfig, TorchTrainer  # noqa: PLC0415

    filesystem, folder = filesystem_of(storage)
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", REPORT_SECONDS)
    trainer = TorchTrainer(
        worker,
        train_loop_config={"task": task},
        torch_config=TorchConfig(backend="nccl" if cluster.use_gpu else "gloo"),
        scaling_config=scaling_config(cluster),
        run_config=RunConfig(
            name=name,
            storage_path=folder,
            storage_filesystem=filesystem if is_address(storage) else None,
            failure_config=FailureConfig(max_failures=max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=KEPT_CHECKPOINTS),
        ),
    )
    state = _state_of(trainer.fit().checkpoint)
    assert state is not None, "a training of at least one epoch left no checkpoint"
    return state


def last_state() -> Any | None:
    """In a training worker: the state of the checkpoint to continue from; None if there is none yet."""
    from ray import train  # noqa: PLC0415

    return _state_of(train.get_checkpoint())


def report_epoch(state: Any, metrics: dict[str, Any]) -> None:
    """In a training worker: report an epoch.

    The first worker's state is the checkpoint, since all hold the same weights.
    """
    import torch  # noqa: PLC0415
    from ray import train  # noqa: PLC0415
    from ray.train import Checkpoint  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = None
        if train.get_context().get_world_rank() == 0:
            torch.save(state, Path(folder) / STATE_FILE)
            checkpoint = Checkpoint.from_directory(folder)
        train.report(metrics, checkpoint=checkpoint)


def report_when_due(state: Any, metrics: dict[str, Any]) -> None:
    """In a training worker: report an epoch, unless the first worker has reported within CHECKPOINT_SECONDS; all do the same.

    A report holds all workers up. What was not reported is lost at a kill, so the last epoch must be, by `report_epoch`.
    """
    from torch import distributed  # noqa: PLC0415

    global _reported_at  # noqa: PLW0603
    is_due = [time.monotonic() - _reported_at >= CHECKPOINT_SECONDS]
    if distributed.is_initialized():
        distributed.broadcast_object_list(is_due, src=0)
    if is_due[0]:
        report_epoch(state, metrics)
        _reported_at = time.monotonic()


_reported_at = float("-inf")  # by this worker


def _state_of(checkpoint: Any | None) -> Any | None:
    import torch  # noqa: PLC0415

    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        return torch.load(Path(folder) / STATE_FILE, map_location="cpu", weights_only=True)
