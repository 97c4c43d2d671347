from itertools import islice
from pathlib import Path

import lightgbm as lgb
import numpy as np
import pyarrow as pa
import pytest

from lib.candidates.examples import Examples, joined, ndcg_of
from lib.candidates.features import FEATURES, GROUP_OF, GROUPS
from lib.candidates.networks import Network, Scaling
from lib.candidates.ranker import Blend, load, moving_groups, ordinary, save, square_sums
from lib.candidates.trees import Trees, fitted, grown, ndcg_by_trees, predicted, text_of

OPTIONS = {"min_data_in_leaf": 5, "num_leaves": 7, "learning_rate": 0.2, "seed": 0}


def planted(seed: int, num_users: int = 60, size: int = 20) -> Examples:
    """People buy what EASE gives a high score, and what they bought often; nothing else matters."""
    rng = np.random.default_rng(seed)
    features = rng.random((num_users * size, len(FEATURES))).astype(np.float32)
    together, bought = (features[:, FEATURES.index(name)] for name in ("ease", "num_relevant"))
    label = ((together > 0.9) | (bought > 0.9)).astype(np.int8)
    group = np.repeat(np.arange(num_users), size)
    is_new = rng.random(len(label)) < 0.5
    wanted = np.column_stack([np.bincount(group, weights=label), np.bincount(group, weights=label * is_new)])
    return Examples(features, label, is_new, group, wanted.astype(np.int64))


def test_ndcg_counts_what_was_bought_but_not_retrieved_and_users_who_wanted_nothing_are_left_out() -> None:
    label, is_new = np.array([0, 1, 1, 0], np.int8), np.array([True, False, True, True])
    examples = Examples(
        np.zeros((4, len(FEATURES)), np.float32), label, is_new, np.array([0, 0, 0, 1]), np.array([[3, 1], [1, 0]])
    )
    found = ndcg_of(np.array([3.0, 2.0, 1.0, 0.0]), examples)
    second, third = 1 / np.log2(3), 1 / 2
    assert found[0] == pytest.approx(
        [(second + third) / (1 + second + third), second]
    )  # of the new ones it is the second
    assert found[1, 0] == 0 and np.isnan(found[1, 1])


def test_the_ranker_learns_what_was_planted_and_trees_add_up() -> None:
    train, valid = planted(0), planted(1)
    growing = islice(ndcg_by_trees(grown(train, OPTIONS), valid), 3)
    by_trees = np.stack([found for _, found in growing])
    booster = fitted(train, num_trees=30, options=OPTIONS)
    assert by_trees.shape == (3, 60, 2)
    np.testing.assert_allclose(by_trees[-1], ndcg_of(predicted(booster, valid.features), valid))
    chance = ndcg_of(np.random.default_rng(2).random(len(valid.label)), valid)
    assert np.nanmean(by_trees[-1]) > np.nanmean(chance) + 0.3


def test_the_group_that_moved_a_row_is_the_one__its_score_falls_most() -> None:
    examples = planted(0)
    booster = fitted(examples, num_trees=30, options=OPTIONS)
    rows = np.full((2, len(FEATURES)), 0.5, np.float32)
    rows[0, FEATURES.index("ease")], rows[1, FEATURES.index("num_relevant")] = 0.95, 0.95
    moved = moving_groups(Trees(text_of(booster)), rows, predicted(booster, rows), ordinary(examples.features))
    assert [GROUPS[place] for place in moved] == ["together", "bought"]


