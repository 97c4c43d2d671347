"""Converts Arrow rows of gold tables to the tensors that models take, and vectors to rows.

Nothing here reads or writes.
"""

from datetime import datetime
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from lib.models.fitting import Examples
from lib.models.two_tower import Pairs, TwoTower
from lib.ranking.known_pairs import known_pairs

DAY_SECONDS = 86_400.0


class WeightedPairs(NamedTuple):
    """Pairs and the ids of their numbers: user u is user_keys[u], item i is item_ids[i]; both are sorted."""

    pairs: Pairs
    user_keys: pa.Array
    item_ids: pa.Array


def feature_tensor(features: pa.ChunkedArray) -> Tensor:
    """The column `features` of gold/examples: (N, F) float32.

    Raises:
        ValueError: the rows do not have the same number of features.
    """
    lists = features.combine_chunks()
    values = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    lengths = pc.unique(pc.list_value_length(lists)).to_pylist()
    if len(lengths) > 1:
        raise ValueError(f"gold/examples: rows have different numbers of features ({lengths}); run featurize again")
    return torch.from_numpy(values.reshape(len(lists), lengths[0] if lengths else 0))


def labelled_examples(rows: pa.Table) -> Examples:
    """The rows of gold/examples whose label is known, sorted by user."""
    known = rows.filter(pc.is_valid(rows["label"])).sort_by("user_key")
    labels = known["label"].to_numpy().astype(np.float32)
    return Examples(feature_tensor(known["features"]), torch.from_numpy(labels))


def share_of(num_rows: int, rank: int, num_workers: int) -> Tensor:
    """Row numbers of one worker, equally many for each.

    A few repeat if the rows do not divide evenly (as in DistributedSampler).
    """
    size = -(-num_rows // num_workers)
    return (torch.arange(size) * num_workers + rank) % num_rows


def weighted_pairs(
    interactions: pa.Table, *, as_of: datetime, half_life_days: float, browsing_weight: float
) -> WeightedPairs:
    """The known pairs (lib/ranking/known_pairs.py) in rows of gold/interactions, with their weights.

    In the user's history a pair weighs log(1 + weight). As a target it weighs log(1 + relevant events) plus
    `browsing_weight` times its history weight, so that there is something to learn from in a log of few purchases. Both
    halve for every `half_life_days` since the pair's last event.
    """
    frame = pl.from_arrow(interactions)
    assert isinstance(frame, pl.DataFrame)
    known = known_pairs(frame, as_of=as_of).to_arrow()
    user, user_keys = _numbered(known["user_key"])
    item, item_ids = _numbered(known["item_id"])
    last_seconds = known["last_time"].cast(pa.int64()).to_numpy() / 1e6
    decay = np.exp2((last_seconds - as_of.timestamp()) / DAY_SECONDS / half_life_days)
    # Very old pairs keep a small weight, so that a history of old pairs alone still has a mean.
    decay = np.maximum(decay, 1e-9)
    seen = np.log1p(known["weight"].to_numpy())
    wanted = np.log1p(known["num_relevant"].to_numpy()) + browsing_weight * seen
    pairs = Pairs(*(torch.from_numpy(column) for column in (user, item, seen * decay, wanted * decay)))
    return WeightedPairs(pairs, user_keys, item_ids)


def pairs_of_users(pairs: Pairs, rank: int, num_workers: int) -> Pairs:
    """The pairs of one worker's users, every `num_workers`-th, renumbered from 0."""
    is_own = pairs.user % num_workers == rank
    own = Pairs(*(column[is_own] for column in pairs))
    return own._replace(user=own.user // num_workers)


def item_tags(item_ids: pa.Array, items: pa.Table | None) -> Tensor:
    """Each item's tags (its category at every level, and its brand) as numbers from 1: (I, T), padded with 0.

    Args:
        item_ids: the items, in order.
        items: rows of silver/items (item_id, category, brand), or None where the log has none.
    """
    if items is None:
        return torch.zeros(len(item_ids), 1, dtype=torch.int64)
    place = pc.index_in(item_ids, value_set=items["item_id"].combine_chunks())
    categories, brands = items["category"].take(place).to_pylist(), items["brand"].take(place).to_pylist()
    numbers: dict[tuple[str, ...], int] = {}
    tagged = []
    for category, brand in zip(categories, brands, strict=True):
        path = tuple(category or ())
        tags = [("category", *path[: level + 1]) for level in range(len(path))] + ([("brand", brand)] if brand else [])
        tagged.append([numbers.setdefault(tag, len(numbers) + 1) for tag in tags])
    tags_of_items = np.zeros((len(item_ids), max(map(len, tagged), default=0) or 1), dtype=np.int64)
    for row, found in enumerate(tagged):
        tags_of_items[row, : len(found)] = found
    return torch.from_numpy(tags_of_items)


def vector_rows(vectors: Tensor, ids: pa.Array, *, model: str, version: str, kind: str, as_of: datetime) -> pa.Table:
    """Rows of gold/vectors, one per id, from vectors (N, D)."""
    size, width = vectors.shape
    flat = pa.array(vectors.detach().float().numpy().ravel())
    values = pa.FixedSizeListArray.from_arrays(flat, width).cast(pa.list_(pa.float32()))
    named = {"model": model, "version": version, "kind": kind}
    return pa.table(
        {
            **{column: pa.repeat(value, size) for column, value in named.items()},
            "id": ids,
            "values": values,
            "as_of": pa.repeat(pa.scalar(as_of, pa.timestamp("us", tz="UTC")), size),
        }
    )


def tower_rows(towers: TwoTower, known: WeightedPairs, *, version: str, as_of: datetime) -> pa.Table:
    """Rows of gold/vectors: of the known users by their histories, and of the known items."""
    with torch.no_grad():
        items = towers.item_vectors(torch.arange(len(known.item_ids)))
    users = towers.user_vectors(known.pairs, len(known.user_keys))
    stored = [
        vector_rows(vectors, ids, model="two_tower", version=version, kind=kind, as_of=as_of)
        for kind, vectors, ids in (("user", users, known.user_keys), ("item", items, known.item_ids))
    ]
    return pa.concat_tables(stored)


def _numbered(column: pa.ChunkedArray) -> tuple[NDArray[np.int64], pa.Array]:
    """Each value's position among the sorted distinct values, and those values."""
    encoded = column.combine_chunks().dictionary_encode()
    distinct = encoded.dictionary
    order = pc.sort_indices(distinct).to_numpy()
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    return place[encoded.indices.to_numpy()], distinct.take(pa.array(order))
