"""The model of what comes next, as files: arrays as safetensors, names and choices as JSON. Loading runs no code."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import polars as pl
from scipy import sparse

from lib.models import sequence_weights
from lib.next_item.model import Figures, NextItemModel
from lib.next_item.ranker import Ranker
from lib.next_item.sequence import SequenceStrategy
from lib.next_item.strategies import Learnt
from lib.next_item.visits import Catalogue
from lib.runs.weights import Arrays, load_arrays, save_arrays

ARRAYS, KNOWN, TREES, SEQUENCE = "next_item.safetensors", "next_item.json", "next_item.txt", "next_item_sequence"
PARTS = ("data", "indices", "indptr")
TABLES = tuple(field.name for field in fields(Learnt) if field.name not in ("num_items", "sequence"))


def save(model: NextItemModel, folder: Path) -> None:
    """Write a model's files into a folder."""
    arrays = {"weights": model.weights, "evidence": model.evidence}
    shapes = {}
    for name in TABLES:
        table = getattr(model.learnt, name)
        if isinstance(table, sparse.csr_array):
            shapes[name] = list(table.shape)
            arrays |= {f"{name}.{part}": getattr(table, part) for part in PARTS}
        else:
            arrays[name] = table
    save_arrays(folder / ARRAYS, arrays, shapes=shapes)
    known = {
        "items": model.catalogue.items.to_list(),
        "chosen": model.chosen,
        "held_out": {name: list(found) for name, found in model.held_out.items()},
        "num_asked": model.num_asked,
    }
    (folder / KNOWN).write_text(json.dumps(known))
    if model.ranker is not None:
        (folder / TREES).write_text(model.ranker.text)
    if model.learnt.sequence is not None:
        sequence_weights.save(model.learnt.sequence.weights, folder, SEQUENCE, tables={})


def load(folder: Path) -> NextItemModel | None:
    """What `save` wrote; None where the folder holds no such model.

    Raises:
        OSError, KeyError, ValueError: it is not as `save` writes it.
    """
    if not (folder / KNOWN).is_file():
        return None
    arrays, told = load_arrays(folder / ARRAYS)
    known = json.loads((folder / KNOWN).read_text())
    catalogue = Catalogue(pl.Series(known["items"], dtype=pl.String))
    tables = {name: _table(arrays, name, told["shapes"].get(name)) for name in TABLES}
    sequence = None
    if (folder / f"{SEQUENCE}.json").is_file():
        sequence = SequenceStrategy.of(sequence_weights.load(folder, SEQUENCE), catalogue)
    trees = folder / TREES
    return NextItemModel(
        catalogue,
        Learnt(num_items=len(catalogue), sequence=sequence, **tables),
        arrays["weights"],
        Ranker(trees.read_text()) if trees.is_file() else None,
        arrays["evidence"],
        known["chosen"],
        {name: Figures(*found) for name, found in known["held_out"].items()},
        known["num_asked"],
    )


def _table(arrays: Arrays, name: str, shape: list[int] | None) -> Any:
    if shape is None:
        return arrays[name]
    return sparse.csr_array(tuple(arrays[f"{name}.{part}"] for part in PARTS), shape=(shape[0], shape[1]))
