"""Features from the `context` map and the position of an impression, for logs that hold more than their events."""

import zlib
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from rl.dataset.decisions import Floats, Ints


@dataclass(frozen=True)
class ContextCode:
    """How a context map becomes features; the same for every shard of a log.

    State features, in this order: each of `numbers` as it is, 0 where a row lacks it; each of `categories` as a one-hot vector
    of length `width`, at the index CRC-32 of the value modulo `width` (values may collide), zeros where a row lacks it; the
    position, counted from 1, as a one-hot vector of length `num_positions`, whose last place stands for all later positions.
    Candidate features: for each prefix in `per_item`, the number under the key prefix + item id, 0 without one.
    """

    numbers: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    per_item: tuple[str, ...] = ()
    width: int = 16
    num_positions: int = 0

    @classmethod
    def of_keys(
        cls, is_number: dict[str, bool], *, per_item: tuple[str, ...], width: int, num_positions: int
    ) -> "ContextCode":
        """The code for a log whose context has these keys; `is_number` says of each key whether all its values are numbers."""
        common = sorted(key for key in is_number if not key.startswith(per_item or ("\0",)))
        return cls(
            numbers=tuple(key for key in common if is_number[key]),
            categories=tuple(key for key in common if not is_number[key]),
            per_item=tuple(prefix for prefix in per_item if any(key.startswith(prefix) for key in is_number)),
            width=width,
            num_positions=num_positions,
        )

    def states(self, context: pa.MapArray, positions: pa.Array) -> Floats:
        """State features [n, s] of n impressions; a null context or position gives zeros."""
        features = np.zeros((len(context), self._state_dim), dtype=np.float32)
        rows, keys, values = _entries(context)
        for column, key in enumerate(self.numbers):
            found = _where(pc.equal(keys, key))
            features[rows[found], column] = _numbers(values.take(found))
        for i, key in enumerate(self.categories):
            found = _where(pc.equal(keys, key))
            encoded = values.take(found).dictionary_encode()
            places = np.array([zlib.crc32(v.encode()) % self.width for v in encoded.dictionary.to_pylist()], dtype=int)
            first = len(self.numbers) + i * self.width
            features[rows[found], first + places[encoded.indices.to_numpy()]] = 1.0
        if self.num_positions:
            known = _where(pc.is_valid(positions))
            place = np.clip(positions.take(known).to_numpy() - 1, 0, self.num_positions - 1)
            features[known, self._state_dim - self.num_positions + place] = 1.0
        return features

    def candidates(self, context: pa.MapArray, candidates: Ints, item_ids: pa.Array) -> Floats:
        """Candidate features [n, k, p] of n impressions with candidates [n, k], indices into `item_ids` or -1."""
        rows, keys, values = _entries(context)
        features = np.zeros((*candidates.shape, len(self.per_item)), dtype=np.float32)
        asked = np.arange(len(candidates))[:, None] * (len(item_ids) + 1) + candidates + 1
        for column, prefix in enumerate(self.per_item):
            found = _where(pc.starts_with(keys, prefix))
            named = pc.utf8_slice_codeunits(keys.take(found), len(prefix))
            item = pc.fill_null(pc.index_in(named, value_set=item_ids), -1).to_numpy()
            code = rows[found] * (len(item_ids) + 1) + item + 1
            order = np.argsort(code, kind="stable")
            number = _numbers(values.take(found))[order]
            place = np.searchsorted(code[order], asked)
            inside = np.minimum(place, max(len(code) - 1, 0))
            if len(code):
                is_given = (code[order][inside] == asked) & (candidates >= 0)
                features[..., column] = np.where(is_given, number[inside], 0.0)
        return features

    @property
    def _state_dim(self) -> int:
        return len(self.numbers) + len(self.categories) * self.width + self.num_positions


def keys_of(context: pa.MapArray) -> pl.DataFrame:
    """The keys of n maps, `key`, and whether all values of each are numbers, `is_number`."""
    entries = pl.DataFrame(pa.Table.from_struct_array(pc.list_flatten(context.cast(_PAIRS))))
    is_number = pl.col("value").is_null() | _number(pl.col("value")).is_not_null()
    return entries.group_by("key").agg(is_number=is_number.all())


def _entries(context: pa.MapArray) -> tuple[Ints, pa.Array, pa.Array]:
    """The entries of n maps that have a value: the row, the key and the value of each."""
    pairs = pc.list_flatten(context.cast(_PAIRS))
    rows = pc.list_parent_indices(context.cast(_PAIRS)).to_numpy().astype(np.int64)
    given = _where(pc.is_valid(pairs.field(1)))
    return rows[given], pairs.field(0).take(given), pairs.field(1).take(given)


_PAIRS = pa.list_(pa.struct([pa.field("key", pa.string(), nullable=False), pa.field("value", pa.string())]))


def _where(flags: pa.BooleanArray) -> Ints:
    rows: Ints = np.flatnonzero(flags.to_numpy(zero_copy_only=False))
    return rows


def _number(text: pl.Expr) -> pl.Expr:
    """The number that a text is; null where it is none."""
    return text.cast(pl.Float64, strict=False)


def _numbers(texts: pa.StringArray) -> Floats:
    """The numbers that texts are; 0 for one that is none, or not finite."""
    numbers: Floats = pl.DataFrame({"text": texts}).select(_number(pl.col("text"))).to_series().to_numpy()
    return np.nan_to_num(numbers, nan=0.0, posinf=0.0, neginf=0.0)
