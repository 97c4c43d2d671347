"""The ranker: LambdaMART (Burges 2010, "From RankNet to LambdaRank to LambdaMART") by LightGBM over the candidates' features.

It learns from windows before a moment: a user's candidates as they were at the window's start are a group, and those that the
user bought in the window are relevant. One ranker answers both questions; NDCG@10 of each is taken over the items that
the user bought, whether retrieved or not.
"""

import warnings
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray

from lib.candidates.features import FEATURES, GROUP_OF, GROUPS, IS_COUNT, PAIR_FEATURES
from lib.ranking.metrics import ndcg
from lib.statistics.bootstrap import Floats as Doubles

Floats = NDArray[np.float32]
LENGTH = 10  # of the lists that are judged
TREES_AT_ONCE = 10  # the number of trees is a multiple of it
PATIENCE = 30  # trees without a higher NDCG of the two questions together, after which no more are tried
PARAMETERS: Mapping[str, Any] = {
    "objective": "lambdarank",
    "metric": "None",
    "lambdarank_truncation_level": 20,
    "bagging_freq": 1,
    "bagging_fraction": 0.8,
    "feature_fraction": 0.8,
    "num_threads": 1,
    "verbose": -1,
    "deterministic": True,
    "force_row_wise": True,
    "pre_partition": True,
}


class Ranker(NamedTuple):
    """A fit of the ranker, as tasks get it."""

    version: str
    text: str  # LightGBM's
    usual: Floats  # an ordinary candidate, see `ordinary`


class Examples(NamedTuple):
    """Candidates of G users, each user's together, with what they bought in a window."""

    features: Floats  # (N, len(FEATURES))
    label: NDArray[np.int8]  # (N,), 1 if the user bought it in the window
    is_new: NDArray[np.bool_]  # (N,), whether the user had not had it before
    group: NDArray[np.int64]  # (N,), ascending from 0 without gaps
    num_wanted: NDArray[np.int64]  # (G, 2), items that the user bought in the window: all of them, and new ones

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Candidates of each user, (G,)."""
        return np.bincount(self.group, minlength=len(self.num_wanted))


def joined(parts: list[Examples]) -> Examples:
    """The users of all parts."""
    starts = np.cumsum([0, *(len(part.num_wanted) for part in parts)])
    shifted = [part.group + start for part, start in zip(parts, starts, strict=False)]
    return Examples(
        np.concatenate([part.features for part in parts]),
        np.concatenate([part.label for part in parts]),
        np.concatenate([part.is_new for part in parts]),
        np.concatenate(shifted),
        np.concatenate([part.num_wanted for part in parts]),
    )


def grown(examples: Examples, options: Mapping[str, Any]) -> Iterator[lgb.Booster]:
    """A ranker that grows by TREES_AT_ONCE trees at a time; `options` are LightGBM's parameters besides PARAMETERS, such as the other workers."""
    data = lgb.Dataset(examples.features, examples.label, group=examples.sizes, feature_name=list(FEATURES))
    booster = lgb.Booster({**PARAMETERS, **options}, data)
    try:
        while True:
            for _ in range(TREES_AT_ONCE):
                booster.update()
            yield booster
    finally:
        booster.free_network()


def fitted(examples: Examples, *, num_trees: int, options: Mapping[str, Any]) -> lgb.Booster:
    """A ranker of so many trees, a multiple of TREES_AT_ONCE."""
    return next(islice(grown(examples, options), num_trees // TREES_AT_ONCE - 1, None))


def text_of(booster: lgb.Booster, *, num_trees: int | None = None) -> str:
    """LightGBM's text of the trees, without its parameters: they name the machines that built it."""
    return booster.model_to_string(num_iteration=num_trees).partition("\nparameters:")[0] + "\n"


def predicted(booster: lgb.Booster, features: Floats, *, first_tree: int = 0, num_trees: int = -1) -> Doubles:
    """The scores (N,) by all trees, or by `num_trees` of them from `first_tree` on."""
    scores = booster.predict(features, start_iteration=first_tree, num_iteration=num_trees, raw_score=True)
    return np.asarray(scores, dtype=np.float64)


def ndcg_by_trees(growing: Iterator[lgb.Booster], examples: Examples) -> Iterator[tuple[lgb.Booster, Doubles]]:
    """A growing ranker, each time with the NDCG@10 of each user by its trees, (G, 2): of all items and of new ones; NaN if none was wanted."""
    scores = np.zeros(len(examples.label))
    for step, booster in enumerate(growing):
        scores += predicted(booster, examples.features, first_tree=step * TREES_AT_ONCE, num_trees=TREES_AT_ONCE)
        yield booster, ndcg_of(scores, examples)


def ndcg_of(scores: Doubles, examples: Examples) -> Doubles:
    """NDCG@10 of each user, (G, 2): of all items and of new ones; NaN where none was wanted."""
    found = np.full(examples.num_wanted.shape, np.nan)
    for question, shown in enumerate((np.ones(len(scores), bool), examples.is_new)):
        group, score, label = examples.group[shown], scores[shown], examples.label[shown]
        order = np.lexsort((-score, group))
        group, label = group[order], label[order]
        rank = np.arange(len(group)) - np.searchsorted(group, group)
        top = rank < LENGTH
        hits = np.zeros((len(found), LENGTH), bool)
        hits[group[top], rank[top]] = label[top] > 0
        wanted = examples.num_wanted[:, question]
        asked = wanted > 0
        found[asked, question] = ndcg(hits[asked], wanted[asked])
    return found


def ordinary(features: Floats) -> Floats:
    """An ordinary candidate, (len(FEATURES),): the median of each feature, and nothing that the user did with the item."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a feature that is unknown everywhere stays so
        median = np.nanmedian(features, axis=0).astype(np.float32)
    median[: len(PAIR_FEATURES)] = np.where(IS_COUNT, 0, np.nan)
    return np.asarray(median)


def moving_groups(booster: lgb.Booster, features: Floats, scores: Doubles, usual: Floats) -> NDArray[np.int64]:
    """Which group of features moved each row: the one that lifts its score most above that of an ordinary candidate's features.

    Args:
        booster: the ranker.
        features: (N, len(FEATURES)).
        scores: (N,), the ranker's.
        usual: what `ordinary` gives; each group's features are replaced by these in turn.

    Returns:
        (N,), indices of GROUPS.
    """
    groups = np.array([GROUP_OF[name] for name in FEATURES])
    falls = np.empty((len(GROUPS), len(features)))
    for place, group in enumerate(GROUPS):
        without = features.copy()
        without[:, groups == group] = usual[groups == group]
        falls[place] = scores - predicted(booster, without)
    return np.asarray(falls.argmax(axis=0))
