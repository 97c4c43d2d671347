"""The one function that says what comes next in a visit: `rank` the items, given those so far. The same offline and served.

A model is fitted in three steps. The strategies learn from the earlier visits; the blend and the ranker learn, from the visits after those,
how far to believe each of them; then the strategies learn from all visits. Which of them all answers is chosen on the last of
the visits, which neither blend nor ranker had learnt from, before these learn from them too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl

from lib.models.sequence_weights import SequenceWeights
from lib.next_item import blend, ranker
from lib.next_item.candidates import NEVER, Candidates
from lib.next_item.ranker import Ranker
from lib.next_item.scores import Floats
from lib.next_item.sequence import SequenceStrategy
from lib.next_item.strategies import DEPTH, SEQUENCE, STRATEGIES, Learnt
from lib.next_item.visits import Asked, Catalogue, Ints, Prefixes, Visits, asked, coded_visits, whole
from lib.ranking.topk import best_order

BLEND, RANKED = "blend", "ranked"
BEST = "best"  # the chosen one's items, then the blend's
EVERY_STRATEGY = (*STRATEGIES, SEQUENCE, BLEND, RANKED)
CHOICE_K = 20  # of the figures by which the one that answers is chosen
VALID_FRAC = 0.2  # the last visits, of which the strategies do not learn at first, where it is not said
LEARN_FRAC = 0.6  # of these, from which blend and ranker learn before the rest chooses
LEAST_TO_CHOOSE = 100  # questions; of fewer the blend answers
AT_ONCE = 2_000  # prefixes


class SequenceFits(NamedTuple):
    """The two fits of a sequence model: without the visits by which blend and ranker learn, and with all of them."""

    early: SequenceWeights
    all: SequenceWeights


class Figures(NamedTuple):
    """How well something answers."""

    hit_rate: float
    mrr: float

    @property
    def choice(self) -> float:
        """The figure that decides: the mean of both."""
        return (self.hit_rate + self.mrr) / 2


@dataclass(frozen=True)
class Scored:
    """Candidates of some prefixes, with each strategy's score of them; zero where it does not name one."""

    candidates: Candidates
    by_strategy: dict[str, Floats]

    def ranks_of(self, items: Ints) -> dict[str, Ints]:
        """By strategy, the rank of an item of each prefix, from 1; NEVER where it is not named."""
        place = self.candidates.place_of(items)
        return {name: self.candidates.ranks_of(place, score) for name, score in self.by_strategy.items()}

    def num_silent(self) -> dict[str, Ints]:
        """By strategy, whether it names nothing for each prefix, as 0 or 1."""
        starts = self.candidates.starts
        return {
            name: (np.diff(np.concatenate([[0], np.cumsum(score > 0)])[starts]) == 0).astype(np.int64)
            for name, score in self.by_strategy.items()
        }


