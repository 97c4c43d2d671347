from collections import Counter
from itertools import product

import numpy as np
import pytest

from lib.serving.exploring import placed


def by_enumeration(ranked: str, pool: str, epsilon: float) -> Counter[tuple[int, str]]:
    """P(item at place), summed over which places are given to the pool; of the pool each item is alike."""
    found: Counter[tuple[int, str]] = Counter()
    for drawn in product((False, True), repeat=len(ranked)):
        chance = float(np.prod([epsilon if here else 1 - epsilon for here in drawn]))
        best = iter(ranked)
        for place, here in enumerate(drawn):
            for item in pool if here else next(best):
                found[place, item] += chance / (len(pool) if here else 1)
    return found


def test_the_logged_chance_is_that_of_an_item_at_a_place_worked_out_over_all_ways_and_what_is_seen_in_many_draws() -> (
    None
):
    ranked, pool, epsilon, draws = [0, 1, 2], [10, 11, 12, 13], 0.3, 20_000
    known = by_enumeration("012", "3456", epsilon)
    chance = {(place, int(item) if item in "012" else 7 + int(item)): value for (place, item), value in known.items()}
    draw, seen = np.random.default_rng(1), Counter[tuple[int, int]]()
    for _ in range(draws):
        found = placed(ranked, pool, length=3, epsilon=epsilon, draw=draw)
        assert len({one.item for one in found}) == 3
        for place, one in enumerate(found):
            assert one.propensity == pytest.approx(chance[place, one.item])
            assert one.is_drawn == (one.item in pool)
            seen[place, one.item] += 1
    for cell, value in chance.items():
        assert abs(seen[cell] / draws - value) < 4.5 * (value * (1 - value) / draws) ** 0.5
    assert sum(seen.values()) == 3 * draws


def test_nothing_is_drawn_without_a_chance_or_from_a_pool_that_could_run_out() -> None:
    draw = np.random.default_rng(0)
    for pool, epsilon in (([10, 11, 12], 0.0), ([10, 11], 0.5), ([], 0.5)):
        found = placed([0, 1, 2], pool, length=3, epsilon=epsilon, draw=draw)
        assert [(one.item, one.propensity) for one in found] == [(0, 1.0), (1, 1.0), (2, 1.0)]
    assert placed([], [], length=3, epsilon=0.5, draw=draw) == []
