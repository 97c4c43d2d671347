"""A sequence model as one of the strategies of what comes next."""

import pickle

import numpy as np
import polars as pl
import pytest
import torch

from lib.models.sequence import PieceSampler, SequenceModel, Sequences, weights_of
from lib.models.sequence_fit import SequencePlan, fit_sequence
from lib.models.sequence_weights import NEXT, SequenceWeights
from lib.next_item.model import BEST, NextItemModel, SequenceFits, figures
from lib.next_item.sequence import SequenceStrategy
from lib.next_item.strategies import SEQUENCE, STRATEGIES
from lib.next_item.visits import NOTHING, Catalogue, Prefixes
from tests.lib.next_item.clicks import visits

NUM_ITEMS = 200
PLAN = SequencePlan(num_epochs=4, num_batches=20, learning_rate=1e-2, weight_decay=0.0, num_negatives=200, seed=0)


def fitted(lists: list[list[str]]) -> SequenceWeights:
    """A small model that has learned from visits."""
    names = sorted({item for items in lists for item in items})
    number = {name: place for place, name in enumerate(names, start=1)}
    lengths = torch.tensor([len(items) for items in lists])
    ends = lengths.cumsum(0)
    events = torch.tensor([number[item] for items in lists for item in items])
    sequences = Sequences(
        events, torch.cat([torch.tensor([0]), ends]), ends.repeat_interleave(lengths), torch.ones(len(events)).double()
    )
    torch.manual_seed(0)
    model = SequenceModel(len(names), num_dimensions=16, num_blocks=1, num_heads=2, length=10, dropout=0.0)
    fit_sequence(model, PieceSampler(sequences, length=10, horizon=5), PLAN)
    return weights_of(model, tuple(names))


EARLIER = visits(1_500)
MODEL = NextItemModel.fit(EARLIER, sequence=SequenceFits(fitted(EARLIER[:1_200]), fitted(EARLIER)))


def test_it_is_one_of_the_strategies_only_where_there_is_one() -> None:
    assert MODEL.strategies[: len(STRATEGIES) + 1] == (*STRATEGIES, SEQUENCE)
    assert SEQUENCE in MODEL.held_out
    without = NextItemModel.fit(EARLIER[:50])
    assert SEQUENCE not in without.strategies
    assert SEQUENCE not in NextItemModel.fit(EARLIER[:50], chosen=SEQUENCE).held_out


def test_it_names_what_follows_far_beyond_popularity_and_the_best_does_not_lose_by_it() -> None:
    answers = MODEL.ask(visits(300, seed=2))
    found = {name: figures(ranks) for name, ranks in answers.ranks.items()}
    assert found[SEQUENCE].mrr > 3 * found["popularity"].mrr
    without = NextItemModel.fit(EARLIER).ask(visits(300, seed=2)).ranks[BEST]
    assert found[BEST].choice > figures(without).choice - 0.01


def test_its_shares_are_the_softmax_of_the_models_scores_over_the_learnt_items() -> None:
    weights = fitted([["a", "b", "c"], ["b", "c", "a"]])
    strategy = SequenceStrategy.of(weights, Catalogue.of(pl.Series(["a", "c", "z"])))  # b was not learnt of, z is new
    recent = np.array([[1, 0], [NOTHING, NOTHING], [2, 3], [2, 0]])  # a, c; nothing; unknown ones alone; a, z
    found = strategy.scores(Prefixes(recent, np.array([2, 0, 2, 2])), 10).toarray()
    scores = weights.vectors([np.array([1, 3]), np.array([1])], purpose=NEXT) @ weights.item_vectors[[0, 2]].T
    expected = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found[[0, 3]][:, :2], expected, atol=1e-3)
    assert not found[:, 2].any() and not found[[1, 2]].any()


def test_many_visits_at_once_give_what_each_gives_alone_and_unknown_items_are_not_heard() -> None:
    asked = [*visits(25, seed=3), [], ["unknown"], ["i001", "unknown", "i002"]]
    together = MODEL.rank_many(asked, strategy=SEQUENCE)
    for items, (named, scores) in zip(asked, together, strict=True):
        ((alone, alone_scores),) = MODEL.rank_many([items], strategy=SEQUENCE)
        assert alone == named
        assert alone_scores == pytest.approx(scores, rel=5e-3)
    assert together[-1][0] == MODEL.rank_many([["i001", "i002"]], strategy=SEQUENCE)[0][0]
    assert together[-3][0] == together[-2][0] == []


def test_a_model_with_it_that_was_sent_to_another_process_says_the_same() -> None:
    asked = visits(20, seed=3)
    assert pickle.loads(pickle.dumps(MODEL)).rank_many(asked) == MODEL.rank_many(asked)
