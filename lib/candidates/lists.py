"""The lists of every strategy for a block of users, each row with its reason.

The cold ladder, from the user who is known best to the one who is not known at all:
1. one who bought items gets a list by every strategy: own items by `rebuy`, others by `ease` and by vectors;
2. one who only looked at items gets none by `rebuy`;
3. one whose items nobody else has, or who has no vector yet, gets none by `ease` or by that model;
4. one who was not known before the moment gets what is popular, by `popularity` and by `ranked`.
The same for one who is asked about alone, with tags and a place in the shop: lib/candidates/ladder.py.
An item that nobody has touched is in the lists of `content` and `ranked` alone, where a catalogue describes it. No strategy falls
back to another.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lib.candidates.catalogue import Catalogue
from lib.candidates.examples import Pairs, pairs_of
from lib.candidates.features import BOUGHT, FITTING, FOLLOWING, GROUPS, TASTE, TOGETHER, TRENDING, features_of
from lib.candidates.histories import Histories
from lib.candidates.ranker import Ranker, moving_groups
from lib.candidates.rules import Rules, best_places, explored
from lib.candidates.sources import (
    ALS,
    CONTENT,
    EASE,
    SEQUENCE,
    TWO_TOWER,
    Candidates,
    Proposed,
    Retrieval,
    best_first,
    by_popularity,
    popular_new,
)
from lib.ranking.ease import Weights, weights_at
from lib.ranking.topk import best_order

POPULARITY, REBUY, RANKED = "popularity", "rebuy", "ranked"
WITHOUT_RULES = "ranked_without_rules"  # beside `ranked` where it keeps rules, so that their price can be told
NEW_IN_SHOP = "new in the shop"
NO_RULES = Rules()
MODEL_REASONS = {
    ALS: "close to your taste (ALS)",
    TWO_TOWER: "close to your taste (two towers)",
    SEQUENCE: "goes on from what you did last",
    CONTENT: "much like what you chose",
}
# The verb for each relevant event type, for reasons such as "bought by 12 customers".
VERBS = {
    "purchase": "bought",
    "view": "viewed",
    "cart": "put in the cart",
    "favourite": "marked as a favourite",
    "rating": "rated",
}


@dataclass(frozen=True)
class Wording:
    """How reasons are told."""

    verb: str  # of what the log counts as relevant
    min_support: int  # a reason tells of no fewer customers


class Rated(NamedTuple):
    """What a ranker says of candidates."""

    ranker: Ranker
    features: NDArray[np.float32]  # (N, len(FEATURES))
    pairs: Pairs
    scores: NDArray[np.float64]  # (N,)


def rated_by(ranker: Ranker, block: Histories, candidates: Candidates, catalogue: Catalogue) -> Rated:
    """The candidates of a block of users with the ranker's scores."""
    features = features_of(candidates, block, catalogue)
    pairs = pairs_of(candidates, block, catalogue)
    return Rated(ranker, features, pairs, ranker.scorer.scores(features, pairs))


