"""How well a version's vectors find what users wanted in a window after they were fitted: NDCG of each user's lists.

Both questions count: a shop where people buy the same again asks mostly for the one, a shop where nobody does for the other.
"""

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
METRIC = f"NDCG@{LENGTH} of both questions"
WANTED = pa.schema([("user_key", pa.string()), ("items", pa.list_(pa.string()))])
KNOWN = pa.field("known", pa.list_(pa.string()))
BEFORE = {"user_key": pl.String, "item_id": pl.String, "weight": pl.Float64}
MAX_USERS = 20_000  # who are looked at: the first by their keys, which are keyed hashes and so a draw


def wanted_items(relevant: Iterable[pa.RecordBatch]) -> pa.Table:
    """`user_key` and distinct `items` of the first MAX_USERS users, from batches of relevant rows of gold/interactions."""
    pairs = pl.DataFrame(schema={"user_key": pl.String, "item_id": pl.String})
    for batch in relevant:
        both = pl.concat([pairs, pl.DataFrame(batch).select(pairs.columns)]).unique()
        pairs = both.filter(pl.col("user_key").rank("dense") <= MAX_USERS)
    by_user = pairs.sort("user_key", "item_id").group_by("user_key", maintain_order=True).agg(items="item_id")
    return by_user.to_arrow().cast(WANTED)


def with_known(wanted: pa.Table, before: Iterable[pa.RecordBatch]) -> pa.Table:
    """The same with `known`, the distinct items that each user had before, from `user_key`, `item_id` and `weight` of interactions."""
    users = pl.DataFrame(wanted)
    rows = pl.concat([pl.DataFrame(schema=BEFORE), *map(pl.DataFrame, before)])
    pairs = rows.group_by("user_key", "item_id").agg(pl.col("weight").sum())
    known = pairs.filter(pl.col("weight") > 0).sort("user_key", "item_id").group_by("user_key").agg(known="item_id")
    both = users.join(known, on="user_key", how="left", maintain_order="left")
    return both.with_columns(pl.col("known").fill_null([])).to_arrow().cast(WANTED.append(KNOWN))


def wanted_between(interactions: ds.Dataset, since: datetime, until: datetime) -> pa.Table:
    """What users wanted from one moment until another, and knew before, in gold/interactions: `wanted_items`, `with_known`."""
    time = pc.field("event_time")
    is_relevant = (time >= since) & (time < until) & (pc.field("num_relevant") > 0)
    wanted = wanted_items(interactions.to_batches(columns=["user_key", "item_id"], filter=is_relevant))
    were_known = (time < since) & pc.field("user_key").isin(wanted["user_key"])
    return with_known(wanted, interactions.to_batches(columns=[*BEFORE], filter=were_known))


def ndcg_of_vectors(rows: pa.Table, wanted: pa.Table) -> Floats:
    """NDCG@10 of each user's lists by the dot products of vectors, (users,): 0 for one without a vector.

    Of one who wanted something that was new to the user, the mean of that over all items and that over new ones.

    Args:
        rows: rows of gold/vectors of one fit: kind, id, values.
        wanted: a row per user: `user_key`, `items`, the distinct items that a list should hold, and `known`, those that the
            user had before.
    """
    items, users = (rows.filter(pc.equal(rows["kind"], kind)).combine_chunks() for kind in ("item", "user"))
    wanted = wanted.combine_chunks()
    place = pc.index_in(wanted["user_key"].combine_chunks(), value_set=users["id"].combine_chunks())
    has_vector = np.flatnonzero(place.is_valid().to_numpy(zero_copy_only=False))
    of_all, of_new = (np.zeros((wanted.num_rows, LENGTH), dtype=bool) for _ in range(2))
    if items.num_rows and len(has_vector):
        item_ids = items["id"].combine_chunks()
        relevant, known = (
            incidence(wanted[name].combine_chunks().take(pa.array(has_vector)), item_ids) for name in ("items", "known")
        )
        scores = dot_products(
            vectors(users["values"].combine_chunks().take(place.drop_null())),
            vectors(items["values"].combine_chunks()),
        )
        for hits, excluded in ((of_all, None), (of_new, known)):
            shape = {"num_users": len(has_vector), "num_items": len(item_ids), "k": LENGTH}
            found = rank_users(scores, **shape, excluded=excluded)
            hits[has_vector[found.user], found.rank - 1] = np.asarray(relevant[found.user, found.item]).ravel() > 0
    new = pl.col("items").list.set_difference("known")
    numbers = pl.DataFrame(wanted).select(pl.col("items").list.len(), new=new.list.len()).cast(pl.Int64)
    num_wanted, num_new = (numbers[name].to_numpy() for name in numbers.columns)
    all_items, new_items = ndcg(of_all, num_wanted), ndcg(of_new, np.maximum(num_new, 1))
    return np.where(num_new > 0, (all_items + new_items) / 2, all_items)


def scores_of_vectors(lake: Lake, model: str, fit: pa.Table, wanted: pa.Table, *, current: str) -> Scores:
    """NDCG@10 of this version's fit from before the validation window, and of the current version's.

    Args:
        lake: holds the current version's vectors.
        model: als, two_tower or sequence.
        fit: kind, id and values of this version's.
        wanted: what users wanted in the window and knew before: `user_key`, `items`, `known`.
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
