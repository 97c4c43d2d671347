"""Sweeps of implicit-feedback ALS over blocks: each side's factors in turn, by `implicit`'s conjugate-gradient kernel.

Minimises sum over pairs c (1 - x.y)^2 + sum over all other users and items (x.y)^2 + lambda (sum of n_u |x_u|^2 + n_i |y_i|^2)
with c = 1 + alpha * strength and n the number of a user's or item's pairs (Hu, Koren and Volinsky 2008; weighted lambda:
Zhou et al. 2008; conjugate gradients: Takacs, Pilaszy and Tikk 2011). A task holds the pairs of its users and of its items,
and of the other side's factors those that its pairs name; what all others add is in the Gram matrix, summed over the tasks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import polars as pl
import pyarrow as pa
from implicit.cpu import _als
from numpy.typing import NDArray

from lib.engines.arrow_tasks import shards_by
from lib.engines.exchange import Exchange
from lib.ranking.als_factors import Factors

ROWS_OF_GRAM = 1 << 16  # that are summed at a time
GRAM = b"gram"


@dataclass(frozen=True)
class Solving:
    """How a side's factors are found from the other's."""

    rank: int
    regularization: float
    cg_steps: int


@dataclass(frozen=True)
class Block:
    """The pairs of a shard's users, or of its items, as rows of a sparse matrix; those with as many pairs stand together."""

    ids: pa.Array  # of the rows, by the number of their pairs, then by id
    columns: pa.Array  # ids of the other side, those that the pairs name, sorted by shard and id
    column_counts: list[int]  # how many of the columns each shard has
    starts: NDArray[np.int64]  # (rows + 1,): where each row's pairs begin
    places: NDArray[np.int64]  # (pairs,): each pair's column
    confidences: Factors  # (pairs,)

    @classmethod
    def of(cls, pairs: pl.DataFrame, *, row: str, column: str, num_shards: int) -> "Block":
        """From `row`, `column` and `confidence` of each pair."""
        columns = pairs.select(pl.col(column).unique().sort()).to_series()
        shards = shards_by(columns, num_shards)
        by_shard = columns.to_frame().with_columns(shard=shards).sort("shard", column, maintain_order=True)
        numbered = by_shard.select(column).with_row_index("place")
        counts = np.bincount(by_shard["shard"].to_numpy(), minlength=num_shards)
        in_order = (
            pairs.join(numbered, on=column, how="left")
            .with_columns(number=pl.len().over(row))
            .sort("number", row, column)
        )
        rows = in_order.group_by(row, maintain_order=True).agg(number=pl.len())
        starts = np.concatenate([[0], rows["number"].cum_sum().to_numpy()]).astype(np.int64)
        return cls(
            ids=_plain(rows[row]),
            columns=_plain(by_shard[column]),
            column_counts=counts.tolist(),
            starts=starts,
            places=in_order["place"].to_numpy().astype(np.int64),
            confidences=in_order["confidence"].to_numpy().astype(np.float32),
        )

    def runs(self) -> Iterator[tuple[int, int, int]]:
        """Rows with equally many pairs: the first, the one after the last, and how many pairs each has."""
        numbers = np.diff(self.starts)
        edges = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
        for first, end in pairwise(edges):
            if first < end:
                yield first, end, int(numbers[first])


class Side:
    """The users, or the items, of a shard: their factors, which change, and what is known of the other side's."""

    def __init__(self, kind: str, block: Block, factors: Factors, solving: Solving) -> None:
        self.kind, self.block, self.factors, self.solving = kind, block, factors, solving
        self._starts, self._places = block.starts, block.places + solving.rank
        # The kernel forms the Gram matrix of the rows that it is given. It is given only the first `rank` of these, a root of
        # the Gram matrix of all factors of the other side wherever they lie; the pairs name rows after them.
        self._others = np.zeros((solving.rank + len(block.columns), solving.rank), dtype=np.float32)
        self._wanted: list[NDArray[np.int64]] = []

    def meet(self, exchange: Exchange, other: "Side") -> None:
        """Tell each task which of its factors of the other side are wanted here, and note which of these are wanted where."""
        edges = np.cumsum([0, *self.block.column_counts])
        asked = [pa.table({"id": self.block.columns[start:end]}) for start, end in pairwise(edges)]
        place = pl.DataFrame({"id": pl.Series(other.block.ids)}).with_row_index("place")
        for ids in exchange.swap(f"{self.kind}s want", asked):
            found = pl.DataFrame(ids).join(place, on="id", how="left", maintain_order="left")["place"]
            assert not found.null_count(), "every id that a pair names has pairs in its own shard"
            other._wanted.append(found.to_numpy().astype(np.int64))

    def publish(self, exchange: Exchange, other: "Side", *, name: str) -> None:
        """Give each task those of the factors that it wants, and take those of the same side that `other` wants."""
        gram = gram_of(self.factors)
        rank = self.solving.rank
        outgoing = []
        for wanted in self._wanted:
            values = pa.FixedSizeListArray.from_arrays(pa.array(self.factors[wanted].ravel()), rank)
            outgoing.append(pa.table({"values": values}).replace_schema_metadata({GRAM: gram.tobytes()}))
        received = exchange.swap(f"{self.kind}s of {name}", outgoing)
        start = rank
        total = np.zeros((rank, rank))
        for rows in received:
            values = rows["values"].combine_chunks()
            other._others[start : start + len(values)] = values.flatten().to_numpy().reshape(-1, rank)
            start += len(values)
            total += np.frombuffer(rows.schema.metadata[GRAM]).reshape(rank, rank)
        other._others[:rank] = root_of(total)

    def solve(self) -> None:
        """Find the factors anew from what is known of the other side's."""
        rank = self.solving.rank
        for first, end, number in self.block.runs():
            _als._least_squares_cg(
                self._starts[first : end + 1],
                self._places,
                self.block.confidences,
                self.factors[first:end],
                self._others[:rank],
                self.solving.regularization * number,
                num_threads=1,
                cg_steps=self.solving.cg_steps,
            )


def sweep(exchange: Exchange, users: Side, items: Side, *, number: int) -> None:
    """Find the items' factors anew from the users', then the users' from the items'.

    The users' come last, so that their lists are by what is best for the items as these are now.

    Raises:
        ValueError: they are no longer finite.
    """
    for side, other in ((items, users), (users, items)):
        other.publish(exchange, side, name=f"sweep {number}")
        side.solve()
        if not np.isfinite(side.factors).all():
            raise ValueError(
                f"als: the factors of {side.kind}s are no finite numbers after sweep {number}: raise als.regularization, "
                "or lower als.alpha"
            )


def gram_of(factors: Factors) -> NDArray[np.float64]:
    """The Gram matrix of factors: (rank, rank)."""
    total = np.zeros((factors.shape[1], factors.shape[1]))
    for start in range(0, len(factors), ROWS_OF_GRAM):
        rows = factors[start : start + ROWS_OF_GRAM].astype(np.float64)
        total += rows.T @ rows
    return total


def root_of(gram: NDArray[np.float64]) -> Factors:
    """A matrix whose Gram matrix is this one, which may be of lower rank: (rank, rank)."""
    values, directions = np.linalg.eigh(gram)
    return np.ascontiguousarray((directions * np.sqrt(values.clip(0))).T, dtype=np.float32)


def _plain(ids: pl.Series) -> pa.Array:
    array = ids.to_arrow().cast(pa.large_string())
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
