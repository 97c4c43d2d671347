"""Who is answered with what: a release, what somebody did since, and a question make a list. No HTTP, no Ray, no clock.

1. Somebody of whom something is known gets the ranker's order of all retrievers' candidates, as the job `recommend` makes it.
2. Of whom nothing was known before this visit, what comes next by its items (lib/next_item) joins in: the list takes from both
   orders in turn, from that of the visit first (docs/decisions/0037 tells what else was tried).
3. Nobody known: the rungs of lib/candidates/ladder.py below that: what is popular in the place of the shop, then anywhere.
What these leave short is filled by the rungs below. Where a policy was promoted, it chooses among the first of these: what showing
each is worth in the long run, given what happened in the visit so far. Then rules, and exploration (lib/serving/exploring.py).
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from itertools import zip_longest
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lib.candidates import ladder
from lib.candidates.histories import Histories
from lib.candidates.ladder import Visitor
from lib.candidates.lists import Rated, Writer, rated_by
from lib.candidates.rules import best_places
from lib.candidates.sources import Candidates, candidates_of
from lib.features.days import ACTIONS
from lib.ranking.topk import best_order
from lib.serving.exploring import placed
from lib.serving.histories import history_of
from lib.serving.policy import Policy
from lib.serving.release import Release
from lib.serving.request import Request

Ints = NDArray[np.int64]
NEXT_ITEMS = 50  # that the model of visits names
VISIT_EVENTS = 30  # of a visit's latest that count
POOL = 40  # items that exploration draws from
CHOICE = 40  # items that a policy chooses among
NEXT, UNRANKED = "visit", "history"  # beside the ladder's rungs: named by the visit alone; known, without a ranker
TOLD = {
    UNRANKED: "goes with what you have",
    ladder.TAGS: "fits what you usually choose",
    ladder.CATEGORY: "popular here lately",
    ladder.POPULAR: "popular lately",
    NEXT: "often next in such a visit",
}


class Shown(NamedTuple):
    """An item of an answer."""

    item_id: str
    score: float
    reason: str
    rung: str
    propensity: float


class Answer(NamedTuple):
    """A list, best first."""

    shown: tuple[Shown, ...]
    policy: str
    candidates: tuple[str, ...]  # that could have been shown
    degraded: tuple[str, ...]  # what could not be used


class _Ordered(NamedTuple):
    """Items in the order in which they would be shown, with what is told of each."""

    items: list[int]  # positions
    scores: list[float]
    rungs: list[str]
    why: Callable[[list[int]], list[str]]  # reasons of some of the items


def answer(
    release: Release, request: Request, *, epsilon: float = 0.0, draw: np.random.Generator | None = None
) -> Answer:
    """The list for a request.

    Args:
        release: what answers.
        request: the question.
        epsilon: the chance of each place to be given to an item that is drawn; 0: none is.
        draw: of these items.
    """
    catalogue, degraded = release.catalogue, list[str]()
    excluded = set(catalogue.positions(pa.array(sorted(request.exclude), pa.string())).tolist())
    visit = _visit_of(release, request)
    history = _history_of(release, request)
    if request.new_only and history is not None:
        excluded |= set(history.pairs.item.tolist())
    ordered = _ordered(release, request, history, visit, degraded)
    length = request.k + (POOL if epsilon > 0 else 0)
    ordered = _without(ordered, excluded)
    wanted = max(length, CHOICE) if release.policy is not None else length
    if len(ordered.items) < wanted:
        ordered = _filled(release, request, ordered, excluded, wanted)
    name = _name_of(ordered)
    if release.policy is not None and ordered.items:
        try:
            ordered, name = _chosen(release, release.policy, request, ordered), release.policy.name
        except Exception:  # whatever is wrong with a model must not leave a shopper without an answer
            degraded.append("policy")
    ranked, pool = ordered.items[: request.k], ordered.items[request.k : length]
    chosen = placed(ranked, pool, length=request.k, epsilon=epsilon, draw=draw or np.random.default_rng())
    place_of = {item: place for place, item in enumerate(ordered.items)}
    reasons = ordered.why([one.item for one in chosen])
    ids = catalogue.item_ids
    shown = tuple(
        Shown(ids[one.item].as_py(), ordered.scores[at], reason, ordered.rungs[at], one.propensity)
        for one, reason in zip(chosen, reasons, strict=True)
        for at in [place_of[one.item]]
    )
    named = [*ranked, *(pool if epsilon > 0 and len(pool) >= len(ranked) else [])]
    candidates = tuple(ids.take(pa.array(named, pa.int64())).to_pylist())
    return Answer(shown, name, candidates, tuple(degraded))


def _name_of(ordered: _Ordered) -> str:
    """What the log calls this way of answering."""
    first = ordered.rungs[0] if ordered.rungs else ladder.POPULAR
    return f"{first}+{NEXT}" if NEXT in ordered.rungs and first != NEXT else first


def _chosen(release: Release, policy: Policy, request: Request, ordered: _Ordered) -> _Ordered:
    """The first CHOICE items by the policy's values; the others, and what only fills a list, stay behind them."""
    above = [rung != ladder.POPULAR for rung in ordered.rungs]
    num_asked = min(CHOICE, sum(above) or len(above))
    asked = np.array(ordered.items[:num_asked], np.int64)
    values = policy.values(request, asked)
    best = np.argsort(-values, kind="stable")
    place, _ = best_places(
        best,
        np.zeros_like(asked),
        asked,
        release.catalogue,
        length=num_asked,
        max_per_category=release.facts.max_per_category,
    )
    order = [*place.tolist(), *range(num_asked, len(ordered.items))]
    lowest = float(values.min())
    scores = [*values.tolist(), *(lowest - 1 - after for after in range(len(ordered.items) - num_asked))]
    return ordered._replace(
        items=[ordered.items[at] for at in order],
        scores=[scores[at] for at in order],
        rungs=[ordered.rungs[at] for at in order],
    )


