"""A fit of als by tasks that run together: the task, and what the driver does to have it done (docs/decisions/0026)."""

import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from math import ceil
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake.transaction import AddAction

from lib.engines.arrow_tasks import (
    FILE_BYTES,
    Broadcast,
    files_of,
    gathered,
    part,
    unpacked,
    written_part,
)
from lib.engines.exchange import Exchange
from lib.engines.parts import Gang, Parts, TaskRun, in_a_gang, slots_of
from lib.lake.lake import Lake
from lib.lake.places import filesystem_of
from lib.lake.writes import conform, write_files
from lib.ranking import als_tasks
from lib.ranking.als_checkpoints import Checkpoints, Sides
from lib.ranking.als_factors import factors_of, first_factors, vectors_array
from lib.ranking.als_sweeps import Block, Side, Solving, sweep
from lib.ranking.als_tasks import VECTORS
from lib.ranking.known_pairs import spread_interactions
from lib.tables import contract

SAID = "said"  # kind of a part: a line for the log
NO_PAIRS = pl.DataFrame(
    schema={"user_key": pl.String, "item_id": pl.String, "weight": pl.Float64, "recent": pl.Float64}
)
NO_FACTORS = pl.DataFrame(schema={"kind": pl.String, "id": pl.String, "values": pl.List(pl.Float32)})


@dataclass(frozen=True)
class Hyperparameters:
    """What a search looks for."""

    rank: int
    alpha: float
    regularization: float
    half_life_days: float | None


@dataclass(frozen=True)
class Fit:
    """One fit, as its tasks know it."""

    lake: Lake
    model: str
    version: str
    as_of: datetime
    alpha: float
    median: float  # weight of a pair
    solving: Solving
    num_sweeps: int
    seed: int
    checkpoints: Checkpoints


def fit_blocks(
    parts: Iterable[pa.RecordBatch], *, gang: Gang, fit: Fit, token: Broadcast[str]
) -> Iterator[pa.RecordBatch]:
    """Fit the factors of a shard's users and items together with the tasks of the other shards; write them into files.

    Yields a part for each file of gold/vectors, and lines for the log.
    """
    of_kind = unpacked(parts)
    earlier = of_kind.get(als_tasks.FACTOR, NO_FACTORS)
    users, items = sides_of(of_kind, fit, num_shards=gang.size)
    for side, rows in ((side, earlier.filter(pl.col("kind") == side.kind)) for side in (users, items)):
        known = factors_of(rows, side.block.ids, fit.solving.rank)
        if known is not None:
            side.factors[known[0]] = known[1]
    with Exchange(gang, token.value) as exchange:
        done, said = resumed(gang, fit, users, items)
        users.meet(exchange, items)
        items.meet(exchange, users)
        for number in range(done + 1, fit.num_sweeps + 1):
            sweep(exchange, users, items, number=number)
            if fit.checkpoints.is_due(number):
                fit.checkpoints.leave(number, content_of(users, items), rank=gang.rank, size=gang.size)
    if said and gang.rank == 0:
        yield part(SAID, said.encode())
    for side in (users, items):
        for rows in rows_of(side, fit):
            for file in write_files(fit.lake, contract(VECTORS), [rows]):
                yield written_part(VECTORS, file)


def sides_of(of_kind: dict[str, pl.DataFrame], fit: Fit, *, num_shards: int) -> tuple[Side, Side]:
    """The users and items of a shard, with the factors that a fit begins from."""
    strength = (1 + pl.col("weight") * pl.col("recent") / fit.median).log()
    sides = []
    for kind, row, column in (("user", "user_key", "item_id"), ("item", "item_id", "user_key")):
        pairs = of_kind.pop(kind, NO_PAIRS).with_columns(confidence=1 + fit.alpha * strength)
        block = Block.of(pairs, row=row, column=column, num_shards=num_shards)
        rank = fit.solving.rank
        first = np.zeros((len(block.ids), rank), np.float32)  # of items: nothing looks at them
        if kind == "user":
            first = first_factors(block.ids, rank, seed=fit.seed)
        sides.append(Side(kind, block, first, fit.solving))
    return sides[0], sides[1]


def resumed(gang: Gang, fit: Fit, users: Side, items: Side) -> tuple[int, str]:
    """After how many sweeps all tasks go on, from the checkpoint that the first of them has found; and what is to be said."""
    found = int(gang.gather(str(fit.checkpoints.last_complete()))[0])
    if not found:
        return 0, ""
    done = min(found, fit.num_sweeps)
    held = fit.checkpoints.restored(found, content_of(users, items), rank=gang.rank, size=gang.size)
    if not all(said == "held" for said in gang.gather("held" if held is not None and done == found else "not held")):
        return 0, f"{fit.version}: the checkpoint after sweep {found} is of another shape, and left alone"
    assert held is not None
    users.factors[:], items.factors[:] = held
    return found, f"{fit.version} goes on after sweep {found}"


def content_of(users: Side, items: Side) -> Sides:
    """What a checkpoint holds of a shard."""
    return [(side.kind, side.block.ids, side.factors) for side in (users, items)]


