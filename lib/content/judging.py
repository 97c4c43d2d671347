"""How well content vectors find what users wanted in a window: over all items, and among those that nobody had before.

Popularity says nothing of an item that nobody has touched. So that it is given a fair form among cold items, it ranks them by
how many users had other items of their category, as `popularity_of_cold` says, with ties drawn by a seed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp
from numpy.typing import NDArray

from lib.candidates.known import known_pairs
from lib.content.users import mean_of_history
from lib.ranking.metrics import ndcg, recall
from lib.ranking.topk import incidence, rank_users
from lib.statistics.bootstrap import Floats as Values

Floats = NDArray[np.float32]
LENGTH, COLD_LENGTH = 10, 50
ALL, COLD = f"NDCG@{LENGTH}", f"cold recall@{COLD_LENGTH}"
COLUMNS = ("user_key", "item_id", "event_time", "weight", "num_relevant")


@dataclass(frozen=True)
class Window:
    """Users who wanted something in a window, and what was known before it; items by their position among `item_ids`."""

    item_ids: pa.StringArray  # (I,)
    histories: sp.csr_array  # (U, I), weights that halve with recency; a user may be unknown
    wanted: sp.csr_array  # (U, I), 1 where the user wanted the item in the window
    num_wanted: NDArray[np.int64]  # (U,), those among the items or not
    num_users: NDArray[np.int64]  # (I,), who had the item before the window

    @property
    def is_cold(self) -> NDArray[np.bool_]:
        """(I,): nobody had the item before the window."""
        return np.asarray(self.num_users == 0)


def window_of(
    interactions: pl.DataFrame, wanted: pa.Table, *, as_of: datetime, item_ids: pa.Array, num_users: NDArray[np.int64]
) -> Window:
    """What is asked in a window that begins at `as_of`.

    Args:
        interactions: COLUMNS of gold/interactions, all rows of the users who are asked for.
        wanted: a row per user: `user_key`, and `items`, the distinct items wanted in the window.
        as_of: when it begins.
        item_ids: the items that may be found.
        num_users: (I,), who had each before `as_of`.
    """
    ids = pa.array(item_ids).cast(pa.string())
    users = wanted["user_key"].combine_chunks()
    pairs = known_pairs(interactions, as_of=as_of)
    user = _positions(pairs["user_key"], users)
    item = _positions(pairs["item_id"], ids)
    kept = (user >= 0) & (item >= 0)
    shape = (len(users), len(ids))
    weights = pairs["weight_60"].to_numpy().astype(np.float32)[kept]
    lists = wanted["items"].combine_chunks()
    return Window(
        ids,
        sp.csr_array((weights, (user[kept], item[kept])), shape=shape),
        incidence(lists, ids),
        pc.list_value_length(lists).to_numpy().astype(np.int64),
        num_users,
    )


def judged_by(window: Window, vectors: Floats) -> dict[str, Values]:
    """NDCG@10 over all items of each user, and recall@50 among cold items of each who wanted one (`ALL` and `COLD`).

    `vectors` are (I, D), NaN for an item without one. A user without a vector scores 0 and is counted.
    """
    users = mean_of_history(window.histories, vectors)
    scored = content_scores(users, vectors)
    hits = _hits(window, scored, np.arange(len(users)), LENGTH, np.ones(len(window.item_ids), bool))
    return {ALL: ndcg(hits, window.num_wanted), COLD: recall_of_cold(window, scored)}


def recall_of_cold(window: Window, scored: "Scored", *, among_all: bool = False) -> Values:
    """Recall@50 of the cold items that each user wanted who wanted one: ranked among cold items alone, or among all items."""
    cold = window.wanted @ sp.diags_array(window.is_cold.astype(np.float32))
    num_cold = np.asarray(cold.sum(axis=1)).ravel().astype(np.int64)
    asked = np.flatnonzero(num_cold)
    allowed = np.ones(len(window.item_ids), bool) if among_all else window.is_cold
    only_cold = replace(window, wanted=cold)
    return recall(_hits(only_cold, scored, asked, COLD_LENGTH, allowed), num_cold[asked])


@dataclass(frozen=True)
class Scored:
    """Scores of users (U, D) and items (I, D) by their dot product."""

    users: Floats
    items: Floats


def content_scores(users: Floats, items: Floats) -> Scored:
    """The scores by content vectors."""
    return Scored(users, items)


def same_for_all(scores: Values, num_users: int) -> Scored:
    """One order of the items, (I,), for every user."""
    return Scored(np.ones((num_users, 1), np.float32), scores.astype(np.float32)[:, None])


def popularity_of_cold(window: Window, tags: NDArray[np.int64] | None, *, seed: int) -> Values:
    """(I,): how many users had an item; of one that nobody had, how many had the items of its category on average.

    Ties are drawn by the seed. `tags` are the items' finest categories, below 0 for none; without any, all cold items tie.
    """
    score = window.num_users.astype(np.float64)
    if tags is not None and (tags >= 0).any():
        tagged = tags >= 0
        total = np.bincount(tags[tagged], weights=score[tagged])
        number = np.bincount(tags[tagged])
        fallback = np.where(tagged, (total / np.maximum(number, 1))[np.maximum(tags, 0)], 0)
        score = np.where(window.is_cold, fallback, score)
    order = np.lexsort((np.random.default_rng(seed).permutation(len(score)), score))
    place = np.empty(len(score))
    place[order] = np.arange(len(score))
    return place


def counted_users(pairs: pl.DataFrame, item_ids: pa.Array) -> NDArray[np.int64]:
    """(I,): how many rows of known pairs each item has."""
    position = _positions(pairs["item_id"], pa.array(item_ids).cast(pa.string()))
    return np.bincount(position[position >= 0], minlength=len(item_ids))


def left_out(found: Mapping[str, Values], name: str) -> dict[str, Values]:
    """Metrics of vectors that lack a modality, named so."""
    return {f"{metric} without {name}": values for metric, values in found.items()}


def _hits(
    window: Window, scored: Scored, asked: NDArray[np.int64], length: int, allowed: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Whether the item at each place of each asked user's list is wanted: (asked, length)."""
    fit = allowed & ~np.isnan(scored.items[:, 0])
    hits = np.zeros((len(asked), length), bool)
    known = np.flatnonzero(~np.isnan(scored.users[asked, 0]))
    if not len(known) or not fit.any():
        return hits
    places = np.flatnonzero(fit)
    items = scored.items[places].T

    def block(rows: slice) -> NDArray[np.float32]:
        return np.asarray(scored.users[asked[known[rows]]] @ items)

    found = rank_users(block, num_users=len(known), num_items=len(places), k=length)
    wanted = window.wanted[asked[known[found.user]], places[found.item]]
    hits[known[found.user], found.rank - 1] = np.asarray(wanted).ravel() > 0
    return hits


def _positions(values: pl.Series, among: pa.Array) -> NDArray[np.int64]:
    found = pc.fill_null(pc.index_in(values.to_arrow().cast(pa.string()), value_set=among.cast(pa.string())), -1)
    return np.asarray(found.to_numpy(zero_copy_only=False), np.int64)
