"""The hyperparameters of als that find most of what users wanted in the validation window.

One after the other is tried on its grid, around the best so far, the others held: rank, regularisation, alpha, half-life.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from lib.ranking.als_fit import Hyperparameters

# Relative to what is set, but for the half-life: halves and doubles cover what mattered on the shops that were tried.
FACTORS: Mapping[str, Sequence[float]] = {
    "regularization": (0.5, 2.0),
    "alpha": (0.5, 2.0, 4.0),
    "rank": (0.5, 2.0),
}
HALF_LIVES: Sequence[float | None] = (None, 30.0, 60.0, 120.0)
MAX_RANK = 1024


class Tried(NamedTuple):
    """A trial and its score: higher is better."""

    point: Hyperparameters
    score: float


def grid(start: Hyperparameters) -> dict[str, list[Any]]:
    """What is tried of each hyperparameter besides what is set."""
    half_lives = [value for value in HALF_LIVES if value != start.half_life_days]
    of_factors = {name: [getattr(start, name) * factor for factor in FACTORS[name]] for name in FACTORS}
    of_factors["rank"] = [min(max(round(rank), 1), MAX_RANK) for rank in of_factors["rank"]]
    return {
        "half_life_days": half_lives,
        **{name: [value for value in of_factors[name] if value != getattr(start, name)] for name in FACTORS},
    }


def search(start: Hyperparameters, score: Callable[[Hyperparameters], float]) -> list[Tried]:
    """All trials, the best first; of equals the one that was tried first."""
    tried = [Tried(start, score(start))]
    for name, values in grid(start).items():
        best = max(tried, key=lambda trial: trial.score)
        for value in dict.fromkeys(values):
            point = replace(best.point, **{name: value})
            tried.append(Tried(point, score(point)))
    return sorted(tried, key=lambda trial: -trial.score)
