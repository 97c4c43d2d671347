from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.synthetic_release import AS_OF, user_key
from lib.candidates.ranker import Ranker
from lib.candidates.trees import Trees
from lib.next_item.ranker import Ranker as NextRanker
from lib.online.state import LiveEvent
from lib.serving.answering import answer
from lib.serving.release import Release
from lib.serving.request import Request
from tests.lib.serving.served import NOW, small_release


@pytest.fixture(scope="module")
def release() -> Release:
    return small_release()


def view(item: str, minutes: float = 1, kind: str = "view") -> LiveEvent:
    return LiveEvent(AS_OF + timedelta(minutes=minutes), kind, item)


def items(found: object) -> list[str]:
    return [one.item_id for one in found.shown]  # type: ignore[attr-defined]


def test_an_event_changes_the_next_answer_and_what_comes_next_joins_where_nothing_else_is_known(
    release: Release,
) -> None:
    key, event, nobody = user_key(release.users, 3), view("i00000077"), "0" * 32
    before = answer(release, Request(now=NOW, user_key=key))
    within = answer(release, Request(now=NOW, user_key=key, events=(event,)))
    assert (before.policy, within.policy) == ("ranked", "ranked")
    assert items(before) != items(within)
    new = answer(release, Request(now=NOW, user_key=nobody, events=(event,)))
    later = answer(release, Request(now=NOW + timedelta(hours=1), user_key=nobody, events=(event,)))
    assert new.policy in ("visit", "ranked+visit") and later.policy == "ranked"
    assert before.degraded == within.degraded == new.degraded == ()
    assert release.next_item is not None
    following, _ = release.next_item.rank(["i00000077"], 5)
    assert items(new)[0] == following[0] and items(later) != items(new)
    returned = answer(release, Request(now=NOW, user_key=nobody, events=(view("i00000077", kind="return"),)))
    assert "visit" not in returned.policy  # gold/sessions has no returns


def test_nobody_known_gets_what_is_popular_and_in_a_place_of_the_shop_what_is_popular_there(release: Release) -> None:
    catalogue = release.catalogue
    everywhere = answer(release, Request(now=NOW, user_key="0" * 32))
    lately = catalogue.sums["num_recent_buyers"].to_numpy()
    best = [catalogue.item_ids[place].as_py() for place in np.lexsort((-catalogue.num_buyers, -lately))[:10]]
    assert items(everywhere) == best and everywhere.policy == "popular"
    category = catalogue.tag_paths[catalogue.tag[5]][:1]
    there = answer(release, Request(now=NOW, category=category, k=3))
    first = catalogue.tag_paths[catalogue.tag[catalogue.place_of[items(there)[0]]]]
    assert there.policy == "category" and first[:1] == category
    nowhere = answer(release, Request(now=NOW, category=("'; DROP TABLE users; --",)))
    assert items(nowhere) == best


def test_items_that_are_excluded_or_had_are_not_shown_and_a_list_is_as_long_as_the_catalogue_allows(
    release: Release,
) -> None:
    key = user_key(release.users, 5)
    place = release.users.place(key)
    had = {release.catalogue.item_ids[int(item)].as_py() for item in release.users.events_of(place).item}
    first = items(answer(release, Request(now=NOW, user_key=key)))
    without = items(answer(release, Request(now=NOW, user_key=key, exclude=frozenset(first[:2]))))
    assert without[:8] == first[2:]
    new = items(answer(release, Request(now=NOW, user_key=key, k=120, new_only=True, events=(view("i00000001"),))))
    assert not had & set(new) and "i00000001" not in new and len(new) == len(set(new))
    assert len(new) == len(release.catalogue) - len(had | {"i00000001"})


