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
from lib.tables.silver import LEVELS

DAY_SECONDS = 86_400.0
INTERACTION_COLUMNS = ("user_key", "item_id", "event_time", "weight", "num_relevant")


class WeightedPairs(NamedTuple):
    """Pairs and the keys of their users, sorted: user u is user_keys[u]."""

    pairs: Pairs
    user_keys: pa.Array


class Weights(NamedTuple):
    """How a pair is weighed: by its age, and browsing relative to what the log calls relevant."""

    half_life_days: float
    browsing: float


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


def weighted_pairs(
    interactions: pl.DataFrame, *, as_of: datetime, item_ids: pa.Array, weights: Weights
) -> WeightedPairs:
    """The known pairs (lib/ranking/known_pairs.py) in rows of gold/interactions, with their weights.

    In the user's history a pair weighs log(1 + weight). As a target it weighs log(1 + relevant events) plus
    `browsing` times its history weight, so that there is something to learn from in a log of few purchases. Both halve
    for every `half_life_days` since the pair's last event.

    Args:
        interactions: INTERACTION_COLUMNS of gold/interactions, all rows of whole users.
        as_of: what happened from then on is not known.
        item_ids: the items, by which the pairs' items are numbered; at least all of the known pairs.
        weights: how pairs are weighed.
    """
    known = known_pairs(interactions, as_of=as_of).to_arrow()
    user, user_keys = _numbered(known["user_key"])
    item = pc.index_in(known["item_id"], value_set=item_ids.cast(known["item_id"].type)).to_numpy().astype(np.int64)
    last_seconds = known["last_time"].cast(pa.int64()).to_numpy() / 1e6
    decay = np.exp2((last_seconds - as_of.timestamp()) / DAY_SECONDS / weights.half_life_days)
    # Very old pairs keep a small weight, so that a history of old pairs alone still has a mean.
    decay = np.maximum(decay, 1e-9)
    seen = np.log1p(known["weight"].to_numpy())
    wanted = np.log1p(known["num_relevant"].to_numpy()) + weights.browsing * seen
    pairs = Pairs(*(torch.from_numpy(column) for column in (user, item, seen * decay, wanted * decay)))
    return WeightedPairs(pairs, user_keys)


def item_tags(item_ids: pa.Array, items: pa.Table | None) -> tuple[Tensor, int]:
    """Each item's tags (its category at every level, and its brand) as numbers from 1: (I, T), padded with 0; how many tags there are.

    The numbers are the same whichever items are asked for.

    Args:
        item_ids: the items, in order.
        items: rows of silver/items (item_id, category, brand), or None where the log has none.
    """
    if items is None:
        return torch.zeros(len(item_ids), 1, dtype=torch.int64), 0
    described = pl.DataFrame(items.select(["item_id", "category", "brand"])).with_row_index("row")
    depth = pl.col("category").list.len().fill_null(0)
    paths = described.select("row", "category", level=pl.int_ranges(1, depth + 1)).explode("level", empty_as_null=False)
    of_path = paths.select("row", tag=pl.format("c{}", pl.col("category").list.head("level").list.join(LEVELS)))
    brands = described.filter(pl.col("brand") != "").select("row", tag=pl.format("b{}", "brand"))
    tags = pl.concat([of_path, brands]).with_columns(number=pl.col("tag").rank("dense").cast(pl.Int64))
    place = tags.select("row", "number", place=pl.int_range(pl.len()).over("row"))
    found = np.zeros((len(described), max([1, *tags.group_by("row").len()["len"]])), dtype=np.int64)
    found[place["row"].to_numpy(), place["place"].to_numpy()] = place["number"].to_numpy()
    row = pc.index_in(item_ids, value_set=items["item_id"].combine_chunks())
    of_items = np.zeros((len(item_ids), found.shape[1]), dtype=np.int64)
    known = row.is_valid().to_numpy(zero_copy_only=False)
    of_items[known] = found[row.drop_null().to_numpy()]
    return torch.from_numpy(of_items), max([0, *tags["number"].unique()])


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


def tower_users(towers: TwoTower, known: WeightedPairs, *, version: str, as_of: datetime) -> pa.Table:
    """Rows of gold/vectors of the known users, by their histories."""
    users = towers.user_vectors(known.pairs, len(known.user_keys))
    return vector_rows(users, known.user_keys, model="two_tower", version=version, kind="user", as_of=as_of)


def tower_items(
    towers: TwoTower, item_ids: pa.Array, *, version: str, as_of: datetime, first: int = 0, last: int | None = None
) -> pa.Table:
    """Rows of gold/vectors of the items, or of those numbered from `first` to before `last`."""
    numbers = torch.arange(len(item_ids))[first:last]
    with torch.no_grad():
        items = towers.item_vectors(numbers)
    own = item_ids.slice(first, len(numbers))
    return vector_rows(items, own, model="two_tower", version=version, kind="item", as_of=as_of)


def _numbered(column: pa.ChunkedArray) -> tuple[NDArray[np.int64], pa.Array]:
    """Each value's position among the sorted distinct values, and those values."""
    encoded = column.combine_chunks().dictionary_encode()
    distinct = encoded.dictionary
    order = pc.sort_indices(distinct).to_numpy()
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    return place[encoded.indices.to_numpy()], distinct.take(pa.array(order))
