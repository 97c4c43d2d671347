"""Showing now and then what the ranker would not show, with a chance that is known exactly.

At each place of a list, one after the other, an item is drawn from a pool with chance epsilon, each that is left equally likely;
else the best that is left of the ranked items stands there. Pool and ranked items have no item in common. So, given candidates:

    P(ranked item r stands at place p) = C(p - 1, r - 1) (1 - epsilon)^r epsilon^(p - r)
    P(item of the pool stands at place p) = epsilon / size of the pool

since p - 1 places before hold r - 1 ranked items, and all items of the pool are alike. These are the chances of an item at a
place, whatever stands at the others, which off-policy estimators by place need. A pool smaller than the list could run
out, by which the chances would differ: then nothing is drawn.
"""

from collections.abc import Sequence
from math import comb
from typing import NamedTuple

import numpy as np


class Placed(NamedTuple):
    """An item at a place of a list."""

    item: int
    propensity: float
    is_drawn: bool


def placed(
    ranked: Sequence[int], pool: Sequence[int], *, length: int, epsilon: float, draw: np.random.Generator
) -> list[Placed]:
    """A list of at most `length` items; `ranked` is the best first, and has no item of `pool`."""
    length = min(length, len(ranked))
    if epsilon <= 0 or len(pool) < length:
        return [Placed(item, 1.0, is_drawn=False) for item in ranked[:length]]
    is_drawn = draw.random(length) < epsilon
    drawn = iter(draw.permutation(len(pool))[:length].tolist())
    found, rank = [], 0
    for place, here in enumerate(is_drawn.tolist(), start=1):
        if here:
            found.append(Placed(pool[next(drawn)], epsilon / len(pool), is_drawn=True))
        else:
            rank += 1
            chance = comb(place - 1, rank - 1) * (1 - epsilon) ** rank * epsilon ** (place - rank)
            found.append(Placed(ranked[rank - 1], chance, is_drawn=False))
    return found
