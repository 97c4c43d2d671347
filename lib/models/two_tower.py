"""Two towers in their plainest form: the score of a user and an item is the dot product of their vectors.

Item tower: the item's own embedding plus those of its tags (categories, brand), through which items of few interactions
learn from similar ones. User tower: the weighted mean of the item tower's vectors over the user's history. It has no
parameters per user, so a new user with a history gets a vector without retraining, and a user without a history gets
none. Trained by in-batch sampled softmax, corrected for how often an item is in a batch (Yi et al. 2019,
"Sampling-bias-corrected neural modeling for large corpus item recommendations").
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

INITIAL_DEVIATION = 0.1
ITEMS_AT_ONCE = 1 << 16


class Pairs(NamedTuple):
    """P pairs of a user and an item, sorted by user, with their weights.

    `history_weight` is the pair's weight in its user's history; `target_weight` sets how often it is drawn as a target
    to predict.
    """

    user: Tensor  # (P,) int64 from 0, ascending without gaps
    item: Tensor  # (P,) int64
    history_weight: Tensor  # (P,) float64, above 0
    target_weight: Tensor  # (P,) float64, above 0


class TwoTower(nn.Module):
    """Both towers; `item_tags` (I, T) int64 holds each item's tags, padded with 0. `num_tags`: how many there may be, if more than they hold.

    If `is_sparse`, gradients hold only the rows that a batch touches, as torch.optim.SparseAdam takes them.
    """

    item_tags: Tensor

    def __init__(self, item_tags: Tensor, num_dimensions: int, *, num_tags: int = 0, is_sparse: bool = False) -> None:
        super().__init__()
        self.is_sparse = is_sparse
        self.register_buffer("item_tags", item_tags)
        num_tags = max(num_tags, int(item_tags.max()) if item_tags.numel() else 0)
        self.item = nn.Embedding(len(item_tags), num_dimensions, sparse=is_sparse)
        self.tag = nn.Embedding(1 + num_tags, num_dimensions, padding_idx=0, sparse=is_sparse)
        nn.init.normal_(self.item.weight, std=INITIAL_DEVIATION)
        nn.init.normal_(self.tag.weight, std=INITIAL_DEVIATION)
        nn.init.zeros_(self.tag.weight[0])

    @torch.no_grad()
    def take(self, state: Mapping[str, Tensor], places: Tensor) -> None:
        """Take the weights of two towers over other items and the same tags.

        Args:
            state: theirs.
            places: (I,), where they have each item, or -1 for one that they do not know, which keeps its own weights.
        """
        known = places >= 0
        self.item.weight[known] = state["item.weight"][places[known]].to(self.item.weight)
        self.tag.weight.copy_(state["tag.weight"])

    def item_vectors(self, items: Tensor) -> Tensor:
        """The item tower: (N,) -> (N, D)."""
        vectors: Tensor = self.item(items) + self.tag(self.item_tags[items]).sum(dim=1)
        return vectors

    def forward(self, targets: Tensor, history: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors of B users and of their target items, each (B, D), from targets (B,) and samples of histories (B, L).

        A target is removed from its own history, so that the model does not predict an item from itself.
        """
        distinct, place = torch.unique(torch.cat([targets[:, None], history], dim=1), return_inverse=True)
        vectors = F.embedding(place, self.item_vectors(distinct))
        is_other = (history != targets[:, None]).unsqueeze(2).to(vectors.dtype)
        users = (vectors[:, 1:] * is_other).sum(dim=1) / is_other.sum(dim=1).clamp(min=1)
        return users, vectors[:, 0]

    @torch.no_grad()
    def user_vectors(self, pairs: Pairs, num_users: int) -> Tensor:
        """The user tower over whole histories: (U, D)."""
        weight = pairs.history_weight.to(self.item.weight.dtype)
        numbers = torch.arange(self.item.num_embeddings, device=weight.device).split(ITEMS_AT_ONCE)
        items = torch.cat([self.item_vectors(part) for part in numbers])
        sums = items.new_zeros(num_users, items.shape[1])
        for part in torch.arange(len(weight)).split(1 << 16):
            sums.index_add_(0, pairs.user[part], items[pairs.item[part]] * weight[part, None])
        total = items.new_zeros(num_users).index_add_(0, pairs.user, weight)
        return sums / total[:, None]


