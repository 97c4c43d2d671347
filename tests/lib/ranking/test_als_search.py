"""What a search tries, by scores worked by hand."""

from lib.ranking.als_fit import Hyperparameters
from lib.ranking.als_search import grid, search

START = Hyperparameters(rank=64, alpha=4.0, regularization=0.12, half_life_days=60.0)


def test_each_is_tried_around_the_best_of_those_before_it() -> None:
    def score(point: Hyperparameters) -> float:
        good = {"half_life_days": point.half_life_days == 30.0, "regularization": point.regularization == 0.06}
        return sum(good.values()) + (0.5 if point.rank == 128 else 0) - (0.1 if point.alpha != 4.0 else 0)

    tried = search(START, score)
    assert tried[0].point == Hyperparameters(rank=128, alpha=4.0, regularization=0.06, half_life_days=30.0)
    assert tried[0].score == 2.5
    points = [trial.point for trial in tried]
    assert len(points) == len(set(points)) == 1 + 3 + 2 + 3 + 2
    with_rank = [point for point in points if point.rank != 64]
    assert {(point.alpha, point.regularization, point.half_life_days) for point in with_rank} == {(4.0, 0.06, 30.0)}


def test_where_nothing_is_better_what_is_set_stays() -> None:
    assert search(START, lambda _: 0.0)[0].point == START


def test_no_rank_is_tried_that_the_setting_would_refuse() -> None:
    assert grid(Hyperparameters(1, 4.0, 0.0, None))["rank"] == [2]
    assert grid(Hyperparameters(1024, 4.0, 0.1, None))["rank"] == [512]
    assert grid(Hyperparameters(8, 4.0, 0.0, None)) == {
        "half_life_days": [30.0, 60.0, 120.0],
        "regularization": [],  # half and twice nothing are nothing
        "alpha": [2.0, 8.0, 16.0],
        "rank": [4, 16],
    }
