"""Networks that rank, as they are stored and used: NumPy alone, so that Spark's tasks need no torch.

A candidate's features are made alike in size (`Scaling`) and go through layers with ReLU to one number, the score. The neural
ranker puts before them the user's vector, the mean of the vectors of the items of the history, and the item's vector, both
learned with it; an item it does not know has a vector of zeros, as has somebody without a history. How they are fitted:
lib/candidates/network_fit.py, which a test holds equal.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp
from numpy.typing import NDArray

from lib.candidates.examples import Floats, Pairs
from lib.runs.weights import load_arrays, save_arrays
from lib.statistics.bootstrap import Floats as Doubles

BOUND = 5.0  # of a scaled feature, in standard deviations
ROWS_AT_ONCE = 1 << 13  # few enough for a cache
ITEMS = "item_vectors"


@dataclass(frozen=True)
class Scaling:
    """How F features become inputs: arsinh(x), standardised; 0 where unknown, beside which it is said whether it is.

    A feature that was the same, or unknown, in all that was learned from says nothing, whatever it is later.
    """

    mean: Floats  # (F,), of what is squashed
    scale: Floats  # (F,), one over their standard deviation; 0 where a feature says nothing
    unknown: Floats  # (F,), the share of rows in which it was unknown

    @property
    def num_inputs(self) -> int:
        """Inputs of a network: the features, and whether those are unknown that were for some."""
        return len(self.mean) + int(np.count_nonzero(self._at_times))

    @property
    def _at_times(self) -> NDArray[np.bool_]:
        return (self.unknown > 0) & (self.unknown < 1)

    def inputs(self, features: Floats) -> Floats:
        """(N, num_inputs) of features (N, F)."""
        scaled = squash(features)
        is_unknown = ~np.isfinite(scaled)
        with np.errstate(invalid="ignore"):  # of what is infinite, and unknown
            scaled -= self.mean
            scaled *= self.scale
        scaled[is_unknown] = 0
        share = self.unknown[self._at_times]
        told = (is_unknown[:, self._at_times] - share) / np.sqrt(share * (1 - share))
        return np.concatenate([found.clip(-BOUND, BOUND) for found in (scaled, told)], axis=1, dtype=np.float32)


def squash(features: Floats) -> Floats:
    """arsinh(x), about sign(x) log(2 |x|) of what is large: counts and sums, of which few are large."""
    return np.asarray(np.arcsinh(features))


def scaling_sums(features: Floats) -> Doubles:
    """(4, F): the rows, and over those in which a feature is known their number, sum and sum of squares; workers' add up."""
    squashed = squash(features).astype(np.float64)
    is_known = np.isfinite(squashed)
    squashed[~is_known] = 0
    rows = np.full(features.shape[1], float(len(features)))
    return np.stack([rows, is_known.sum(axis=0), squashed.sum(axis=0), (squashed**2).sum(axis=0)])


def scaling_of(sums: Doubles) -> Scaling:
    """The scaling by `scaling_sums` of all rows."""
    rows, known, total, squares = sums
    mean = total / np.maximum(known, 1)
    deviation = np.sqrt(np.maximum(squares / np.maximum(known, 1) - mean**2, 0))
    varies = deviation > 1e-6 * np.maximum(np.abs(mean), 1)
    scale = np.where(varies, 1 / np.where(varies, deviation, 1), 0)
    unknown = 1 - known / np.maximum(rows, 1)
    return Scaling(*(values.astype(np.float32) for values in (mean, scale, unknown)))


