from collections.abc import Callable

import numpy as np

from gan.metrics.calibration import qualities
from gan.metrics.generator_metrics import measure
from gan.training.dataset import PreparedPictures

Products = Callable[[str, int, int], np.ndarray]


def measured(prepared: PreparedPictures, generate: Callable[[int, int], np.ndarray]) -> dict[str, float]:
    found = measure(prepared, qualities(prepared), generate)
    assert {m.metric: m.split for m in found} == {
        "precision": "train",
        "coverage": "train",
        "memorised": "train",
        "quality": "test",
        "recall": "test",
        "held_out_precision": "test",
    }
    return {m.metric: float(m.values.mean()) for m in found}


def test_a_perfect_generator_is_as_precise_as_held_out_pictures_and_covers_the_others(
    prepared: PreparedPictures, products: Products
) -> None:
    found = measured(prepared, lambda label, number: products(prepared.classes[label], number, 5))
    assert abs(found["precision"] - found["held_out_precision"]) < 0.15
    assert found["coverage"] > 0.8
    assert found["recall"] > 0.6
    assert 0.35 < found["quality"] < 0.65
    assert found["memorised"] < 0.2


def test_one_good_picture_over_and_over_is_precise_and_covers_little(
    prepared: PreparedPictures, products: Products
) -> None:
    one = {label: prepared.of(label, held_out=False)[:1] for label in (0, 1)}
    found = measured(prepared, lambda label, number: np.repeat(one[label], number, axis=0))
    assert (found["precision"], found["memorised"]) == (1, 1)
    assert found["coverage"] < 0.35


def test_pictures_of_the_wrong_class_are_not_precise(prepared: PreparedPictures, products: Products) -> None:
    right = measured(prepared, lambda label, number: products(prepared.classes[label], number, 5))
    wrong = measured(prepared, lambda label, number: products(prepared.classes[1 - label], number, 5))
    assert wrong["precision"] < 0.5 * right["precision"]


def test_a_picture_counts_once(prepared: PreparedPictures, products: Products) -> None:
    found = measure(prepared, qualities(prepared), lambda label, number: products(prepared.classes[label], number, 5))
    assert {m.metric: len(m.values) for m in found} == {
        "precision": 80, "coverage": 80, "memorised": 80, "quality": 80, "recall": 40, "held_out_precision": 40,
    }  # fmt: skip
