"""LambdaMART over what the strategies say (Burges 2010, "From RankNet to LambdaRank to LambdaMART"; LightGBM's trees).

It orders the candidates that the blend puts first. It learns from visits of which the strategies have not learnt.
"""

from dataclasses import dataclass

import lightgbm
import numpy as np

from lib.next_item.candidates import Candidates
from lib.next_item.scores import Floats
from lib.next_item.strategies import STRATEGIES
from lib.next_item.visits import Bools, Ints, Prefixes

NUM_RANKED = 30  # first candidates of the blend that are ordered anew
LEAST_QUESTIONS = 300  # fewer teach nothing
MOST_QUESTIONS = 10_000  # the latest, to learn from
NUM_ROUNDS = 80
PARAMETERS = {
    "objective": "lambdarank",
    "lambdarank_truncation_level": 20,
    "learning_rate": 0.1,
    "num_leaves": 15,
    "min_data_in_leaf": 50,
    "lambda_l2": 5.0,
    "feature_fraction": 0.8,
    "verbosity": -1,
    "num_threads": 1,
    "seed": 0,
    "deterministic": True,
    "force_row_wise": True,
}
FEATURES = (
    *(f"share_{name}" for name in STRATEGIES),
    *(f"rank_{name}" for name in STRATEGIES if name not in ("popularity", "same_item")),
    *("blend", "blend_rank", "blend_to_first", "num_naming", "back", "times_seen", "length", "num_items", "evidence"),
)


@dataclass(frozen=True)
class Ranker:
    """Trees, as LightGBM writes them."""

    text: str

    @property
    def booster(self) -> lightgbm.Booster:
        """The trees."""
        return lightgbm.Booster(model_str=self.text)


def features(candidates: Candidates, blend: Floats, prefixes: Prefixes, evidence: Floats) -> Floats:
    """[candidates, FEATURES] of the candidates of some prefixes; `evidence` is how often each learnt item was visited."""
    row, item, shares = candidates.row, candidates.item, candidates.shares
    recent = prefixes.recent[row]
    is_it = recent == item[:, None]
    back = np.where(is_it.any(axis=1), is_it.argmax(axis=1), -1)
    ranked = [place for place, name in enumerate(STRATEGIES) if name not in ("popularity", "same_item")]
    ranks = np.stack([np.where(shares[:, k] > 0, candidates.ranks(shares[:, k]), 99) for k in ranked], axis=1)
    first = np.zeros(len(candidates.starts) - 1)
    np.maximum.at(first, row, blend)
    seen = np.where(item < len(evidence), evidence[np.minimum(item, len(evidence) - 1)], 0.0)
    return np.column_stack(
        [
            shares,
            ranks,
            blend,
            candidates.ranks(blend),
            blend / first[row],
            (shares > 0).sum(axis=1),
            back,
            is_it.sum(axis=1),
            prefixes.length[row],
            prefixes.is_newest().sum(axis=1)[row],
            np.log1p(seen),
        ]
    )


def first_of_blend(candidates: Candidates, blend: Floats) -> Bools:
    """[candidates] whether it is among those that are ordered."""
    return candidates.ranks(blend) <= NUM_RANKED


def learn(given: Floats, is_next: Bools, sizes: Ints) -> Ranker:
    """Learn from the features of candidates, whether each came next, and the number of candidates of each question."""
    data = lightgbm.Dataset(
        given, is_next.astype(np.int32), group=sizes, feature_name=list(FEATURES), free_raw_data=True
    )
    booster = lightgbm.train(PARAMETERS | {"label_gain": [0, 1]}, data, NUM_ROUNDS)
    return Ranker(booster.model_to_string())
