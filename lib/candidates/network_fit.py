"""Fitting the networks that rank (lib/candidates/networks.py), in torch, on one worker or on several that share the users.

Two losses: over a user's list, softmax cross-entropy (Bruch et al. 2019, "An analysis of the softmax cross entropy loss for
learning-to-rank with binary relevance"; ListNet's top-one loss, Cao et al. 2007, "Learning to rank: from pairwise approach to
listwise approach", with what was bought as the target); and of each candidate for itself, binary cross-entropy.

Workers hold the same weights: each adds the gradients of its users, and all step by their mean over all users of a batch.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LinearLR

from lib.candidates.examples import Examples
from lib.candidates.networks import Network, Scaling, own_places, scaling_of, scaling_sums
from lib.models.workers import total_over_workers

Loss = Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]]
VECTOR_DEVIATION = 0.1  # of the vectors of items at the start


def listwise_loss(scores: Tensor, label: Tensor, user: Tensor, num_users: int) -> tuple[Tensor, Tensor]:
    """Softmax cross-entropy of each user's candidates, summed over the users who bought some, and the number of these.

    Args:
        scores: (N,).
        label: (N,), 1 for what was bought: the target of a user is uniform over it.
        user: (N,), 0 to num_users - 1.
        num_users: of the batch.
    """
    largest = torch.full((num_users,), -torch.inf).scatter_reduce(0, user, scores.detach(), "amax")
    shifted = scores - largest[user]
    logarithm = torch.zeros(num_users).index_add(0, user, shifted.exp()).log()
    bought = torch.zeros(num_users).index_add(0, user, label)
    loss = ((logarithm[user] - shifted) * label / bought.clamp(min=1)[user]).sum()
    return loss, (bought > 0).sum()


def pointwise_loss(scores: Tensor, label: Tensor, user: Tensor, num_users: int) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy of each candidate, summed, and their number; see `listwise_loss`."""
    return F.binary_cross_entropy_with_logits(scores, label, reduction="sum"), torch.tensor(len(scores))


@dataclass(frozen=True)
class NetworkPlan:
    """What is fitted, and how."""

    loss: Loss
    widths: tuple[int, ...]  # of the layers
    vector_size: int  # of users' and items' own vectors; 0 for a network without them
    learning_rate: float  # of the first step; it falls to 0 by equal steps
    weight_decay: float
    users_at_once: int  # in a batch of all workers
    num_epochs: int
    seed: int


class RankingNetwork(nn.Module):
    """Vectors of items, if it has some, and the layers."""

    def __init__(self, num_inputs: int, num_items: int, plan: NetworkPlan) -> None:
        super().__init__()
        self.item_vectors = nn.Parameter(VECTOR_DEVIATION * torch.randn(num_items, plan.vector_size))
        width, layers = num_inputs + 2 * plan.vector_size, list[nn.Module]()
        for out in plan.widths:
            layers += [nn.Linear(width, out), nn.ReLU()]
            width = out
        self.layers = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, inputs: Tensor, user: Tensor, items: Tensor, history: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """The scores (N,) of inputs (N, num_inputs).

        Args:
            inputs: of the candidates.
            user: (N,), a row of the history.
            items: (N,), -1 for an item without a vector.
            history: items, where each user's begin, and the share of each.
        """
        if self.item_vectors.shape[1]:
            places, starts, shares = history
            of_users = F.embedding_bag(places, self.item_vectors, starts, mode="sum", per_sample_weights=shares)
            of_items = F.embedding(items.clamp(min=0), self.item_vectors) * (items >= 0)[:, None]
            inputs = torch.cat([of_users[user], of_items, inputs], dim=1)
        scores: Tensor = self.layers(inputs)[:, 0]
        return scores


