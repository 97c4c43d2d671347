"""Compares the purchase encoder with logistic regression fitted on the same examples."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from lib.models.fitting import Examples
from lib.models.purchase_encoder import PurchaseEncoder
from lib.statistics.bootstrap import Floats
from lib.statistics.classification import evaluate, metric_rows

REFERENCE = "logistic_regression"


def judge(
    encoder: PurchaseEncoder,
    fitted_on: Examples,
    examples: Examples,
    *,
    split: str,
    version: str,
    seed: int,
    num_resamples: int,
) -> list[dict[str, Any]]:
    """Rows of gold/model_metrics for one split; none where it has no labelled examples.

    Args:
        encoder: already fitted.
        fitted_on: the examples that it was fitted on, and logistic regression shall be; its labels hold both classes.
        examples: those of the split, which neither model was fitted on.
        split: its name.
        version: the encoder's.
        seed: of the bootstrap.
        num_resamples: of the bootstrap.
    """
    if not len(examples.labels):
        return []
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - seconds that a training worker does without

    regression = LogisticRegression(max_iter=1000).fit(fitted_on.features.numpy(), fitted_on.labels.numpy())
    with torch.no_grad():
        probabilities = torch.sigmoid(encoder(examples.features)).double().numpy()
    found = evaluate(
        examples.labels.numpy().astype(np.int64),
        {"encoder": probabilities, REFERENCE: regression.predict_proba(examples.features.numpy())[:, 1]},
        reference=REFERENCE,
        seed=seed,
        num_resamples=num_resamples,
    )
    return metric_rows(found, version=version, split=split, num_examples=len(examples.labels))


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
