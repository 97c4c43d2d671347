"""The training loop of one worker, in plain torch: the same steps alone, or beside others of one process group.

An epoch is a fixed number of steps, so that a training costs the same whatever the number of pictures. All chance of an epoch
comes from the seed, the epoch and the worker's rank, so a training that was resumed goes on as if it had never stopped.
"""

import copy
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gan.augment import augment
from gan.losses import discriminator_loss, generator_loss
from gan.networks import Discriminator, Generator

Labels = Tensor  # [N] of 0..K-1


@dataclass(frozen=True)
class TrainOptions:
    """All that decides a training, resolved; written beside the run."""

    resolution: int
    num_classes: int
    num_epochs: int
    steps_per_epoch: int
    batch_size: int  # pictures a step, all workers together
    latent_dim: int = 64
    base_channels: int = 32
    learning_rate_generator: float = 2e-4
    learning_rate_discriminator: float = 4e-4  # two time scales (Heusel et al. 2017)
    beta1: float = 0.0
    beta2: float = 0.99
    ema_decay: float = 0.99
    augmentations: tuple[str, ...] = ("colour", "translation", "cutout")
    seed: int = 0


@dataclass
class TrainState:
    """Networks, optimisers and the epochs done: what a checkpoint holds."""

    generator: Generator
    discriminator: Discriminator
    ema: Generator  # exponential moving average of the generator: what is kept and used
    generator_optimizer: torch.optim.Optimizer
    discriminator_optimizer: torch.optim.Optimizer
    num_epochs_done: int = 0
    history: list[dict[str, float]] = field(default_factory=list)  # one row of losses an epoch

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on: tensors and plain values."""
        return {
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "ema": self.ema.state_dict(),
            "generator_optimizer": self.generator_optimizer.state_dict(),
            "discriminator_optimizer": self.discriminator_optimizer.state_dict(),
            "num_epochs_done": self.num_epochs_done,
            "history": self.history,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where `state_dict` was taken."""
        self.generator.load_state_dict(state["generator"])
        self.discriminator.load_state_dict(state["discriminator"])
        self.ema.load_state_dict(state["ema"])
        self.generator_optimizer.load_state_dict(state["generator_optimizer"])
        self.discriminator_optimizer.load_state_dict(state["discriminator_optimizer"])
        self.num_epochs_done = state["num_epochs_done"]
        self.history = list(state["history"])