@dataclass(frozen=True)
class Writer:
    """Makes the lists of blocks of users."""

    retrieval: Retrieval
    ranker: Ranker | None
    length: int
    wording: Wording
    rules: Rules = NO_RULES

    def lists(self, block: Histories, candidates: Candidates) -> Iterator[tuple[str, pa.Table]]:
        """By strategy, rows with question, user_key, rank, item_id, score and reason."""
        num_buyers = self.retrieval.catalogue.num_buyers
        everyone = np.arange(len(block.user_keys))
        best = np.argsort(-num_buyers, kind="stable")[: min(self.length, np.count_nonzero(num_buyers > 0))]
        for_all = Proposed(
            np.repeat(everyone, len(best)),
            np.tile(best, len(everyone)),
            np.tile(np.arange(1, len(best) + 1, dtype=np.int32), len(everyone)),
            np.tile(num_buyers[best], len(everyone)),
        )
        for question, listed in (("all", for_all), ("new", popular_new(by_popularity(num_buyers), block, self.length))):
            yield self._rows(block, POPULARITY, question, listed, self._bought_by(listed.score))
        again = self._bought_again(block)
        yield self._rows(block, REBUY, "all", again, self._bought_before(again.score))
        for source in (EASE, *MODEL_REASONS):
            if source in candidates.scores:
                yield from self._of_source(block, candidates, source)
        if self.ranker is not None and len(candidates.user):
            yield from self._ranked(block, candidates, self.ranker)

    def _of_source(self, block: Histories, candidates: Candidates, source: str) -> Iterator[tuple[str, pa.Table]]:
        """A retriever's own order of all items, and of new ones."""
        new = candidates.proposed[source]
        new = new.where(new.rank <= self.length)
        is_own = (candidates.pair >= 0) & ~np.isnan(candidates.scores[source])
        both = best_first(
            np.concatenate([new.user, candidates.user[is_own]]),
            np.concatenate([new.item, candidates.item[is_own]]),
            np.concatenate([new.score, candidates.scores[source][is_own]]),
            self.length,
        )
        if source == EASE:
            reasons = [self._together(nearest, "one of your own items") for nearest in self._nearest(block, both, new)]
        else:
            reasons = [pa.repeat(MODEL_REASONS[source], len(listed.user)) for listed in (both, new)]
        for question, listed, why in zip(("all", "new"), (both, new), reasons, strict=True):
            yield self._rows(block, source, question, listed, why)

    def _ranked(self, block: Histories, candidates: Candidates, ranker: Ranker) -> Iterator[tuple[str, pa.Table]]:
        """The ranker's order of all candidates, and of the new ones; with rules, also what it would be without them."""
        catalogue = self.retrieval.catalogue
        rated = rated_by(ranker, block, candidates, catalogue)
        variants = {RANKED: self.rules, **({WITHOUT_RULES: NO_RULES} if self.rules.are_on else {})}
        places = self._places(candidates, rated.scores, variants)
        shown = np.unique(np.concatenate([place for place, _ in places.values()]))
        why = self.reasons(block, candidates, rated, shown)
        for (strategy, question), (place, rank) in places.items():
            listed = Proposed(candidates.user[place], candidates.item[place], rank, rated.scores[place])
            reasons = why.take(pa.array(np.searchsorted(shown, place)))
            kept, is_drawn = explored(block, catalogue, listed, variants[strategy], self.length)
            if is_drawn.any():
                told = dict(zip(cells(listed), reasons.to_pylist(), strict=True))
                reasons = pa.array([told.get(cell, NEW_IN_SHOP) for cell in cells(kept)], pa.string())
            yield self._rows(block, strategy, question, kept, reasons)

    def reasons(
        self, block: Histories, candidates: Candidates, rated: "Rated", shown: NDArray[np.int64]
    ) -> pa.StringArray:
        """The reasons of some candidates, by what moved the ranker's score of each; `shown` (S,) are their places, in order."""
        moved = moving_groups(
            rated.ranker.scorer,
            rated.features[shown],
            rated.scores[shown],
            rated.ranker.usual,
            rated.pairs.where(shown),
        )
        is_near = moved == GROUPS.index(TOGETHER)
        near = shown[is_near]
        nearest = np.full(len(shown), -1)
        nearest[is_near] = strongest_own(self.retrieval.ease, block, candidates.user[near], candidates.item[near])
        return self._moved(block, candidates.item[shown], candidates.pair[shown], moved, nearest)

    def _places(
        self, candidates: Candidates, scores: NDArray[np.float64], variants: Mapping[str, Rules]
    ) -> dict[tuple[str, str], tuple[NDArray[np.int64], NDArray[np.int32]]]:
        """By strategy and question, which candidates are in a list, by user and rank, and their ranks."""
        user, item = candidates.user, candidates.item
        order = best_order(user, scores)  # candidates stand by item
        return {
            (strategy, question): best_places(
                in_order,
                user,
                item,
                self.retrieval.catalogue,
                length=self.length,
                max_per_category=rules.max_per_category,
            )
            for question, in_order in (("all", order), ("new", order[candidates.pair[order] < 0]))
            for strategy, rules in variants.items()
        }

    def _moved(
        self,
        block: Histories,
        item: NDArray[np.int64],
        pair: NDArray[np.int64],
        group: NDArray[np.int64],
        nearest: NDArray[np.int64],
    ) -> pa.StringArray:
        """The reason of each ranked item, by the group of features that moved it and the nearest own item."""
        catalogue, is_it = self.retrieval.catalogue, {name: group == place for place, name in enumerate(GROUPS)}
        reasons = np.full(len(group), "popular lately", dtype=object)
        times = np.append(block.pairs.num_relevant, 0)[pair] * (pair >= 0)
        reasons[is_it[TASTE]] = "close to your taste"
        reasons[is_it[FOLLOWING]] = "goes on from what you did last"
        reasons[is_it[FITTING]] = "fits what you usually choose"
        lately = catalogue.sums["num_recent_buyers"].to_numpy()[item].astype(float)
        trending = is_it[TRENDING] & (lately >= self.wording.min_support)
        reasons[trending] = [f"{text} lately" for text in self._bought_by(lately[trending]).to_pylist()]
        near = is_it[TOGETHER]
        reasons[near] = self._together(nearest[near], "goes with what you have").to_pylist()
        own = is_it[BOUGHT] & (times > 0)
        reasons[own] = self._bought_before(times[own].astype(float)).to_pylist()
        reasons[is_it[BOUGHT] & (times == 0) & (pair >= 0)] = "you looked at it before"
        reasons[is_it[BOUGHT] & (pair < 0)] = "new to you"
        return pa.array(reasons, pa.string())

    def _bought_again(self, block: Histories) -> Proposed:
        """The user's own items by how often they were bought, ties by popularity."""
        pairs = block.pairs
        is_bought = pairs.num_relevant > 0
        user, item, times = (of[is_bought] for of in (pairs.user, pairs.item, pairs.num_relevant))
        return best_first(user, item, times.astype(float), self.length, tie_break=self.retrieval.catalogue.num_buyers)

    def _nearest(self, block: Histories, *lists: Proposed) -> list[NDArray[np.int64]]:
        """`strongest_own` of each row of some lists, of a cell that several have asked for once."""
        width = len(self.retrieval.catalogue)
        cell, place = np.unique(np.concatenate([of.user * width + of.item for of in lists]), return_inverse=True)
        found = strongest_own(self.retrieval.ease, block, cell // width, cell % width)[place]
        return np.split(found, np.cumsum([len(of.user) for of in lists])[:-1])

    def _together(self, nearest: NDArray[np.int64], otherwise: str) -> pa.Array:
        """The reasons by the nearest own item of each row, -1 where there is none."""
        distinct, place = np.unique(nearest, return_inverse=True)
        names = self.retrieval.catalogue.names.take(pa.array(distinct, mask=distinct < 0)).to_pylist()
        told = pa.array([otherwise if name is None else f"often together with {name}" for name in names], pa.string())
        return told.take(pa.array(place))

    def _bought_by(self, numbers: NDArray[np.float64]) -> pa.Array:
        distinct, place = np.unique(numbers, return_inverse=True)
        told = pa.array([f"{self.wording.verb} by {self._customers(number)}" for number in distinct], pa.string())
        return told.take(pa.array(place))

    def _bought_before(self, times: NDArray[np.float64]) -> pa.Array:
        distinct, place = np.unique(times, return_inverse=True)
        often = ["once" if number == 1 else f"{int(number):,} times" for number in distinct]
        return pa.array([f"{self.wording.verb} {text} before" for text in often], pa.string()).take(pa.array(place))

    def _customers(self, number: float) -> str:
        if number < self.wording.min_support:
            return f"fewer than {self.wording.min_support:,} customers"
        return f"{int(number):,} {'customer' if number == 1 else 'customers'}"

    def _rows(
        self, block: Histories, strategy: str, question: str, listed: Proposed, reasons: pa.Array
    ) -> tuple[str, pa.Table]:
        columns = {
            "question": pa.repeat(question, len(listed.user)),
            "user_key": block.user_keys.take(pa.array(listed.user)),
            "rank": pa.array(listed.rank, pa.int32()),
            "item_id": self.retrieval.catalogue.item_ids.take(pa.array(listed.item)),
            "score": pa.array(listed.score, pa.float64()),
            "reason": reasons,
        }
        return strategy, pa.table(columns)


def cells(listed: Proposed) -> list[tuple[int, int]]:
    """The users and items of rows."""
    return list(zip(listed.user.tolist(), listed.item.tolist(), strict=True))


def strongest_own(
    ease: Weights, block: Histories, user: NDArray[np.int64], item: NDArray[np.int64]
) -> NDArray[np.int64]:
    """For each pair of a user and an item, the item that the user has which speaks most for it, or -1 if none does.

    Args:
        ease: of the first items or of all, see lib/ranking/ease.py.
        block: the users.
        user: (N,).
        item: (N,).
    """
    own_user, own_item = block.pairs.user, block.pairs.item
    order = np.argsort(item, kind="stable")  # so that what is read of the weights lies together
    bounds = np.searchsorted(own_user, np.arange(len(block.user_keys) + 1))
    lengths = np.diff(bounds)[user[order]]
    starts = np.cumsum(lengths) - lengths
    entry = np.repeat(np.arange(len(order)), lengths)
    own = own_item[np.arange(len(entry)) + np.repeat(bounds[user[order]] - starts, lengths)]
    weight = weights_at(ease, own, item[order][entry])
    has_own = lengths > 0
    highest = np.maximum.reduceat(weight, starts[has_own]) if has_own.any() else weight
    is_highest = (weight == np.repeat(highest, lengths[has_own])) & (weight > 0)
    found, first = np.unique(entry[is_highest], return_index=True)  # a user's own items stand in their order
    strongest = np.full(len(user), -1, dtype=np.int64)
    strongest[order[found]] = own[is_highest][first]
    return strongest
