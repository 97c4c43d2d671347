"""The recommendation strategies over Arrow batches of users: each ranks items and gives readable reasons.

A batch has one row per user: `user_key`, `items` (distinct ids of the user's own items, latest first) and
`num_relevant` (for each of `items`, how often the user bought it, or did what the log counts as relevant); for
strategies by vectors also `values`. A user's own items are those the user has interacted with. Each function maps such
batches to batches of `LIST_SCHEMA`, for `mapInArrow`. No strategy falls back to another.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp
from numpy.typing import NDArray

from lib.ranking.neighbours import nearest_own_items
from lib.ranking.topk import Ranked, dot_products, incidence, rank_entries, rank_users, summed_similarities, vectors

LIST_SCHEMA = pa.schema(
    [
        ("question", pa.string()),
        ("user_key", pa.string()),
        ("rank", pa.int32()),
        ("item_id", pa.string()),
        ("score", pa.float64()),
        ("reason", pa.string()),
    ]
)
# The verb for each relevant event type, for reasons such as "bought by 12 customers".
VERBS = {
    "purchase": "bought",
    "view": "viewed",
    "cart": "put in the cart",
    "favourite": "marked as a favourite",
    "rating": "rated",
}

Batches = Iterable[pa.RecordBatch]
Lists = Iterator[pa.RecordBatch]


class Catalogue(NamedTuple):
    """The items that may be recommended, in the order of their ids; every array is (items,)."""

    item_ids: pa.StringArray
    names: pa.StringArray  # the title, else the id
    num_buyers: NDArray[np.float64]  # distinct users with a relevant event

    def take(self, positions: NDArray[np.int64]) -> Self:
        """The catalogue of the items at these positions."""
        return self._replace(
            item_ids=self.item_ids.take(pa.array(positions)),
            names=self.names.take(pa.array(positions)),
            num_buyers=self.num_buyers[positions],
        )


def popularity(batches: Batches, *, catalogue: Catalogue, k: int, verb: str, min_support: int) -> Lists:
    """Items by number of distinct buyers: the same list for everyone, except for what `new` leaves out.

    A reason tells of no fewer than `min_support` buyers, as it would tell what a single person bought.
    """
    bought = np.flatnonzero(catalogue.num_buyers > 0)
    best_first = catalogue.take(bought[np.argsort(-catalogue.num_buyers[bought], kind="stable")])
    reasons = pa.array([f"{verb} by {_customers(n, min_support)}" for n in best_first.num_buyers], pa.string())
    for batch in batches:
        own = incidence(batch["items"], best_first.item_ids)
        # k items plus the most items that any user has are enough, even after a user's own items are left out.
        looked_at = min(k + int(np.diff(own.indptr).max(initial=0)), len(bought))
        scores = best_first.num_buyers[:looked_at]
        shown = best_first.take(np.arange(looked_at))

        def same_for_all(rows: slice, scores: NDArray[np.float64] = scores) -> NDArray[np.float64]:
            return np.tile(scores, (rows.stop - rows.start, 1))

        yield from _both_questions(
            batch,
            shown,
            k,
            score=same_for_all,
            own=own[:, :looked_at],
            reasons=lambda ranked: reasons.take(pa.array(ranked.item)),
        )


def rebuy(batches: Batches, *, catalogue: Catalogue, k: int, verb: str) -> Lists:
    """The user's own items by how often the user bought them, ties by popularity; gives no list for `new`."""
    for batch in batches:
        counts = incidence(batch["items"], catalogue.item_ids, np.asarray(batch["num_relevant"].flatten(), np.float64))
        counts.eliminate_zeros()
        ranked = rank_entries(counts, tie_break=catalogue.num_buyers, k=k)
        times = ["once" if n == 1 else f"{_number(n)} times" for n in ranked.score]
        reasons = pa.array([f"{verb} {often} before" for often in times], pa.string())
        yield _rows(batch, catalogue, "all", ranked, reasons)


def item_to_item(batches: Batches, *, catalogue: Catalogue, similarity: sp.csr_array, k: int) -> Lists:
    """Items by the sum of their similarities to the user's own items (see lib/ranking/neighbours.py)."""
    for batch in batches:
        own = incidence(batch["items"], catalogue.item_ids)
        own.sort_indices()  # so that sums do not depend on the order of the items
        score = summed_similarities(own, similarity)

        def reasons(ranked: Ranked, own: sp.csr_array = own) -> pa.Array:
            nearest = nearest_own_items(own, similarity, ranked.user, ranked.item)
            partner = catalogue.names.take(pa.array(nearest, mask=nearest < 0))
            together = pc.binary_join_element_wise("often together with", partner, " ")
            return pc.fill_null(together, "one of your own items")

        yield from _both_questions(batch, catalogue, k, score=score, own=own, reasons=reasons)


def by_vectors(
    batches: Batches, *, catalogue: Catalogue, item_vectors: NDArray[np.float32], k: int, reason: str
) -> Lists:
    """Items by the dot product of the user's vector (`values`) with `item_vectors` (items, d)."""
    for batch in batches:
        own = incidence(batch["items"], catalogue.item_ids)
        score = dot_products(vectors(batch["values"]), item_vectors)
        yield from _both_questions(
            batch,
            catalogue,
            k,
            score=score,
            own=own,
            reasons=lambda ranked: pa.array([reason] * len(ranked.item), pa.string()),
        )


def _both_questions(
    batch: pa.RecordBatch,
    catalogue: Catalogue,
    k: int,
    *,
    score: Callable[[slice], NDArray[np.float64]] | Callable[[slice], NDArray[np.float32]],
    own: sp.csr_array,
    reasons: Callable[[Ranked], pa.Array],
) -> Lists:
    for question, excluded in (("all", None), ("new", own)):
        ranked = rank_users(score, num_users=len(batch), num_items=len(catalogue.item_ids), k=k, excluded=excluded)
        yield _rows(batch, catalogue, question, ranked, reasons(ranked))


def _rows(
    batch: pa.RecordBatch, catalogue: Catalogue, question: str, ranked: Ranked, reasons: pa.Array
) -> pa.RecordBatch:
    columns = [
        pa.array([question] * len(ranked.user), pa.string()),
        batch["user_key"].take(pa.array(ranked.user)),
        pa.array(ranked.rank),
        catalogue.item_ids.take(pa.array(ranked.item)),
        pa.array(ranked.score),
        reasons,
    ]
    return pa.RecordBatch.from_arrays(columns, names=LIST_SCHEMA.names).cast(LIST_SCHEMA)


def _customers(number: float, min_support: int) -> str:
    if number < min_support:
        return f"fewer than {min_support:,} customers"
    return f"{_number(number)} {'customer' if number == 1 else 'customers'}"


def _number(value: float) -> str:
    return f"{int(value):,}"