@dataclass(frozen=True)
class NextItemModel:
    """What was learnt from visits."""

    catalogue: Catalogue
    learnt: Learnt
    weights: Floats  # of the blend
    ranker: Ranker | None  # None where there was too little to learn from
    evidence: Floats  # [items] visits that hold each
    chosen: str  # what answers
    held_out: dict[str, Figures]  # by strategy, on the visits that chose; none where there were none
    num_asked: int  # by these visits

    @classmethod
    def fit(
        cls,
        sessions: Sequence[Sequence[str]] | pl.Series,
        *,
        num_valid: int | None = None,
        chosen: str | None = None,
        sequence: SequenceFits | None = None,
    ) -> "NextItemModel":
        """Learn from sessions, lists of items, the oldest first.

        Args:
            sessions: lists of items in their order.
            num_valid: how many of the last are those by which blend and ranker learn and the strategy is chosen.
            chosen: the strategy that answers; unset: the best.
            sequence: a sequence model, to be one of the strategies.

        Raises:
            ValueError: there is no item, or no such strategy.
        """
        lists = sessions if isinstance(sessions, pl.Series) else pl.Series(sessions, dtype=pl.List(pl.String))
        if chosen is not None and chosen not in EVERY_STRATEGY:
            raise ValueError(f"unknown strategy {chosen!r}; allowed are {', '.join(EVERY_STRATEGY)}")
        if not lists.list.len().sum():
            raise ValueError("sessions to learn from need at least one item; got none")
        num_valid = round(len(lists) * VALID_FRAC) if num_valid is None else min(num_valid, len(lists))
        early, late = lists.head(len(lists) - num_valid), lists.tail(num_valid)
        catalogue, learnt, evidence = _learnt(lists, sequence.all if sequence else None)
        has_early = early.list.len().sum() > 0
        tuned = _tuned(early, late, sequence.early if sequence else None) if has_early else nothing_tuned(learnt.names)
        is_able = (chosen != RANKED or tuned.ranker is not None) and (chosen != SEQUENCE or sequence is not None)
        answers = chosen if chosen is not None and is_able else tuned.chosen
        return cls(
            catalogue, learnt, tuned.weights, tuned.ranker, evidence, answers, tuned.held_out, num_asked=tuned.num_asked
        )

    @property
    def strategies(self) -> tuple[str, ...]:
        """Those that it has."""
        return (*self.learnt.names, BLEND, *((RANKED,) if self.ranker is not None else ()), BEST)

    def rank(self, items_so_far: Sequence[str], k: int = 20) -> tuple[list[str], list[float]]:
        """The k items that come next most likely, the likeliest first, and their scores; fewer where fewer are known.

        Args:
            items_so_far: the items of a visit in their order; none at its beginning.
            k: length of the list.
        """
        return self.rank_many([items_so_far], k)[0]

    def rank_many(
        self, visits: Sequence[Sequence[str]], k: int = 20, *, strategy: str | None = None
    ) -> list[tuple[list[str], list[float]]]:
        """What `rank` says of each of many visits so far; what another strategy than the best says, if it is named.

        Raises:
            ValueError: k is below one.
        """
        if k < 1:
            raise ValueError(f"k should be at least 1, not {k}")
        coded, names = coded_visits(visits, self.catalogue)
        prefixes = whole(coded)
        answers = []
        for begin in range(0, len(prefixes), AT_ONCE):
            part = prefixes.part(slice(begin, begin + AT_ONCE))
            scored = self.scored(part, len(names), depth=max(DEPTH, k))
            score, candidates = scored.by_strategy[strategy or BEST], scored.candidates
            order = best_order(candidates.row, score)
            for start, end in zip(candidates.starts[:-1], candidates.starts[1:], strict=True):
                first = order[start:end][:k]
                first = first[score[first] > 0]
                answers.append((names[candidates.item[first]].to_list(), score[first].tolist()))
        return answers

    def ask(self, visits: Sequence[Sequence[str]] | pl.Series, k: int = DEPTH) -> "Answers":
        """What came next after each event of each visit but the last: its rank by each strategy, as `rank` would list k items."""
        coded, names = coded_visits(visits, self.catalogue)
        questions = asked(coded, len(self.catalogue))
        ranks: dict[str, list[Ints]] = {name: [np.zeros(0, np.int64)] for name in self.strategies}
        silent: dict[str, list[Ints]] = {name: [np.zeros(0, np.int64)] for name in self.strategies}
        for begin in range(0, len(questions.prefixes), AT_ONCE):
            part = slice(begin, begin + AT_ONCE)
            scored = self.scored(questions.prefixes.part(part), len(names), depth=max(DEPTH, k))
            for found, of_part in ((ranks, scored.ranks_of(questions.next_item[part])), (silent, scored.num_silent())):
                for name, values in of_part.items():
                    found[name].append(values)
        return Answers(
            questions, *({name: np.concatenate(parts) for name, parts in all_.items()} for all_ in (ranks, silent))
        )

    def scored(self, prefixes: Prefixes, num_named: int, *, depth: int = DEPTH) -> Scored:
        """What each strategy says of the candidates of some prefixes, which name `num_named` items."""
        candidates = Candidates.of(self.learnt.scores(prefixes, num_named, depth=depth))
        blended = blend.blended(candidates, self.weights, prefixes.length)
        by_strategy = {name: candidates.shares[:, place] for place, name in enumerate(candidates.names)}
        by_strategy[BLEND] = blended
        if self.ranker is not None:
            by_strategy[RANKED] = _ordered(candidates, blended, prefixes, self.ranker, self.evidence)
        by_strategy[BEST] = _best(by_strategy, self.chosen)
        return Scored(candidates, by_strategy)


