"""The training on Ray Train: each worker reads its share of the prepared pictures by rank, once, and runs the loop of gan/loop.

Every epoch leaves a checkpoint of the first worker's state (all hold the same weights): a killed worker, or a training of the same
name that is started again, goes on from the last one.
"""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ray import train
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from gan import pictures
from gan.loop import TrainOptions, TrainState, new_state, train_epoch
from lib.cluster import scaling_config
from lib.settings import ClusterSettings

STATE_FILE = "state.pt"
POLL_SECONDS = "0.2"  # how often Ray Train takes reports in; by default every 2 s, and short epochs would wait for it
KEPT_CHECKPOINTS = 2  # one that was reported just before a kill can be lost


@dataclass(frozen=True)
class Task:
    """All that a worker is told."""

    prepared: str  # the prepared file, on a file system that every node mounts
    options: TrainOptions
    use_gpu: bool


def train_worker(config: dict[str, Task]) -> None:
    """What each worker of Ray Train does."""
    torch.set_num_threads(1)  # a worker must not starve its neighbours of two cores
    task = config["task"]
    context = train.get_context()
    rank, num_workers = context.get_world_rank(), context.get_world_size()
    device = get_device() if task.use_gpu else torch.device("cpu")
    share = pictures.read_training_share(Path(task.prepared), rank=rank, num_workers=num_workers)
    pixels, labels = torch.from_numpy(share.pixels).to(device), torch.from_numpy(share.labels).to(device)
    state = new_state(task.options, device)
    load_state(state, train.get_checkpoint())
    while state.num_epochs_done < task.options.num_epochs:
        row = train_epoch(
            state, pixels, labels, task.options, rank=rank, num_workers=num_workers, use_bf16=task.use_gpu
        )
        report(state, rank, row)


def load_state(state: TrainState, checkpoint: Checkpoint | None) -> None:
    """Take up a checkpoint, if there is one."""
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            state.load_state_dict(torch.load(Path(folder) / STATE_FILE, map_location="cpu", weights_only=True))


def report(state: TrainState, rank: int, metrics: dict[str, Any]) -> None:
    """Report an epoch to Ray Train, with the first worker's state as its checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = None
        if rank == 0:
            torch.save(state.state_dict(), Path(folder) / STATE_FILE)
            checkpoint = Checkpoint.from_directory(folder)
        train.report(metrics, checkpoint=checkpoint)


def fit(
    prepared: Path, options: TrainOptions, cluster: ClusterSettings, *, name: str, storage: Path, max_failures: int
) -> TrainState:
    """The state at the end of a training that bears this name and goes on where one of that name stood.

    Workers that are lost are started again up to `max_failures` times.
    """
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", POLL_SECONDS)
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"task": Task(str(prepared), options, cluster.use_gpu)},
        torch_config=TorchConfig(backend="nccl" if cluster.use_gpu else "gloo"),
        scaling_config=scaling_config(cluster),
        run_config=RunConfig(
            name=name,
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=KEPT_CHECKPOINTS),
        ),
    )
    checkpoint = trainer.fit().checkpoint
    assert checkpoint is not None, "a training of at least one epoch left no checkpoint"
    state = new_state(options, torch.device("cpu"))
    load_state(state, checkpoint)
    return state
