"""A worker's pairs in chunks of whole users, for logs of which it cannot hold its share: one chunk is held at a time."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from lib.models.two_tower import Pairs, PairSampler


class Chunks:
    """Draws pairs as a PairSampler of all chunks would, but for the order: those of a chunk come one after the other.

    Users are in a chunk by a hash of their key, so that each is a sample of all.
    """

    def __init__(self, loads: Sequence[Callable[[], Pairs]], *, num_items: int, history_length: int) -> None:
        """Pass over the chunks once, each given by a function that loads it; one of them has a pair."""
        self.loads, self.num_items, self.history_length = loads, num_items, history_length
        self.held: tuple[int, PairSampler] | None = None
        drawn = torch.zeros(num_items, dtype=torch.float64)
        weights = []
        for number in range(len(loads)):
            of_chunk = self.sampler(number).drawn
            drawn += of_chunk
            weights.append(of_chunk.sum())
        self.weight = torch.stack(weights)  # (C,), of a chunk's targets
        self.q = drawn / drawn.sum()  # (I,), how likely each item is drawn, over all chunks

    def sampler(self, number: int) -> PairSampler:
        """The sampler of a chunk, which is loaded in place of the one that was held."""
        if self.held is None or self.held[0] != number:
            self.held = None  # before the next is loaded
            loaded = PairSampler(self.loads[number](), num_items=self.num_items, history_length=self.history_length)
            self.held = number, loaded
        return self.held[1]

    def order(self, num_batches: int, generator: torch.Generator) -> list[int]:
        """The chunk of each batch of an epoch: one chunk after the other, shuffled, with as many as its share of the weight.

        Shares of batches are rounded up or down by chance, so that over epochs each pair is drawn by its weight
        (systematic sampling). A chunk without pairs has none.
        """
        shuffled = torch.randperm(len(self.loads), generator=generator)
        offset = torch.rand(1, dtype=torch.float64, generator=generator)
        share = self.weight[shuffled] / self.weight.sum()
        ends = (share.cumsum(0) * num_batches + offset).floor().long().clamp(max=num_batches)
        ends[int(share.nonzero().max()) :] = num_batches
        order: list[int] = shuffled.repeat_interleave(ends.diff(prepend=ends.new_zeros(1))).tolist()
        return order

    def over(self, order: Iterable[int]) -> "InOrder":
        """Draws each batch from the next chunk of this order."""
        return InOrder(self, iter(order))


class InOrder:
    """A Sampler of one batch after the other."""

    def __init__(self, chunks: Chunks, order: Iterator[int]) -> None:
        self.chunks, self.order, self.q = chunks, order, chunks.q

    def draw(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """As PairSampler.draw."""
        return self.chunks.sampler(next(self.order)).draw(size, generator)
