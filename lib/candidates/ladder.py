"""Who is answered how: the ladder from one who is known well to nobody at all.

1. `ranked`: one with a history gets the ranker's order of all retrievers' candidates; without a ranker, what goes with the
   history by EASE, and where that says nothing, by content.
2. `tags`: one without a history of whom some weighted categories are known, by a profile or by what was looked at
   elsewhere, gets items near these categories by content vectors, those that nobody has touched among them; without such vectors,
   what is popular in these categories, by their weights.
3. `category`: nobody known, in a category of the shop or below it: what was bought there lately, then ever.
4. `popular`: nobody known anywhere: what was bought lately, then ever.
A rung that has no item is passed over. A list that a rung leaves short is filled by the rungs below it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lib.candidates.catalogue import Catalogue
from lib.candidates.features import Floats, features_of
from lib.candidates.histories import Histories
from lib.candidates.sources import CONTENT, EASE, Candidates, Retrieval, candidates_of

RANKED, TAGS, CATEGORY, POPULAR = RUNGS = ("ranked", "tags", "category", "popular")
Category = tuple[str, ...]  # coarse to fine
Score = Callable[[Floats], NDArray[Any]]  # the ranker: features of candidates -> their scores


@dataclass(frozen=True)
class Visitor:
    """What is known of who asks."""

    history: Histories | None = None  # of one user
    tags: Mapping[Category, float] = field(default_factory=dict)  # with their weights, above 0
    category: Category = ()  # where the question is asked
    new_only: bool = False  # only what is not in the history


class Answer(NamedTuple):
    """A list, best first, and the rung that each place comes from."""

    items: list[int]  # positions in the catalogue
    rungs: list[str]


def answer(retrieval: Retrieval, visitor: Visitor, *, length: int, score: Score | None = None) -> Answer:
    """The best `length` items for a visitor; fewer only where the catalogue has no more that anybody bought.

    Args:
        retrieval: what is known of the catalogue.
        visitor: who asks.
        length: of the list.
        score: the ranker; None where there is none.
    """
    own = set(visitor.history.pairs.item.tolist()) if visitor.new_only and visitor.history is not None else set()
    items: list[int] = []
    rungs: list[str] = []
    for rung, proposed in _rungs(retrieval, visitor, score):
        for item in proposed.tolist():
            if len(items) == length:
                return Answer(items, rungs)
            if item not in own and item not in items:
                items.append(item)
                rungs.append(rung)
    return Answer(items, rungs)


def _rungs(retrieval: Retrieval, visitor: Visitor, score: Score | None) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Each rung with its items, best first; one is looked at only where those above leave the list short."""
    catalogue = retrieval.catalogue
    if visitor.history is not None and len(visitor.history.pairs):
        yield RANKED, _by_history(retrieval, visitor.history, score)
    if visitor.tags:
        yield TAGS, _by_tags(retrieval, visitor.tags)
    if visitor.category:
        yield CATEGORY, bought_lately(catalogue, below(catalogue, visitor.category))
    yield POPULAR, bought_lately(catalogue, np.ones(len(catalogue), bool))


def _by_history(retrieval: Retrieval, history: Histories, score: Score | None) -> NDArray[np.int64]:
    found = candidates_of(retrieval, history)
    if score is not None:
        values = score(features_of(found, history, retrieval.catalogue))
        return found.item[np.argsort(-values, kind="stable")]
    return np.concatenate([_best_of(found, source) for source in (EASE, CONTENT)])


def _best_of(found: Candidates, source: str) -> NDArray[np.int64]:
    """The candidates that a source speaks for, best first."""
    if source not in found.scores:
        return np.empty(0, np.int64)
    values = found.scores[source]
    order = np.argsort(-values, kind="stable")  # NaN is last
    return found.item[order[: np.count_nonzero(~np.isnan(values))]]


def _by_tags(retrieval: Retrieval, tags: Mapping[Category, float]) -> NDArray[np.int64]:
    catalogue, vectors = retrieval.catalogue, retrieval.vectors.get(CONTENT)
    members = {tag: below(catalogue, tag) for tag in tags}
    if vectors is not None:
        known = ~np.isnan(vectors[:, 0])
        means = [
            weight * vectors[members[tag] & known].mean(axis=0)
            for tag, weight in tags.items()
            if (members[tag] & known).any()
        ]
        if means:
            likeness = np.where(known, np.nan_to_num(vectors) @ np.sum(means, axis=0), -np.inf)
            return np.argsort(-likeness, kind="stable")[: np.count_nonzero(known)]
    lately = catalogue.sums["num_recent_buyers"].to_numpy().astype(np.float64)
    weight_of = np.sum([weight * members[tag] for tag, weight in tags.items()], axis=0)
    wanted = weight_of * lately
    order = np.lexsort((-weight_of * catalogue.num_buyers, -wanted))
    return order[: np.count_nonzero(weight_of * catalogue.num_buyers)]


def below(catalogue: Catalogue, category: Sequence[str]) -> NDArray[np.bool_]:
    """(items,): whether an item's category is this one or below it."""
    depth = len(category)
    is_below = np.array([path[:depth] == tuple(category) for path in catalogue.tag_paths] + [False])
    return np.asarray(is_below[catalogue.tag])


def bought_lately(catalogue: Catalogue, allowed: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The allowed items that somebody bought, by buyers of the last days, then of all time, then by position."""
    return catalogue.lately_first[allowed[catalogue.lately_first]]
