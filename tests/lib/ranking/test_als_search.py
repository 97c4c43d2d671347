"""What a search tries, by scores worked by hand."""

import math

from lib.ranking.als_fit import Hyperparameters
from lib.ranking.als_search import search, steps

START = Hyperparameters(rank=64, alpha=4.0, regularization=0.12, half_life_days=60.0)


def test_each_is_moved_from_the_best_of_those_before_it_as_long_as_that_finds_more() -> None:
    def score(point: Hyperparameters) -> float:
        days = point.half_life_days or 1e6
        far = (days / 30, point.regularization / 0.12, point.alpha / 0.5, point.rank / 256)
        return -sum(abs(math.log2(ratio)) for ratio in far)

    tried = search(START, score)
    assert tried[0].point == Hyperparameters(rank=256, alpha=0.5, regularization=0.12, half_life_days=30.0)
    assert tried[0].score == 0
    points = [trial.point for trial in tried]
    assert len(points) == len(set(points))
    assert {point.half_life_days for point in points} == {60.0, 30.0, 15.0, 120.0}
    assert {point.regularization for point in points} == {0.12, 0.06, 0.24}
    assert {point.alpha for point in points} == {4.0, 2.0, 1.0, 0.5, 0.25, 8.0}
    assert {point.rank for point in points} == {64, 32, 128, 256, 512}
    assert all(point.alpha == 0.5 for point in points if point.rank != 64)


def test_where_nothing_is_better_what_is_set_stays() -> None:
    tried = search(START, lambda _: 0.0)
    assert tried[0].point == START
    assert len(tried) == 1 + 2 * 4


def test_no_value_is_tried_that_a_setting_would_refuse() -> None:
    assert list(steps("rank", 4, -1)) == [2, 1]
    assert list(steps("rank", 1000, 1)) == [1024]
    assert list(steps("regularization", 0.0, 1)) == []  # twice nothing is nothing
    assert list(steps("half_life_days", None, 1)) == []
    assert list(steps("half_life_days", None, -1)) == [240.0, 120.0, 60.0, 30.0, 15.0]
    assert list(steps("half_life_days", 100.0, 1)) == [120.0, 240.0, None]
    assert list(steps("alpha", 4.0, -1)) == [2.0, 1.0, 0.5, 0.25, 0.125]
