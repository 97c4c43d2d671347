"""Whether probabilities are what they say: reliability and its error, and a correction of them.

A model is calibrated if of the users to whom it gives p a share p buys.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lib.models.baselines import Fits, probabilities
from lib.models.fitting import Examples
from lib.statistics.bootstrap import TAILS, Floats, resampled_sums

NUM_BINS = 10
PREDICTED, OBSERVED = "predicted_bin_", "observed_bin_"  # metrics of reliability, with the bin's number from 1


class Calibration(NamedTuple):
    """Corrected log odds are slope x log odds + intercept; the slope is at least 0, so that no order turns around."""

    slope: float = 1.0
    intercept: float = 0.0

    def corrected(self, log_odds: Floats) -> Floats:
        """The log odds after correction: (N,) -> (N,)."""
        return np.asarray(self.slope * log_odds + self.intercept)


AS_IT_IS = Calibration()


def calibration_of(fits: Fits, valid: Examples) -> Calibration:
    """The calibration of the fit that serves: the slope is the first fit's, the level is valid's.

    How sure a model is of users it has not seen is told by the fit that has not seen valid. Its level is not that of the fit
    that serves, which knows valid too: the first fit's correction would count the drift from train to valid again. So the
    mean over valid becomes, of the fit that serves, the share who bought.

    Args:
        fits: both fits of the model.
        valid: labelled examples, which may be none.
    """
    if not len(valid.labels):
        return AS_IT_IS
    slope, _ = found = fit_calibration(fits.chosen.log_odds(valid.features), valid.labels)
    if found == AS_IT_IS:
        return found
    log_odds = slope * fits.served.log_odds(valid.features)
    return Calibration(slope, level_of(log_odds, float(valid.labels.mean())))


def level_of(log_odds: Floats, share: float) -> float:
    """What is added to log odds (N,) so that the mean of the probabilities is this share, above 0 and below 1."""
    from scipy.optimize import brentq  # noqa: PLC0415 - seconds that a training worker does without

    alike = np.log(share / (1 - share))  # were all of them 0
    low, high = alike - log_odds.max(), alike - log_odds.min()
    return float(brentq(lambda added: probabilities(log_odds + added).mean() - share, low - 1e-6, high + 1e-6))


def fit_calibration(log_odds: Floats, labels: Tensor) -> Calibration:
    """Platt scaling (Platt 1999, "Probabilistic outputs for support vector machines"), with his smoothed targets.

    Two numbers, unlike the steps of isotonic regression, can be fitted on few purchases and keep users apart, whom deciles
    then order. With labels of a single class nothing can be fitted, and probabilities stay as they are.

    Args:
        log_odds: (N,), of a model that was not fitted on these examples.
        labels: (N,) of 0 and 1.
    """
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - seconds that a training worker does without

    num_positive = int(labels.sum())
    num_negative = len(labels) - num_positive
    if not num_positive or not num_negative:
        return AS_IT_IS
    # An example counts for both classes: in part for the other one, which the smoothed target says.
    target = np.where(labels.numpy() > 0, (num_positive + 1) / (num_positive + 2), 1 / (num_negative + 2))
    both = np.concatenate([log_odds, log_odds]).reshape(-1, 1)
    classes = np.repeat([1, 0], len(target))
    weights = np.concatenate([target, 1 - target])
    fit = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(both, classes, sample_weight=weights)
    slope, intercept = float(fit.coef_[0, 0]), float(fit.intercept_[0])
    if slope > 0:
        return Calibration(slope, intercept)
    mean = target.mean()  # the best fit of those that do not turn the order around
    return Calibration(0.0, float(np.log(mean / (1 - mean))))


def equal_mass_bins(predicted: Floats, num_bins: int = NUM_BINS) -> NDArray[np.int64]:
    """The bin of each prediction, from 0: bins of equally many, save that equal predictions are in one bin, (N,) -> (N,)."""
    rank = np.searchsorted(np.sort(predicted), predicted, side="left")
    return np.asarray(rank * num_bins // max(1, len(predicted)), dtype=np.int64)


def calibration_errors(
    labels: Tensor, predicted: Mapping[str, Floats], *, seed: int, num_resamples: int
) -> dict[str, dict[str, float]]:
    """The expected calibration error (ECE) of each model's probabilities: value, low and high.

    The mean over examples of the distance, in the example's bin, between the mean prediction and the share of positives
    (Naeini, Cooper and Hauskrecht 2015, "Obtaining well calibrated probabilities using Bayesian binning"), in NUM_BINS bins
    of equal mass, which are less biased than bins of equal width (Roelofs et al. 2022, "Mitigating bias in calibration error
    estimation"). It is above 0 by chance even for a calibrated model, and in a resample more so: its bootstrap interval
    over examples, with the bins as they are, lies high. All models have the same draws.

    Args:
        labels: (N,) of 0 and 1, at least one.
        predicted: model -> (N,) probabilities.
        seed: of the bootstrap.
        num_resamples: of the bootstrap.
    """
    size = len(labels)
    rows, truth = np.arange(size), labels.double().numpy()
    residuals = np.zeros((size, len(predicted), NUM_BINS))
    for place, given in enumerate(predicted.values()):
        residuals[rows, place, equal_mass_bins(given)] = given - truth
    values = np.abs(residuals.sum(axis=0)).sum(axis=-1) / size
    sums = resampled_sums(residuals.reshape(size, -1), rows.astype(np.uint64), num_resamples=num_resamples, seed=seed)
    drawn = sums[sums[:, -1] > 0]
    errors = np.abs(drawn[:, :-1].reshape(len(drawn), len(predicted), NUM_BINS)).sum(axis=-1) / drawn[:, -1:]
    low, high = np.quantile(errors, TAILS, axis=0)
    return {
        model: {"value": float(values[place]), "low": float(low[place]), "high": float(high[place])}
        for place, model in enumerate(predicted)
    }


def reliability_rows(labels: Tensor, predicted: Floats) -> list[dict[str, Any]]:
    """Metrics of each bin that holds any example, with their number: the mean prediction, and the share of positives.

    The share's interval is Wilson's (1927), of 95 %.
    """
    from scipy.stats import binomtest  # noqa: PLC0415 - seconds that a training worker does without

    bins, found = equal_mass_bins(predicted), []
    for number in np.unique(bins):
        inside = bins == number
        size, num_positive = int(inside.sum()), int(labels.numpy()[inside].sum())
        around = binomtest(num_positive, size).proportion_ci(method="wilson")
        mean = float(predicted[inside].mean())
        found.append({"metric": f"{PREDICTED}{number + 1:02d}", "value": mean, "low": None, "high": None, "n": size})
        share = {"value": num_positive / size, "low": float(around.low), "high": float(around.high)}
        found.append({"metric": f"{OBSERVED}{number + 1:02d}", **share, "n": size})
    return found


def calibrated(log_odds: Floats, calibration: Calibration) -> Floats:
    """The probabilities of log odds after correction: (N,) -> (N,)."""
    return probabilities(calibration.corrected(log_odds))
