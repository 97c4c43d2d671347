"""What is known of the catalogue's items as numbers: a row an item, and beside it whether the item has it.

A modality is one way in which an item is described: `text` (its title), `tags` (categories, brand, attributes, price) and
`picture`. Title and tags become TF-IDF of hashed n-grams and tags, brought to few dimensions by truncated SVD (latent
semantic analysis, Deerwester et al. 1990): nothing is downloaded, and a title in any language will do. A sentence model can
take the place of the titles' n-grams (lib/content/sentences.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp
from numpy.typing import NDArray
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

Floats = NDArray[np.float32]
TEXT, TAGS, PICTURE = "text", "tags", "picture"
COLUMNS = ("item_id", "title", "category", "brand", "price", "attributes")  # of silver/items
MAX_FITTED = 100_000  # items that the weights and directions are found from; all are then expressed by these
ROWS_AT_ONCE = 50_000
NUM_HASHES = 1 << 18
NUM_PRICES = 10  # equally full classes of prices
Sparse = sp.csr_matrix


@dataclass(frozen=True)
class Inputs:
    """N items described in M modalities.

    `values` are (N, total width) with rows of length 1 in each modality, and 0 where the item lacks it.
    """

    names: tuple[str, ...]
    widths: tuple[int, ...]
    values: Floats
    known: NDArray[np.bool_]  # (N, M)

    def __len__(self) -> int:
        return len(self.values)

    def with_modality(self, name: str, values: Floats, known: NDArray[np.bool_]) -> "Inputs":
        """One modality more; values of items that lack it are not looked at."""
        unit = unit_rows(np.where(known[:, None], values, 0))
        return Inputs(
            (*self.names, name),
            (*self.widths, values.shape[1]),
            np.concatenate([self.values, unit], axis=1, dtype=np.float32),
            np.concatenate([self.known, known[:, None]], axis=1),
        )

    def without(self, name: str) -> "Inputs":
        """The same items, none of which has this modality."""
        return Inputs(self.names, self.widths, self.values, self.known & (np.array(self.names) != name))


def no_inputs(num_items: int) -> Inputs:
    """Items of which nothing is known."""
    return Inputs((), (), np.zeros((num_items, 0), np.float32), np.zeros((num_items, 0), bool))


def described_items(items: pa.Table, *, num_dimensions: int, seed: int, with_titles: bool = True) -> Inputs:
    """What titles and tags say of items; a modality that no item has is left out.

    Args:
        items: rows of silver/items with COLUMNS.
        num_dimensions: of each modality, at most.
        seed: of the directions' search.
        with_titles: whether titles are hashed here; False: they are left to a sentence model (lib/content/sentences.py).
    """
    found = no_inputs(items.num_rows)
    for name, counts in ((TEXT, _titles), (TAGS, _tags)) if with_titles else ((TAGS, _tags),):
        counted = counts(items)
        known = np.diff(counted.indptr) > 0
        if known.any():
            found = found.with_modality(name, reduced(counted, num_dimensions=num_dimensions, seed=seed), known)
    return found


def reduced(counted: Sparse, *, num_dimensions: int, seed: int) -> Floats:
    """TF-IDF of counts (N, F), projected on the directions of the largest singular values: (N, num_dimensions) or fewer.

    The directions are found from at most MAX_FITTED rows, drawn by the seed.
    """
    used = np.flatnonzero(np.bincount(counted.indices, minlength=counted.shape[1]))
    counted = counted[:, used]
    chosen = np.arange(counted.shape[0])
    if len(chosen) > MAX_FITTED:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, MAX_FITTED, replace=False))
    weighted = TfidfTransformer(sublinear_tf=True).fit(counted[chosen])
    width = min(num_dimensions, len(used))
    fitted = weighted.transform(counted[chosen])
    if width < len(used) and width < fitted.shape[0]:
        directions = TruncatedSVD(width, random_state=seed).fit(fitted)
        blocks = [
            directions.transform(weighted.transform(counted[start : start + ROWS_AT_ONCE]))
            for start in range(0, counted.shape[0], ROWS_AT_ONCE)
        ]
        return np.concatenate(blocks).astype(np.float32)
    if len(used) <= num_dimensions:  # few enough as they are
        return np.asarray(weighted.transform(counted).toarray(), np.float32)
    # Fewer items than dimensions: their own similarities are all that there is.
    return np.asarray((weighted.transform(counted) @ fitted.T).toarray(), np.float32)


def unit_rows(values: Floats) -> Floats:
    """Each row scaled to length 1; a row of zeros stays."""
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.where(length > 0, length, 1), np.float32)


def _titles(items: pa.Table) -> Sparse:
    """Counts of the titles' hashed words, pairs of words and pieces of words: (N, F)."""
    titles = [title or "" for title in items["title"].to_pylist()]
    given = {"n_features": NUM_HASHES, "norm": None, "alternate_sign": False, "dtype": np.float32}
    words = HashingVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b", **given)
    pieces = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 4), **given)
    return sp.csr_matrix(sp.hstack([words.transform(titles), pieces.transform(titles)]))


def _tags(items: pa.Table) -> Sparse:
    """Counts of the items' tags: each level of the category, the brand, each attribute with its value, the class of its price."""
    prices = price_classes(items["price"])
    tagged = [
        tags_of(category, brand, attributes, price)
        for category, brand, attributes, price in zip(
            *(items[name].to_pylist() for name in ("category", "brand", "attributes")), prices, strict=True
        )
    ]
    numbers: dict[str, int] = {}
    indices = [numbers.setdefault(tag, len(numbers)) for tags in tagged for tag in tags]
    ends = np.cumsum([0, *map(len, tagged)])
    return sp.csr_matrix((np.ones(len(indices), np.float32), indices, ends), shape=(len(tagged), max(1, len(numbers))))


def tags_of(
    category: Sequence[str] | None,
    brand: str | None,
    attributes: Mapping[str, str | None] | Sequence[tuple[str, str | None]] | None,
    price: int | None,
) -> list[str]:
    """The tags of one item; a price alone, which says little of what it is, makes none."""
    path = [level for level in category or () if level]
    tags = [f"category={'>'.join(path[: level + 1])}" for level in range(len(path))]
    tags += [f"brand={brand}"] if brand else []
    tags += [f"{name}={value}" for name, value in sorted(dict(attributes or {}).items()) if value]
    return [*tags, f"price={price}"] if tags and price is not None else tags


def price_classes(prices: pa.ChunkedArray) -> list[int | None]:
    """Each price's class among NUM_PRICES equally full ones; None where it is unknown, not a number or not above 0."""
    values = pc.fill_null(prices.cast(pa.float64()), float("nan")).to_numpy()
    fit = np.isfinite(values) & (values > 0)
    if not fit.any():
        return [None] * len(values)
    bounds = np.quantile(values[fit], np.arange(1, NUM_PRICES) / NUM_PRICES)
    return [int(np.searchsorted(bounds, value)) if is_fit else None for value, is_fit in zip(values, fit, strict=True)]
