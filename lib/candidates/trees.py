"""LambdaMART (Burges 2010, "From RankNet to LambdaRank to LambdaMART") by LightGBM over the candidates' features."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from lib.candidates.examples import Examples, Floats, Pairs, ndcg_of
from lib.candidates.features import FEATURES
from lib.statistics.bootstrap import Floats as Doubles

if TYPE_CHECKING:
    import lightgbm as lgb
else:
    from lib.statistics.gradient_boosting import lightgbm as lgb

TREES_AT_ONCE = 10  # the number of trees is a multiple of it
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


@dataclass(frozen=True)
class Trees:
    """A fit, as LightGBM's text."""

    text: str

    @cached_property
    def booster(self) -> lgb.Booster:
        """The trees, read once."""
        return lgb.Booster(model_str=self.text)

    @property
    def num_parameters(self) -> int:
        """Leaves of all trees."""
        return sum(tree["num_leaves"] for tree in self.booster.dump_model()["tree_info"])

    @property
    def knows_pairs(self) -> bool:
        """They know features alone."""
        return False

    def scores(self, features: Floats, pairs: Pairs | None = None) -> Doubles:
        """The scores, (N,); trees know no pairs."""
        return predicted(self.booster, features)


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
