"""Fits a sequence model; see lib/models/fitting.py for how a fit is resumed and what workers share."""

from dataclasses import dataclass

import torch
from torch import nn

from lib.models.fitting import Keep, State, after_epoch, begun, epoch_generator, unwrapped
from lib.models.sequence import Batch, Negatives, PieceSampler, SequenceModel

WARM_FRAC = 0.1  # of the steps, in which the learning rate grows; then it falls
FINAL_FRAC = 0.02  # of the learning rate, at the last step


@dataclass(frozen=True)
class SequencePlan:
    """How a sequence model is fitted."""

    num_epochs: int
    num_batches: int  # of an epoch, for every worker
    learning_rate: float
    weight_decay: float
    num_negatives: int  # with no more items than that, all of them are
    seed: int


def rate_at(step: int, num_steps: int) -> float:
    """The share of the learning rate at a step from 0: up in a line, then down in one."""
    num_warm = max(1, round(WARM_FRAC * num_steps))
    if step < num_warm:
        return (step + 1) / num_warm
    return 1 - (1 - FINAL_FRAC) * (step + 1 - num_warm) / max(1, num_steps - num_warm)


def fit_sequence(
    model: nn.Module,
    sampler: PieceSampler,
    plan: SequencePlan,
    *,
    rank: int = 0,
    state: State | None = None,
    keep: Keep = lambda _: None,
) -> State:
    """Fit a SequenceModel (or what wraps one) on this worker's sequences by AdamW; arguments as for fitting.fit_two_towers.

    Returns:
        The last state; `model` holds the weights.
    """
    own = unwrapped(model)
    assert isinstance(own, SequenceModel)
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay)
    state = begun(own, optimizer, state)
    while state["epoch"] < plan.num_epochs:
        loss = train_epoch(model, optimizer, sampler, plan, epoch=state["epoch"], rank=rank)
        state = after_epoch(own, optimizer, state, loss=loss)
        keep(state)
    return state


def train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    sampler: PieceSampler,
    plan: SequencePlan,
    *,
    epoch: int,
    rank: int,
) -> float:
    """Train on all pieces, in `plan.num_batches` batches; returns the mean loss. Epochs are counted from 0."""
    model.train()
    own = unwrapped(model)
    assert isinstance(own, SequenceModel)
    device = own.item.weight.device
    generator = epoch_generator(plan.seed, epoch, rank)
    batches = sampler.batches(plan.num_batches, generator)
    losses = []
    with torch.random.fork_rng():  # of dropout
        torch.manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
        for number, batch in enumerate(batches):
            rate = rate_at(epoch * plan.num_batches + number, plan.num_epochs * plan.num_batches)
            for group in optimizer.param_groups:
                group["lr"] = plan.learning_rate * rate
            negatives = None
            if own.num_items > plan.num_negatives:
                drawn = sampler.negatives(plan.num_negatives, own.num_items, generator)
                negatives = Negatives(*(part.to(device) for part in drawn))
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                loss = model(Batch(*(part.to(device) for part in batch)), negatives)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
    return torch.stack(losses).mean().item()
