"""The training loop of one worker, in plain torch; it runs alone or as one of a process group.

The first epochs train the generator as the decoder of a variational autoencoder (Ham et al. 2020, "Unbalanced GANs: Pre-training
the Generator of Generative Adversarial Network using VAE"), because a generator that starts from random weights learns only
blurs within minutes on two cores. The adversarial epochs then sharpen the pictures, and a small reconstruction term keeps them
as varied as the real ones (Larsen et al. 2016, "Autoencoding beyond pixels using a learned similarity metric").

An epoch is a fixed number of steps, so that a training costs the same whatever the number of pictures. The random numbers of an
epoch depend on the seed, the epoch and the worker's rank, so that a resumed training ends where an uninterrupted one does.
"""

import copy
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gan.training.augment import augment
from gan.training.losses import discriminator_loss, generator_loss, reconstruction_loss
from gan.training.networks import Discriminator, Encoder, Generator

Labels = Tensor  # [N] of 0..K-1
EpochLosses = dict[str, float | None]  # of an epoch: its number, mean losses and scores; None where it has no such

EMA_DECAY_OF_START = 0.9  # at most, so that the average forgets the first weights quickly
LOSSES = ("loss_reconstruction", "loss_discriminator", "loss_generator", "score_real", "score_fake")


@dataclass(frozen=True)
class TrainOptions:
    """The options of a training, written into the run's folder."""

    resolution: int
    num_classes: int
    num_epochs: int  # including the start epochs
    num_start_epochs: int  # the first ones, by reconstruction
    steps_per_epoch: int
    batch_size: int  # pictures a step, all workers together
    latent_dim: int
    base_channels: int
    learning_rate_start: float
    kl_weight: float
    reconstruction_weight: float  # in the adversarial epochs
    learning_rate_generator: float
    learning_rate_discriminator: float  # two time scales (Heusel et al. 2017)
    beta1: float  # of Adam in the adversarial epochs
    beta2: float
    ema_decay: float
    augmentations: tuple[str, ...]
    seed: int


STATEFUL = (
    "generator",
    "discriminator",
    "ema",
    "encoder",
    "start_optimizer",
    "generator_optimizer",
    "discriminator_optimizer",
)