def _visit_of(release: Release, request: Request) -> list[str]:
    """The items of the present visit: those that were asked with, else the events without a silence that ends a visit."""
    if request.visit:
        return list(request.visit)[-VISIT_EVENTS:]
    gap, until, items = timedelta(minutes=release.facts.visit_gap_minutes), request.now, list[str]()
    for event in reversed(request.events):
        if until - event.event_time > gap or len(items) == VISIT_EVENTS:
            break
        if event.event_type in ACTIONS:
            items.append(event.item_id)
        until = event.event_time
    return items[::-1]


def _history_of(release: Release, request: Request) -> Histories | None:
    """What is known of who asks."""
    return history_of(release, request.user_key, request.told())


def _ordered(
    release: Release, request: Request, history: Histories | None, visit: list[str], degraded: list[str]
) -> _Ordered:
    """What is known of somebody brought to an order; nothing of nobody."""
    if history is None or not len(history.pairs):
        return _Ordered([], [], [], lambda items: [TOLD[ladder.POPULAR]] * len(items))
    ordered = _by_history(release, request, history, degraded)
    if visit and release.next_item is not None and not _is_known(release, request):
        try:
            found, _ = release.next_item.rank(visit, NEXT_ITEMS)
        except Exception:  # whatever is wrong with a model must not leave a shopper without an answer
            degraded.append("next_item")
        else:
            own = set(history.pairs.item.tolist()) if request.new_only else set()
            ordered = _alternating(release, ordered, found, own)
    return ordered


def _is_known(release: Release, request: Request) -> bool:
    """Whether the release knows what somebody did before: then the ranker's order sells more than what comes next in visits."""
    return request.user_key is not None and release.users.place(request.user_key) >= 0


def _by_history(release: Release, request: Request, history: Histories, degraded: list[str]) -> _Ordered:
    """The ranker's order, as `recommend` makes it; without a ranker, that of the ladder."""
    if release.ranker is not None:
        try:
            candidates = candidates_of(release.retrieval, history)
            rated = rated_by(release.ranker, history, candidates, release.catalogue)
            return _ranked(release, request, history, candidates, rated)
        except Exception:  # as above
            degraded.append("ranker")
    else:
        degraded.append("ranker")
    try:
        found = ladder.answer(release.retrieval, Visitor(history, new_only=request.new_only), length=request.k + POOL)
    except Exception:  # as above; what is popular needs no model
        degraded.append("retrieval")
        found = ladder.answer(release.retrieval, Visitor(), length=request.k + POOL)
    rungs = [UNRANKED if rung == ladder.RANKED else rung for rung in found.rungs]
    return _Ordered(
        found.items, [1 / place for place in range(1, len(rungs) + 1)], rungs, _told_by_rung(found.items, rungs)
    )