class Answers(NamedTuple):
    """What a model says of questions whose answers are known."""

    asked: Asked
    ranks: dict[str, Ints]  # by strategy, the rank of what came next; NEVER where it is not named
    silent: dict[str, Ints]  # by strategy, 1 where it names nothing


class Tuned(NamedTuple):
    """What visits after those that the strategies have learnt from say of these."""

    weights: Floats
    ranker: Ranker | None
    chosen: str
    held_out: dict[str, Figures]
    num_asked: int


def nothing_tuned(names: Sequence[str]) -> Tuned:
    """What is believed of some strategies where no visits say anything."""
    nothing = np.zeros((0, len(names))), np.zeros(0, np.int64)
    return Tuned(blend.learn_weights(*nothing, blend.prior_of(names)), None, BLEND, {}, 0)


class _Lesson(NamedTuple):
    """Questions with their answers, and what the strategies say of them."""

    prefixes: Prefixes
    candidates: Candidates
    next_item: Ints

    @property
    def shares(self) -> Floats:
        """[questions, strategies] of what came next."""
        place = self.candidates.place_of(self.next_item)
        return np.where((place >= 0)[:, None], self.candidates.shares[place], 0.0)


def _learnt(lists: pl.Series, sequence: SequenceWeights | None) -> tuple[Catalogue, Learnt, Floats]:
    """What the strategies learn from visits, or have learnt, and how many of these hold each item."""
    catalogue = Catalogue.of(lists.filter(lists.list.len() > 0).explode())
    visits, _ = coded_visits(lists, catalogue)
    strategy = None if sequence is None else SequenceStrategy.of(sequence, catalogue)
    learnt = Learnt.from_visits(visits, len(catalogue), strategy)
    held = pl.DataFrame({"visit": visits.visit, "item": visits.items}).unique()["item"].to_numpy()
    return catalogue, learnt, np.bincount(held, minlength=len(catalogue)).astype(np.float64)


def _tuned(early: pl.Series, late: pl.Series, sequence: SequenceWeights | None) -> Tuned:
    """Learn blend and ranker from the first of the late visits, choose on the rest, and learn them anew from all of them."""
    catalogue, learnt, evidence = _learnt(early, sequence)
    visits, names = coded_visits(late, catalogue)
    begin = int(np.searchsorted(np.cumsum(np.maximum(np.diff(visits.starts) - 1, 0)), _most_asked(visits), "left"))
    visits = Visits(visits.items[visits.starts[begin] :], visits.starts[begin:] - visits.starts[begin])
    questions = asked(visits, len(catalogue))
    if not len(questions.prefixes):
        return nothing_tuned(learnt.names)
    lessons = [
        _Lesson(part, Candidates.of(learnt.scores(part, len(names))), questions.next_item[rows])
        for rows in (slice(at, at + AT_ONCE) for at in range(0, len(questions.prefixes), AT_ONCE))
        for part in [questions.prefixes.part(rows)]
    ]
    is_first = questions.visit < LEARN_FRAC * (len(visits.starts) - 1)
    weights, trees = _learn(lessons, is_first, evidence)
    held_out = _figures(lessons, ~is_first, weights, trees, evidence)
    is_told = (~is_first).sum() >= LEAST_TO_CHOOSE
    chosen = max(held_out, key=lambda name: held_out[name].choice) if is_told else BLEND
    weights, trees = _learn(lessons, np.ones(len(is_first), dtype=bool), evidence)
    return Tuned(weights, trees, chosen, held_out, int((~is_first).sum()))


