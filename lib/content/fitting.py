"""How content vectors are fitted: loops that can be resumed, as in lib/models/fitting.py, whose states and workers these are."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from lib.content.inputs import Inputs
from lib.content.networks import Fusion, PictureAgreement, augmented, info_nce
from lib.models.fitting import Keep, State, after_epoch, alone, begun, epoch_generator, unwrapped
from lib.models.two_tower import PairSampler

AGREEMENT = 0.2  # weight of the modalities' agreement beside what users did
ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class ContentPlan:
    """How the two networks are fitted; sizes are per worker."""

    num_dimensions: int
    picture_epochs: int
    fusion_epochs: int
    num_batches: int  # in an epoch of the fusion
    picture_batch_size: int
    batch_size: int
    learning_rate: float
    history_length: int
    dropped_frac: float  # of an item's modalities, while the fusion is trained
    seed: int


def fit_pictures(
    model: nn.Module,
    pixels: Tensor,
    said: Tensor,
    plan: ContentPlan,
    *,
    num_batches: int,
    rank: int = 0,
    state: State | None = None,
    keep: Keep = lambda _: None,
) -> State:
    """Fit a PictureAgreement (or what wraps one): two views of a picture come near, and a picture and what is said of its item.

    Args:
        model: has the initial weights; `state`, if given, replaces them.
        pixels: (n, 3, R, R) uint8, this worker's pictures.
        said: (n, S), titles and tags of the same items; S may be 0.
        plan: the hyperparameters.
        num_batches: in an epoch, the same for every worker.
        rank: this worker's.
        state: a state that was passed to `keep`, to resume from.
        keep: called after every epoch with the state so far.
    """
    own = unwrapped(model)
    assert isinstance(own, PictureAgreement)
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.learning_rate, weight_decay=1e-4)
    state = begun(own, optimizer, state)
    has_words = said.shape[1] > 0
    words = said if has_words else torch.zeros(len(said), 1)
    device = own.log_scale.device
    while state["epoch"] < plan.picture_epochs:
        epoch = state["epoch"] + 1
        generator = epoch_generator(plan.seed, epoch, rank)
        model.train()
        losses = []
        for _ in range(num_batches):
            chosen = torch.randperm(len(pixels), generator=generator)[: plan.picture_batch_size]
            shown = pixels[chosen].to(device).float() / 255
            views = torch.cat([augmented(shown, generator), augmented(shown, generator)])
            seen, beside, told, scale = model(views, words[chosen].to(device).repeat(2, 1))
            one, other = seen.chunk(2)
            loss = info_nce(one, other, scale)
            if has_words:
                loss = loss + info_nce(beside.chunk(2)[0], told.chunk(2)[0], scale)
            loss = loss + 0.0 * (beside.sum() + told.sum())  # every weight has a gradient on every worker
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        state = after_epoch(own, optimizer, state, loss=torch.stack(losses).mean().item())
        keep(state)
    return state


def fit_fusion(
    model: nn.Module,
    inputs: Inputs,
    sampler: PairSampler | None,
    plan: ContentPlan,
    *,
    rank: int = 0,
    gather: Callable[[Tensor], Tensor] = alone,
    state: State | None = None,
    keep: Keep = lambda _: None,
) -> State:
    """Fit a Fusion (or what wraps one): items come near which the same users chose, and an item's modalities agree.

    A user is the mean of some of the other items that the user chose, and is to find the item among those of the batch by
    the sampled softmax of two towers (lib/models/two_tower.py), whose correction leaves popularity out. In each item some
    modalities are dropped (Neverova et al. 2016), so that one that lacks them has a sensible vector. Without `sampler`
    the modalities' weights alone are learnt, from their agreement, and each keeps the likeness that it has by itself.

    Args:
        model: has the initial weights; `state`, if given, replaces them.
        inputs: all items.
        sampler: draws from this worker's pairs, whose items are rows of `inputs`; None where no pair is known.
        plan: the hyperparameters.
        rank: this worker's.
        gather: brings together the rows of all workers, equally many of each.
        state: a state that was passed to `keep`, to resume from.
        keep: called after every epoch with the state so far.
    """
    own = unwrapped(model)
    assert isinstance(own, Fusion)
    learnt = [own.log_weight, own.log_scale] if sampler is None else list(model.parameters())
    optimizer = torch.optim.AdamW(learnt, lr=plan.learning_rate, weight_decay=1e-2)
    state = begun(own, optimizer, state)
    values, known = torch.from_numpy(inputs.values), torch.from_numpy(inputs.known)
    device = own.log_weight.device
    described = known.any(dim=1).nonzero().ravel()
    learns = sampler is not None or (len(inputs.names) > 1 and len(described) > 1)
    q = gather(sampler.q[None].float()).mean(dim=0).clamp(min=1e-12) if sampler is not None else None
    while state["epoch"] < (plan.fusion_epochs if learns else 1):
        epoch = state["epoch"] + 1
        generator = epoch_generator(plan.seed, epoch, rank)
        model.train()
        losses: list[Tensor] = []
        for _ in range(plan.num_batches if learns else 0):
            drawn = torch.randint(len(described), (plan.batch_size // 2,), generator=generator)
            asked = described[drawn].unique()
            rows = [asked, asked]
            if sampler is not None:
                targets, history = sampler.draw(plan.batch_size, generator)
                distinct, place = torch.unique(torch.cat([targets[:, None], history], dim=1), return_inverse=True)
                rows.append(distinct)
            row = torch.cat(rows)
            kept = dropped(known[row], plan.dropped_frac, generator)
            vectors, scale = model(values[row].to(device), kept.to(device))
            one, other = vectors[: len(asked)], vectors[len(asked) : 2 * len(asked)]
            loss = info_nce(one, other, scale)
            if sampler is not None:
                assert q is not None
                chosen = F.embedding(place.to(device), vectors[2 * len(asked) :])
                is_other = (history != targets[:, None]).to(device).unsqueeze(2).to(vectors.dtype)
                users = F.normalize((chosen[:, 1:] * is_other).sum(dim=1), dim=1)
                log_q = gather(q[targets].to(device)).log()
                logits = scale * users @ gather(chosen[:, 0]).T - log_q
                first = rank * plan.batch_size
                loss = AGREEMENT * loss + F.cross_entropy(logits, first + torch.arange(len(users), device=device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        state = after_epoch(own, optimizer, state, loss=torch.stack(losses).mean().item() if losses else 0.0)
        keep(state)
    return state


def dropped(known: Tensor, frac: float, generator: torch.Generator) -> Tensor:
    """Which modalities are looked at: (B, M) bool, each known one with probability 1 - frac, and at least one of an item."""
    drawn = torch.rand(known.shape, generator=generator) * known
    return known & ((drawn > frac) | (drawn == drawn.amax(dim=1, keepdim=True)))


@torch.no_grad()
def content_vectors(model: Fusion, inputs: Inputs) -> NDArray[np.float32]:
    """The vector of each item, (N, D) of length 1; NaN for one of which nothing is known."""
    model.eval()
    found = [
        model(torch.from_numpy(inputs.values[start:end]), torch.from_numpy(inputs.known[start:end]))[0].numpy()
        for start in range(0, len(inputs), ROWS_AT_ONCE)
        for end in [start + ROWS_AT_ONCE]
    ]
    vectors = np.concatenate([np.empty((0, model.num_dimensions), np.float32), *found])
    vectors[~inputs.known.any(axis=1)] = np.nan
    return vectors


@torch.no_grad()
def picture_vectors(model: nn.Module, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The vectors of pictures (n, 3, R, R), (n, D), each the mean of it and its mirror image, of length 1."""
    model.eval()
    found = []
    for start in range(0, len(pixels), ROWS_AT_ONCE // 8):
        shown = torch.from_numpy(pixels[start : start + ROWS_AT_ONCE // 8].astype(np.float32)) / 255
        found.append(F.normalize(model(shown) + model(shown.flip(3)), dim=1).numpy())
    return np.concatenate(found)
