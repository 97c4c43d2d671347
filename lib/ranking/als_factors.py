"""Factors of als by the ids that they belong to: where a fit begins, and what an earlier one has left."""

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

Factors = NDArray[np.float32]  # (ids, rank)
ROWS_AT_ONCE = 512  # of numbers that are drawn: they stay in a core's cache


def first_factors(ids: pa.Array, rank: int, *, seed: int) -> Factors:
    """Where factors begin: directions drawn from each id by itself, evenly among those without a negative component."""
    hashed = pl.Series(ids).hash(seed).to_numpy()
    factors = np.empty((len(hashed), rank), dtype=np.float32)
    for start in range(0, len(hashed), ROWS_AT_ONCE):
        normal = np.abs(_normal(hashed[start : start + ROWS_AT_ONCE], rank))
        factors[start : start + ROWS_AT_ONCE] = normal / np.linalg.norm(normal, axis=1, keepdims=True)
    return factors


def _normal(seeds: NDArray[np.uint64], rank: int) -> NDArray[np.float64]:
    """Normal numbers by the seed of each row: (seeds, rank)."""
    counter = seeds[:, None] + np.arange(1, 2 * rank + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (counter ^ (counter >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)  # SplitMix64 (Steele et al. 2014)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    uniform = ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53
    radius = np.sqrt(-2 * np.log1p(-uniform[:, :rank])) + np.finfo(np.float32).tiny
    found: NDArray[np.float64] = radius * np.cos(2 * np.pi * uniform[:, rank:])  # Box and Muller 1958
    return found


def factors_of(rows: pl.DataFrame, ids: pa.Array, rank: int) -> tuple[NDArray[np.int64], Factors] | None:
    """Which of the ids have a vector among rows (id, values), and these vectors; None if they are of another length."""
    if rows.height and (rows["values"].list.len() != rank).any():
        return None
    wanted = pl.DataFrame({"id": pl.Series(ids)}).with_row_index("place")
    found = wanted.join(rows.select("id", "values"), on="id", how="inner").sort("place")
    values = found["values"].explode().to_numpy().astype(np.float32).reshape(-1, rank) if found.height else None
    return found["place"].to_numpy().astype(np.int64), np.empty((0, rank), np.float32) if values is None else values


def vectors_array(factors: Factors) -> pa.Array:
    """Factors as lists."""
    ends = np.arange(0, factors.size + 1, factors.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(factors.ravel()))
