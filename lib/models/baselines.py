"""What the purchase encoder is judged by: logistic regression and boosted trees, tuned on valid and fitted again as it is.

Each is fitted on train, where valid chooses what is tuned, and then on both with that. Every model of a purchase tells log
odds, from which a probability is made.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from lib.models.fitting import Examples, joined
from lib.models.purchase_encoder import PurchaseEncoder
from lib.statistics.bootstrap import Floats
from lib.statistics.classification import SMALLEST_PROBABILITY

ENCODER, REFERENCE, TREES = "encoder", "logistic_regression", "boosted_trees"
MODELS = (REFERENCE, TREES, ENCODER)  # the simplest first
PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0)  # scikit-learn's C: the larger, the less the coefficients are shrunk
LEAVES = (7, 31)
MAX_TREES, PATIENCE = 500, 30
UNTUNED_PENALTY, UNTUNED_LEAVES, UNTUNED_TREES = 1.0, 7, 100  # where valid has no labels
TREE_PARAMETERS: Mapping[str, Any] = {
    "objective": "binary",
    "metric": "binary_logloss",
    "learning_rate": 0.05,
    "num_threads": 1,
    "verbose": -1,
    "deterministic": True,
    "force_row_wise": True,
}


Key = TypeVar("Key")
Fit = TypeVar("Fit")


class PurchaseModel(Protocol):
    """A fit that tells how likely a purchase is."""

    def log_odds(self, features: Tensor) -> Floats:
        """The log odds of a purchase: (N, F) -> (N,)."""
        ...


@dataclass(frozen=True)
class Encoder:
    """The purchase encoder as a purchase model."""

    encoder: PurchaseEncoder

    def log_odds(self, features: Tensor) -> Floats:
        """The log odds of a purchase: (N, F) -> (N,)."""
        with torch.no_grad():
            return np.asarray(self.encoder(features).double().numpy())


@dataclass(frozen=True)
class Linear:
    """A fit of logistic regression."""

    coefficients: Floats  # (F,)
    intercept: float

    def log_odds(self, features: Tensor) -> Floats:
        """The log odds of a purchase: (N, F) -> (N,)."""
        return np.asarray(features.double().numpy() @ self.coefficients + self.intercept)


@dataclass(frozen=True)
class Trees:
    """A fit of LightGBM, as its text."""

    text: str

    def log_odds(self, features: Tensor) -> Floats:
        """The log odds of a purchase: (N, F) -> (N,)."""
        import lightgbm as lgb  # noqa: PLC0415 - as in `fit_trees`

        booster = lgb.Booster(model_str=self.text)
        return np.asarray(booster.predict(features.numpy(), raw_score=True, num_threads=1), dtype=np.float64)


class Fits(NamedTuple):
    """The two fits of a model."""

    chosen: PurchaseModel  # has not seen valid, save for what it was tuned by
    served: PurchaseModel  # of train and valid
    told: str  # what valid has chosen


def probabilities(log_odds: Floats) -> Floats:
    """The probabilities of log odds: (N,) -> (N,) in 0..1."""
    return np.asarray(np.exp(-np.logaddexp(0.0, -log_odds)))


def log_loss_of(log_odds: Floats, labels: Tensor) -> float:
    """The mean log loss, with probabilities clipped as in gold/model_metrics; NaN without labels."""
    if not len(labels):
        return float("nan")
    given = probabilities(np.where(labels.numpy() > 0, log_odds, -log_odds))
    return float(-np.log(np.clip(given, SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)).mean())


def fit_linear(examples: Examples, penalty: float) -> Linear:
    """Logistic regression on examples of both classes; the larger `penalty`, scikit-learn's C, the weaker it is."""
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - seconds that a training worker does without

    features, labels = (tensor.double().numpy() for tensor in examples)
    found = LogisticRegression(C=penalty, max_iter=1000).fit(features, labels)
    return Linear(found.coef_[0], float(found.intercept_[0]))


def fit_trees(
    examples: Examples, *, num_leaves: int, num_trees: int, seed: int, valid: Examples | None = None
) -> tuple[Trees, int]:
    """Gradient-boosted trees (LightGBM: Ke et al. 2017), and how many; with `valid` they stop where its loss is the lowest.

    Args:
        examples: of both classes.
        num_leaves: of a tree, at most.
        num_trees: how many, or at most how many with `valid`.
        seed: LightGBM's.
        valid: labelled examples, at least one.
    """
    import lightgbm as lgb  # noqa: PLC0415 - seconds that a training worker does without

    parameters = {**TREE_PARAMETERS, "num_leaves": num_leaves, "seed": seed}
    data = lgb.Dataset(examples.features.numpy(), examples.labels.numpy())
    if valid is None:
        booster = lgb.train(parameters, data, num_boost_round=num_trees)
        return Trees(booster.model_to_string()), num_trees
    stop = lgb.early_stopping(PATIENCE, verbose=False)
    judged_by = [data.create_valid(valid.features.numpy(), valid.labels.numpy())]
    booster = lgb.train(parameters, data, num_boost_round=num_trees, valid_sets=judged_by, callbacks=[stop])
    best = max(1, booster.best_iteration)
    return Trees(booster.model_to_string(num_iteration=best)), best


def fit_baselines(train: Examples, valid: Examples, *, seed: int) -> dict[str, Fits]:
    """Both baselines, by name; without labels in valid nothing is tuned."""
    both = joined(train, valid)
    if not len(valid.labels):
        linear = fit_linear(train, UNTUNED_PENALTY)
        trees, _ = fit_trees(train, num_leaves=UNTUNED_LEAVES, num_trees=UNTUNED_TREES, seed=seed)
        return {REFERENCE: Fits(linear, linear, "not tuned"), TREES: Fits(trees, trees, "not tuned")}
    penalty, linear = _best({c: fit_linear(train, c) for c in PENALTIES}, valid, lambda fit: fit)
    leaves, (trees, num_trees) = _best(
        {leaves: fit_trees(train, num_leaves=leaves, num_trees=MAX_TREES, seed=seed, valid=valid) for leaves in LEAVES},
        valid,
        lambda fit: fit[0],
    )
    again, _ = fit_trees(both, num_leaves=leaves, num_trees=num_trees, seed=seed)
    return {
        REFERENCE: Fits(linear, fit_linear(both, penalty), f"C {penalty:g}"),
        TREES: Fits(trees, again, f"{num_trees} trees of {leaves} leaves"),
    }


def _best(fits: Mapping[Key, Fit], valid: Examples, model_of: Callable[[Fit], PurchaseModel]) -> tuple[Key, Fit]:
    """The fit with the lowest log loss on valid; of equal ones the first."""
    return min(fits.items(), key=lambda fit: log_loss_of(model_of(fit[1]).log_odds(valid.features), valid.labels))