def _told_by_rung(items: Sequence[int], rungs: Sequence[str]) -> Callable[[list[int]], list[str]]:
    why = {item: TOLD[rung] for item, rung in zip(items, rungs, strict=True)}
    return lambda asked: [why[item] for item in asked]


def _ranked(release: Release, request: Request, history: Histories, candidates: Candidates, rated: Rated) -> _Ordered:
    order = best_order(candidates.user, rated.scores)
    if request.new_only:
        order = order[candidates.pair[order] < 0]
    place, _ = best_places(
        order,
        candidates.user,
        candidates.item,
        release.catalogue,
        length=len(order),
        max_per_category=release.facts.max_per_category,
    )
    items = candidates.item[place].tolist()
    place_of = dict(zip(items, place.tolist(), strict=True))
    writer = Writer(release.retrieval, release.ranker, request.k, release.facts.wording)

    def why(asked: list[int]) -> list[str]:
        shown = np.unique([place_of[item] for item in asked]) if asked else np.zeros(0, np.int64)
        if not len(shown):
            return []
        reasons: list[str] = writer.reasons(history, candidates, rated, shown).to_pylist()
        told = dict(zip(shown.tolist(), reasons, strict=True))
        return [told[place_of[item]] for item in asked]

    return _Ordered(items, rated.scores[place].tolist(), [ladder.RANKED] * len(items), why)


def _alternating(release: Release, ordered: _Ordered, following: Sequence[str], own: set[int]) -> _Ordered:
    """Both orders in one: what comes next, then the ranker's best, and so on; an item stands where it comes first."""
    named = release.catalogue.positions(pa.array(following, pa.string())).tolist()
    named = [item for item in named if item >= 0 and item not in own]
    pairs = zip_longest(named, ordered.items)
    items = list(dict.fromkeys(item for pair in pairs for item in pair if item is not None))
    rung_of = dict.fromkeys(named, NEXT) | dict(zip(ordered.items, ordered.rungs, strict=True))
    known = set(ordered.items)

    def why(asked: list[int]) -> list[str]:
        told = iter(ordered.why([item for item in asked if item in known]))
        return [next(told) if item in known else TOLD[NEXT] for item in asked]

    scores = [1 / place for place in range(1, len(items) + 1)]
    return _Ordered(items, scores, [rung_of[item] for item in items], why)


def _without(ordered: _Ordered, excluded: Iterable[int]) -> _Ordered:
    gone = set(excluded)
    if not gone:
        return ordered
    kept = [place for place, item in enumerate(ordered.items) if item not in gone]
    return ordered._replace(
        items=[ordered.items[place] for place in kept],
        scores=[ordered.scores[place] for place in kept],
        rungs=[ordered.rungs[place] for place in kept],
    )


def _filled(release: Release, request: Request, ordered: _Ordered, excluded: set[int], length: int) -> _Ordered:
    """The order with what the rungs below give, for as many items as are asked for."""
    have = set(ordered.items) | excluded
    found = ladder.answer(release.retrieval, Visitor(category=request.category), length=length + len(have))
    more = [(item, rung) for item, rung in zip(*found, strict=True) if item not in have][: length - len(ordered.items)]
    items, rungs = [item for item, _ in more], [rung for _, rung in more]
    lowest = min(ordered.scores, default=1.0)
    scores = [lowest - place for place in range(1, len(items) + 1)]
    told, known = _told_by_rung(items, rungs), set(ordered.items)

    def why(asked: list[int]) -> list[str]:
        above = iter(ordered.why([item for item in asked if item in known]))
        return [next(above) if item in known else told([item])[0] for item in asked]

    return _Ordered(ordered.items + items, ordered.scores + scores, ordered.rungs + rungs, why)