def test_a_group_of_which_nothing_is_known_moves_no_row_even_where_all_others_lower_its_score() -> None:
    size = len(FEATURES)
    alike = Scaling(np.zeros(size, np.float32), np.ones(size, np.float32), np.zeros(size, np.float32))
    layers = {"0.weight": np.ones((1, size), np.float32), "0.bias": np.zeros(1, np.float32)}
    of_sum = Network(alike, layers, pa.array([], pa.string()), np.zeros((0, 0), np.float32))
    is_following = np.array([GROUP_OF[name] == "following" for name in FEATURES])
    row = np.where(is_following, np.nan, 0)[None].astype(np.float32)
    usual = np.where(is_following, np.nan, 1).astype(np.float32)
    assert (
        GROUPS[moving_groups(of_sum, row, of_sum.scores(row), usual)[0]] == "together"
    )  # two features, the fewest to lose by
    row[0, FEATURES.index("sequence")] = 0.5
    assert GROUPS[moving_groups(of_sum, row, of_sum.scores(row), usual)[0]] == "following"


def of_one(name: str, *, slope: float) -> Network:
    """A network whose score is a feature, times a number."""
    size = len(FEATURES)
    alike = Scaling(np.zeros(size, np.float32), np.ones(size, np.float32), np.zeros(size, np.float32))
    weight = np.zeros((1, size), np.float32)
    weight[0, FEATURES.index(name)] = slope
    layers = {"0.weight": weight, "0.bias": np.ones(1, np.float32)}
    return Network(alike, layers, pa.array([], pa.string()), np.zeros((0, 0), np.float32))


def test_a_blend_is_the_mean_of_scores_over_their_deviation_and_goes_through_its_files(tmp_path: Path) -> None:
    examples = planted(0)
    trees = Trees(text_of(fitted(examples, num_trees=10, options=OPTIONS)))
    blend = Blend([of_one("ease", slope=8), of_one("als", slope=2), trees], [2, 0.5, 4])
    of_ease, of_als = (np.arcsinh(examples.features[:, FEATURES.index(name)]) for name in ("ease", "als"))
    of_trees = trees.scores(examples.features)
    expected = ((8 * of_ease + 1) / 2 + (2 * of_als + 1) / 0.5 + of_trees / 4) / 3
    np.testing.assert_allclose(blend.scores(examples.features), expected, rtol=1e-5)
    assert save(blend, tmp_path, "ranker").is_file()
    again = load(tmp_path, "ranker")
    np.testing.assert_array_equal(again.scores(examples.features), blend.scores(examples.features))
    assert again.num_parameters == blend.num_parameters == 2 * (len(FEATURES) + 1) + trees.num_parameters


def test_how_far_scores_lie_from_the_mean_of_their_list_adds_up_over_workers() -> None:
    examples = planted(0, num_users=3, size=2)
    parts = [examples.of_users(np.array(chosen)) for chosen in ([True, False, False], [False, True, True])]
    scores = np.array([1.0, 3.0, 10.0, 10.0, 0.0, 4.0])
    assert square_sums(scores, examples).tolist() == [1 + 1 + 0 + 0 + 4 + 4, 6]
    assert (square_sums(scores[:2], parts[0]) + square_sums(scores[2:], parts[1])).tolist() == [10, 6]


def test_an_ordinary_candidate_was_not_touched_and_has_the_median_of_the_rest() -> None:
    usual = dict(
        zip(FEATURES, ordinary(np.array([[1.0] * len(FEATURES), [3.0] * len(FEATURES)], np.float32)), strict=True)
    )
    assert (usual["num_relevant"], usual["ease"], usual["item_buyers"]) == (0, 2, 2)
    assert np.isnan(usual["bought_days"])


def test_parts_are_joined_with_their_users_apart() -> None:
    both = joined([planted(0, num_users=2), planted(1, num_users=3)])
    assert both.sizes.tolist() == [20] * 5
    assert len(both.num_wanted) == 5


def test_a_ranker_goes_through_its_text() -> None:
    booster = fitted(planted(0), num_trees=10, options=OPTIONS)
    again = lgb.Booster(model_str=text_of(booster))
    features = planted(3).features
    np.testing.assert_array_equal(predicted(again, features), predicted(booster, features))
    first = lgb.Booster(model_str=text_of(booster, num_trees=4))
    np.testing.assert_array_equal(predicted(first, features), predicted(booster, features, num_trees=4))
    assert "machines" not in text_of(booster)