@dataclass(frozen=True)
class Network:
    """A fit; `layers` are named as torch names those of a Sequential, 0.weight (outputs, inputs), 0.bias, 2.weight ..."""

    scaling: Scaling
    layers: Mapping[str, Floats]
    item_ids: pa.StringArray  # (I,), the items with a vector
    item_vectors: Floats  # (I, D); D is 0 for a network of features alone

    @property
    def num_parameters(self) -> int:
        """Numbers that were fitted."""
        return sum(array.size for array in self.layers.values()) + self.item_vectors.size

    @property
    def knows_pairs(self) -> bool:
        """Whether it has vectors of its own."""
        return bool(self.item_vectors.size)

    def scores(self, features: Floats, pairs: Pairs | None = None) -> Doubles:
        """The scores of candidates (N, F), (N,); see `Scorer`."""
        found = np.empty(len(features))
        vectors = self._vectors(pairs)
        for start in range(0, len(features), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            found[rows] = self._scored(self.scaling.inputs(features[rows]), rows, pairs, *vectors)
        return found

    def scores_of_inputs(self, inputs: Floats, pairs: Pairs | None = None) -> Doubles:
        """The same of what the scaling makes of the features, (N, num_inputs), where many networks of one scaling are asked."""
        starts = range(0, len(inputs), ROWS_AT_ONCE)
        blocks = [slice(start, start + ROWS_AT_ONCE) for start in starts]
        vectors = self._vectors(pairs)
        return np.concatenate([np.zeros(0), *(self._scored(inputs[rows], rows, pairs, *vectors) for rows in blocks)])

    def _scored(self, x: Floats, rows: slice, pairs: Pairs | None, of_users: Floats, of_items: Floats) -> Floats:
        if self.item_vectors.shape[1]:
            who = np.full(len(x), -1) if pairs is None else pairs.user[rows]
            what = np.full(len(x), -1) if pairs is None else pairs.item[rows]
            x = np.concatenate([of_users[who], of_items[what], x], axis=1)
        return self._through_layers(x)

    def _vectors(self, pairs: Pairs | None) -> tuple[Floats, Floats]:
        """The vectors of the pairs' users and of their items; the last of each is that of nobody and of nothing."""
        none = np.zeros((1, self.item_vectors.shape[1]), np.float32)
        if pairs is None or not none.size:
            return none, none
        history, place = own_places(pairs, self.item_ids)
        of_items = np.concatenate([self.item_vectors, none])
        return np.concatenate([history @ self.item_vectors, none], dtype=np.float32), of_items[np.append(place, -1)]

    def _through_layers(self, x: Floats) -> Floats:
        *inner, last = self._affine
        for weight, bias in inner:
            x = np.maximum(x @ weight.T + bias, 0)
        return np.asarray((x @ last[0].T + last[1])[:, 0])

    @cached_property
    def _affine(self) -> list[tuple[Floats, Floats]]:
        numbers = sorted({int(name.split(".")[0]) for name in self.layers})
        return [(self.layers[f"{number}.weight"], self.layers[f"{number}.bias"]) for number in numbers]


def own_places(pairs: Pairs, item_ids: pa.StringArray) -> tuple[sp.csr_array, NDArray[np.int64]]:
    """What each user had and where each item stands, among a network's own items.

    Returns:
        The histories (U, len(item_ids)), each adding up to 1 if anything of it is known, and the places of the pairs' items, (I,),
        -1 for one that has no vector.
    """
    found = pc.fill_null(pc.index_in(pairs.item_ids, value_set=item_ids), -1)
    place = np.asarray(found.to_numpy(zero_copy_only=False), dtype=np.int64)
    entries = pairs.history.tocoo()
    column = place[entries.col]
    known = column >= 0
    at = entries.row[known], column[known]
    history = sp.csr_array((entries.data[known], at), shape=(len(pairs.history.indptr) - 1, len(item_ids)))
    total = np.asarray(history.sum(axis=1)).ravel()
    whole = sp.diags_array(np.where(total > 0, 1 / np.where(total > 0, total, 1), 0)) @ history
    return sp.csr_array(whole.astype(np.float32)), place


def save(network: Network, file: Path) -> Path:
    """Write a fit; returns the file."""
    arrays = {f"layers.{name}": array for name, array in network.layers.items()}
    scaling = {f"scaling.{name}": getattr(network.scaling, name) for name in ("mean", "scale", "unknown")}
    save_arrays(file, {**arrays, **scaling, ITEMS: network.item_vectors}, items=network.item_ids.to_pylist())
    return file


def load(file: Path) -> Network:
    """What `save` wrote.

    Raises:
        OSError: there is no such file.
        ValueError: it is another kind of file, or not whole.
    """
    arrays, known = load_arrays(file)
    try:
        scaling = Scaling(*(arrays[f"scaling.{name}"] for name in ("mean", "scale", "unknown")))
        items = pa.array(known["items"], pa.string())
        vectors = arrays[ITEMS]
    except KeyError as error:
        raise ValueError(f"{file.name} holds no network that ranks: it lacks {error}") from error
    layers = {name.removeprefix("layers."): array for name, array in arrays.items() if name.startswith("layers.")}
    if len(vectors) != len(items):
        raise ValueError(f"{file.name}: vectors of {len(vectors)} items, of {len(items)} that are named")
    return Network(scaling, layers, items, vectors)
