"""The strategies that say what comes next in a visit. Each learns from earlier visits and gives scores of items for prefixes.

    popularity       how many visits hold the item
    trending         how many of the latest visits hold it
    same_item        the last item again
    own_items        the visit's items, by how often people go back so many items
    successor        what came right after the last item
    successors       what came within some events after the visit's last items, nearer ones counting more (sequential rules)
    last_two         what came right after the last two items
    co_occurrence    what is in visits together with the last item (cosine)
    session_knn      what is in the most similar earlier visits (V-SKNN: Ludewig and Jannach 2018, "Evaluation of session-based
                     recommendation algorithms"; with a bounded inverted index as in VMIS-kNN: Kersbergen et al. 2022, "Serenade")
    sequence         a transformer over the visit's events (lib/models/sequence.py), where the lake has one: the softmax of its scores
    ease             a linear model of a visit's items (Steck 2019, "Embarrassingly shallow autoencoders"), of frequent items alone

Scores of a strategy are shares that sum to one over the items that it names for a prefix.
"""

from dataclasses import dataclass
from math import ceil

import numpy as np
from scipy import sparse

from lib.next_item.scores import Floats, of_entries, rows_of, shares, top_of_rows
from lib.next_item.sequence import SequenceStrategy
from lib.next_item.visits import NOTHING, Ints, Prefixes, Visits, asked
from lib.ranking.ease import Gram, weights_of

STRATEGIES = (
    *("popularity", "trending", "same_item", "own_items", "successor", "successors", "last_two", "co_occurrence"),
    *("session_knn", "ease"),
)
SEQUENCE = "sequence"  # beside them where the lake has such a model
DEPTH = 50  # items that a strategy names for a prefix, at least
TABLE_DEPTH = 100  # items that a table keeps for an item
REACH = 5  # events after an item that count as its successors
DECAY = 0.5  # weight of an event so far against the one after it, where the whole visit counts
GOES_BACK = 10  # distinct items of the visit between which going back is told apart
KNN_RECENT = 500  # latest visits of an item among which neighbours are sought
KNN_NEIGHBOURS = 200
KNN_DECAY = (
    0.7  # weight of an event so far against the one after it; alike visits count by the square of how alike they are
)
LATEST_FRAC = 0.1  # of the visits, which tell what is trending
EASE_ITEMS = 1500  # the inverse of a matrix of so many rows takes about a second of one core
EASE_LAMBDA = 50.0
PRIOR = 1.0  # imagined returns to each item of a visit