def sampled_softmax_loss(users: Tensor, items: Tensor, log_q: Tensor, *, first: int = 0) -> Tensor:
    """Cross-entropy of each user's own item among the batch's items, which serve as each other's negatives.

    A worker has B users of the batch, and the N items of all workers: its users have as many negatives as with one worker.

    The logit of user b and item j is users_b . items_j - log q_j, with q_j the probability that item j is drawn: this
    corrects for popular items being negatives more often (Yi et al. 2019, eq. 5). An item in several rows counts in
    each of them, as the correction assumes.

    Args:
        users: (B, D).
        items: (N, D), row first + b the target item of user b.
        log_q: (N,), log q of these target items.
        first: where this worker's own items begin.
    """
    logits = users @ items.T - log_q
    return F.cross_entropy(logits, first + torch.arange(len(users), device=users.device))


class Sampler(Protocol):
    """Draws pairs, and with each a sample of its user's history."""

    q: Tensor  # (I,) float64, how likely each item is drawn

    def draw(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw the items of B pairs, (B,), and for each pair L items of its user's history with replacement, (B, L)."""
        ...


class PairSampler:
    """Draws pairs by their target weight, and with each a sample of its user's history by the history weights."""

    def __init__(self, pairs: Pairs, *, num_items: int, history_length: int) -> None:
        """Of pairs of which there may be none, if nothing is drawn."""
        self.pairs, self.history_length = pairs, history_length
        counts = torch.bincount(pairs.user)
        self.last_pair = counts.cumsum(0) - 1
        self.first_pair = self.last_pair - counts + 1
        weight = pairs.history_weight
        total = weight.new_zeros(len(counts)).index_add_(0, pairs.user, weight)
        self.history_share = weight / total[pairs.user]  # sums to 1 for each user
        self.history_sum, self.target_sum = self.history_share.cumsum(0), pairs.target_weight.cumsum(0)
        self.drawn = weight.new_zeros(num_items).index_add_(0, pairs.item, pairs.target_weight)  # (I,)
        self.q = self.drawn / self.drawn.sum()  # (I,), how likely each item is drawn

    def draw(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw the items of B pairs, (B,), and for each pair L items of its user's history with replacement, (B, L)."""
        at = torch.rand(size, dtype=torch.float64, generator=generator) * self.target_sum[-1]
        pair = torch.searchsorted(self.target_sum, at, right=True).clamp(max=len(self.target_sum) - 1)
        user = self.pairs.user[pair]
        first, last = self.first_pair[user, None], self.last_pair[user, None]
        before = self.history_sum[first] - self.history_share[first]
        at = before + torch.rand(size, self.history_length, dtype=torch.float64, generator=generator)
        drawn = torch.searchsorted(self.history_sum, at, right=True).clamp(first, last)
        return self.pairs.item[pair], self.pairs.item[drawn]


def train_epoch(
    model: nn.Module,
    optimizer: Optimizer,
    sampler: Sampler,
    *,
    batch_size: int,
    num_batches: int,
    generator: torch.Generator,
    rank: int = 0,
    gather: Callable[[Tensor], Tensor] = lambda own: own,
    average: Callable[[nn.Module], None] = lambda _: None,
) -> float:
    """Train on `num_batches` batches; returns the mean loss.

    `model` is a TwoTower or a trainer's wrapper around one. `gather` concatenates the rows of all workers in the order
    of their ranks and lets gradients through; batches have the same size on every worker. `average` makes the gradients
    the mean over the workers, where no wrapper does.
    """
    model.train()
    device = next(model.parameters()).device
    q = gather(sampler.q[None].to(torch.float32).to(device)).mean(dim=0)  # of a batch of all workers
    losses = []
    for _ in range(num_batches):
        targets, history = sampler.draw(batch_size, generator)
        targets, history = targets.to(device), history.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            users, items = model(targets, history)
            log_q = gather(q[targets]).log()
            loss = sampled_softmax_loss(users, gather(items), log_q, first=rank * batch_size)
        optimizer.zero_grad()
        loss.backward()
        average(model)
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses).mean().item()
