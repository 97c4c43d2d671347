"""Metrics of probabilities of a binary label: AUC, PR-AUC, log loss, with bootstrap intervals and paired differences.

The values are scikit-learn's. The intervals come from resampling examples, which must be independent of each other (one
user is one example): every metric is computed in every resample from how often each example was drawn, with the same
draws for all models.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lib.statistics.bootstrap import NUM_RESAMPLES, TAILS, resample_weights

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

METRICS = ("auc", "pr_auc", "log_loss")
SMALLEST_PROBABILITY = float(np.finfo(np.float64).eps)  # scikit-learn's clip before the logarithm

_CELLS_AT_ONCE = 1 << 21  # drawn counts in memory at a time


class Interval(NamedTuple):
    """A value with its 95 % bootstrap interval; None if the labels leave it undefined."""

    value: float | None
    low: float | None
    high: float | None


def evaluate(
    labels: Labels,
    probabilities: Mapping[str, Floats],
    *,
    references: Sequence[str],
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
) -> dict[str, dict[str, Interval]]:
    """Every metric of every model, and its difference from each reference model on the same draws.

    Args:
        labels: (n,) of 0 and 1, at least one.
        probabilities: model -> (n,) predicted probabilities of a 1.
        references: the models that the others are compared with, and each of them with those before it; their names are part
            of `<metric>_minus_<reference>`.
        seed: of the bootstrap.
        num_resamples: of the bootstrap.

    Returns:
        model -> metric -> value and interval. AUC and PR-AUC are None where all labels are the same.

    Raises:
        ValueError: there is no example, or a model does not have one probability per example.
    """
    if not len(labels):
        raise ValueError("metrics need at least one labelled example; got none")
    for model, predicted in probabilities.items():
        if predicted.shape != labels.shape:
            raise ValueError(
                f"{model} has probabilities of shape {predicted.shape}; expected one per label: {labels.shape}"
            )
    values = {model: _values(labels, predicted) for model, predicted in probabilities.items()}
    drawn = _resampled(labels, probabilities, seed=seed, num_resamples=num_resamples)
    found: dict[str, dict[str, Interval]] = {}
    for model in probabilities:
        rows = {metric: _interval(values[model][metric], drawn[model][metric]) for metric in METRICS}
        others = references[: references.index(model)] if model in references else references
        for reference in others:
            for metric in METRICS:
                own, other = values[model][metric], values[reference][metric]
                value = None if own is None or other is None else own - other
                difference = drawn[model][metric] - drawn[reference][metric]
                rows[f"{metric}_minus_{reference}"] = _interval(value, difference)
        found[model] = rows
    return found


def metric_rows(
    found: Mapping[str, Mapping[str, Interval]], *, version: str, split: str, num_examples: int
) -> list[dict[str, Any]]:
    """The result of `evaluate` as rows of gold/model_metrics."""
    return [
        {"model": model, "version": version, "split": split, "metric": metric, "n": num_examples, **interval._asdict()}
        for model, metrics in found.items()
        for metric, interval in metrics.items()
    ]


def resampled_auc(labels: Labels, probabilities: Floats, weights: Floats) -> Floats:
    """Area under the ROC curve in each resample: share of pairs of a 1 and a 0 ranked correctly, ties counting half.

    Args:
        labels: (n,).
        probabilities: (n,).
        weights: (resamples, n), how often each example was drawn.

    Returns:
        (resamples,), NaN for a resample with one class only.
    """
    starts, order = _ties(probabilities)
    positive = np.add.reduceat(weights[:, order] * labels[order], starts, axis=1)
    negative = np.add.reduceat(weights[:, order] * (1 - labels[order]), starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative / 2
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    return _divided((positive * below).sum(axis=1), pairs)


def resampled_average_precision(labels: Labels, probabilities: Floats, weights: Floats) -> Floats:
    """Average precision, sum over thresholds of (R_k - R_(k-1)) P_k, in each resample.

    Arguments as for `resampled_auc`.
    """
    starts, order = _ties(-probabilities)
    positive = np.add.reduceat(weights[:, order] * labels[order], starts, axis=1)
    drawn = np.cumsum(np.add.reduceat(weights[:, order], starts, axis=1), axis=1)
    precision = _divided(np.cumsum(positive, axis=1), drawn)
    total, all_drawn = positive.sum(axis=1), drawn[:, -1]
    value = _divided(np.nansum(positive * precision, axis=1), total)
    return np.where(total < all_drawn, value, np.nan)


def resampled_log_loss(labels: Labels, probabilities: Floats, weights: Floats) -> Floats:
    """Mean of -log p(label) in each resample; arguments as for `resampled_auc`."""
    p = np.clip(probabilities, SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    losses = -np.where(labels == 1, np.log(p), np.log1p(-p))
    return _divided(weights @ losses, weights.sum(axis=1))


RESAMPLED: dict[str, Callable[[Labels, Floats, Floats], Floats]] = {
    "auc": resampled_auc,
    "pr_auc": resampled_average_precision,
    "log_loss": resampled_log_loss,
}


def _values(labels: Labels, probabilities: Floats) -> dict[str, float | None]:
    from sklearn import metrics  # noqa: PLC0415 - seconds that a training worker does without

    has_both = 0 < labels.sum() < len(labels)
    return {
        "auc": float(metrics.roc_auc_score(labels, probabilities)) if has_both else None,
        "pr_auc": float(metrics.average_precision_score(labels, probabilities)) if has_both else None,
        "log_loss": float(metrics.log_loss(labels, probabilities, labels=[0, 1])),
    }


def _resampled(
    labels: Labels, probabilities: Mapping[str, Floats], *, seed: int, num_resamples: int
) -> dict[str, dict[str, Floats]]:
    """For each model and metric its values (resamples,), on the same draws; computes a few resamples at a time."""
    keys = np.arange(len(labels), dtype=np.uint64)
    found = {model: {metric: np.empty(num_resamples) for metric in RESAMPLED} for model in probabilities}
    step = max(1, _CELLS_AT_ONCE // len(labels))
    for start in range(0, num_resamples, step):
        part = slice(start, min(start + step, num_resamples))
        # Each part needs its own seed, because the bootstrap numbers resamples from 0.
        drawn = resample_weights(keys, num_resamples=part.stop - start, seed=(seed << 20) + start)
        weights = drawn.T.astype(np.float64)
        for model, predicted in probabilities.items():
            for metric, resampled in RESAMPLED.items():
                found[model][metric][part] = resampled(labels, predicted, weights)
    return found


def _interval(value: float | None, drawn: Floats) -> Interval:
    """The middle 95 % of the resamples in which the metric is defined."""
    defined = drawn[~np.isnan(drawn)]
    if value is None or not len(defined):
        return Interval(value, None, None)
    low, high = np.quantile(defined, TAILS)
    return Interval(value, float(low), float(high))


def _ties(scores: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """(starts, order): `order` sorts the scores ascending, `starts` are the places where a new value begins."""
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    return starts, order


def _divided(numerator: Floats, denominator: Floats) -> Floats:
    """Numerator / denominator, NaN where the denominator is 0."""
    result: Floats = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result
