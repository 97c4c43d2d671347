"""The functions that train_encoder's tasks run: they bring users together before the fits, and write vectors after them.

A task reads files of gold/interactions and packs them by share of whole users; another weighs a share's pairs, of which
each training worker takes one share, or several in turn.
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
from lib.models.two_tower import Pairs, TwoTower
from lib.ranking.known_pairs import INTERACTION, interaction_schema, known_pairs
from lib.tables.gold import EXAMPLES, VECTORS_TABLE

PAIR = "pair"  # kind of a part: Pairs, with items by number
PAIRS_AT_ONCE = 10_000_000  # in a part, whose content has at most 2 GB
ITEMS_PER_TASK = 1 << 16  # whose vectors a task writes
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


def weigh_pairs(
    parts: Iterable[pa.RecordBatch], *, fit: Broadcast[TowerFit], weights: Weights
) -> Iterator[pa.RecordBatch]:
    """The pairs of a share that a fit knows, as `pairs_in` reads them; nothing of a share of which it knows none."""
    held = list(parts)
    shard = held[0]["shard"][0].as_py()
    pairs = pairs_of(held, fit.value, weights).pairs
    columns = {name: column.numpy() for name, column in pairs._asdict().items()}
    rows_of_share = pl.DataFrame(columns).cast({"user": pl.Int32, "item": pl.Int32})
    for rows_of_part in rows_of_share.iter_slices(PAIRS_AT_ONCE):
        yield from packed(rows_of_part, PAIR, pl.repeat(shard, rows_of_part.height, dtype=pl.Int32, eager=True))


def pairs_in(parts: Iterable[pa.RecordBatch]) -> Pairs:
    """The pairs of a share."""
    found = unpacked(parts)[PAIR].cast({"user": pl.Int64, "item": pl.Int64})
    return Pairs(*(torch.from_numpy(found[name].to_numpy(writable=True)) for name in Pairs._fields))


def write_tower_users(
    parts: Iterable[pa.RecordBatch],
    *,
    lake: Lake,
    towers: Broadcast[TwoTower],
    fit: Broadcast[TowerFit],
    weights: Weights,
) -> Iterator[pa.RecordBatch]:
    """Write the two towers' vectors of a share's users."""
    known, of = pairs_of(parts, fit.value, weights), fit.value
    found = rows.tower_users(towers.value, known, version=of.version, as_of=of.as_of)
    yield from write_rows(found.cast(VECTORS_TABLE.schema).to_batches(), lake=lake, table=VECTORS_TABLE)


def item_ranges(fit: TowerFit, num_dimensions: int) -> pa.Table:
    """One row per task that writes items' vectors: which ones, [first, last), and about how large these are."""
    return pa.Table.from_pylist(
        [
            {"first": first, "last": last, "num_bytes": (last - first) * num_dimensions * 4}
            for first in range(0, len(fit.item_ids), ITEMS_PER_TASK)
            for last in [min(first + ITEMS_PER_TASK, len(fit.item_ids))]
        ]
    )


def write_tower_items(
    ranges: Iterable[pa.RecordBatch], *, lake: Lake, towers: Broadcast[TwoTower], fit: Broadcast[TowerFit]
) -> Iterator[pa.RecordBatch]:
    """Write the two towers' vectors of ranges of items."""
    of = fit.value

    def vectors() -> Iterator[pa.RecordBatch]:
        for own in rows_of(ranges):
            bounds = {bound: own[bound] for bound in ("first", "last")}
            found = rows.tower_items(towers.value, of.item_ids, version=of.version, as_of=of.as_of, **bounds)
            yield from found.cast(VECTORS_TABLE.schema).to_batches()

    yield from write_rows(vectors(), lake=lake, table=VECTORS_TABLE)


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
