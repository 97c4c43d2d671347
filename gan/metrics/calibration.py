"""What quality is measured against: the shop's own pictures of each class, and how real they look to one another."""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from gan.metrics.features import FeatureSpace, Floats, feature_groups
from gan.metrics.quality import CategoryQuality, ball_radii, realism
from gan.training.dataset import PreparedPictures

NUM_FOLDS = 5  # into which the real pictures of a class are dealt, to be judged by those of the other folds


def qualities(prepared: PreparedPictures, labels: Collection[int] | None = None) -> dict[int, CategoryQuality]:
    """What the real pictures of each of these classes look like, by label; of every class where `labels` is None."""
    wanted = range(len(prepared.classes)) if labels is None else sorted(set(labels))
    space = FeatureSpace.fit(prepared.pixels[~prepared.is_held_out])
    depth = real_realism(prepared, wanted)
    return {
        label: CategoryQuality.fit(
            space, prepared.of(label, held_out=False), prepared.of(label, held_out=True), depth[label]
        )
        for label in wanted
    }


def real_realism(prepared: PreparedPictures, labels: Collection[int]) -> dict[int, Floats]:
    """How deep each real picture of a class lies in the manifold of the class's others, by cross-validation.

    A fold's pictures take no part in the feature space either: to the space that was fitted to it, a picture looks less like
    the others than a generated picture does.
    """
    groups = feature_groups(prepared.pixels)
    folds = _folds(prepared.labels)
    found: dict[int, list[Floats]] = {label: [] for label in labels}
    for fold in range(NUM_FOLDS):
        is_judged = folds == fold
        features = FeatureSpace.of([group[~is_judged] for group in groups]).project(groups)
        for label in labels:
            of_class = prepared.labels == label
            others = features[of_class & ~is_judged]
            found[label].append(realism(features[of_class & is_judged], others, ball_radii(others)))
    return {label: np.concatenate(parts) for label, parts in found.items()}


def _folds(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The fold of each picture: the pictures of a class are dealt out in their order, which is random (`hashed_order`)."""
    folds = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        folds[labels == label] = np.arange((labels == label).sum()) % NUM_FOLDS
    return folds
