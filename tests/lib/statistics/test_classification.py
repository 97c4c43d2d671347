import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from lib.statistics.classification import (
    METRICS,
    RESAMPLED,
    _resampled,
    evaluate,
    resampled_auc,
    resampled_average_precision,
    resampled_log_loss,
)

NUM_EXAMPLES = 400


def drawn_examples(
    seed: int, *, num_examples: int = NUM_EXAMPLES, effect: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, probabilities rounded so that there are ties, and the number of draws of each example."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(num_examples) < 0.3).astype(np.int64)
    logits = effect * labels + rng.standard_normal(num_examples)
    probabilities = np.round(1 / (1 + np.exp(-logits)), 2)
    return labels, probabilities, rng.poisson(1, (5, num_examples)).astype(float)


def test_auc_and_average_precision_by_hand() -> None:
    labels, probabilities = np.array([0, 1, 0, 1]), np.array([0.1, 0.4, 0.4, 0.8])
    once = np.ones((1, 4))
    # Pairs of a 1 and a 0: (.4, .1) in order, (.4, .4) tied, (.8, .1) and (.8, .4) in order: 3.5 of 4.
    assert resampled_auc(labels, probabilities, once) == pytest.approx([3.5 / 4])
    # Thresholds .8: recall 1/2, precision 1; .4: recall 1, precision 2/3.
    assert resampled_average_precision(labels, probabilities, once) == pytest.approx([0.5 * 1 + 0.5 * 2 / 3])
    assert resampled_log_loss(labels, probabilities, once) == pytest.approx(
        [-(np.log(0.9) + np.log(0.4) + np.log(0.6) + np.log(0.8)) / 4]
    )


def test_an_example_drawn_twice_counts_twice() -> None:
    labels, probabilities = np.array([0, 1, 0]), np.array([0.2, 0.5, 0.7])
    # The pair (.5, .2) is in order and counts twice, (.5, .7) is not and counts once.
    assert resampled_auc(labels, probabilities, np.array([[2.0, 1.0, 1.0]])) == pytest.approx([2 / 3])


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_of_a_resample_equal_scikit_learn_with_sample_weights(metric: str) -> None:
    labels, probabilities, weights = drawn_examples(0)
    sklearn = {"auc": roc_auc_score, "pr_auc": average_precision_score, "log_loss": log_loss}[metric]
    expected = [sklearn(labels, probabilities, sample_weight=row) for row in weights]
    assert RESAMPLED[metric](labels, probabilities, weights) == pytest.approx(expected, abs=1e-12)


def test_a_resample_of_one_class_has_no_rank_metric() -> None:
    labels, probabilities = np.array([0, 1]), np.array([0.2, 0.6])
    weights = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    assert np.isnan(resampled_auc(labels, probabilities, weights)).all()
    assert np.isnan(resampled_average_precision(labels, probabilities, weights)).all()
    assert np.isnan(resampled_log_loss(labels, probabilities, weights)).tolist() == [False, False, True]


def test_values_are_scikit_learns_and_intervals_hold_them() -> None:
    labels, probabilities, _ = drawn_examples(1)
    found = evaluate(labels, {"a": probabilities}, references=("a",), seed=0)["a"]
    assert found["auc"].value == roc_auc_score(labels, probabilities)
    assert found["pr_auc"].value == average_precision_score(labels, probabilities)
    assert found["log_loss"].value == log_loss(labels, probabilities)
    assert list(found) == list(METRICS)
    for interval in found.values():
        assert interval.low < interval.value < interval.high


def test_auc_intervals_cover_the_planted_truth() -> None:
    # Scores of ones are N(1, 1), of zeros N(0, 1): the true AUC is Phi(1 / sqrt 2).
    truth, covered = 0.76025, 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        labels = (rng.random(NUM_EXAMPLES) < 0.3).astype(np.int64)
        probabilities = 1 / (1 + np.exp(-(labels + rng.standard_normal(NUM_EXAMPLES))))
        auc = evaluate(labels, {"a": probabilities}, references=("a",), seed=seed, num_resamples=200)["a"]["auc"]
        covered += auc.low <= truth <= auc.high
    assert covered >= 52, f"{covered} of 60 intervals cover the truth"  # 57 expected; below 52 is a 2.5 % chance


def test_paired_differences_are_narrower_than_the_intervals_of_the_two_models() -> None:
    labels, probabilities, _ = drawn_examples(2)
    noise = np.random.default_rng(0).normal(0, 0.02, NUM_EXAMPLES)
    close = np.clip(probabilities + noise, 0.01, 0.99)
    found = evaluate(labels, {"close": close, "reference": probabilities}, references=("reference",), seed=0)
    difference = found["close"]["auc_minus_reference"]
    assert difference.value == pytest.approx(found["close"]["auc"].value - found["reference"]["auc"].value)
    assert difference.high - difference.low < (found["reference"]["auc"].high - found["reference"]["auc"].low) / 2
    assert "auc_minus_reference" not in found["reference"]


def test_a_model_compared_with_its_own_copy_differs_by_exactly_zero() -> None:
    labels, probabilities, _ = drawn_examples(3)
    copy = evaluate(labels, {"a": probabilities, "b": probabilities}, references=("b",), seed=0)["a"]
    assert [tuple(copy[f"{metric}_minus_b"]) for metric in METRICS] == [(0.0, 0.0, 0.0)] * 3


def test_one_class_of_labels_leaves_rank_metrics_undefined() -> None:
    probabilities = np.array([0.2, 0.3])
    found = evaluate(np.zeros(2, np.int64), {"a": probabilities, "b": probabilities}, references=("b",), seed=0)["a"]
    for metric in ("auc", "pr_auc", "auc_minus_b", "pr_auc_minus_b"):
        assert tuple(found[metric]) == (None, None, None)
    assert found["log_loss"].value == pytest.approx(-(np.log(0.8) + np.log(0.7)) / 2)


def test_resamples_taken_in_several_parts_are_all_different_and_repeat_with_the_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labels, probabilities, _ = drawn_examples(4)
    monkeypatch.setattr("lib.statistics.classification._CELLS_AT_ONCE", 3 * NUM_EXAMPLES)
    draws = [
        _resampled(labels, {"a": probabilities}, seed=seed, num_resamples=50)["a"]["log_loss"] for seed in (5, 5, 6)
    ]
    assert len(np.unique(draws[0])) == 50
    assert np.array_equal(draws[0], draws[1])
    assert not np.isin(draws[2], draws[0]).any()


def test_no_examples_or_a_missing_probability_is_refused() -> None:
    with pytest.raises(ValueError, match="got none"):
        evaluate(np.zeros(0, np.int64), {}, references=("a",), seed=0)
    with pytest.raises(ValueError, match="a has"):
        evaluate(np.zeros(2, np.int64), {"a": np.zeros(3)}, references=("a",), seed=0)


EXAMPLES = st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=25)


@settings(deadline=None, max_examples=25)
@given(EXAMPLES, st.integers(0, 2**70))
def test_whatever_the_examples_every_metric_is_a_number_or_undefined(
    examples: list[tuple[int, float, float]], seed: int
) -> None:
    labels = np.array([label for label, _, _ in examples])
    models = {"own": np.array([p for _, p, _ in examples]), "other": np.array([p for _, _, p in examples])}
    found = evaluate(labels, models, references=("other",), seed=seed, num_resamples=100)
    has_both = 0 < labels.sum() < len(labels)
    for metrics in found.values():
        for name, interval in metrics.items():
            assert (interval.value is not None) == (has_both or name.startswith("log_loss"))
            assert interval.value is None or math.isfinite(interval.value)
            assert (interval.low is None) == (interval.high is None)
            if interval.low is not None and interval.high is not None:
                assert interval.low <= interval.high
                assert math.isfinite(interval.low)
                assert math.isfinite(interval.high)
