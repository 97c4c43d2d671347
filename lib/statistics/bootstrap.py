"""The bootstrap over users: resamples that do not depend on how tasks share users, and percentile intervals."""

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
NUM_RESAMPLES = 1000
CONFIDENCE = 0.95  # of every interval
TAILS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)  # the quantiles between which it lies
_CELLS_AT_ONCE = 1 << 22  # resample weights in memory at a time (32 MB as doubles)
_CELLS_DRAWN = 1 << 15  # of them drawn at a time, so that they stay in a core's cache
# Inverse distribution function of Poisson(1) on 32-bit integers: P(X <= j) * 2^32; P(X > 12) is below 1e-10.
_POISSON_1 = (np.cumsum(np.exp(-1.0) / np.cumprod(np.r_[1.0, np.arange(1.0, 13.0)])) * 2.0**32).astype(np.uint64)


def resample_weights(keys: NDArray[np.uint64], *, num_resamples: int, seed: int) -> NDArray[np.int64]:
    """How often each user is drawn into each bootstrap resample: independent Poisson(1) counts, (users, num_resamples).

    A count depends only on the user's key, the resample's number and the seed, so the result is the same for any
    partitioning of users over tasks (the Poisson bootstrap: Chamandy et al. 2012, "Estimating uncertainty for massive
    data streams"). Keys of different users must differ.
    """
    return drawn_weights(keys, num_resamples=num_resamples, seed=seed).astype(np.int64)


def drawn_weights(keys: NDArray[np.uint64], *, num_resamples: int, seed: int) -> NDArray[np.uint8]:
    """The counts of `resample_weights` in an eighth of the memory: (users, num_resamples)."""
    start = splitmix64(np.array([seed % 2**64], dtype=np.uint64))
    resamples = splitmix64(np.arange(num_resamples, dtype=np.uint64) + start)
    counts = np.empty((len(keys), num_resamples), dtype=np.uint8)
    step = max(1, _CELLS_DRAWN // num_resamples)
    for first in range(0, len(keys), step):
        bits = splitmix64(keys[first : first + step, None] ^ resamples[None, :]) >> np.uint64(32)
        counts[first : first + step] = np.searchsorted(_POISSON_1, bits, side="right")
    return counts


def keys_of(names: Iterable[str]) -> NDArray[np.uint64]:
    """A key for each name, the same everywhere and in every release (BLAKE2b)."""
    digests = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names]
    return np.frombuffer(b"".join(digests), dtype=np.uint64)


def resampled_sums(
    values: Floats,
    keys: NDArray[np.uint64],
    *,
    num_resamples: int,
    seed: int,
    weights: NDArray[np.uint8] | None = None,
) -> Floats:
    """Sums over users of each value in each resample; the sums of two shards of users add up.

    Args:
        values: (users, m).
        keys: (users,), see `resample_weights`.
        num_resamples: of the bootstrap.
        seed: of the bootstrap.
        weights: (users, num_resamples), the `drawn_weights` of the keys where these are at hand.

    Returns:
        (num_resamples, m + 1); the last column is the number of users drawn.
    """
    users, width = values.shape
    columns = np.column_stack([values, np.ones(users)])
    sums = np.zeros((num_resamples, width + 1))
    step = max(1, _CELLS_AT_ONCE // num_resamples)
    for start in range(0, users, step):
        chunk = slice(start, start + step)
        drawn = (
            drawn_weights(keys[chunk], num_resamples=num_resamples, seed=seed) if weights is None else weights[chunk]
        )
        sums += drawn.astype(np.float64).T @ columns[chunk]
    return sums


def percentile_interval(sums: Floats, num_drawn: Floats) -> tuple[float, float]:
    """The middle 95 % of the resampled means: sums of one value and numbers of users drawn, both (num_resamples,)."""
    drawn = num_drawn > 0
    low, high = np.quantile(sums[drawn] / num_drawn[drawn], TAILS)
    return float(low), float(high)


def mean_interval(values: Floats, seed: int, *, num_resamples: int = NUM_RESAMPLES) -> tuple[float, float, float]:
    """The mean over users with its 95 % percentile bootstrap interval: (value, low, high).

    Args:
        values: (users,), at least one.
        seed: of the bootstrap.
        num_resamples: of the bootstrap.

    Raises:
        ValueError: there is no value.
    """
    if not len(values):
        raise ValueError("an interval needs the values of at least one user; got none")
    column = np.asarray(values, dtype=np.float64).reshape(-1, 1)
    keys = np.arange(len(column), dtype=np.uint64)
    sums = resampled_sums(column, keys, num_resamples=num_resamples, seed=seed)
    low, high = percentile_interval(sums[:, 0], sums[:, 1])
    return float(column.mean()), low, high


def splitmix64(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hash each 64-bit number; distinct numbers get distinct hashes.

    The step and the finaliser of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators").
    """
    x = numbers + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
