"""How good a generated picture is, measured without the discriminator and without any downloaded network.

The feature space is small and fixed: oriented edges on a grid (Dalal & Triggs 2005, without their contrast normalisation, so
that a blurred edge is a weaker one), mean colours on a grid, and the strength of fine detail on a grid; then the principal
components of the shop's real pictures. In it the real pictures of a category span a manifold: balls around them, each as wide
as the distance to its k-th nearest neighbour (Kynkäänniemi et al. 2019, "Improved Precision and Recall Metric for Assessing
Generative Models").

What it is: a measure of whether shapes, colours and sharpness are those of the shop's own pictures of the category, calibrated on
real pictures that were held back from the training. What it is not: a judgement of taste, of legible print or of meaning. A ghost of two
products laid over each other, or a picture near the category's average, may count as inside; that is why precision is read
together with coverage (`gan/metrics/generator_metrics.py`). Numbers of two shops, or of two sets of held-out pictures, do not compare.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from gan.metrics.features import FeatureSpace
from gan.metrics.memorisation import CopyDetector
from gan.pictures import Pictures

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
NUM_NEIGHBOURS = 3


def ball_radii(features: Floats, num_neighbours: int = NUM_NEIGHBOURS) -> Floats:
    """Distance of each of M > k points to its k-th nearest other one: [M] (Kynkäänniemi et al. 2019, equation 1)."""
    assert len(features) > num_neighbours, f"{len(features)} points have no {num_neighbours}-th neighbour"
    distances = cdist(features, features)
    np.fill_diagonal(distances, np.inf)
    radii: Floats = np.partition(distances, num_neighbours - 1, axis=1)[:, num_neighbours - 1]
    return radii


def inside_manifold(features: Floats, reference: Floats, radii: Floats) -> Flags:
    """Whether each point [N, D] lies in the ball of at least one reference point [M, D]: [N]."""
    inside: Flags = np.any(cdist(features, reference) <= radii, axis=1)
    return inside


def realism(features: Floats, reference: Floats, radii: Floats) -> Floats:
    """How deep each point lies in the manifold: max over balls of radius / distance; 1 at the rim (their equation 3).

    As there, the wider half of the balls is left out: they belong to real pictures that stand alone.
    """
    is_dense = radii <= np.median(radii)
    distances = np.maximum(cdist(features, reference[is_dense]), np.finfo(float).tiny)
    depth: Floats = (radii[is_dense] / distances).max(axis=1)
    return depth


@dataclass(frozen=True)
class CategoryQuality:
    """What the real pictures of one category look like; made by `fit`.

    `held_out_realism` [H] ascends: how deep held-out real pictures lie in the training pictures' manifold.
    """

    space: FeatureSpace
    reference: Floats  # [M, D] features of training pictures
    radii: Floats  # [M]
    held_out_realism: Floats  # [H]
    copies: CopyDetector

    @classmethod
    def fit(cls, space: FeatureSpace, training: Pictures, held_out: Pictures) -> "CategoryQuality":
        """From the category's training pictures (more than k) and held-out ones (at least one)."""
        reference = space(training)
        radii = ball_radii(reference)
        return cls(
            space=space,
            reference=reference,
            radii=radii,
            held_out_realism=np.sort(realism(space(held_out), reference, radii)),
            copies=CopyDetector.fit(training, held_out),
        )

    def quality(self, pictures: Pictures) -> Floats:
        """Share of held-out real pictures that look no more real than each picture: [N] in 0..1, 0.5 for a typical real one."""
        depth = realism(self.space(pictures), self.reference, self.radii)
        shares: Floats = np.searchsorted(self.held_out_realism, depth, side="right") / len(self.held_out_realism)
        return shares

    def is_memorised(self, pictures: Pictures) -> Flags:
        """Whether each picture is a copy, or nearly, of a training picture: [N]."""
        return self.copies(pictures)
