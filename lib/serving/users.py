"""What users did before a release, as arrays that are read where they lie: of a million users none is copied into memory.

Users stand in the order of their keys; of user u the events are `starts[u] : starts[u + 1]`, by time. A key of 32 hex digits
is two numbers of 64 bits, the first of which tells nearly all users apart.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats = NDArray[np.float32]
FOLDER = "users"
LEAST_MAPPED = 1 << 16  # bytes; smaller files are read, and one without rows cannot be mapped
EVENT_ARRAYS = ("item", "time", "weight", "num_relevant")


class UserEvents(NamedTuple):
    """What one user did, by time."""

    item: NDArray[np.int32]  # (E,), positions in the catalogue; -1 for an item that it lacks
    time: NDArray[np.int64]  # (E,), microseconds since 1970 in UTC
    weight: NDArray[np.float64]  # (E,)
    num_relevant: NDArray[np.int64]  # (E,)


@dataclass(frozen=True)
class Users:
    """The users of a release."""

    keys: NDArray[np.uint64]  # (U, 2), sorted
    starts: NDArray[np.int64]  # (U + 1,)
    events: UserEvents  # of all users
    vectors: Mapping[str, Floats]  # model -> (U, d), NaN for a user without one

    def __len__(self) -> int:
        return len(self.keys)

    def place(self, user_key: str) -> int:
        """Where a user stands; -1 for one who is unknown."""
        return place_in(self.keys, user_key)

    def events_of(self, place: int) -> UserEvents:
        """What the user at a place did."""
        rows = slice(int(self.starts[place]), int(self.starts[place + 1]))
        return UserEvents(*(np.asarray(array[rows]) for array in self.events))  # type: ignore[arg-type]


def place_in(keys: NDArray[np.uint64], user_key: str) -> int:
    """Where a user stands among sorted keys (U, 2); -1 for one who is not there."""
    try:
        first, second = numbers_of(user_key)
    except ValueError:
        return -1
    at = int(np.searchsorted(keys[:, 0], np.uint64(first)))
    while at < len(keys) and int(keys[at, 0]) == first:
        if int(keys[at, 1]) == second:
            return at
        at += 1
    return -1


def mapped(file: Path) -> NDArray[np.generic]:
    """An array that was saved, read where it lies; a small one is read into memory.

    Raises:
        OSError, ValueError: it is missing, or no array.
    """
    is_mapped = file.stat().st_size > LEAST_MAPPED
    found: NDArray[np.generic] = np.load(file, mmap_mode="r" if is_mapped else None, allow_pickle=False)
    return found


def numbers_of(user_key: str) -> tuple[int, int]:
    """A key as two numbers.

    Raises:
        ValueError: it is no key.
    """
    if len(user_key) != 32:
        raise ValueError("a user's key has 32 hex digits")
    return int(user_key[:16], 16), int(user_key[16:], 16)


def users_of(rows: pl.DataFrame, vectors: Mapping[str, pl.DataFrame]) -> Users:
    """The users of rows of gold/interactions.

    Args:
        rows: user_key, item (position in the catalogue), event_time, weight, num_relevant; all those of each user.
        vectors: model -> rows of gold/vectors of users, `id` and `values`.
    """
    ordered = rows.sort("user_key", "event_time", "item")
    users = ordered.group_by("user_key", maintain_order=True).len()
    keys = np.array([numbers_of(key) for key in users["user_key"].to_list()], np.uint64).reshape(-1, 2)
    starts = np.concatenate([[0], np.cumsum(users["len"].to_numpy().astype(np.int64))])
    events = UserEvents(
        ordered["item"].to_numpy().astype(np.int32),
        ordered["event_time"].dt.epoch("us").to_numpy(),
        ordered["weight"].to_numpy(),
        ordered["num_relevant"].to_numpy(),
    )
    place = users.select("user_key", user=pl.int_range(pl.len(), dtype=pl.Int64))
    return Users(keys, starts, events, {model: _placed(place, found) for model, found in vectors.items()})


def _placed(place: pl.DataFrame, rows: pl.DataFrame) -> Floats:
    found = place.join(rows.select(pl.col("id").alias("user_key"), "values"), on="user_key", how="inner")
    width = int(rows["values"].list.len().max() or 0)  # type: ignore[arg-type]
    placed = np.full((len(place), width), np.nan, np.float32)
    if len(found):
        values = found["values"].explode(empty_as_null=True).to_numpy().astype(np.float32)
        placed[found["user"].to_numpy()] = values.reshape(-1, width)
    return placed


def save(users: Users, folder: Path) -> None:
    """Write the arrays into `folder`/users."""
    own = folder / FOLDER
    own.mkdir(parents=True, exist_ok=True)
    np.save(own / "keys.npy", users.keys)
    np.save(own / "starts.npy", users.starts)
    for name in EVENT_ARRAYS:
        np.save(own / f"{name}.npy", getattr(users.events, name))
    for model, vectors in users.vectors.items():
        np.save(own / f"vectors-{model}.npy", vectors)


def load(folder: Path) -> Users:
    """What `save` wrote, not read yet.

    Raises:
        OSError, ValueError: a file is missing, or no array.
    """
    own = folder / FOLDER

    def array(name: str) -> NDArray[np.generic]:
        return mapped(own / f"{name}.npy")

    vectors = {file.stem.removeprefix("vectors-"): array(file.stem) for file in sorted(own.glob("vectors-*.npy"))}
    events = UserEvents(*(array(name) for name in EVENT_ARRAYS))  # type: ignore[arg-type]
    return Users(array("keys"), array("starts"), events, vectors)  # type: ignore[arg-type]
