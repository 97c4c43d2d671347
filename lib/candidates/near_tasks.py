"""The functions that tasks run to approximate EASE (lib/ranking/near_ease.py), by shard of users and then of items.

A task counts the pairs of items of a shard's users, both ways, and packs them by shard of items. Another adds those of its items,
keeps each item's strongest, and sums up the rest. With what is kept of all items, a third solves its own.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp
from numpy.typing import NDArray

from lib.candidates.catalogue import Catalogue
from lib.candidates.known import BROWSING, counted
from lib.candidates.tasks import COUNTS, PAIR, WEIGHTS
from lib.engines.arrow_tasks import Broadcast, packed, unpacked
from lib.ranking.ease import pair_counts
from lib.ranking.near_ease import NearGram, near_weights, nearest

NEAREST, TOTAL = "nearest", "total"  # kinds of parts, of each moment
MAX_USER_ITEMS = 500  # of a user that count, those of which something was done last: at most 125,000 pairs


def supported(catalogue: Catalogue, min_support: int) -> NDArray[np.int64]:
    """The places of the items that at least so many users have; no weight of another would be kept."""
    return np.flatnonzero(catalogue.sums["num_users"].to_numpy() >= max(1, min_support))


def squares(catalogue: Catalogue) -> NDArray[np.float64]:
    """(items,): the sum of the squares of what each item counts (`counted`), over all users who have it."""
    num_users, num_buyers = (catalogue.sums[name].to_numpy() for name in ("num_users", "num_buyers"))
    return np.asarray(num_buyers + BROWSING**2 * (num_users - num_buyers), np.float64)


def count_near(
    parts: Iterable[pa.RecordBatch], *, item_ids: Broadcast[Mapping[str, pa.StringArray]], num_shards: int
) -> Iterator[pa.RecordBatch]:
    """Count, for each moment, how many users of a shard have both of two items, and how much that counts, for the shards of both items."""
    found = unpacked(parts)
    for name, ids in item_ids.value.items():
        pairs = found.get(f"{PAIR}/{name}")
        if pairs is None:
            continue
        item = pl.Series(pc.index_in(pairs["item_id"].to_arrow().cast(pa.string()), value_set=ids), dtype=pl.Int64)
        once = pl.Series(counted(pairs["num_relevant"].to_numpy()))
        rows = pairs.select("user_key", "item_id", "last_days", counted=once).with_columns(item=item)
        latest = pl.struct("last_days", "item_id").rank("ordinal").over("user_key")
        rows = rows.drop_nulls("item").filter(latest <= MAX_USER_ITEMS)
        if rows.is_empty():
            continue
        user = rows["user_key"].rank("dense").to_numpy().astype(np.int64) - 1
        shape = (int(user.max()) + 1, len(ids))
        known = sp.csr_array((rows["counted"].to_numpy(), (user, rows["item"].to_numpy())), shape=shape)
        upper = pair_counts(known)
        apart = upper.filter(pl.col("item") != pl.col("other"))
        both = pl.concat(
            [upper, apart.select("other", "item", "num_users", "product").rename({"other": "item", "item": "other"})]
        )
        yield from packed(both, f"{COUNTS}/{name}", both["item"] % num_shards)


def keep_nearest(
    parts: Iterable[pa.RecordBatch],
    *,
    diagonals: Broadcast[Mapping[str, NDArray[np.float64]]],
    penalty: float,
    num_neighbours: int,
) -> Iterator[pa.RecordBatch]:
    """The strongest pairs of a shard's items, and the sums of all; of each moment."""
    found = unpacked(parts)
    for name, diagonal in diagonals.value.items():
        if f"{COUNTS}/{name}" in found:
            counts = found.pop(f"{COUNTS}/{name}")
            kept, totals = nearest(counts, diagonal, penalty=penalty, num_neighbours=num_neighbours)
            yield from packed(kept, f"{NEAREST}/{name}")
            yield from packed(totals, f"{TOTAL}/{name}")


def solve_near(
    parts: Iterable[pa.RecordBatch], *, grams: Broadcast[Mapping[str, NearGram]], penalty: float, min_support: int
) -> Iterator[pa.RecordBatch]:
    """The weights towards a shard's items, which its parts name, of each moment."""
    found = unpacked(parts)
    for name, gram in grams.value.items():
        if f"{TOTAL}/{name}" in found:
            items = found[f"{TOTAL}/{name}"]["item"].to_numpy().astype(np.int64)
            weights = near_weights(gram, items, penalty=penalty, min_support=min_support)
            yield from packed(weights, f"{WEIGHTS}/{name}")


def frames_of(parts: Sequence[tuple[str, bytes]]) -> dict[tuple[str, str], pl.DataFrame]:
    """The rows of parts by what they are and the moment, from their kind and content."""
    frames: dict[tuple[str, str], list[pl.DataFrame]] = {}
    for kind, content in parts:
        what, _, name = kind.partition("/")
        frames.setdefault((what, name), []).append(pl.read_ipc_stream(content))
    return {key: pl.concat(rows) for key, rows in frames.items()}
