"""Compares the purchase encoder with logistic regression fitted on the same examples."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from lib.models.fitting import Examples
from lib.models.purchase_encoder import PurchaseEncoder
from lib.statistics.classification import evaluate, metric_rows

REFERENCE = "logistic_regression"


def judge(
    encoder: PurchaseEncoder,
    train: Examples,
    splits: Mapping[str, Examples],
    *,
    version: str,
    seed: int,
    num_resamples: int,
) -> list[dict[str, Any]]:
    """Rows of gold/model_metrics for every split that has labelled examples.

    Args:
        encoder: already fitted.
        train: the examples to fit logistic regression on; its labels hold both classes.
        splits: name -> examples that neither model was fitted on.
        version: the encoder's.
        seed: of the bootstrap.
        num_resamples: of the bootstrap.
    """
    regression = LogisticRegression(max_iter=1000).fit(train.features.numpy(), train.labels.numpy())
    rows = []
    for split, (features, labels) in splits.items():
        if not len(labels):
            continue
        with torch.no_grad():
            probabilities = torch.sigmoid(encoder(features)).double().numpy()
        found = evaluate(
            labels.numpy().astype(np.int64),
            {"encoder": probabilities, REFERENCE: regression.predict_proba(features.numpy())[:, 1]},
            reference=REFERENCE,
            seed=seed,
            num_resamples=num_resamples,
        )
        rows += metric_rows(found, version=version, split=split, num_examples=len(labels))
    return rows