def test_without_a_ranker_or_what_comes_next_an_answer_is_made_by_what_is_left_and_says_so(release: Release) -> None:
    key, broken = user_key(release.users, 3), Ranker("broken", Trees("no trees"), np.zeros(1, np.float32))
    request = Request(now=NOW, user_key=key, events=(view("i00000077"),))
    for ranker in (broken, None):
        found = answer(replace(release, ranker=ranker), request)
        assert "ranker" in found.degraded and len(found.shown) == 10
        assert {one.rung for one in found.shown} <= {"history", "visit", "popular"}
    assert release.next_item is not None
    next_item = replace(release.next_item, ranker=NextRanker("no trees"), chosen="ranked")
    new_here = Request(now=NOW, user_key="0" * 32, events=(view("i00000077"),))
    found = answer(replace(release, next_item=next_item), new_here)
    assert found.degraded == ("next_item",) and len(found.shown) == 10


@dataclass(frozen=True)
class LastFirst:
    """A policy to which the item that stands last in the catalogue is worth most."""

    name: str = "last_first"
    version: str = "1"
    is_broken: bool = False

    def values(self, request: Request, items: NDArray[np.int64]) -> NDArray[np.floating]:
        if self.is_broken:
            raise RuntimeError("broken")
        return items.astype(np.float64)

    def save(self, folder: Path) -> None:
        raise NotImplementedError


def test_a_policy_chooses_among_the_first_items_and_what_only_fills_a_list_stays_behind_them(release: Release) -> None:
    chosen, key = replace(release, policy=LastFirst()), user_key(release.users, 3)
    before, found = (answer(one, Request(now=NOW, user_key=key, k=60)) for one in (release, chosen))
    assert (found.policy, found.degraded) == ("last_first", ())
    assert items(found)[:40] == sorted(items(before)[:40], reverse=True) and items(found)[40:] == items(before)[40:]
    told = {one.item_id: (one.reason, one.rung) for one in before.shown}
    assert all(told[one.item_id] == (one.reason, one.rung) for one in found.shown)
    scores = [one.score for one in found.shown]
    assert scores == sorted(scores, reverse=True)
    category = release.catalogue.tag_paths[release.catalogue.tag[5]][:1]
    asked = Request(now=NOW, category=category, k=30)
    in_place, by_policy = answer(release, asked), answer(chosen, asked)
    num_there = sum(one.rung == "category" for one in in_place.shown)
    assert 0 < num_there < 30
    assert items(by_policy)[:num_there] == sorted(items(in_place)[:num_there], reverse=True)
    assert items(by_policy)[num_there:] == items(in_place)[num_there:]
    everywhere = answer(chosen, Request(now=NOW, k=5))
    assert items(everywhere) == sorted(items(answer(release, Request(now=NOW, k=40))), reverse=True)[:5]


def test_a_policy_keeps_the_cap_of_a_category_and_one_that_is_broken_is_told_and_left_out(release: Release) -> None:
    key = user_key(release.users, 3)
    capped = replace(release, policy=LastFirst(), facts=replace(release.facts, max_per_category=1))
    first = [
        release.catalogue.tag[release.catalogue.place_of[item]]
        for item in items(answer(capped, Request(now=NOW, user_key=key)))
    ]
    assert len(set(first)) == len(first)
    broken = answer(replace(release, policy=LastFirst(is_broken=True)), Request(now=NOW, user_key=key))
    assert broken.degraded == ("policy",) and items(broken) == items(answer(release, Request(now=NOW, user_key=key)))


def test_with_exploration_the_candidates_are_logged_and_each_shown_item_has_its_chance(release: Release) -> None:
    key = user_key(release.users, 3)
    found = answer(release, Request(now=NOW, user_key=key, k=5), epsilon=0.2, draw=np.random.default_rng(0))
    assert len(found.candidates) == 45 and {one.item_id for one in found.shown} <= set(found.candidates)
    best = items(answer(release, Request(now=NOW, user_key=key, k=5)))
    for place, one in enumerate(found.shown, start=1):
        expected = 0.2 / 40 if one.item_id not in best else None
        assert one.propensity == pytest.approx(expected) if expected else 0 < one.propensity <= 0.8**place + 0.2