def rows_of(side: Side, fit: Fit) -> Iterator[pa.Table]:
    """The factors of one side as rows of gold/vectors, by file."""
    at_once = max(1, FILE_BYTES // (4 * fit.solving.rank))
    for start in range(0, len(side.block.ids), at_once):
        ids, factors = side.block.ids[start : start + at_once], side.factors[start : start + at_once]
        columns = {
            **{name: pa.repeat(value, len(ids)) for name, value in (("model", fit.model), ("version", fit.version))},
            **{"kind": pa.repeat(side.kind, len(ids)), "id": ids.cast(pa.string()), "values": vectors_array(factors)},
            "as_of": pa.repeat(pa.scalar(fit.as_of, pa.timestamp("us", tz="UTC")), len(ids)),
        }
        yield conform(contract(VECTORS), pa.table(columns))


class Pairs(NamedTuple):
    """The known pairs at a moment, in shards."""

    parts: Parts
    median: float
    number: int


@dataclass
class BlockedFits:
    """Fits of one run, all over the same interactions."""

    run: TaskRun
    model: str
    until: datetime  # the latest moment of a fit
    num_sweeps: int
    cg_steps: int
    seed: int
    checkpoint_every: int
    pairs_per_task: int
    _pairs: dict[tuple[datetime, float | None], Pairs] = field(default_factory=dict)

    @cached_property
    def num_tasks(self) -> int:
        """How many tasks run together: by the interactions, and no more than there is room for."""
        rows = self.run.lake.num_rows("gold/interactions", self.run.version_of("gold/interactions"))
        return max(1, min(ceil(rows / self.pairs_per_task), slots_of(self.run.engine)))

    @cached_property
    def interactions(self) -> Parts:
        """What any of the fits may know, by shard of users."""
        files = self.run.files_of({"": "gold/interactions"})
        given = {"columns": als_tasks.TAKEN, "until": self.until, "num_shards": self.num_tasks}
        read = files.then(spread_interactions, **given)
        return read.to_shards(self.num_tasks).keep()

    def pairs(self, as_of: datetime, half_life_days: float | None) -> Pairs | None:
        """The known pairs at a moment; None where there are none."""
        asked = (as_of, half_life_days)
        if asked not in self._pairs:
            for held in self._pairs.values():
                held.parts.drop()
            given = {"as_of": as_of, "half_life_days": half_life_days, "num_shards": self.num_tasks}
            parts = self.interactions.then(als_tasks.pair_up, **given).keep()
            counts = gathered(parts.of(als_tasks.WEIGHT).collected(), als_tasks.WEIGHT, als_tasks.GATHERED)
            if counts.is_empty():
                return None
            of_pairs = Pairs(parts.but(als_tasks.WEIGHT), als_tasks.median_weight(counts), int(counts["number"].sum()))
            self._pairs = {asked: of_pairs}
        return self._pairs[asked]

    def fit(
        self, version: str, as_of: datetime, wanted: Hyperparameters, *, start: str | None = None, sweeps: int = 0
    ) -> list[AddAction] | None:
        """The files of gold/vectors with a fit on all interactions before `as_of`, not yet committed; None if there are none.

        With `start`, a fit in gold/vectors, from its factors by so many `sweeps`.
        """
        pairs = self.pairs(as_of, wanted.half_life_days)
        if pairs is None:
            return None
        parts = pairs.parts
        if start is not None:
            files = self.run.files_of({"": VECTORS}, holding={"model": [self.model]}, before=True)
            parts = parts.union(files.then(als_tasks.read_vectors, versions=[start], num_shards=self.num_tasks))
        solving = Solving(wanted.rank, wanted.regularization, self.cg_steps)
        location = f"{self.run.lake.absolute().uri('files/als')}/{self.run.run_id}/{version}"
        fit = Fit(
            lake=self.run.lake.absolute(),
            model=self.model,
            version=version,
            as_of=as_of,
            alpha=wanted.alpha,
            median=pairs.median,
            solving=solving,
            num_sweeps=sweeps if start is not None else self.num_sweeps,
            seed=self.seed,
            checkpoints=Checkpoints(location, self.checkpoint_every),
        )
        token = self.run.engine.broadcast(secrets.token_hex(16))
        found = in_a_gang(parts, fit_blocks, self.num_tasks, fit=fit, token=token).collected()
        for kind, content in found:
            if kind == SAID:
                self.run.log(content.decode())
        self.run.log(f"fitted {version}", as_of=f"{as_of:%Y-%m-%d %H:%M}", pairs=pairs.number, tasks=self.num_tasks)
        return files_of(found, VECTORS)

    def drop_checkpoints(self) -> None:
        """Remove what the fits have left, once their vectors are committed."""
        self.run.lake.clear(f"files/als/{self.run.run_id}")


def vectors_in(lake: Lake, files: Sequence[AddAction], users: pa.Array) -> pa.Table:
    """Of vectors in files of gold/vectors, whether or not they are committed: kind, id and values of all items and these users."""
    filesystem, root = filesystem_of(lake.uri(VECTORS))
    schema = pa.schema([contract(VECTORS).schema.field(name) for name in ("id", "values")])
    tables = []
    for kind in ("item", "user"):
        paths = [f"{root}/{file.path}" for file in files if file.partition_values["kind"] == kind]
        rows = ds.dataset(paths, schema=schema, format="parquet", filesystem=filesystem) if paths else None
        taken = (
            schema.empty_table()
            if rows is None
            else rows.to_table(filter=pc.field("id").isin(users) if kind == "user" else None)
        )
        tables.append(taken.add_column(0, "kind", pa.repeat(kind, taken.num_rows)))
    return pa.concat_tables(tables)
