"""Open Bandit's check: ratios worked by hand, and that it fails where the other log's weights are left out."""

from typing import Any

import numpy as np
import pytest

from acceptance.open_bandit import shares_over, uniform_over, valued_from_the_other_log


def shown(item_id: str, *, position: int = 1, propensity: float = 0.5, reward: float = 0.0) -> dict[str, Any]:
    return {
        "item_id": item_id,
        "position": position,
        "propensity": propensity,
        "reward": reward,
        "num_candidates": 4,
    }


def test_ratios_of_the_uniform_policy_and_of_one_that_is_known_by_its_log() -> None:
    assert uniform_over([shown("a"), shown("b", propensity=0.1)]).tolist() == pytest.approx([0.5, 2.5])
    of = [shown("a"), shown("a"), shown("a"), shown("b"), shown("b", position=2)]
    asked = [shown("a"), shown("b", propensity=0.25), shown("b", position=2), shown("a", position=2)]
    assert shares_over(asked, of=of).tolist() == pytest.approx([0.75 / 0.5, 0.25 / 0.25, 1 / 0.5, 0])


def test_a_policy_is_not_valued_at_what_another_logged() -> None:
    """The logged policy shows the clicked item three times in four, the own one every second time."""
    rng = np.random.default_rng(0)
    is_good = rng.random(4000) < 0.75
    logged = [shown("ab"[not good], propensity=0.75 if good else 0.25, reward=float(good)) for good in is_good]
    own = [shown("a", reward=1.0), shown("b")] * 1000
    ratios = np.array([0.5 / row["propensity"] for row in logged])
    assert valued_from_the_other_log("even", from_log=logged, own=own, ratios=ratios).holds
    assert not valued_from_the_other_log("even", from_log=logged, own=own, ratios=np.ones(4000)).holds
