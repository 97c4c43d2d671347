"""Training loops that can be resumed.

After every epoch the loop saves all that the next one needs, and randomness depends only on the seed, the epoch and the
worker's rank. So a fit that is interrupted at any point and resumed ends with the same weights.

A `state` is a dict that torch.save can write. The loops do not know how workers communicate: a trainer wraps the model,
so that gradients are averaged, or passes `average`, which does that to sparse ones; and it passes `total`, which sums a
tensor over the workers, and `gather`, which concatenates their rows.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.models import purchase_encoder, two_tower
from lib.models.purchase_encoder import PurchaseEncoder
from lib.models.tower_chunks import Chunks
from lib.models.two_tower import TwoTower

State = dict[str, Any]
Keep = Callable[[State], None]
Total = Callable[[Tensor], Tensor]
Gather = Callable[[Tensor], Tensor]
Average = Callable[[nn.Module], None]
ROWS_AT_ONCE = 1 << 16


class Examples(NamedTuple):
    """Labelled examples: features (N, F) float32 in 0..1, labels (N,) float32 of 0 and 1."""

    features: Tensor
    labels: Tensor

    def first(self, number: int) -> "Examples":
        """The first ones."""
        return Examples(self.features[:number], self.labels[:number])

    def repeated_to(self, number: int) -> "Examples":
        """As many, the first ones again at the end (as in DistributedSampler); there is at least one."""
        place = torch.arange(number) % len(self.labels)
        return Examples(self.features[place], self.labels[place])


@dataclass(frozen=True)
class EncoderPlan:
    """How the purchase encoder is fitted; sizes are per worker."""

    num_epochs: int  # at most
    patience: int  # epochs without a lower validation loss after which it stops
    batch_size: int
    learning_rate: float
    weight_decay: float
    seed: int


@dataclass(frozen=True)
class TwoTowerPlan:
    """How the two towers are fitted; sizes are per worker."""

    num_epochs: int
    batch_size: int
    learning_rate: float
    seed: int
    num_parts: int = 1  # of an epoch, the same for every worker; a state is kept after each


def joined(one: Examples, other: Examples) -> Examples:
    """The examples of both."""
    if not len(other.labels):  # of none the number of features is unknown
        return one
    return Examples(torch.cat([one.features, other.features]), torch.cat([one.labels, other.labels]))


def alone(tensor: Tensor) -> Tensor:
    """The total over the workers, or the rows of all, when there is only one: the tensor itself."""
    return tensor


def unwrapped(model: nn.Module) -> nn.Module:
    """The module that a trainer wrapped, or the model itself."""
    inner = getattr(model, "module", model)
    assert isinstance(inner, nn.Module)
    return inner


def epoch_generator(seed: int, epoch: int, rank: int, part: int = 0) -> torch.Generator:
    """The random generator of one epoch, or of a part of it, of one worker."""
    drawn = torch.randint(2**62, (3,), generator=torch.Generator().manual_seed(seed))
    return torch.Generator().manual_seed(int(drawn[0]) ^ (epoch * 1_000_003 + rank) ^ (part << 40))


def log_loss(model: PurchaseEncoder, examples: Examples, total: Total = alone) -> float | None:
    """Mean log loss over the examples of all workers; None if there are none."""
    device = next(model.parameters()).device
    summed = torch.zeros(2, dtype=torch.float64, device=device)
    model.eval()
    with torch.no_grad():
        for rows in torch.arange(len(examples.labels)).split(ROWS_AT_ONCE):
            logits, labels = model(examples.features[rows].to(device)), examples.labels[rows].to(device)
            loss = F.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
            summed += torch.stack([loss.double(), summed.new_tensor(float(len(rows)))])
    summed = total(summed)
    return (summed[0] / summed[1]).item() if summed[1] else None


def fit_encoder(
    model: nn.Module,
    train: Examples,
    valid: Examples,
    plan: EncoderPlan,
    *,
    rank: int = 0,
    total: Total = alone,
    state: State | None = None,
    keep: Keep = lambda _: None,
) -> State:
    """Fit a PurchaseEncoder (or what wraps one); the epoch with the lowest validation loss wins.

    Args:
        model: has the initial weights; `state`, if given, replaces them.
        train: this worker's share, of the same size for every worker.
        valid: this worker's share; if no worker has any, the training loss decides.
        plan: the hyperparameters.
        rank: this worker's.
        total: sums a tensor over the workers.
        state: a state that was passed to `keep`, to resume from.
        keep: called after every epoch with the state so far.

    Returns:
        The last state: `best` holds the winning weights, `best_epoch` counts from 1.
    """
    own = unwrapped(model)
    assert isinstance(own, PurchaseEncoder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay)
    nothing_better: State = {"best_epoch": 0, "best_loss": float("inf"), "best": copy.deepcopy(own.state_dict())}
    state = nothing_better | begun(own, optimizer, state)
    while state["epoch"] < plan.num_epochs and state["epoch"] - state["best_epoch"] < plan.patience:
        epoch = state["epoch"] + 1
        generator = epoch_generator(plan.seed, epoch, rank)
        loss = purchase_encoder.train_epoch(model, optimizer, *train, batch_size=plan.batch_size, generator=generator)
        valid_loss = log_loss(own, valid, total)
        if valid_loss is None:
            valid_loss = log_loss(own, train, total)
            assert valid_loss is not None, "every worker has a share of the training examples"
        state = after_epoch(own, optimizer, state, loss=loss, valid_loss=valid_loss)
        if valid_loss < state["best_loss"]:
            state |= {"best_epoch": epoch, "best_loss": valid_loss, "best": state["model"]}
        keep(state)
    return state


def fit_two_towers(
    model: nn.Module,
    chunks: Chunks,
    plan: TwoTowerPlan,
    *,
    num_batches: int,
    rank: int = 0,
    gather: Gather = alone,
    average: Average = lambda _: None,
    state: State | None = None,
    keep: Keep = lambda _: None,
) -> State:
    """Fit a TwoTower (or what wraps one) on this worker's pairs; arguments as for `fit_encoder`.

    An epoch has `num_batches`, the same number for every worker, at least one a part. `gather` and `average` as for
    two_tower.train_epoch: the items of all workers are each other's negatives, so that their number does not depend on
    the number of workers.

    Returns:
        The last state; `model` holds the weights.
    """
    own = unwrapped(model)
    assert isinstance(own, TwoTower)
    # SparseAdam leaves a row without a gradient as it is, with both its averages; where all have one, it is Adam.
    adam = torch.optim.SparseAdam if own.is_sparse else torch.optim.Adam
    optimizer = adam(model.parameters(), lr=plan.learning_rate)
    state = begun(own, optimizer, state)
    while state["epoch"] < plan.num_epochs:
        epoch, part = state["epoch"] + 1, state.get("part", 0)
        # A number that is no part's gives the order of the chunks.
        order = chunks.order(num_batches, epoch_generator(plan.seed, epoch, rank, part=plan.num_parts))
        first, last = (number * num_batches // plan.num_parts for number in (part, part + 1))
        loss = two_tower.train_epoch(
            model,
            optimizer,
            chunks.over(order[first:last]),
            batch_size=plan.batch_size,
            num_batches=last - first,
            generator=epoch_generator(plan.seed, epoch, rank, part),
            rank=rank,
            gather=gather,
            average=average,
        )
        losses = [*state.get("part_losses", []), loss]
        if part + 1 < plan.num_parts:
            state = {**state, "part": part + 1, "part_losses": losses, "loss": loss, **_weights(own, optimizer)}
        else:
            state = {**state, "part": 0, "part_losses": []}
            state = after_epoch(own, optimizer, state, loss=sum(losses) / len(losses))
        keep(state)
    return state


def begun(model: nn.Module, optimizer: torch.optim.Optimizer, state: State | None) -> State:
    """The state from which a fit goes on, whose weights model and optimizer take; without one it begins with their own."""
    if state is None:
        return {"epoch": 0, **_weights(model, optimizer)}
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state


def after_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, state: State, **told: float) -> State:
    """The state after one more epoch, with what is told of it, and in `curves` of all epochs."""
    before: Mapping[str, list[float]] = state.get("curves", {})
    curves = {name: [*before.get(name, []), value] for name, value in told.items()}
    return {**state, "epoch": state["epoch"] + 1, **told, "curves": curves, **_weights(model, optimizer)}


def _weights(model: nn.Module, optimizer: torch.optim.Optimizer) -> State:
    return {"model": copy.deepcopy(model.state_dict()), "optimizer": copy.deepcopy(optimizer.state_dict())}
