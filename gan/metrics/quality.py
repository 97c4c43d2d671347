"""How good a generated picture is, measured without the discriminator and without a downloaded network.

The feature space is small and fixed: oriented edges on a grid (Dalal & Triggs 2005, without their contrast normalisation, so
that a blurred edge counts less), mean colours on a grid, and the strength of fine detail on a grid, all reduced to the principal
components of the shop's real pictures. There, the manifold of a category is a union of balls around its real pictures, each with
the distance to the k-th nearest neighbour as its radius (Kynkäänniemi et al. 2019, "Improved Precision and Recall Metric for
Assessing Generative Models").

Quality says whether shapes, colours and sharpness are those of the shop's own pictures of the category. It is calibrated on all real
pictures of the category, each judged by the others (cross-validation), because the few that are held out of training would let it
move only in large steps. It does not judge taste, legible print or meaning. Two products blended into one, or a picture
near the category's average, may lie inside the manifold, so precision must be read together with coverage
(`gan/metrics/generator_metrics.py`). Values from two shops cannot be compared.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from gan.arrays import Pictures
from gan.metrics.features import FeatureSpace
from gan.metrics.memorisation import CopyDetector

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
NUM_NEIGHBOURS = 3


def ball_radii(features: Floats, num_neighbours: int = NUM_NEIGHBOURS) -> Floats:
    """Distance from each of M > k points to its k-th nearest neighbour: [M] (Kynkäänniemi et al. 2019, equation 1)."""
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
    """How deep each point lies in the manifold: the largest radius / distance over all balls, 1 at a ball's surface: [N].

    Equation 3 of Kynkäänniemi et al. 2019; as there, the wider half of the balls, which surround isolated pictures, is left out.
    """
    is_dense = radii <= np.median(radii)
    distances = np.maximum(cdist(features, reference[is_dense]), np.finfo(float).tiny)
    depth: Floats = (radii[is_dense] / distances).max(axis=1)
    return depth


@dataclass(frozen=True)
class CategoryQuality:
    """The real pictures of one category, as a reference for generated ones; made by `fit`.

    `real_realism` [M + H], ascending, says how deep the real pictures lie in the manifold of the others (`real_realism` in
    gan/metrics/calibration.py).
    """

    space: FeatureSpace
    reference: Floats  # [M, D] features of training pictures
    radii: Floats  # [M]
    real_realism: Floats  # [M + H]
    copies: CopyDetector

    @classmethod
    def fit(
        cls, space: FeatureSpace, training: Pictures, held_out: Pictures, real_realism: Floats
    ) -> "CategoryQuality":
        """Fit to the category's training pictures (more than k) and held-out ones (at least one)."""
        reference = space(training)
        return cls(
            space=space,
            reference=reference,
            radii=ball_radii(reference),
            real_realism=np.sort(real_realism),
            copies=CopyDetector.fit(training, held_out),
        )

    def quality(self, pictures: Pictures) -> Floats:
        """Share of real pictures that look no more real than each picture: [N] in 0..1, 0.5 for a typical real one.

        Between two real pictures it is interpolated. As a share of M + H pictures its standard error is at most
        1 / (2 sqrt(M + H)).
        """
        depth = realism(self.space(pictures), self.reference, self.radii)
        ranks = np.arange(1, len(self.real_realism) + 1)
        shares: Floats = np.interp(depth, self.real_realism, ranks / len(ranks), left=0)
        return shares

    def is_memorised(self, pictures: Pictures) -> Flags:
        """Whether each picture copies, or nearly copies, a training picture: [N]."""
        return self.copies(pictures)
