"""The items with the largest dot products with a vector, most of them, found without looking at all items: an inverted file by Faiss.

K-means divides the items' vectors into lists, and a search looks at the lists whose centres have the largest dot products with the
query (Sivic and Zisserman 2003; Faiss' IndexIVFFlat with its inner product: Douze et al. 2024, "The Faiss library"). It is built
and searched by one thread, with a fixed seed: the same vectors give the same index, and a user's neighbours do not depend on
who else is asked for.
"""

from dataclasses import dataclass
from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
LISTS_PER_ROOT = 4  # lists for the square root of the items
LEAST_IN_LIST = 16  # items on average
TRAINED_ON = 64  # items a list at most
ITERATIONS = 10  # of k-means


@dataclass(frozen=True)
class VectorIndex:
    """An index of the items that have a vector."""

    faiss: Any  # IndexIVFFlat; it can be pickled
    items: NDArray[np.int64]  # the position in the catalogue of each of its vectors

    def nearest(self, queries: Floats, num_asked: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Query and item of at least the `num_asked` (Q,) nearest items of each query (Q, d), fewer where the searched lists hold fewer."""
        import faiss  # noqa: PLC0415

        faiss.omp_set_num_threads(1)  # the other cores have tasks of their own
        queries_of, items_of = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        rounded = 4 ** np.ceil(np.log(np.maximum(num_asked, 1)) / np.log(4)).astype(np.int64)  # few different numbers
        for number in np.unique(rounded) if len(self.items) else ():
            chosen = np.flatnonzero(rounded == number)
            _, found = self.faiss.search(np.ascontiguousarray(queries[chosen]), min(int(number), len(self.items)))
            row, place = np.nonzero(found >= 0)
            queries_of.append(chosen[row])
            items_of.append(self.items[found[row, place]])
        return np.concatenate(queries_of), np.concatenate(items_of)


def built(vectors: Floats, *, num_probes: int) -> VectorIndex:
    """The index of vectors (items, d), in which a row of NaN stands for none; a search looks at `num_probes` lists."""
    import faiss  # noqa: PLC0415 - its libraries are loaded only where there is an index

    items = np.flatnonzero(~np.isnan(vectors).any(axis=1))
    known = np.ascontiguousarray(vectors[items], dtype=np.float32)
    num_lists = max(1, min(LISTS_PER_ROOT * isqrt(len(items)), len(items) // LEAST_IN_LIST))
    width = vectors.shape[1]
    faiss.omp_set_num_threads(1)
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, num_lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed, index.cp.niter = 0, ITERATIONS
    index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, TRAINED_ON
    if len(items):
        index.train(known)
        index.add(known)
    index.nprobe = min(num_probes, num_lists)
    return VectorIndex(index, items)