@dataclass
class TrainState:
    """Networks, optimisers and the epochs done: what a checkpoint holds."""

    generator: Generator
    discriminator: Discriminator
    ema: Generator  # exponential moving average of the generator, which is the model
    encoder: Encoder
    start_optimizer: torch.optim.Optimizer  # of generator and encoder in the start epochs
    generator_optimizer: torch.optim.Optimizer  # of generator and encoder in the adversarial epochs
    discriminator_optimizer: torch.optim.Optimizer
    num_epochs_done: int = 0
    history: list[EpochLosses] = field(default_factory=list)  # one for each epoch

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume: tensors and plain values."""
        parts = {name: getattr(self, name).state_dict() for name in STATEFUL}
        return parts | {"num_epochs_done": self.num_epochs_done, "history": self.history}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for name in STATEFUL:
            getattr(self, name).load_state_dict(state[name])
        self.num_epochs_done = state["num_epochs_done"]
        self.history = list(state["history"])


def new_state(options: TrainOptions, device: torch.device) -> TrainState:
    """New networks and optimisers; the weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        shape = {
            "resolution": options.resolution,
            "num_classes": options.num_classes,
            "base_channels": options.base_channels,
        }
        generator = Generator(latent_dim=options.latent_dim, **shape).to(device)
        discriminator = Discriminator(**shape).to(device)
        encoder = Encoder(latent_dim=options.latent_dim, **shape).to(device)
    ema = copy.deepcopy(generator).eval().requires_grad_(False)
    both = [*generator.parameters(), *encoder.parameters()]
    betas = (options.beta1, options.beta2)
    return TrainState(
        generator=generator,
        discriminator=discriminator,
        ema=ema,
        encoder=encoder,
        start_optimizer=torch.optim.Adam(both, lr=options.learning_rate_start),
        generator_optimizer=torch.optim.Adam(both, lr=options.learning_rate_generator, betas=betas),
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
    """Replace each tensor by its mean over the workers, in one all-reduce; a single worker changes nothing."""
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
    """The random number generator of one worker in one epoch."""
    seed = np.random.SeedSequence([options.seed, epoch, rank]).generate_state(1, np.uint64)[0] >> 1
    return torch.Generator(device=device).manual_seed(int(seed))


def batches(pictures: Tensor, labels: Labels, size: int, random: torch.Generator) -> Iterator[tuple[Tensor, Labels]]:
    """Endless batches of this worker's pictures (uint8 [N, 3, R, R]): shuffled, and shuffled again when all were used.

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
) -> EpochLosses:
    """One epoch of this worker's steps on its share of the pictures (uint8 [N, 3, R, R], labels [N]); updates `state`.

    Gradients are averaged over the workers, so that all keep the same weights. Returns this worker's mean losses and scores.
    """
    random = epoch_generator(options, epoch=state.num_epochs_done, rank=rank, device=pictures.device)
    size = max(options.batch_size // num_workers, 1)
    stream = batches(pictures, labels, size, random)
    is_start = state.num_epochs_done < options.num_start_epochs
    step = start_step if is_start else adversarial_step
    state.generator.train()
    autocast = torch.autocast(pictures.device.type, dtype=torch.bfloat16, enabled=use_bf16)
    sums = torch.zeros((), device=pictures.device)
    for _ in range(options.steps_per_epoch):
        sums = sums + step(state, *next(stream), options, random, autocast)
    means: list[float] = (sums / options.steps_per_epoch).tolist()

    # until here, each worker has its own batch statistics
    average_over_workers(_running_statistics(state.generator) + _running_statistics(state.ema))
    state.num_epochs_done += 1
    found = dict(zip(LOSSES, means, strict=False))
    row: EpochLosses = {"epoch": float(state.num_epochs_done), **{name: found.get(name) for name in LOSSES}}
    state.history.append(row)
    return row


def start_step(
    state: TrainState,
    real: Tensor,
    labels: Labels,
    options: TrainOptions,
    random: torch.Generator,
    autocast: torch.autocast,
) -> Tensor:
    """One step of generator and encoder, which learn to reconstruct the real pictures. Returns [the loss]."""
    with autocast:
        loss = _reconstruction(state, real, labels, options, random)
    state.start_optimizer.zero_grad()
    loss.backward()
    average_over_workers(_gradients(state.generator) + _gradients(state.encoder))
    state.start_optimizer.step()
    update_ema(state.ema, state.generator, min(options.ema_decay, EMA_DECAY_OF_START))
    return loss.detach()[None]


def adversarial_step(
    state: TrainState,
    real: Tensor,
    labels: Labels,
    options: TrainOptions,
    random: torch.Generator,
    autocast: torch.autocast,
) -> Tensor:
    """One step of each network.

    The discriminator learns to tell augmented real pictures from augmented generated ones of the same classes; then the generator
    learns to raise the discriminator's score. Returns the values of LOSSES, [5].
    """
    generator, discriminator = state.generator, state.discriminator.train()
    noise = (len(real), options.latent_dim)
    with autocast:
        z = torch.randn(noise, generator=random, device=real.device)
        with torch.no_grad():
            fake = generator(z, labels)
        both = augment(torch.cat([real, fake.float()]), options.augmentations, random)
        # real and generated in one pass
        real_scores, fake_scores = discriminator(both, torch.cat([labels, labels])).float().chunk(2)
        loss_d = discriminator_loss(real_scores, fake_scores)
    state.discriminator_optimizer.zero_grad()
    loss_d.backward()
    average_over_workers(_gradients(discriminator))
    state.discriminator_optimizer.step()

    discriminator.requires_grad_(False)
    with autocast:
        z = torch.randn(noise, generator=random, device=real.device)
        fake = augment(generator(z, labels).float(), options.augmentations, random)
        loss_g = generator_loss(discriminator(fake, labels).float())
        loss_r = real.new_zeros(())
        if options.reconstruction_weight > 0:
            loss_r = _reconstruction(state, real, labels, options, random)
    state.generator_optimizer.zero_grad()
    (loss_g + options.reconstruction_weight * loss_r).backward()
    discriminator.requires_grad_(True)
    average_over_workers(_gradients(generator) + _gradients(state.encoder))
    state.generator_optimizer.step()
    update_ema(state.ema, generator, options.ema_decay)
    return torch.stack([loss_r, loss_d, loss_g, real_scores.mean(), fake_scores.mean()]).detach()


def _reconstruction(
    state: TrainState, real: Tensor, labels: Labels, options: TrainOptions, random: torch.Generator
) -> Tensor:
    mean, log_variance = (part.float() for part in state.encoder(real, labels))
    noise = torch.randn(mean.shape, generator=random, device=real.device)
    made = state.generator(mean + noise * (log_variance / 2).exp(), labels).float()
    return reconstruction_loss(made, real, mean, log_variance, options.kl_weight)


def resolved(options: TrainOptions) -> dict[str, Any]:
    """The options as plain values, for a JSON file."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(options).items()}
