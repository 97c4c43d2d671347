"""How good a generator is as a whole: precision, coverage and more, measured within each class, then taken over all classes.

Precision and recall: Kynkäänniemi et al. 2019, "Improved Precision and Recall Metric for Assessing Generative Models"; coverage:
Naeem et al. 2020, "Reliable Fidelity and Diversity Metrics for Generative Models". All are measured within a class: a good shoe
among the bags counts as wrong. A class weighs as much as it has pictures.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from gan.arrays import Pictures
from gan.metrics.quality import NUM_NEIGHBOURS, CategoryQuality, ball_radii, inside_manifold
from gan.training.dataset import PreparedPictures

Floats = NDArray[np.float64]
Generate = Callable[[int, int], Pictures]  # label, number -> [number, 3, R, R]


@dataclass(frozen=True)
class Measure:
    """One metric on one split: a value for each picture."""

    split: str
    metric: str
    values: Floats


def measure(prepared: PreparedPictures, known: Mapping[int, CategoryQuality], generate: Generate) -> list[Measure]:
    """Compare generated pictures, as many as a class has training pictures, with both splits.

    On train: `precision` (generated pictures inside the training pictures' manifold), `coverage` (training pictures whose ball
    contains a generated one) and `memorised` (copies among the generated). On test, which are the held-out pictures: `quality`
    (gan/metrics/quality.py), `recall` (held-out pictures inside the generated ones' manifold), and `held_out_precision`, the
    precision that the held-out real pictures reach.
    """
    found: dict[tuple[str, str], list[Floats]] = {}
    for label, quality in known.items():
        held_out = quality.space(prepared.of(label, held_out=True))
        pictures = generate(label, max(len(quality.reference), NUM_NEIGHBOURS + 1))
        for split, metric, values in _of_class(quality, pictures, held_out):
            found.setdefault((split, metric), []).append(values.astype(np.float64))
    return [Measure(split, metric, np.concatenate(parts)) for (split, metric), parts in found.items()]


def _of_class(
    quality: CategoryQuality, pictures: Pictures, held_out: Floats
) -> Iterator[tuple[str, str, NDArray[np.generic]]]:
    generated = quality.space(pictures)
    yield "train", "precision", inside_manifold(generated, quality.reference, quality.radii)
    yield "train", "coverage", (cdist(quality.reference, generated).min(axis=1) <= quality.radii)
    yield "train", "memorised", quality.is_memorised(pictures)
    yield "test", "quality", quality.quality(pictures)
    yield "test", "recall", inside_manifold(held_out, generated, ball_radii(generated))
    yield "test", "held_out_precision", inside_manifold(held_out, quality.reference, quality.radii)
