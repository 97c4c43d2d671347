"""A causal transformer over a user's latest events, which says what comes next, and what is taken in later visits.

SASRec (Kang and McAuley 2018, "Self-attentive sequential recommendation"): an item's embedding plus that of its place, blocks of causal
self-attention and a feed-forward layer, the state after an event scored against the same item embeddings. Normed before each layer, as
there. Its binary loss over one negative is replaced by the cross-entropy over all items (Klenitskiy and Vasilev 2023, "Turning dross into
gold loss: is BERT4Rec really better than SASRec?"), above `num_negatives` items over so many that are drawn and shared by a batch's events: half
of them uniformly, half as often as they occur (Yang et al. 2020, "Mixed negative sampling"), each standing for 1 / (how many of it are expected).

A second head, the state plus a linear map of it, learns from items of the user's later visits: at a visit's end, NUM_LATER of the
next `horizon` events, drawn by weight (in the manner of the "all action" loss of Pancha et al. 2022, "PinnerFormer"). A list for the days
to come asks for these, not for the rest of a visit that is already over.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from lib.models.sequence_weights import PAD, SequenceWeights

INITIAL_DEVIATION = 0.1
NO_TARGET = -1
NUM_LATER = 8  # items of later visits that are learned at the end of each visit
LENGTHS_SORTED = 64  # batches whose pieces are sorted by length together, so that little is padded


class Sequences(NamedTuple):
    """E events of S users, each user's in their order."""

    items: Tensor  # (E,) int64 from 1
    starts: Tensor  # (S + 1,) int64, where each sequence begins, and E
    visit_end: Tensor  # (E,) int64, where the event's visit ends: the first event after it
    weight: Tensor  # (E,) float64, above 0: how often an event is the one of later visits that is learned


class Batch(NamedTuple):
    """Pieces of sequences, padded at the end."""

    items: Tensor  # (B, L) int64, PAD where there is none
    next_items: Tensor  # (B, L) int64, NO_TARGET where there is none
    ends: Tensor  # (V, 2) int64, row and place of the events that end a visit which others follow
    later_items: Tensor  # (V, NUM_LATER) int64, items of these others


class Negatives(NamedTuple):
    """K drawn items that right ones are told from."""

    items: Tensor  # (K,) int64
    log_drawn: Tensor  # (K,) log of how many of each are expected among the K


class Block(nn.Module):
    """Causal self-attention, then a feed-forward layer."""

    def __init__(self, num_dimensions: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.norm_1, self.norm_2 = nn.LayerNorm(num_dimensions), nn.LayerNorm(num_dimensions)
        self.attention = nn.Linear(num_dimensions, 3 * num_dimensions)
        self.projection = nn.Linear(num_dimensions, num_dimensions)
        self.inner = nn.Linear(num_dimensions, 2 * num_dimensions)
        self.outer = nn.Linear(2 * num_dimensions, num_dimensions)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        size, length, width = x.shape
        heads = self.attention(self.norm_1(x)).view(size, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], is_causal=True)
        mixed = self.projection(mixed.transpose(1, 2).reshape(size, length, width))
        x = x + F.dropout(mixed, self.dropout, self.training)
        inner = self.outer(F.gelu(self.inner(self.norm_2(x))))
        found: Tensor = x + F.dropout(inner, self.dropout, self.training)
        return found


