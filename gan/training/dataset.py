"""Decoded product pictures prepared for training: labelled, and split into training and held-out ones.

A prepared file is Parquet with a row for each picture: item_id, label, is_held_out and the pixels (uint8, [3, R, R]). Its
metadata holds the names of the classes and the resolution. A class is a category path joined by " / ", or ALL for items without
a category.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gan.arrays import Picture, Pictures
from lib.pictures.catalogue import hashed_order

Category = tuple[str, ...]  # coarse to fine

ALL = "all"  # class of pictures without a category
ROWS_PER_GROUP = 1024


@dataclass(frozen=True)
class PreparedPictures:
    """N pictures of K classes."""

    item_ids: list[str]
    labels: NDArray[np.int64]  # [N] of 0..K-1
    is_held_out: NDArray[np.bool_]  # [N]
    pixels: Pictures
    classes: tuple[str, ...]

    def of(self, label: int, *, held_out: bool) -> Pictures:
        """The training or held-out pictures of one class: [n, 3, R, R]."""
        chosen: Pictures = self.pixels[(self.labels == label) & (self.is_held_out == held_out)]
        return chosen


def class_name(category: Sequence[str]) -> str:
    """The class of a category path."""
    return " / ".join(category) if category else ALL


def assign_classes(categories: Mapping[str, Category], *, min_pictures: int) -> dict[str, str]:
    """The class of each item: its category path, shortened from the fine end until at least `min_pictures` items share it.

    Items whose coarsest category is still too rare get the class ALL. Where that has too few items as well, they are left out
    of the result, unless there is no other class.
    """
    path = dict(categories)
    for depth in range(max(map(len, path.values()), default=0), 0, -1):
        shared_by = Counter(path.values())
        path = {item: p[:-1] if len(p) == depth and shared_by[p] < min_pictures else p for item, p in path.items()}
    shared_by = Counter(path.values())
    if shared_by[()] < min_pictures and len(shared_by) > 1:
        path = {item: p for item, p in path.items() if p}
    return {item: class_name(p) for item, p in path.items()}


def class_of(category: Sequence[str], classes: Sequence[str]) -> str | None:
    """The class of a category path: its longest prefix that is a class, else ALL if that is one, else None."""
    names = [class_name(category[:depth]) for depth in range(len(category), -1, -1)]
    return next((name for name in names if name in classes), None)


def prepare(
    pictures: Mapping[str, Picture], classes: Mapping[str, str], *, held_out_frac: float, seed: int
) -> PreparedPictures:
    """Pictures (by item) of the items that have a class; a share of each class is held out, at least one picture.

    Those first in hashed order are held out.
    """
    order = hashed_order([item for item in pictures if item in classes], seed)
    names = tuple(sorted({classes[item] for item in order}))
    labels = np.array([names.index(classes[item]) for item in order], dtype=np.int64)
    is_held_out = np.zeros(len(order), dtype=bool)
    for label in range(len(names)):
        members = np.flatnonzero(labels == label)
        is_held_out[members[: max(round(len(members) * held_out_frac), 1)]] = True
    return PreparedPictures(order, labels, is_held_out, np.stack([pictures[item] for item in order]), names)


def write(prepared: PreparedPictures, path: Path) -> None:
    """Write a prepared file, atomically."""
    resolution = prepared.pixels.shape[-1]
    size = 3 * resolution**2
    pixels = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(size), len(prepared.pixels), [None, pa.py_buffer(np.ascontiguousarray(prepared.pixels))]
    )
    columns = {
        "item_id": pa.array(prepared.item_ids, pa.string()),
        "label": pa.array(prepared.labels),
        "is_held_out": pa.array(prepared.is_held_out),
        "pixels": pixels,
    }
    table = pa.table(columns).replace_schema_metadata(
        {"classes": json.dumps(prepared.classes), "resolution": str(resolution)}
    )
    part = path.with_suffix(".part")
    pq.write_table(table, part, row_group_size=ROWS_PER_GROUP)
    part.replace(path)


def read(path: Path) -> PreparedPictures:
    """Read a whole prepared file."""
    return _prepared(pq.read_table(path))


def read_training_share(path: Path, *, rank: int, num_workers: int) -> PreparedPictures:
    """One worker's share of the training pictures: every `num_workers`-th one from `rank` on. Reads a row group at a time."""
    file = pq.ParquetFile(path)
    shares, seen = [], 0
    for group in range(file.num_row_groups):
        rows = file.read_row_group(group)
        rows = rows.filter(pa.compute.invert(rows["is_held_out"]))
        mine = (np.arange(seen, seen + rows.num_rows) % num_workers) == rank
        shares.append(rows.filter(pa.array(mine)))
        seen += rows.num_rows
    return _prepared(pa.concat_tables(shares))


def _prepared(table: pa.Table) -> PreparedPictures:
    metadata = table.schema.metadata
    resolution = int(metadata[b"resolution"])
    pixels = table["pixels"].combine_chunks()
    values = np.frombuffer(b"".join(pixels.to_pylist()), dtype=np.uint8)
    return PreparedPictures(
        item_ids=table["item_id"].to_pylist(),
        labels=table["label"].to_numpy().copy(),  # torch wants writable memory, and Arrow's is not
        is_held_out=table["is_held_out"].to_numpy(),
        pixels=values.reshape(-1, 3, resolution, resolution).copy(),
        classes=tuple(json.loads(metadata[b"classes"])),
    )
