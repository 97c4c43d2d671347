"""Training on Ray Train: each worker reads its share of the prepared pictures once and runs the loop of gan/training/loop.py.

Every epoch leaves a checkpoint of the first worker's state; all workers hold the same weights. After a killed worker, or when a
training is started again under the same name, it resumes from the last checkpoint.
"""

from dataclasses import dataclass

import torch
from ray import train
from ray.train.torch import get_device

from gan.training import dataset as pictures
from gan.training.loop import TrainOptions, TrainState, new_state, train_epoch
from lib.engines.ray_train import fit_on_workers, last_state, report_epoch
from lib.lake.lake import Lake
from lib.settings import ClusterSettings


@dataclass(frozen=True)
class Task:
    """What a worker is given."""

    lake: Lake
    prepared: str  # the prepared file, below the lake
    options: TrainOptions
    use_gpu: bool


def train_worker(config: dict[str, Task]) -> None:
    """Train on one worker of Ray Train."""
    torch.set_num_threads(1)  # one thread, so that workers on a small machine do not slow each other down
    task = config["task"]
    context = train.get_context()
    rank, num_workers = context.get_world_rank(), context.get_world_size()
    device = get_device() if task.use_gpu else torch.device("cpu")
    share = pictures.read_training_share(task.lake.local(task.prepared), rank=rank, num_workers=num_workers)
    pixels, labels = torch.from_numpy(share.pixels).to(device), torch.from_numpy(share.labels).to(device)
    state = new_state(task.options, device)
    reached = last_state()
    if reached is not None:
        state.load_state_dict(reached)
    while state.num_epochs_done < task.options.num_epochs:
        row = train_epoch(
            state, pixels, labels, task.options, rank=rank, num_workers=num_workers, use_bf16=task.use_gpu
        )
        report_epoch(state.state_dict(), row)


def fit(
    lake: Lake, prepared: str, options: TrainOptions, cluster: ClusterSettings, *, name: str, max_failures: int
) -> TrainState:
    """Train on a prepared file below the lake and return the final state; checkpoints lie beside the file.

    A training that was begun there under the same name resumes from its last checkpoint. Lost workers are started again up to
    `max_failures` times.
    """
    task = Task(lake.absolute(), prepared, options, cluster.use_gpu)
    storage = lake.uri(prepared.rpartition("/")[0])
    last = fit_on_workers(train_worker, task, cluster, name=name, storage=storage, max_failures=max_failures)
    state = new_state(options, torch.device("cpu"))
    state.load_state_dict(last)
    return state
