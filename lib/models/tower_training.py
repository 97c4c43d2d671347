"""What training the two towers needs beside Ray: their fits, the pairs of each worker in chunks, the untrained model."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow.compute as pc
import torch

from lib.engines.ray_tasks import InRay, RayParts, RayRun, batches_of
from lib.lake.lake import Lake
from lib.models import rows, tasks
from lib.models.fitting import State, TwoTowerPlan
from lib.models.known_fits import fit_before, known_by_fit
from lib.models.rows import Weights
from lib.models.tasks import TowerFit
from lib.models.tower_chunks import Chunks
from lib.models.two_tower import Pairs, TwoTower
from lib.ranking.known_pairs import spread_interactions

MIN_BATCHES = 50  # per epoch, so that a small log is trained on enough
# With at least so many items gradients are sparse. Adam goes over every row of its tables at every step, and dense gradients
# go to every worker whole, so that a step grows with the items; a sparse one with the rows that a batch touches. With 64
# dimensions and batches of 1,024 both take about as long at 10,000 items, and from 20,000 on sparse ones less, with one
# worker and with two (docs/decisions/0033).
SPARSE_FROM_ITEMS = 20_000


@dataclass(frozen=True)
class TowerTraining:
    """The fits of the two towers."""

    fits: Mapping[str, TowerFit]  # by model, the oldest first
    pairs: Mapping[str, RayParts]  # by model: of each worker's users, chunk c of worker r is partition c * workers + r
    num_workers: int
    plan: TwoTowerPlan
    more_epochs: int  # of each fit but the oldest, which goes on
    num_dimensions: int
    history_length: int
    lake: Lake
    version_of_items: int | None  # of silver/items, if the lake has it

    def chunks(self, model: str, rank: int) -> Chunks:
        """The pairs of a worker's users; one whose users are all unknown works on those of the next worker."""
        partitions = self.pairs[model].partitions
        for worker in (*range(rank, self.num_workers), *range(rank)):
            known = [chunk for chunk in partitions[worker :: self.num_workers] if chunk]
            if known:
                return Chunks(
                    [partial(pairs_held, chunk) for chunk in known],
                    num_items=len(self.fits[model].item_ids),
                    history_length=self.history_length,
                )
        raise AssertionError("a fit knows some users")

    def num_batches(self, model: str) -> int:
        """In an epoch of each worker, which draws as many pairs as are known."""
        size = self.plan.batch_size * self.num_workers
        return max(MIN_BATCHES, self.plan.num_parts, math.ceil(self.fits[model].num_pairs / size))

    def untrained(self, model: str) -> TwoTower:
        """Two towers over the fit's items, with their category and brand if the lake has silver/items."""
        items, item_ids = None, self.fits[model].item_ids
        if self.version_of_items is not None:
            columns = ["item_id", "category", "brand"]
            items = self.lake.dataset("silver/items", self.version_of_items).to_table(columns=columns)
        torch.manual_seed(self.plan.seed)
        tags, num_tags = rows.item_tags(item_ids, items)
        is_sparse = len(item_ids) >= SPARSE_FROM_ITEMS
        return TwoTower(tags, self.num_dimensions, num_tags=num_tags, is_sparse=is_sparse)

    def begun(self, model: str, states: Mapping[str, State]) -> TwoTower:
        """The two towers from which a fit begins: it goes on from the weights of the one before."""
        towers, before = self.untrained(model), fit_before(self.fits, model)
        if before is not None:
            own, other = (self.fits[name].item_ids for name in (model, before))
            places = pc.fill_null(pc.index_in(own, value_set=other), -1).to_numpy()
            towers.take(states[before]["model"], torch.from_numpy(places.astype(np.int64)))
        return towers

    def plan_of(self, model: str) -> TwoTowerPlan:
        """How a fit is made."""
        return self.plan if fit_before(self.fits, model) is None else replace(self.plan, num_epochs=self.more_epochs)


def pairs_held(chunk: list[InRay]) -> Pairs:
    """The pairs of a chunk, in whatever process asks for them."""
    return tasks.pairs_in(batches_of(chunk))


def num_chunks(num_rows: int, *, num_workers: int, chunk_rows: int) -> int:
    """Into how many chunks each worker's share of so many rows of gold/interactions is divided."""
    return max(1, math.ceil(num_rows / num_workers / chunk_rows))


def shares_of_users(files: RayParts, *, until: object, num_shares: int) -> RayParts:
    """What was known before a moment, of files of gold/interactions, whole users in a share."""
    spread = files.then(spread_interactions, columns=rows.INTERACTION_COLUMNS, until=until, num_shards=num_shares)
    return spread.to_shards(num_shares)


def tower_fits(run: RayRun, shares: RayParts, *, num_fits_before: int) -> dict[str, TowerFit]:
    """What the fits know, the oldest first: the one that serves, and those before it that know anybody."""
    given = {"num_fits_before": num_fits_before}
    known = known_by_fit(run, shares, "two_tower", tasks.count_known, tasks.GATHERED, **given)
    fits = {fit: TowerFit(of.version, of.as_of, of.item_ids.to_arrow(), **of.counts) for fit, of in known.items()}
    return {model: fit for model, fit in fits.items() if model == "two_tower" or fit.num_users}


def weighed_pairs(run: RayRun, shares: RayParts, fit: TowerFit, weights: Weights) -> RayParts:
    """The pairs of each share that a fit knows, in as many partitions."""
    weighed = shares.then(tasks.weigh_pairs, fit=run.engine.broadcast(fit), weights=weights)
    return weighed.to_shards(len(shares.partitions))
