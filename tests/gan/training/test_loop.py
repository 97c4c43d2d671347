import copy
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing, nn

from gan.training.loop import (
    LOSSES,
    average_over_workers,
    batches,
    new_state,
    resolved,
    train_epoch,
    update_ema,
)
from gan.training.losses import discriminator_loss
from tests.gan.tiny_options import TINY

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(products: Callable[[str, int, int], np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    pixels = np.concatenate([products("disc", 10, 0), products("bar", 10, 0)])
    return torch.from_numpy(pixels), torch.arange(2).repeat_interleave(10)


def same(one: Any, other: Any) -> bool:
    """Whether two states hold equal tensors and values."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def weights(network: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach() for parameter in network.parameters()]


@pytest.mark.slow
def test_a_training_that_was_resumed_ends_where_an_uninterrupted_one_does(
    data: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    whole = new_state(TINY, CPU)
    for _ in range(4):
        train_epoch(whole, *data, TINY)

    first = new_state(TINY, CPU)
    for _ in range(2):
        train_epoch(first, *data, TINY)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    resumed = new_state(replace(TINY, seed=99), CPU)  # other weights, all of which the checkpoint replaces
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for _ in range(2):
        train_epoch(resumed, *data, TINY)
    assert same(resumed.state_dict(), whole.state_dict())
    assert [row["epoch"] for row in resumed.history] == [1, 2, 3, 4]


def test_the_epochs_of_both_kinds_move_every_weight_and_the_average_follows(
    data: tuple[torch.Tensor, torch.Tensor],
) -> None:
    state = new_state(TINY, CPU)
    before = copy.deepcopy(state)
    start = train_epoch(state, *data, TINY)
    assert all(
        torch.equal(*pair) for pair in zip(weights(state.discriminator), weights(before.discriminator), strict=True)
    )
    adversarial = train_epoch(state, *data, TINY)
    assert [name for name, value in start.items() if value is None] == list(LOSSES[1:])
    assert None not in adversarial.values()
    for network in ("generator", "discriminator", "ema", "encoder"):
        old, new = getattr(before, network), getattr(state, network)
        for (name, was), now in zip(old.named_parameters(), new.parameters(), strict=True):
            # The score's bias adds as much to one hinge as it takes from the other, while both act.
            assert name == "score.bias" or not torch.equal(was, now), f"{network}.{name} did not move"


def test_the_start_brings_the_pictures_nearer(data: tuple[torch.Tensor, torch.Tensor]) -> None:
    options = replace(TINY, num_start_epochs=10, num_epochs=10, steps_per_epoch=10)
    state = new_state(options, CPU)
    losses = [train_epoch(state, *data, options)["loss_reconstruction"] for _ in range(10)]
    assert losses[-1] < 0.25 * losses[0]


def test_the_average_by_hand() -> None:
    average, live = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    nn.init.constant_(average.weight, 1.0)
    nn.init.constant_(live.weight, 3.0)
    update_ema(average, live, 0.75)
    assert average.weight.item() == pytest.approx(1.5)


def test_batches_show_every_picture_before_any_comes_again() -> None:
    pictures = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(5, 3, 1, 1) * 51
    stream = batches(pictures, torch.arange(5), 4, torch.Generator().manual_seed(0))
    found = [next(stream) for _ in range(5)]
    order = torch.cat([labels for _, labels in found])
    assert [sorted(order[start : start + 5].tolist()) for start in (0, 5, 10, 15)] == [[0, 1, 2, 3, 4]] * 4
    assert all(torch.allclose(pixels[:, 0, 0, 0], labels * 51 / 127.5 - 1) for pixels, labels in found)


def gradients_of_share(rank: int, folder: str, start: int, stop: int) -> None:
    """One of two workers: gradients of the discriminator's loss on half a batch, averaged, are written to a file."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(gradients(start, stop), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def gradients(start: int, stop: int) -> list[torch.Tensor]:
    discriminator = new_state(TINY, CPU).discriminator
    pictures = torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    labels = torch.arange(16) % 2
    real, fake = pictures[start:stop], -pictures[start:stop]
    scores = discriminator(torch.cat([real, fake]), labels[start:stop].repeat(2))
    discriminator_loss(*scores.chunk(2)).backward()
    found = [parameter.grad for parameter in discriminator.parameters() if parameter.grad is not None]
    average_over_workers(found)
    return found


def worker(rank: int, folder: str) -> None:
    gradients_of_share(rank, folder, 8 * rank, 8 * rank + 8)


def test_the_mean_gradient_of_two_workers_is_that_of_one_on_the_whole_batch() -> None:
    whole = gradients(0, 16)
    with tempfile.TemporaryDirectory() as folder:
        processes = [multiprocessing.get_context("fork").Process(target=worker, args=(r, folder)) for r in (0, 1)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        first, second = (torch.load(f"{folder}/{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    for mean, expected in zip(first, whole, strict=True):
        assert torch.allclose(mean, expected, atol=1e-6)


def test_options_are_written_as_plain_values() -> None:
    assert resolved(TINY)["augmentations"] == ["colour", "translation", "cutout"]
    assert resolved(TINY)["seed"] == 3