def epochs(examples: Examples, plan: NetworkPlan) -> Iterator[Network]:
    """A network after each epoch, the same on all workers; of vectors of its own where the examples say who and what.

    Users who bought no candidate are left out of what the loss over lists learns from: they are no part of it.
    """
    scaling = scaling_of(total_over_workers(torch.from_numpy(scaling_sums(examples.features))).numpy())
    learned = Learned(examples, scaling.inputs(examples.features), only_buyers=plan.loss is listwise_loss)
    item_ids = pa.array([], pa.string())
    if plan.vector_size and examples.pairs is not None:
        item_ids = examples.pairs.item_ids
    plan = plan if len(item_ids) else replace(plan, vector_size=0)
    with torch.random.fork_rng():
        torch.manual_seed(plan.seed)  # the same weights on all workers
        model = RankingNetwork(scaling.num_inputs, len(item_ids), plan)
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay)
    num_users = int(total_over_workers(torch.tensor(len(learned.users))))
    num_batches = math.ceil(num_users / plan.users_at_once)
    falling = LinearLR(optimizer, 1, 0, total_iters=max(1, num_batches * plan.num_epochs))
    rng = np.random.default_rng(plan.seed)
    for _ in range(plan.num_epochs):
        for users in np.array_split(rng.permutation(learned.users), num_batches) if num_batches else ():
            step(model, optimizer, plan.loss, learned, users)
            falling.step()
        found = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
        layers = {name.removeprefix("layers."): array for name, array in found.items() if name.startswith("layers.")}
        yield Network(scaling, layers, item_ids, found["item_vectors"])


def step(
    model: RankingNetwork, optimizer: torch.optim.Optimizer, loss_of: Loss, learned: "Learned", users: NDArray[np.int64]
) -> None:
    """One step on a batch, by the gradient of the mean loss over all workers' parts of it; a part may be empty."""
    optimizer.zero_grad()
    count = torch.tensor(0)
    if len(users):
        inputs, label, user, items, history = learned.batch(users)
        loss, count = loss_of(model(inputs, user, items, history), label, user, len(users))
        loss.backward()
    weights = [weight for weight in model.parameters() if weight.numel()]
    for weight in weights:
        weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
    gradients = [weight.grad.reshape(-1) for weight in weights if weight.grad is not None]
    summed = total_over_workers(torch.cat([*gradients, count.float()[None]]))
    mean = summed[:-1] / summed[-1].clamp(min=1)
    for weight, gradient in zip(weights, mean.split([weight.numel() for weight in weights]), strict=True):
        weight.grad = gradient.reshape(weight.shape)
    optimizer.step()


class Learned:
    """A worker's examples as tensors, from which batches of whole users are taken."""

    def __init__(self, examples: Examples, inputs: NDArray[np.float32], *, only_buyers: bool) -> None:
        self.inputs = torch.from_numpy(inputs)
        self.label = torch.from_numpy(examples.label.astype(np.float32))
        sizes = examples.sizes
        self.start = np.cumsum([0, *sizes])
        bought = np.bincount(examples.group, weights=examples.label, minlength=len(sizes))
        self.users = np.flatnonzero(bought > 0 if only_buyers else sizes > 0)
        self.items = torch.full((len(inputs),), -1)
        self.history = None
        if examples.pairs is not None:
            self.history, place = own_places(examples.pairs, examples.pairs.item_ids)
            self.items = torch.from_numpy(np.append(place, -1)[examples.pairs.item])

    def batch(self, users: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Inputs, labels, user from 0, item, and history, as RankingNetwork takes them, of the candidates of users."""
        sizes = self.start[users + 1] - self.start[users]
        rows = torch.from_numpy(ranges(self.start[users], sizes))
        user = torch.from_numpy(np.repeat(np.arange(len(users)), sizes))
        history = (torch.zeros(0, dtype=torch.int64), torch.zeros(len(users), dtype=torch.int64), torch.zeros(0))
        if self.history is not None:
            theirs = self.history[users]
            parts = (theirs.indices.astype(np.int64), theirs.indptr[:-1].astype(np.int64), theirs.data)
            history = tuple(map(torch.from_numpy, parts))  # type: ignore[assignment]
        return self.inputs[rows], self.label[rows], user, self.items[rows], history


def ranges(starts: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers from each start on, as many as its size."""
    before = np.cumsum(sizes) - sizes
    return np.repeat(starts - before, sizes) + np.arange(sizes.sum())


def state_of(network: Network) -> dict[str, Any]:
    """A fit as a checkpoint holds it."""
    scaling = network.scaling.mean, network.scaling.scale, network.scaling.unknown
    return {
        "scaling": [torch.from_numpy(values) for values in scaling],
        "layers": {name: torch.from_numpy(values) for name, values in network.layers.items()},
        "items": network.item_ids.to_pylist(),
        "vectors": torch.from_numpy(network.item_vectors),
    }


def network_of(state: Mapping[str, Any]) -> Network:
    """What `state_of` gave."""
    layers = {name: values.numpy() for name, values in state["layers"].items()}
    scaling = Scaling(*(values.numpy() for values in state["scaling"]))
    return Network(scaling, layers, pa.array(state["items"], pa.string()), state["vectors"].numpy())
