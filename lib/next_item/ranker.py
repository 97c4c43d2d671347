"""LambdaMART over what the strategies say (Burges 2010, "From RankNet to LambdaRank to LambdaMART"; LightGBM's trees).

It orders the candidates that the blend puts first. It learns from visits of which the strategies have not learnt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from lib.next_item.candidates import Candidates
from lib.next_item.scores import Floats
from lib.next_item.visits import Bools, Ints, Prefixes

if TYPE_CHECKING:
    import lightgbm  # takes time, which only those wait for who use it

NUM_RANKED = 30  # first candidates of the blend that are ordered anew
LEAST_QUESTIONS = 300  # fewer teach nothing
MOST_QUESTIONS = 12_000  # the latest, to learn from
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
UNRANKED = ("popularity", "trending", "same_item")  # whose ranks say no more than their shares
OTHER_FEATURES = (
    *("blend", "blend_rank", "blend_to_first", "num_naming", "back", "times_seen", "length", "num_items", "evidence"),
    *("evidence_of_last", "most_successor", "most_session_knn"),
)


@dataclass(frozen=True)
class Ranker:
    """Trees, as LightGBM writes them."""

    text: str

    @cached_property
    def booster(self) -> "lightgbm.Booster":
        """The trees."""
        from lib.statistics import gradient_boosting  # noqa: PLC0415

        booster: lightgbm.Booster = gradient_boosting.lightgbm.Booster(model_str=self.text)
        return booster

    def scores(self, given: Floats) -> Floats:
        """[candidates] from 0 to 1, of candidates with these features; those of one prefix can be compared."""
        return np.asarray(1.0 / (1.0 + np.exp(-np.asarray(self.booster.predict(given, num_threads=1)))))


def feature_names(strategies: Sequence[str]) -> list[str]:
    """The columns of `features`, of candidates of some strategies."""
    ranked = [f"rank_{name}" for name in strategies if name not in UNRANKED]
    return [*(f"share_{name}" for name in strategies), *ranked, *OTHER_FEATURES]


def features(candidates: Candidates, blend: Floats, prefixes: Prefixes, evidence: Floats) -> Floats:
    """[candidates, features] of the candidates of some prefixes; `evidence` is how many visits hold each learnt item."""
    row, item, shares, names = candidates.row, candidates.item, candidates.shares, candidates.names
    recent = prefixes.recent[row]
    is_it = recent == item[:, None]
    back = np.where(is_it.any(axis=1), is_it.argmax(axis=1), -1)
    ranked = [place for place, name in enumerate(names) if name not in UNRANKED]
    ranks = np.stack([np.where(shares[:, k] > 0, candidates.ranks(shares[:, k]), 99) for k in ranked], axis=1)
    num_rows = len(candidates.starts) - 1

    def most(score: Floats) -> Floats:
        of_row = np.zeros(num_rows)
        np.maximum.at(of_row, row, score)
        return of_row[row]

    def seen(items: Ints) -> Floats:
        is_learnt = (items >= 0) & (items < len(evidence))
        return np.log1p(np.where(is_learnt, evidence[np.where(is_learnt, items, 0)], 0.0))

    return np.column_stack(
        [
            shares,
            ranks,
            blend,
            candidates.ranks(blend),
            blend / most(blend),
            (shares > 0).sum(axis=1),
            back,
            is_it.sum(axis=1),
            prefixes.length[row],
            prefixes.is_newest().sum(axis=1)[row],
            seen(item),
            seen(prefixes.recent[:, 0])[row],
            most(shares[:, names.index("successor")]),
            most(shares[:, names.index("session_knn")]),
        ]
    )


def first_of_blend(candidates: Candidates, blend: Floats) -> Bools:
    """[candidates] whether it is among those that are ordered."""
    return candidates.ranks(blend) <= NUM_RANKED


def learn(given: Floats, is_next: Bools, sizes: Ints, names: Sequence[str]) -> Ranker:
    """Learn from the features of candidates by some strategies, whether each came next, and the number of candidates of each question."""
    from lib.statistics.gradient_boosting import lightgbm  # noqa: PLC0415

    data = lightgbm.Dataset(
        given, is_next.astype(np.int32), group=sizes, feature_name=feature_names(names), free_raw_data=True
    )
    booster = lightgbm.train(PARAMETERS | {"label_gain": [0, 1]}, data, NUM_ROUNDS)
    return Ranker(booster.model_to_string())
