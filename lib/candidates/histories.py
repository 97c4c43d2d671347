"""What the users of a shard did before a moment, by position in the catalogue."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
import scipy.sparse as sp
from numpy.typing import NDArray

from lib.candidates.catalogue import Catalogue
from lib.ranking.topk import vectors as matrix_of

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Histories:
    """U users with their known pairs; a user without any is there too.

    `pairs` are rows of `known_pairs` (lib/candidates/known.py) by user and item, each with `user` and `item`, their positions.
    """

    user_keys: pa.StringArray  # (U,), sorted
    pairs: pl.DataFrame
    users: pl.DataFrame  # a row of `known_users` each, nulls for a user who is unknown
    vectors: Mapping[str, Floats]  # model -> (U, d), NaN for a user without one

    def block(self, rows: slice) -> "Histories":
        """Some of the users."""
        is_in = (pl.col("user") >= rows.start) & (pl.col("user") < rows.stop)
        return Histories(
            self.user_keys[rows],
            self.pairs.filter(is_in).with_columns(pl.col("user") - rows.start),
            self.users[rows],
            {model: found[rows] for model, found in self.vectors.items()},
        )

    def matrix(self, values: NDArray[np.float64] | Floats, num_items: int) -> sp.csr_array:
        """(U, items) with a value a pair."""
        places = self.pairs["user"].to_numpy(), self.pairs["item"].to_numpy()
        shape = (len(self.user_keys), num_items)
        return sp.csr_array((np.asarray(values, np.float32), places), shape=shape)

    def tag_shares(self, values: NDArray[np.float64] | Floats, catalogue: Catalogue) -> Floats:
        """(U, num_tags), which share of a user's pairs, by a value a pair, is of each category; NaN without any that has one."""
        user, tag = self.pairs["user"].to_numpy(), catalogue.tag[self.pairs["item"].to_numpy()]
        tagged = tag != catalogue.num_tags - 1
        found = np.zeros((len(self.user_keys), catalogue.num_tags), np.float32)
        np.add.at(found, (user[tagged], tag[tagged]), np.asarray(values, np.float32)[tagged])
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(found / found.sum(axis=1, keepdims=True))


def histories_of(
    pairs: pl.DataFrame, users: pl.DataFrame, catalogue: Catalogue, *, vectors: Mapping[str, pl.DataFrame]
) -> Histories:
    """The histories of some users.

    Args:
        pairs: rows of `known_pairs`, all those of each user; of users who are not asked for they are left out.
        users: rows of `known_users`, whose histories are wanted, each once.
        catalogue: of this moment, which knows each item that one of them had.
        vectors: model -> rows of gold/vectors of users, `id` and `values`.
    """
    users = users.sort("user_key")
    place = users.select("user_key", user=pl.int_range(pl.len(), dtype=pl.Int64))
    theirs = pairs.join(place, on="user_key", how="inner")
    position = catalogue.positions(theirs["item_id"].to_arrow().cast(pa.string()))
    assert (position >= 0).all(), "the catalogue knows every item of a known pair"
    return Histories(
        users["user_key"].to_arrow().cast(pa.string()),
        theirs.with_columns(item=pl.Series(position, dtype=pl.Int64)).sort("user", "item"),
        users,
        {model: _vectors_of(place, rows) for model, rows in vectors.items()},
    )


def _vectors_of(place: pl.DataFrame, rows: pl.DataFrame) -> Floats:
    """The vector of each user, NaN where there is none."""
    of_users = place.join(rows.select(pl.col("id").alias("user_key"), "values"), on="user_key", how="inner")
    found = matrix_of(of_users["values"].to_arrow().cast(pa.list_(pa.float32())))
    placed = np.full((len(place), found.shape[1]), np.nan, np.float32)
    placed[of_users["user"].to_numpy()] = found
    return placed