def new_state(options: TrainOptions, device: torch.device) -> TrainState:
    """Fresh networks, the same on every worker for a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        shape = {
            "resolution": options.resolution,
            "num_classes": options.num_classes,
            "base_channels": options.base_channels,
        }
        generator = Generator(latent_dim=options.latent_dim, **shape).to(device)
        discriminator = Discriminator(**shape).to(device)
    ema = copy.deepcopy(generator).eval().requires_grad_(False)
    betas = (options.beta1, options.beta2)
    return TrainState(
        generator=generator,
        discriminator=discriminator,
        ema=ema,
        generator_optimizer=torch.optim.Adam(generator.parameters(), lr=options.learning_rate_generator, betas=betas),
        discriminator_optimizer=torch.optim.Adam(
            discriminator.parameters(), lr=options.learning_rate_discriminator, betas=betas
        ),
    )


def update_ema(ema: nn.Module, live: nn.Module, decay: float) -> None:
    """Ema <- decay ema + (1 - decay) live, for weights and running statistics; counters are copied."""
    with torch.no_grad():
        for average, value in zip(_tensors(ema), _tensors(live), strict=True):
            if average.is_floating_point():
                average.lerp_(value, 1 - decay)
            else:
                average.copy_(value)


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def average_over_workers(tensors: Iterable[Tensor]) -> None:
    """Each tensor becomes its mean over the workers, in one all-reduce; alone, nothing happens."""
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return
    targets = list(tensors)
    flat = torch.cat([t.reshape(-1) for t in targets])
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    for target, mean in zip(targets, flat.split([t.numel() for t in targets]), strict=True):
        target.copy_(mean.view_as(target))


def _gradients(module: nn.Module) -> list[Tensor]:
    return [p.grad for p in module.parameters() if p.grad is not None]


def _running_statistics(module: nn.Module) -> list[Tensor]:
    return [b for b in module.buffers() if b.is_floating_point()]


def epoch_generator(options: TrainOptions, *, epoch: int, rank: int, device: torch.device) -> torch.Generator:
    """The source of all chance of one worker in one epoch."""
    seed = np.random.SeedSequence([options.seed, epoch, rank]).generate_state(1, np.uint64)[0] >> 1
    return torch.Generator(device=device).manual_seed(int(seed))


def batches(pictures: Tensor, labels: Labels, size: int, random: torch.Generator) -> Iterator[tuple[Tensor, Labels]]:
    """Batches without end from this worker's pictures (uint8 [N, 3, R, R]): shuffled, and shuffled again when all were seen.

    Yields pictures in -1..1 and their labels; `size` may exceed the number of pictures.
    """
    order = torch.empty(0, dtype=torch.int64, device=pictures.device)
    while True:
        while len(order) < size:
            again = torch.randperm(len(pictures), generator=random, device=pictures.device)
            order = torch.cat([order, again])
        chosen, order = order[:size], order[size:]
        yield pictures[chosen].float() / 127.5 - 1, labels[chosen]


def train_epoch(
    state: TrainState,
    pictures: Tensor,
    labels: Labels,
    options: TrainOptions,
    *,
    rank: int = 0,
    num_workers: int = 1,
    use_bf16: bool = False,
) -> dict[str, float]:
    """One epoch of this worker's steps on its share of the pictures (uint8 [N, 3, R, R], labels [N]); updates `state`.

    Each step: the discriminator learns to tell augmented real pictures from augmented generated ones of the same classes, then
    the generator learns to be scored high. Gradients are averaged over the workers, so all keep the same weights. Returns
    the epoch's mean losses and scores of this worker.
    """
    device = pictures.device
    generator, discriminator = state.generator.train(), state.discriminator.train()
    random = epoch_generator(options, epoch=state.num_epochs_done, rank=rank, device=device)
    size = max(options.batch_size // num_workers, 1)
    autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=use_bf16)
    sums = torch.zeros(4, device=device)
    stream = batches(pictures, labels, size, random)
    for _ in range(options.steps_per_epoch):
        real, label = next(stream)
        with autocast:
            # discriminator: real and generated in one pass
            z = torch.randn(size, options.latent_dim, generator=random, device=device)
            with torch.no_grad():
                fake = generator(z, label)
            both = augment(torch.cat([real, fake.float()]), options.augmentations, random)
            real_scores, fake_scores = discriminator(both, torch.cat([label, label])).float().chunk(2)
            loss_d = discriminator_loss(real_scores, fake_scores)
        state.discriminator_optimizer.zero_grad()
        loss_d.backward()
        average_over_workers(_gradients(discriminator))
        state.discriminator_optimizer.step()

        discriminator.requires_grad_(False)
        with autocast:
            z = torch.randn(size, options.latent_dim, generator=random, device=device)
            fake = augment(generator(z, label).float(), options.augmentations, random)
            loss_g = generator_loss(discriminator(fake, label).float())
        state.generator_optimizer.zero_grad()
        loss_g.backward()
        discriminator.requires_grad_(True)
        average_over_workers(_gradients(generator))
        state.generator_optimizer.step()
        update_ema(state.ema, generator, options.ema_decay)
        sums += torch.stack([loss_d, loss_g, real_scores.mean(), fake_scores.mean()]).detach()

    # batch statistics are each worker's own until here
    average_over_workers(_running_statistics(generator) + _running_statistics(state.ema))
    state.num_epochs_done += 1
    means = (sums / options.steps_per_epoch).tolist()
    names = ("loss_discriminator", "loss_generator", "score_real", "score_fake")
    row = {"epoch": float(state.num_epochs_done), **dict(zip(names, means, strict=True))}
    state.history.append(row)
    return row


def resolved(options: TrainOptions) -> dict[str, Any]:
    """The options as plain values, for the file beside the run."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(options).items()}