@dataclass(frozen=True)
class Learnt:
    """What the strategies have learnt from visits, of `num_items` items."""

    num_items: int
    popularity: sparse.csr_array  # [1, items]
    trending: sparse.csr_array  # [1, items]
    goes_back: Floats  # [GOES_BACK, GOES_BACK] share of the r-th newest item, by how many items the visit has
    successor: sparse.csr_array  # [items, items]
    successors: sparse.csr_array  # [items, items]
    last_two: sparse.csr_array  # [pairs, items]
    pairs: Ints  # [pairs] last item + items * the one before, sorted
    co_occurrence: sparse.csr_array  # [items, items]
    recent_visits: sparse.csr_array  # [items, visits] of each item the latest
    visit_items: sparse.csr_array  # [visits, items] weighed by how rare an item is
    ease: sparse.csr_array  # [items, items]
    sequence: SequenceStrategy | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The strategies that it has."""
        return (*STRATEGIES, *((SEQUENCE,) if self.sequence is not None else ()))

    @classmethod
    def from_visits(cls, visits: Visits, num_items: int, sequence: SequenceStrategy | None = None) -> "Learnt":
        """Learn from visits, the oldest first, with items below `num_items`; `sequence` has learnt already."""
        visits = _latest_events(visits)
        incidence = of_entries(
            visits.visit, visits.items, np.ones(len(visits.items)), (len(visits.starts) - 1, num_items)
        )
        incidence.data[:] = 1.0
        num_visits = np.asarray(incidence.sum(axis=0), dtype=np.float64).ravel()
        num_latest = ceil(incidence.shape[0] * LATEST_FRAC)
        latest = np.asarray(incidence[-num_latest:].sum(axis=0), dtype=np.float64).ravel()
        rarity = np.log((1 + incidence.shape[0]) / (1 + num_visits))
        weighed = incidence.copy()
        weighed.data = weighed.data * rarity[weighed.indices] ** 0.5
        pairs, last_two = _last_two(visits, num_items)
        return cls(
            num_items,
            shares(sparse.csr_array(num_visits[None, :])),
            shares(sparse.csr_array(latest[None, :])),
            _goes_back(visits),
            shares(_successors(visits, num_items, reach=1)),
            shares(_successors(visits, num_items, reach=REACH)),
            last_two,
            pairs,
            _co_occurrence(incidence, num_visits),
            _latest_of_rows(sparse.csr_array(incidence.T), KNN_RECENT),
            weighed,
            _ease(incidence, num_visits),
            sequence,
        )

    def scores(self, prefixes: Prefixes, num_named: int, *, depth: int = DEPTH) -> dict[str, sparse.csr_array]:
        """The shares of each strategy, [prefixes, num_named]: of the learnt items and the others that prefixes name."""
        last = prefixes.recent[:, 0]
        second = prefixes.recent[:, 1] if prefixes.recent.shape[1] > 1 else np.full_like(last, NOTHING)
        shape = (len(prefixes), num_named)
        found = {
            "popularity": _repeated(top_of_rows(self.popularity, depth), len(prefixes)),
            "trending": _repeated(top_of_rows(self.trending, depth), len(prefixes)),
            "same_item": _last_alone(last, shape),
            "own_items": self._own_items(prefixes, num_named),
            "successor": rows_of(self.successor, last),
            "successors": self._of_recent(prefixes, self.successors, DECAY),
            "last_two": rows_of(self.last_two, self._pair(last, second)),
            "co_occurrence": rows_of(self.co_occurrence, last),
            "session_knn": self._session_knn(prefixes),
            "ease": self._of_recent(prefixes, self.ease, 0.8),
        }
        if self.sequence is not None:
            found[SEQUENCE] = self.sequence.scores(prefixes, depth)
        return {name: shares(top_of_rows(found[name], depth), num_named) for name in self.names}

    def _own_items(self, prefixes: Prefixes, num_named: int) -> sparse.csr_array:
        newest = prefixes.is_newest()
        row, place = np.nonzero(newest)
        back = np.minimum(np.cumsum(newest, axis=1)[row, place], GOES_BACK) - 1
        of_visit = np.minimum(newest.sum(axis=1), GOES_BACK)[row] - 1
        return of_entries(row, prefixes.recent[row, place], self.goes_back[of_visit, back], (len(prefixes), num_named))

    def _of_recent(self, prefixes: Prefixes, table: sparse.csr_array, decay: float) -> sparse.csr_array:
        """What a table says of the learnt items of the visits, each weighed by how many events ago it was last seen."""
        row, place = np.nonzero(prefixes.is_newest() & (prefixes.recent < self.num_items))
        shape = (len(prefixes), self.num_items)
        weights = of_entries(row, prefixes.recent[row, place], np.asarray(decay**place, np.float64), shape)
        return sparse.csr_array(weights @ table)

    def _pair(self, last: Ints, second: Ints) -> Ints:
        is_known = (last < self.num_items) & (second < self.num_items) & (second != NOTHING)
        key = np.where(is_known, last + self.num_items * second, NOTHING)
        place = np.minimum(np.searchsorted(self.pairs, key), max(len(self.pairs) - 1, 0))
        found = is_known & (self.pairs[place] == key) if len(self.pairs) else np.zeros(len(key), dtype=bool)
        return np.where(found, place, NOTHING)

    def _session_knn(self, prefixes: Prefixes) -> sparse.csr_array:
        similar = top_of_rows(self._of_recent(prefixes, self.recent_visits, KNN_DECAY), KNN_NEIGHBOURS)
        similar.data = similar.data**2
        return sparse.csr_array(similar @ self.visit_items)


def _repeated(row: sparse.csr_array, times: int) -> sparse.csr_array:
    """The only row of a matrix several times."""
    ends = np.arange(times + 1) * row.nnz
    return sparse.csr_array((np.tile(row.data, times), np.tile(row.indices, times), ends), shape=(times, row.shape[1]))


def _last_alone(last: Ints, shape: tuple[int, int]) -> sparse.csr_array:
    row = np.flatnonzero(last != NOTHING)
    return of_entries(row, last[row], np.ones(len(row)), shape)


def _latest_events(visits: Visits, at_most: int = 100) -> Visits:
    """The latest events of each visit: one of thousands would bring together everything with everything."""
    lengths = np.diff(visits.starts)
    place_from_end = np.repeat(visits.starts[1:], lengths) - np.arange(len(visits.items))
    keep = place_from_end <= at_most
    return Visits(visits.items[keep], np.concatenate([[0], np.cumsum(np.minimum(lengths, at_most))]))


def _successors(visits: Visits, num_items: int, *, reach: int) -> sparse.csr_array:
    """[items, items] how often the one came within `reach` events after the other, at a distance d counting 1/d; without itself."""
    visit, rows, columns, values = visits.visit, [], [], []
    for distance in range(1, reach + 1):
        earlier, later = visits.items[:-distance], visits.items[distance:]
        is_pair = (visit[:-distance] == visit[distance:]) & (earlier != later)
        rows.append(earlier[is_pair])
        columns.append(later[is_pair])
        values.append(np.full(is_pair.sum(), 1.0 / distance))
    counts = of_entries(np.concatenate(rows), np.concatenate(columns), np.concatenate(values), (num_items, num_items))
    return top_of_rows(counts, TABLE_DEPTH)


def _last_two(visits: Visits, num_items: int) -> tuple[Ints, sparse.csr_array]:
    """The pairs of items that came one after the other, and [pairs, items] what came right after them."""
    visit, items = visits.visit, visits.items
    is_three = visit[:-2] == visit[2:]
    keys = items[1:-1][is_three] + num_items * items[:-2][is_three]
    pairs, row = np.unique(keys, return_inverse=True)
    counts = of_entries(row, items[2:][is_three], np.ones(len(row)), (len(pairs), num_items))
    return pairs, shares(top_of_rows(counts, TABLE_DEPTH))


def _co_occurrence(incidence: sparse.csr_array, num_visits: Floats) -> sparse.csr_array:
    """[items, items] cosine of the visits that hold them, of each item the nearest others."""
    together = sparse.csr_array(incidence.T @ incidence)
    row = np.repeat(np.arange(together.shape[0]), np.diff(together.indptr))
    cosine = together.data / np.sqrt(num_visits[row] * num_visits[together.indices])
    is_other = row != together.indices
    return top_of_rows(
        of_entries(row[is_other], together.indices[is_other], cosine[is_other], together.shape), TABLE_DEPTH
    )


def _latest_of_rows(matrix: sparse.csr_array, at_most: int) -> sparse.csr_array:
    """The entries of each row in its last columns."""
    matrix.sort_indices()
    from_end = np.repeat(matrix.indptr[1:], np.diff(matrix.indptr)) - np.arange(matrix.nnz)
    keep = from_end <= at_most
    ends = np.concatenate([[0], np.cumsum(keep)])[matrix.indptr]
    return sparse.csr_array((matrix.data[keep], matrix.indices[keep], ends), shape=matrix.shape)


def _goes_back(visits: Visits) -> Floats:
    """How often people go to the r-th newest of the items that their visit has, by how many these are."""
    counts = np.full((GOES_BACK, GOES_BACK), 0.0)
    questions = asked(visits, int(visits.items.max(initial=0)) + 1)
    newest = questions.prefixes.is_newest()
    is_it = newest & (questions.prefixes.recent == questions.next_item[:, None])
    row, place = np.nonzero(is_it)
    back = np.minimum(np.cumsum(newest, axis=1)[row, place], GOES_BACK) - 1
    np.add.at(counts, (np.minimum(newest.sum(axis=1), GOES_BACK)[row] - 1, back), 1.0)
    overall = counts.sum(axis=0) + PRIOR / np.arange(1, GOES_BACK + 1)
    return np.asarray(counts + 10 * overall / overall.sum())


def _ease(incidence: sparse.csr_array, num_visits: Floats) -> sparse.csr_array:
    """[items, items] weights of the most frequent items in a visit for each of them, the largest of each item."""
    chosen = np.sort(np.argsort(-num_visits, kind="stable")[:EASE_ITEMS])
    gram = (incidence[:, chosen].T @ incidence[:, chosen]).toarray().astype(np.float32)
    weights = weights_of(Gram(gram, gram), penalty=EASE_LAMBDA, min_support=0).astype(np.float64)
    row, column = np.nonzero(weights > 1e-4)
    shape = (incidence.shape[1], incidence.shape[1])
    return top_of_rows(of_entries(chosen[row], chosen[column], weights[row, column], shape), TABLE_DEPTH)
