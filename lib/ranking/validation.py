"""How well a version's vectors find what users wanted in a window after they were fitted: NDCG of each user's list."""

from collections.abc import Iterable
from datetime import datetime

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from lib.lake.lake import Lake
from lib.ranking.metrics import ndcg
from lib.ranking.topk import dot_products, incidence, rank_users, vectors
from lib.runs.model_registry import judged
from lib.runs.promotion import Scores
from lib.statistics.bootstrap import Floats
from lib.tables import contract

LENGTH = 10  # of the lists
METRIC = f"NDCG@{LENGTH}"
WANTED = pa.schema([("user_key", pa.string()), ("items", pa.list_(pa.string()))])
MAX_USERS = 20_000  # who are looked at: the first by their keys, which are keyed hashes and so a draw


def wanted_items(relevant: Iterable[pa.RecordBatch]) -> pa.Table:
    """`user_key` and distinct `items` of the first MAX_USERS users, from batches of relevant rows of gold/interactions."""
    pairs = pl.DataFrame(schema={"user_key": pl.String, "item_id": pl.String})
    for batch in relevant:
        both = pl.concat([pairs, pl.DataFrame(batch).select(pairs.columns)]).unique()
        pairs = both.filter(pl.col("user_key").rank("dense") <= MAX_USERS)
    by_user = pairs.sort("user_key", "item_id").group_by("user_key", maintain_order=True).agg(items="item_id")
    return by_user.to_arrow().cast(WANTED)


def wanted_between(interactions: ds.Dataset, since: datetime, until: datetime) -> pa.Table:
    """What users wanted from one moment until another, as `wanted_items` tells it, in gold/interactions."""
    time = pc.field("event_time")
    is_relevant = (time >= since) & (time < until) & (pc.field("num_relevant") > 0)
    return wanted_items(interactions.to_batches(columns=["user_key", "item_id"], filter=is_relevant))


def ndcg_of_vectors(rows: pa.Table, wanted: pa.Table) -> Floats:
    """NDCG@10 over all items of each user's list by the dot products of vectors: (users,), 0 for one without a vector.

    Args:
        rows: rows of gold/vectors of one fit: kind, id, values.
        wanted: a row per user: `user_key`, and `items`, the distinct items that the list should hold.
    """
    items, users = (rows.filter(pc.equal(rows["kind"], kind)).combine_chunks() for kind in ("item", "user"))
    wanted = wanted.combine_chunks()
    hits = np.zeros((wanted.num_rows, LENGTH), dtype=bool)
    place = pc.index_in(wanted["user_key"].combine_chunks(), value_set=users["id"].combine_chunks())
    has_vector = np.flatnonzero(place.is_valid().to_numpy(zero_copy_only=False))
    if items.num_rows and len(has_vector):
        item_ids = items["id"].combine_chunks()
        relevant = incidence(wanted["items"].combine_chunks().take(pa.array(has_vector)), item_ids)
        found = rank_users(
            dot_products(
                vectors(users["values"].combine_chunks().take(place.drop_null())),
                vectors(items["values"].combine_chunks()),
            ),
            num_users=len(has_vector),
            num_items=len(item_ids),
            k=LENGTH,
        )
        hits[has_vector[found.user], found.rank - 1] = np.asarray(relevant[found.user, found.item]).ravel() > 0
    return ndcg(hits, pc.list_value_length(wanted["items"]).to_numpy().astype(np.int64))


def scores_of_vectors(lake: Lake, model: str, fit: pa.Table, wanted: pa.Table, *, current: str) -> Scores:
    """NDCG@10 of this version's fit from before the validation window, and of the current version's.

    Args:
        lake: holds the current version's vectors.
        model: als or two_tower.
        fit: kind, id and values of this version's.
        wanted: what users wanted in the window: `user_key`, `items`.
        current: the current version.
    """
    new = {METRIC: ndcg_of_vectors(fit, wanted)}
    before = judged_vectors(lake, model, current, wanted["user_key"].combine_chunks())
    if not before.num_rows:
        return Scores(why="gold/vectors holds no fit of it from before a validation window")
    return Scores(new, {METRIC: ndcg_of_vectors(before, wanted)})


def judged_vectors(lake: Lake, model: str, version: str, users: pa.Array) -> pa.Table:
    """What a version is judged by in gold/vectors: kind, id and values of all items and of these users."""
    if not lake.exists("gold/vectors"):
        return contract("gold/vectors").schema.empty_table()
    is_fit = (pc.field("version") == judged(version)) & (pc.field("model") == model)
    is_looked_at = (pc.field("kind") == "item") | pc.field("id").isin(users)
    return lake.dataset("gold/vectors").to_table(["kind", "id", "values"], filter=is_fit & is_looked_at)
