"""The hyperparameters of als that find most of what users wanted in the validation window.

One after the other is moved from what is set, the others held: half-life, regularisation, alpha, rank. As long as a step finds
more, another follows in its direction, so that the best does not lie at the end of a grid.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from lib.ranking.als_fit import Hyperparameters

# A step halves or doubles, which covers what mattered on the shops that were tried; half-lives come in this order, none is the longest.
HALF_LIVES = (7.0, 15.0, 30.0, 60.0, 120.0, 240.0, None)
MOVED = ("half_life_days", "regularization", "alpha", "rank")
MAX_STEPS = 5  # of a hyperparameter in one direction
MAX_RANK = 1024


class Tried(NamedTuple):
    """A trial and its score: higher is better."""

    point: Hyperparameters
    score: float


def search(start: Hyperparameters, score: Callable[[Hyperparameters], float]) -> list[Tried]:
    """All trials, the best first; of equals the one that was tried first."""
    tried = [Tried(start, score(start))]
    for name in MOVED:
        before = best = max(tried, key=lambda trial: trial.score)
        for direction in (-1, 1):
            for value in steps(name, getattr(before.point, name), direction):
                trial = Tried(point := replace(before.point, **{name: value}), score(point))
                tried.append(trial)
                if trial.score <= best.score:
                    break
                best = trial
    return sorted(tried, key=lambda trial: -trial.score)


def steps(name: str, value: Any, direction: int) -> Iterator[Any]:
    """The values of a hyperparameter one step after the other below (-1) or above (1) one; at most MAX_STEPS, no value twice."""
    for _ in range(MAX_STEPS):
        following = _next(name, value, direction)
        if following == value:
            return
        yield following
        value = following


def _next(name: str, value: Any, direction: int) -> Any:
    if name == "half_life_days":
        days = [float("inf") if one is None else one for one in HALF_LIVES]
        own = float("inf") if value is None else value
        beyond = [one for one in days if (one - own) * direction > 0]  # inf - inf is no number, and beyond nothing
        found = (min if direction > 0 else max)(beyond, default=own)
        return None if found == float("inf") else found
    moved = value * 2.0**direction
    return min(max(round(moved), 1), MAX_RANK) if name == "rank" else moved
