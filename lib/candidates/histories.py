"""What the users of a shard did before a moment, by position in the catalogue."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import scipy.sparse as sp
from numpy.typing import NDArray

from lib.candidates.catalogue import Catalogue
from lib.ranking.topk import vectors as matrix_of

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class OwnPairs:
    """What users did with items, by user and item: the columns of `known_pairs` (lib/candidates/known.py), each (P,), by position."""

    user: Ints  # a row of the histories
    item: Ints  # a position in the catalogue
    weight: Doubles
    num_relevant: Ints
    num_orders: Ints
    first_days: Doubles
    last_days: Doubles
    bought_days: Doubles  # NaN where nothing was bought, as the next
    first_bought_days: Doubles
    bought_14: Doubles
    bought_60: Doubles
    bought_180: Doubles
    weight_14: Doubles
    weight_60: Doubles

    def __len__(self) -> int:
        return len(self.item)

    def of_users(self, rows: slice) -> "OwnPairs":
        """Those of some users, who are counted from the first of them."""
        first, end = np.searchsorted(self.user, [rows.start, rows.stop])
        own = OwnPairs(**{name: values[first:end] for name, values in vars(self).items()})
        return replace(own, user=own.user - rows.start)


@dataclass(frozen=True)
class OwnDays:
    """The columns of `known_users`, each (U,), NaN of a user who is unknown."""

    num_orders: Doubles
    silence_days: Doubles
    age_days: Doubles


@dataclass(frozen=True)
class Histories:
    """U users with their known pairs; a user without any is there too."""

    user_keys: pa.StringArray  # (U,), sorted
    pairs: OwnPairs
    users: OwnDays
    vectors: Mapping[str, Floats]  # model -> (U, d), NaN for a user without one

    def block(self, rows: slice) -> "Histories":
        """Some of the users."""
        return Histories(
            self.user_keys[rows],
            self.pairs.of_users(rows),
            OwnDays(**{name: values[rows] for name, values in vars(self.users).items()}),
            {model: found[rows] for model, found in self.vectors.items()},
        )

    def matrix(self, values: Doubles | Floats, num_items: int) -> sp.csr_array:
        """(U, items) with a value a pair."""
        starts = np.searchsorted(self.pairs.user, np.arange(len(self.user_keys) + 1))
        shape = (len(self.user_keys), num_items)
        return sp.csr_array((np.asarray(values, np.float32), self.pairs.item, starts), shape=shape)

    def tag_shares(self, values: Doubles | Floats, catalogue: Catalogue) -> Floats:
        """(U, num_tags), which share of a user's pairs, by a value a pair, is of each category; NaN without any that has one."""
        user, tag = self.pairs.user, catalogue.tag[self.pairs.item]
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
    in_order = theirs.with_columns(item=pl.Series(position, dtype=pl.Int64)).sort("user", "item")
    return Histories(
        users["user_key"].to_arrow().cast(pa.string()),
        OwnPairs(**{name: _numbers(in_order[name]) for name in OwnPairs.__dataclass_fields__}),
        OwnDays(**{name: _numbers(users[name].cast(pl.Float64)) for name in OwnDays.__dataclass_fields__}),
        {model: _vectors_of(place, rows) for model, rows in vectors.items()},
    )


def _numbers(column: pl.Series) -> NDArray[Any]:
    return column.fill_null(np.nan).to_numpy() if column.dtype.is_float() else column.to_numpy()


def _vectors_of(place: pl.DataFrame, rows: pl.DataFrame) -> Floats:
    """The vector of each user, NaN where there is none."""
    of_users = place.join(rows.select(pl.col("id").alias("user_key"), "values"), on="user_key", how="inner")
    found = matrix_of(of_users["values"].to_arrow().cast(pa.list_(pa.float32())))
    placed = np.full((len(place), found.shape[1]), np.nan, np.float32)
    placed[of_users["user"].to_numpy()] = found
    return placed