def _most_asked(visits: Visits) -> int:
    """How many questions are left out, since the latest suffice."""
    num_asked = int(np.maximum(np.diff(visits.starts) - 1, 0).sum())
    return max(0, num_asked - ranker.MOST_QUESTIONS)


def _learn(lessons: Sequence[_Lesson], is_taken: np.ndarray, evidence: Floats) -> tuple[Floats, Ranker | None]:
    """Blend and ranker from the questions that are taken."""
    names = lessons[0].candidates.names
    shares = np.concatenate([lesson.shares for lesson in lessons])
    length = np.concatenate([lesson.prefixes.length for lesson in lessons])
    weights = blend.learn_weights(shares[is_taken], length[is_taken], blend.prior_of(names))
    given, is_next, sizes, begin = [], [], [], 0
    for lesson in lessons:
        taken = is_taken[begin : begin + len(lesson.prefixes)]
        begin += len(lesson.prefixes)
        blended = blend.blended(lesson.candidates, weights, lesson.prefixes.length)
        first = np.flatnonzero(ranker.first_of_blend(lesson.candidates, blended))
        candidates = lesson.candidates.taken(first)
        is_it = candidates.item == lesson.next_item[candidates.row]
        teaches = taken & (np.bincount(candidates.row[is_it], minlength=len(taken)) > 0)
        rows = teaches[candidates.row]
        given.append(ranker.features(candidates, blended[first], lesson.prefixes, evidence)[rows])
        is_next.append(is_it[rows])
        sizes.append(np.diff(candidates.starts)[teaches])
    if sum(map(len, sizes)) < ranker.LEAST_QUESTIONS:
        return weights, None
    return weights, ranker.learn(np.concatenate(given), np.concatenate(is_next), np.concatenate(sizes), names)


def _figures(
    lessons: Sequence[_Lesson], is_taken: np.ndarray, weights: Floats, trees: Ranker | None, evidence: Floats
) -> dict[str, Figures]:
    """How well each strategy answers the questions that are taken."""
    if not is_taken.any():
        return {}
    ranks: dict[str, list[Ints]] = {}
    for lesson in lessons:
        blended = blend.blended(lesson.candidates, weights, lesson.prefixes.length)
        names = lesson.candidates.names
        scores = {name: lesson.candidates.shares[:, place] for place, name in enumerate(names)} | {BLEND: blended}
        if trees is not None:
            scores[RANKED] = _ordered(lesson.candidates, blended, lesson.prefixes, trees, evidence)
        for name, of_part in Scored(lesson.candidates, scores).ranks_of(lesson.next_item).items():
            ranks.setdefault(name, []).append(of_part)
    return {name: figures(np.concatenate(parts)[is_taken]) for name, parts in ranks.items()}


def figures(ranks: Ints) -> Figures:
    """The hit rate and the mean reciprocal rank of some ranks."""
    is_hit = ranks <= CHOICE_K
    return Figures(float(is_hit.mean()), float(np.where(is_hit, 1 / np.minimum(ranks, NEVER), 0.0).mean()))


def _best(by_strategy: Mapping[str, Floats], chosen: str) -> Floats:
    """[candidates] the score of the chosen strategy; where that is one alone, the blend orders the items that it does not name."""
    score = by_strategy[chosen]
    return score if chosen in (BLEND, RANKED) else np.where(score > 0, 1.0 + score, by_strategy[BLEND])


def _ordered(candidates: Candidates, blended: Floats, prefixes: Prefixes, trees: Ranker, evidence: Floats) -> Floats:
    """[candidates] above one, as the trees order them, where the blend puts them first; the blend's shares of the others."""
    first = np.flatnonzero(ranker.first_of_blend(candidates, blended))
    score = blended.copy()
    if len(first):
        given = ranker.features(candidates.taken(first), blended[first], prefixes, evidence)
        score[first] = 1.0 + trees.scores(given)
    return score
