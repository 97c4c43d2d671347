"""What a fitted sequence model knows, and its one pure function: (weights, events so far) -> a vector.

Its dot products with the items' vectors are scores. It answers for somebody never seen before. NumPy alone, so that Spark's tasks
need no torch.

The function is SequenceModel's forward pass (lib/models/sequence.py) at the last event; a test holds them equal.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from lib.runs.weights import load_arrays, save_arrays

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
NEXT, LATER = "next", "later"  # purposes: the very next event, or what is taken in later visits
PAD = 0  # item number of no item; the first item is number 1
EPSILON = 1e-5  # of layer norms, torch's
SEQUENCES_AT_ONCE = 512
UNREADABLE = (OSError, KeyError, ValueError)  # what `load` raises


@dataclass(frozen=True)
class SequenceWeights:
    """A fit: `arrays` is the module's state, `item_ids` the item of each number from 1 on."""

    arrays: Mapping[str, Floats]
    item_ids: tuple[str, ...]
    num_heads: int

    @property
    def length(self) -> int:
        """Latest events that count."""
        return len(self.arrays["position.weight"])

    @property
    def item_vectors(self) -> Floats:
        """(I, D), of the items in the order of `item_ids`."""
        return self.arrays["item.weight"][1:]

    def vectors(self, sequences: Sequence[Ints], *, purpose: str) -> Floats:
        """(N, D) of N sequences of item numbers, each with at least one, from their latest events."""
        latest = [items[-self.length :] for items in sequences]
        lengths = np.array([len(items) for items in latest], dtype=np.int64)
        assert (lengths > 0).all(), "an empty sequence has no vector"
        found = np.empty((len(latest), self.arrays["item.weight"].shape[1]), np.float32)
        order = np.argsort(lengths, kind="stable")
        for begin in range(0, len(order), SEQUENCES_AT_ONCE):
            rows = order[begin : begin + SEQUENCES_AT_ONCE]
            items = np.full((len(rows), lengths[rows[-1]]), PAD, np.int64)
            for place, row in enumerate(rows):
                items[place, : lengths[row]] = latest[row]
            found[rows] = self._last_states(items, lengths[rows])
        if purpose == LATER:
            found = found + found @ self.arrays["later.weight"].T
        return found

    def _last_states(self, items: Ints, lengths: Ints) -> Floats:
        """(B, D) after the last of `lengths` (B,) events of `items` (B, L), padded at the end."""
        own, (num_rows, width) = self.arrays, items.shape
        rows = np.arange(num_rows)
        x = own["item.weight"][items] + own["position.weight"][:width]
        num_blocks = 1 + max(int(name.split(".")[1]) for name in own if name.startswith("blocks."))
        is_later = np.triu(np.ones((width, width), bool), 1)
        for block in range(num_blocks):
            own_of = {
                name.split(".", 2)[2]: array for name, array in own.items() if name.startswith(f"blocks.{block}.")
            }
            query, key, value = np.split(_affine(_normed(x, own_of, "norm_1"), own_of, "attention"), 3, axis=2)
            if block == num_blocks - 1:  # of the last block the last event alone is wanted
                query, x = query[rows, lengths - 1][:, None], x[rows, lengths - 1][:, None]
                hidden_keys = np.arange(width) >= lengths[:, None, None]
            else:
                hidden_keys = is_later[None]
            mixed = _attended(query, key, value, self.num_heads, hidden_keys)
            x = x + _affine(mixed, own_of, "projection")
            inner = _affine(_normed(x, own_of, "norm_2"), own_of, "inner")
            gelu = inner * 0.5 * (1 + erf(inner * np.float32(2**-0.5)))
            x = x + _affine(gelu.astype(np.float32), own_of, "outer")
        return _normed(x, own, "norm")[:, 0]


def save(weights: SequenceWeights, folder: Path, name: str, *, tables: Mapping[str, int]) -> Path:
    """Write `name`.safetensors, the arrays with the table versions trained on, and `name`.json, the catalogue; returns the former."""
    file = folder / f"{name}.safetensors"
    save_arrays(file, weights.arrays, num_heads=weights.num_heads, tables=dict(tables))
    (folder / f"{name}.json").write_text(json.dumps({"items": weights.item_ids}))
    return file


def load(folder: Path, name: str) -> SequenceWeights:
    """What `save` wrote.

    Raises:
        OSError: a file is missing.
        KeyError, ValueError: one of them is not as `save` writes it.
    """
    arrays, known = load_arrays(folder / f"{name}.safetensors")
    items = json.loads((folder / f"{name}.json").read_text())["items"]
    weights = SequenceWeights(arrays, tuple(items), int(known["num_heads"]))
    if len(weights.item_vectors) != len(weights.item_ids):
        raise ValueError(
            f"{name}: vectors of {len(weights.item_vectors)} items, of {len(weights.item_ids)} that are named"
        )
    return weights


def _affine(x: Floats, own: Mapping[str, Floats], name: str) -> Floats:
    return np.asarray(x @ own[f"{name}.weight"].T + own[f"{name}.bias"])


def _normed(x: Floats, own: Mapping[str, Floats], name: str) -> Floats:
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred * centred).mean(axis=-1, keepdims=True)
    return np.asarray(centred / np.sqrt(variance + EPSILON) * own[f"{name}.weight"] + own[f"{name}.bias"])


def _attended(query: Floats, key: Floats, value: Floats, num_heads: int, hidden: NDArray[np.bool_]) -> Floats:
    """(B, Q, D) from queries (B, Q, D), keys and values (B, L, D); `hidden` (B or 1, Q, L) are not looked at."""
    heads = [part.reshape(*part.shape[:2], num_heads, -1).transpose(0, 2, 1, 3) for part in (query, key, value)]
    scores = heads[0] @ heads[1].transpose(0, 1, 3, 2) / np.float32(heads[0].shape[3] ** 0.5)
    scores[np.broadcast_to(hidden[:, None], scores.shape)] = -np.inf
    scores = np.exp(scores - scores.max(axis=3, keepdims=True))
    mixed = (scores / scores.sum(axis=3, keepdims=True)) @ heads[2]
    return np.asarray(mixed.transpose(0, 2, 1, 3).reshape(query.shape))
