"""Compares the purchase encoder with its baselines on the same examples, and says which of them serves."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from lib.models.baselines import ENCODER, MODELS, REFERENCE, TREES, PurchaseModel, probabilities
from lib.models.calibration import Calibration, calibrated, calibration_errors, reliability_rows
from lib.models.fitting import Examples
from lib.models.purchase_encoder import PurchaseEncoder
from lib.statistics.bootstrap import Floats
from lib.statistics.classification import evaluate, metric_rows

Rows = list[dict[str, Any]]


def judge(
    models: Mapping[str, PurchaseModel],
    examples: Examples,
    *,
    split: str,
    version: str,
    seed: int,
    num_resamples: int,
    calibrations: Mapping[str, Calibration] | None = None,
) -> Rows:
    """Rows of gold/model_metrics for one split; none where it has no labelled examples.

    Args:
        models: the encoder and both baselines, by name, already fitted.
        examples: those of the split, which none was fitted on.
        split: its name.
        version: the encoder's.
        seed: of the bootstrap.
        num_resamples: of the bootstrap.
        calibrations: of each model, not fitted on these examples; with them the errors after correction are told too.
    """
    if not len(examples.labels):
        return []
    log_odds = {model: fit.log_odds(examples.features) for model, fit in models.items()}
    given = {model: probabilities(found) for model, found in log_odds.items()}
    found = evaluate(
        examples.labels.numpy().astype(np.int64),
        given,
        references=(REFERENCE, TREES),
        seed=seed,
        num_resamples=num_resamples,
    )
    rows = metric_rows(found, version=version, split=split, num_examples=len(examples.labels))
    asked = {(model, "ece"): predicted for model, predicted in given.items()}
    for model, calibration in (calibrations or {}).items():
        asked[model, "ece_calibrated"] = calibrated(log_odds[model], calibration)
    by_name = {f"{model}/{metric}": predicted for (model, metric), predicted in asked.items()}
    errors = calibration_errors(examples.labels, by_name, seed=seed, num_resamples=num_resamples)
    named = {"version": version, "split": split}
    for model, metric in asked:
        error = errors[f"{model}/{metric}"]
        rows.append({"model": model, **named, "metric": metric, **error, "n": len(examples.labels)})
    for model, predicted in given.items():
        rows += [{"model": model, **named, **row} for row in reliability_rows(examples.labels, predicted)]
    return rows


class Choice(NamedTuple):
    """Which model serves, and what is said of it."""

    model: str
    told: str


def choose(measured: Rows, candidates: Sequence[str] = MODELS) -> Choice:
    """The model with the lowest log loss on valid, of equal ones the simpler, beside what test says of the encoder.

    Args:
        measured: rows of `judge` of valid and test.
        candidates: the models that may serve, the simplest first.
    """
    by_key = {(row["split"], row["metric"], row["model"]): row for row in measured}
    of_valid = {model: by_key.get(("valid", "log_loss", model)) for model in candidates}
    losses = {model: row["value"] for model, row in of_valid.items() if row is not None}
    if not losses:
        return Choice(candidates[0], f"{candidates[0]} serves, the simplest: valid has no known labels to choose by")
    best = min(losses, key=lambda model: losses[model])
    told = f"{best} serves: log loss on valid " + ", ".join(f"{loss:.4f} {model}" for model, loss in losses.items())
    if ENCODER not in candidates:
        told += "; the encoder of this run stands back"
    row = by_key.get(("test", f"log_loss_minus_{best}", ENCODER))
    return Choice(best, told if row is None else f"{told}; {encoder_against(row, best)}")


def encoder_against(row: Mapping[str, Any], best: str) -> str:
    """What the paired difference of the encoder's log loss and the serving model's says, plainly."""
    value, low, high = row["value"], row["low"], row["high"]
    if value is None or low is None:
        return f"nothing can be said of the encoder against {best}"
    said = f"on {row['split']} the encoder's log loss minus its own is {value:+.4f} ({low:+.4f} to {high:+.4f})"
    return said + (": the network is worse" if low > 0 else ": the network is not worse beyond its interval")


def encoder_of(weights: Mapping[str, Any], num_features: int) -> PurchaseEncoder:
    """A purchase encoder with these weights."""
    encoder = PurchaseEncoder(num_features)
    encoder.load_state_dict(weights)
    return encoder.eval()


def log_likelihoods(encoder: PurchaseEncoder, examples: Examples) -> Floats:
    """The log probability that the encoder gives to each example's label: (N,), at most 0."""
    if not len(examples.labels):
        return np.zeros(0)
    with torch.no_grad():
        losses = F.binary_cross_entropy_with_logits(encoder(examples.features), examples.labels, reduction="none")
    return np.asarray(-losses.double().numpy())
