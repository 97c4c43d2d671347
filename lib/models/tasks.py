"""The functions that train_encoder's tasks run: they bring users together before the fits, and write vectors after them.

A task reads files of gold/interactions and packs them by share of whole users, of which each training worker takes one.
What is counted over the shares goes on in parts (lib/engines/arrow_tasks.py). Does not import Ray.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

import polars as pl
import pyarrow as pa
import torch

from lib.engines.arrow_tasks import Broadcast, packed, rows_of, table_rows, unpacked, write_rows
from lib.lake.lake import Lake
from lib.models import rows
from lib.models.known_fits import COUNT, ITEM
from lib.models.purchase_encoder import PurchaseEncoder
from lib.models.rows import WeightedPairs, Weights
from lib.models.two_tower import TwoTower
from lib.ranking.known_pairs import INTERACTION, interaction_schema, known_pairs
from lib.tables.gold import EXAMPLES, VECTORS_TABLE

READ = interaction_schema(rows.INTERACTION_COLUMNS)
# The columns of those that the job gathers.
GATHERED: Mapping[str, Mapping[str, type[pl.DataType]]] = {
    COUNT: {"fit": pl.String, "num_users": pl.Int64, "num_pairs": pl.Int64},
    ITEM: {"fit": pl.String, "item_id": pl.String},
}


@dataclass(frozen=True)
class TowerFit:
    """One fit of the two towers: what it knows."""

    version: str
    as_of: datetime
    item_ids: pa.Array  # of the known pairs, sorted
    num_users: int
    num_pairs: int


def count_known(parts: Iterable[pa.RecordBatch], *, moments: Mapping[str, datetime]) -> Iterator[pa.RecordBatch]:
    """Count the users and pairs of a share that each fit knows; their items go on."""
    found = unpacked(parts)
    for fit, as_of in moments.items() if INTERACTION in found else ():
        known = known_pairs(found[INTERACTION], as_of=as_of).with_columns(fit=pl.lit(fit))
        num_users = pl.col("user_key").n_unique().cast(pl.Int64)
        counts = known.group_by("fit").agg(num_users=num_users, num_pairs=pl.len().cast(pl.Int64))
        yield from packed(counts, COUNT)
        yield from packed(known.select("fit", "item_id").unique(), ITEM)


def pairs_of(parts: Iterable[pa.RecordBatch], fit: TowerFit, weights: Weights) -> WeightedPairs:
    """The pairs of a share that a fit knows."""
    found = unpacked(parts).get(INTERACTION, pl.DataFrame(READ.empty_table()))
    return rows.weighted_pairs(found, as_of=fit.as_of, item_ids=fit.item_ids, weights=weights)


def write_tower_users(
    parts: Iterable[pa.RecordBatch], *, lake: Lake, towers: Broadcast[TwoTower], fit: TowerFit, weights: Weights
) -> Iterator[pa.RecordBatch]:
    """Write the two towers' vectors of a share's users."""
    found = rows.tower_users(towers.value, pairs_of(parts, fit, weights), version=fit.version, as_of=fit.as_of)
    yield from write_rows(found.cast(VECTORS_TABLE.schema).to_batches(), lake=lake, table=VECTORS_TABLE)


def write_representations(
    files: Iterable[pa.RecordBatch], *, lake: Lake, encoder: Broadcast[PurchaseEncoder], version: str, as_of: datetime
) -> Iterator[pa.RecordBatch]:
    """Write the purchase encoder's vectors of the users in files of gold/examples."""
    schema = pa.schema([EXAMPLES.schema.field(name) for name in ("user_key", "features")])

    def vectors() -> Iterator[pa.RecordBatch]:
        for file in rows_of(files):
            for found in table_rows(file["location"], schema):
                users = found.sort("user_key").to_arrow()
                with torch.no_grad():
                    represented = encoder.value.represent(rows.feature_tensor(users["features"]))
                stored = rows.vector_rows(
                    represented, users["user_key"], model="encoder", version=version, kind="user", as_of=as_of
                )
                yield from stored.cast(VECTORS_TABLE.schema).to_batches()

    yield from write_rows(vectors(), lake=lake, table=VECTORS_TABLE)