class SequenceModel(nn.Module):
    """The transformer over `num_items` items, which are numbered from 1."""

    def __init__(
        self, num_items: int, *, num_dimensions: int, num_blocks: int, num_heads: int, length: int, dropout: float
    ) -> None:
        super().__init__()
        assert num_dimensions % num_heads == 0, (num_dimensions, num_heads)
        self.length, self.dropout, self.num_heads = length, dropout, num_heads
        self.item = nn.Embedding(1 + num_items, num_dimensions, padding_idx=PAD)
        self.position = nn.Embedding(length, num_dimensions)
        self.blocks = nn.ModuleList(Block(num_dimensions, num_heads, dropout) for _ in range(num_blocks))
        self.norm = nn.LayerNorm(num_dimensions)
        self.later = nn.Linear(num_dimensions, num_dimensions, bias=False)
        for embedding in (self.item, self.position):
            nn.init.normal_(embedding.weight, std=INITIAL_DEVIATION)
        nn.init.zeros_(self.item.weight[PAD])
        nn.init.zeros_(self.later.weight)

    @property
    def num_items(self) -> int:
        """Items that it knows."""
        return self.item.num_embeddings - 1

    @torch.no_grad()
    def take(self, state: Mapping[str, Tensor], item_ids: Sequence[str], *, own_ids: Sequence[str]) -> None:
        """Take the weights of a model of other items; items that it does not know keep their own.

        Args:
            state: the other's, of the same sizes but for the items.
            item_ids: the other's items, by number from 1.
            own_ids: this one's.
        """
        of_other = {item: number for number, item in enumerate(item_ids, start=1)}
        shared = [(number, of_other[item]) for number, item in enumerate(own_ids, start=1) if item in of_other]
        own, other = (torch.tensor(numbers, dtype=torch.int64) for numbers in zip(*shared, strict=True))
        weight = self.item.weight.clone()
        weight[own] = state["item.weight"][other].to(weight)
        self.load_state_dict({**state, "item.weight": weight})

    def states(self, items: Tensor) -> Tensor:
        """The state after each event: (B, L) -> (B, L, D)."""
        assert items.ndim == 2 and items.shape[1] <= self.length, items.shape
        x = self.item(items) + self.position.weight[: items.shape[1]]
        x = F.dropout(x, self.dropout, self.training)
        for block in self.blocks:
            x = block(x)
        found: Tensor = self.norm(x)
        return found

    def forward(self, batch: Batch, negatives: Negatives | None) -> Tensor:
        """The mean loss of a batch's next items, plus that of its later ones.

        Args:
            batch: of this worker.
            negatives: that were drawn; None: all items are.
        """
        states = self.states(batch.items)
        has_next = batch.next_items != NO_TARGET
        loss = self._loss(states[has_next], batch.next_items[has_next][:, None], negatives)
        ended = states[batch.ends[:, 0], batch.ends[:, 1]]
        return loss + self._loss(ended + self.later(ended), batch.later_items, negatives)

    def _loss(self, states: Tensor, targets: Tensor, negatives: Negatives | None) -> Tensor:
        """Mean cross-entropy of targets (N, M), M of each of the states (N, D), which are no negatives of each other; zero if there are none."""
        own = (states[:, None] * self.item(targets)).sum(dim=2)
        if negatives is None:
            every = torch.arange(1, 1 + self.num_items, device=targets.device)
            negatives = Negatives(every, torch.zeros(len(every), device=targets.device))
        # Corrected for how often an item is drawn, so that the loss is that over all items on average.
        others = states @ self.item(negatives.items).T - negatives.log_drawn
        is_other = torch.ones_like(others, dtype=torch.bool)
        for target in targets.T:
            is_other &= negatives.items != target[:, None]
        others = others.masked_fill(~is_other, float("-inf")).logsumexp(dim=1, keepdim=True)
        loss: Tensor = (torch.logaddexp(own, others) - own).sum() / max(1, targets.numel())
        return loss


