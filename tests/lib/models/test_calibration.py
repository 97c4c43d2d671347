import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from lib.models.baselines import Fits, Linear, probabilities
from lib.models.calibration import (
    AS_IT_IS,
    Calibration,
    calibrated,
    calibration_errors,
    calibration_of,
    equal_mass_bins,
    fit_calibration,
    level_of,
    reliability_rows,
)
from lib.models.fitting import Examples


def test_bins_hold_equally_many_and_equal_predictions_are_in_one() -> None:
    assert equal_mass_bins(np.array([0.9, 0.1, 0.5, 0.2]), 2).tolist() == [1, 0, 1, 0]
    # Ranks from 0: .1, .3, .3, .3, .8 and .9 are 0, 1, 1, 1, 4 and 5 of 6.
    assert equal_mass_bins(np.array([0.3, 0.1, 0.3, 0.8, 0.3, 0.9]), 3).tolist() == [0, 0, 0, 2, 0, 2]


def test_the_calibration_error_by_hand() -> None:
    # Twenty users, two a bin: in nine bins of the ten p is .2 and .4 ... of whom nobody buys, in the last both do.
    predicted = np.linspace(0.05, 1.0, 20)
    labels = torch.zeros(20)
    labels[-2:] = 1
    # Bin b of the first nine is off by its mean, the last by 1 - .975.
    means = predicted.reshape(10, 2).mean(axis=1)
    expected = (means[:-1].sum() + (1 - means[-1])) / 10
    found = calibration_errors(labels, {"a": predicted}, seed=0, num_resamples=200)["a"]
    assert found["value"] == pytest.approx(expected)
    assert found["low"] < expected < found["high"]


def test_errors_of_opposite_sign_in_a_bin_cancel_and_in_two_bins_do_not() -> None:
    labels = torch.tensor([1.0, 0.0] * 10)
    alike = calibration_errors(labels, {"a": np.full(20, 0.5)}, seed=0, num_resamples=10)["a"]
    assert alike["value"] == pytest.approx(0.0)
    apart = np.array([0.4, 0.6] * 10)  # of .4 all buy, of .6 nobody does
    found = calibration_errors(labels, {"b": apart}, seed=0, num_resamples=10)["b"]
    assert found["value"] == pytest.approx(0.6)


def test_reliability_tells_of_each_bin_what_was_said_and_what_came() -> None:
    predicted, labels = np.repeat([0.25, 0.75], [4, 6]), torch.tensor([1.0, 0, 0, 0, 1, 1, 1, 0, 0, 0])
    rows = {row["metric"]: row for row in reliability_rows(labels, predicted)}
    assert {metric: (row["value"], row["n"]) for metric, row in rows.items()} == {
        "predicted_bin_01": (0.25, 4),
        "observed_bin_01": (0.25, 4),
        "predicted_bin_05": (0.75, 6),
        "observed_bin_05": (0.5, 6),
    }
    # Wilson's interval of 1 of 4: centre (p + z^2 / 2n) / (1 + z^2 / n).
    n, z = 4, 1.959964
    centre = (0.25 + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(0.25 * 0.75 / n + z * z / (4 * n * n))
    observed = rows["observed_bin_01"]
    assert (observed["low"], observed["high"]) == pytest.approx((centre - half, centre + half), abs=1e-6)


def test_platt_scaling_is_the_best_of_its_kind_for_smoothed_targets() -> None:
    rng = np.random.default_rng(0)
    log_odds = rng.normal(size=300)
    labels = torch.tensor(rng.random(300) < probabilities(0.5 * log_odds - 1)).float()
    num_positive = int(labels.sum())
    target = np.where(labels > 0, (num_positive + 1) / (num_positive + 2), 1 / (300 - num_positive + 2))

    def loss(numbers: np.ndarray) -> float:
        z = numbers[0] * log_odds + numbers[1]
        return float((np.logaddexp(0, z) - target * z).sum())

    expected = minimize(loss, np.zeros(2), tol=1e-10).x
    assert fit_calibration(log_odds, labels) == pytest.approx(tuple(expected), abs=1e-3)


def test_a_model_that_is_too_sure_is_mended_on_other_users() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=4000) - 1
    labels = torch.tensor(rng.random(4000) < probabilities(truth)).float()
    sure = 3 * truth + 1
    calibration = fit_calibration(sure[:2000], labels[:2000])
    before, after = probabilities(sure[2000:]), calibrated(sure[2000:], calibration)
    errors = calibration_errors(labels[2000:], {"before": before, "after": after}, seed=0, num_resamples=100)
    assert errors["after"]["value"] < 0.4 * errors["before"]["value"]
    assert errors["after"]["high"] < errors["before"]["low"]


@given(st.lists(st.tuples(st.floats(-30, 30), st.booleans()), min_size=1, max_size=30))
def test_calibration_never_turns_an_order_around_and_stays_a_probability(told: list[tuple[float, bool]]) -> None:
    log_odds, labels = np.array([x for x, _ in told]), torch.tensor([float(bought) for _, bought in told])
    calibration = fit_calibration(log_odds, labels)
    found = calibrated(np.sort(log_odds), calibration)
    assert ((found >= 0) & (found <= 1)).all()
    assert (np.diff(found) >= 0).all()


def test_a_model_that_is_wrong_way_round_is_corrected_to_the_share_of_buyers() -> None:
    log_odds, labels = np.array([-2.0, -1.0, 1.0, 2.0]), torch.tensor([1.0, 1.0, 0.0, 0.0])
    assert fit_calibration(log_odds, labels) == pytest.approx(Calibration(0.0, 0.0))


def test_the_slope_is_the_first_fit_s_and_the_level_is_valid_s_by_the_fit_that_serves() -> None:
    rng = np.random.default_rng(0)
    features = torch.tensor(rng.normal(size=(500, 1)))
    valid = Examples(features, torch.tensor(rng.random(500) < probabilities(features[:, 0].numpy() - 1)).float())
    first, served = Linear(np.array([3.0]), 2.0), Linear(np.array([3.0]), -0.7)
    found = calibration_of(Fits(first, served, ""), valid)
    assert found.slope == fit_calibration(first.log_odds(features), valid.labels).slope
    assert calibrated(served.log_odds(features), found).mean() == pytest.approx(valid.labels.mean().item())
    # A level of its own changes nothing that the fit says after correction.
    other = calibration_of(Fits(first, Linear(np.array([3.0]), 5.0), ""), valid)
    assert other.intercept == pytest.approx(found.intercept - found.slope * 5.7)
    assert calibration_of(Fits(first, served, ""), valid.first(0)) == AS_IT_IS


def test_a_level_by_hand() -> None:
    assert level_of(np.zeros(3), 0.75) == pytest.approx(np.log(3))
    assert level_of(np.array([5.0, -5.0]), 0.5) == pytest.approx(0.0)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_a_single_class_leaves_probabilities_as_they_are(label: float) -> None:
    assert fit_calibration(np.array([0.3, 1.0]), torch.full((2,), label)) == AS_IT_IS
