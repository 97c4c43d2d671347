"""The one function that ranks what comes next: one by one and at once, with and without enough to learn from."""

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.next_item.candidates import NEVER
from lib.next_item.model import BEST, BLEND, RANKED, NextItemModel, figures
from lib.next_item.strategies import STRATEGIES
from tests.lib.next_item.clicks import visits

MODEL = NextItemModel.fit(visits(1_500))  # enough for a ranker
SMALL = NextItemModel.fit(visits(40))
ITEMS = st.sampled_from([*(f"i{number:03}" for number in range(0, 200, 9)), "unknown", "other", ""])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(ITEMS, max_size=40), min_size=1, max_size=8), st.sampled_from([1, 5, 20]), st.booleans())
def test_many_visits_at_once_give_what_each_gives_alone(asked: list[list[str]], k: int, is_small: bool) -> None:
    model = SMALL if is_small else MODEL
    assert model.rank_many(asked, k) == [model.rank(items, k) for items in asked]


@settings(max_examples=40, deadline=None)
@given(st.lists(ITEMS, max_size=40), st.sampled_from([1, 5, 20, 500]))
def test_a_list_names_no_item_twice_and_is_ordered_by_score(items: list[str], k: int) -> None:
    for strategy in MODEL.strategies:
        ((named, scores),) = MODEL.rank_many([items], k, strategy=strategy)
        assert len(named) == len(set(named)) == len(scores) <= k
        assert scores == sorted(scores, reverse=True)
        assert all(score > 0 for score in scores)


def test_what_rank_says_is_what_is_judged() -> None:
    asked = visits(30, seed=1)
    answers = MODEL.ask(asked)
    prefixes = [(items[:end], items[end]) for items in asked for end in range(1, len(items))]
    assert len(prefixes) == len(answers.asked.visit) > 50
    for strategy in MODEL.strategies:
        lists = MODEL.rank_many([so_far for so_far, _ in prefixes], 50, strategy=strategy)
        ranks = [
            named.index(item) + 1 if item in named else None
            for (named, _), (_, item) in zip(lists, prefixes, strict=True)
        ]
        assert ranks == [rank if rank <= 50 else None for rank in answers.ranks[strategy].tolist()]
        assert [not named for named, _ in lists] == answers.silent[strategy].astype(bool).tolist()


def test_of_longer_lists_more_ranks_are_told() -> None:
    asked = visits(30, seed=1)
    deepest = {
        k: max(rank for rank in MODEL.ask(asked, k).ranks["popularity"].tolist() if rank < NEVER) for k in (20, 150)
    }
    assert deepest[20] <= 50 < deepest[150] <= 150


def test_best_is_above_every_strategy_alone_where_visits_follow_trails_and_go_back() -> None:
    answers = MODEL.ask(visits(600, seed=2))
    found = {name: figures(ranks) for name, ranks in answers.ranks.items()}
    assert MODEL.chosen in (BLEND, RANKED)
    for name in STRATEGIES:
        assert found[BEST].mrr > found[name].mrr
        assert found[BEST].hit_rate >= found[name].hit_rate


def test_the_same_visits_give_the_same_model() -> None:
    again = NextItemModel.fit(visits(1_500))
    asked = visits(20, seed=3)
    assert again.rank_many(asked) == MODEL.rank_many(asked)
    assert again.held_out == MODEL.held_out


def test_a_model_that_was_sent_to_another_process_says_the_same() -> None:
    asked = visits(20, seed=3)
    assert pickle.loads(pickle.dumps(MODEL)).rank_many(asked) == MODEL.rank_many(asked)


def test_at_the_beginning_of_a_visit_popular_items_are_named() -> None:
    named, _ = MODEL.rank([], 3)
    popular = (
        MODEL.rank_many([[]], 50, strategy="popularity")[0][0] + MODEL.rank_many([[]], 50, strategy="trending")[0][0]
    )
    assert len(named) == 3 and set(named) <= set(popular)


@pytest.mark.bad_input("a list that is longer than the catalogue")
def test_a_list_that_is_longer_than_the_catalogue_holds_what_there_is() -> None:
    model = NextItemModel.fit([["a", "b"], ["b", "a"], ["a", "c"]])
    named, _ = model.rank(["b"], 1_000)
    assert sorted(named) == ["a", "b", "c"]


@pytest.mark.bad_input("one visit, one item, or visits of one event")
@pytest.mark.parametrize(
    "sessions", [[["a"]], [["a", "a"]], [["a"], ["a"], ["a"]], [["a", "b"]], [["a"], ["b"]], [[], ["a"]]]
)
def test_one_visit_one_item_or_visits_of_one_event_are_enough(sessions: list[list[str]]) -> None:
    model = NextItemModel.fit(sessions)
    assert model.ranker is None
    assert model.rank(["a"], 5)[0][0] in ("a", "b")
    assert model.rank(["never seen"], 1)[0]


def test_without_an_item_to_learn_from_one_line_says_so() -> None:
    with pytest.raises(ValueError, match="sessions to learn from need at least one item; got none"):
        NextItemModel.fit([[], []])
    with pytest.raises(ValueError, match="unknown strategy 'magic'; allowed are popularity, "):
        NextItemModel.fit([["a"]], chosen="magic")
    with pytest.raises(ValueError, match="k should be at least 1, not 0"):
        SMALL.rank(["i001"], 0)


def test_the_items_of_a_strategy_that_was_chosen_come_first_and_the_blend_fills_the_list() -> None:
    model = NextItemModel.fit(visits(40), chosen="same_item")
    named, _ = model.rank(["i007"], 10)
    assert named[0] == "i007" and len(named) == 10