class PieceSampler:
    """Cuts all sequences into pieces of at most `length` events, elsewhere in each epoch, and makes batches of them.

    Every event but a sequence's last is an input once an epoch. A cut also teaches what comes after few events, as at a visit's beginning.
    """

    def __init__(self, sequences: Sequences, *, length: int, horizon: int) -> None:
        assert len(sequences.items) == sequences.starts[-1]
        self.sequences, self.length, self.horizon = sequences, length, horizon
        self.occurs = torch.bincount(sequences.items) / max(1, len(sequences.items))  # (largest number + 1,)
        self.summed = F.pad(sequences.weight.cumsum(0), (1, 0)).numpy()  # (E + 1,)

    def negatives(self, number: int, num_items: int, generator: torch.Generator) -> Negatives:
        """Items drawn one by one, as likely uniformly as by how often they occur."""
        uniform = torch.randint(1, 1 + num_items, (number,), generator=generator)
        event = torch.randint(len(self.sequences.items), (number,), generator=generator)
        is_uniform = torch.rand(number, generator=generator) < 0.5
        items = torch.where(is_uniform, uniform, self.sequences.items[event])
        return Negatives(
            items,
            (number * (0.5 / num_items + 0.5 * F.pad(self.occurs, (0, 1 + num_items - len(self.occurs)))[items])).log(),
        )

    def batches(self, num_batches: int, generator: torch.Generator) -> list[Batch]:
        """So many batches, of about equally many events each; all pieces are in one, some in two if there are few."""
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
        begin, end = self._pieces(rng)
        if len(begin) < num_batches:
            again = np.arange(num_batches) % len(begin)
            begin, end = begin[again], end[again]
        order = rng.permutation(len(begin))
        group = np.cumsum((end - begin)[order]) * max(1, num_batches // LENGTHS_SORTED)
        group = (group - 1) // max(1, int((end - begin).sum()))
        order = order[np.lexsort(((end - begin)[order], group))]
        cuts = self._cuts((end - begin)[order], num_batches)
        return [
            self._batch(begin[rows], end[rows], rng)
            for batch in rng.permutation(num_batches)
            for rows in [order[cuts[batch] : cuts[batch + 1]]]
        ]

    def _pieces(self, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where pieces begin and end; a sequence's last event begins none."""
        starts = self.sequences.starts.numpy()
        first, last = starts[:-1], starts[1:] - 1
        first, last = first[last > first], last[last > first]
        offset = rng.integers(1, self.length + 1, len(first))
        num_pieces = 1 + np.maximum(0, -(-(last - first - offset) // self.length))
        number = np.arange(num_pieces.sum()) - np.repeat(np.cumsum(num_pieces) - num_pieces, num_pieces)
        end = np.repeat(first + offset, num_pieces) + number * self.length
        begin = np.maximum(end - self.length, np.repeat(first, num_pieces))
        return begin, np.minimum(end, np.repeat(last, num_pieces))

    @staticmethod
    def _cuts(lengths: NDArray[np.int64], num_batches: int) -> NDArray[np.int64]:
        """(num_batches + 1,) where batches begin, so that they hold about equally many events and each at least one piece."""
        goals = np.arange(1, num_batches) * lengths.sum() / num_batches
        inner = np.searchsorted(np.cumsum(lengths), goals)
        number = np.arange(1, num_batches)
        inner = np.maximum.accumulate(np.maximum(inner, number) - number) + number
        inner = np.minimum(inner, len(lengths) - num_batches + number)
        return np.concatenate([[0], inner, [len(lengths)]]).astype(np.int64)

    def _batch(self, begin: NDArray[np.int64], end: NDArray[np.int64], rng: np.random.Generator) -> Batch:
        items, visit_end = self.sequences.items.numpy(), self.sequences.visit_end.numpy()
        place = begin[:, None] + np.arange((end - begin).max())
        is_there = place < end[:, None]
        place = np.where(is_there, place, begin[:, None])
        # A piece has no sequence's last event, so that others follow each visit that ends in it.
        ends = np.argwhere(is_there & (visit_end[place] == place + 1))
        last = place[ends[:, 0], ends[:, 1]]
        starts = self.sequences.starts.numpy()
        first = (last + 1)[:, None]
        stop = np.minimum(first + self.horizon, starts[np.searchsorted(starts, last, side="right")][:, None])
        drawn = rng.random((len(last), NUM_LATER))
        drawn = self.summed[first] + drawn * (self.summed[stop] - self.summed[first])
        later = np.clip(np.searchsorted(self.summed, drawn, side="right") - 1, first, stop - 1)
        following = np.where(is_there, items[place + 1], NO_TARGET)
        parts = np.where(is_there, items[place], PAD), following, ends, items[later]
        return Batch(*(torch.from_numpy(part) for part in parts))


def weights_of(model: SequenceModel, item_ids: tuple[str, ...]) -> SequenceWeights:
    """What the model has learned, as arrays."""
    assert len(item_ids) == model.num_items, (len(item_ids), model.num_items)
    arrays = {name: tensor.detach().float().numpy().copy() for name, tensor in model.state_dict().items()}
    return SequenceWeights(arrays, item_ids, model.num_heads)
