"""How good a generated picture is, measured without the discriminator and without any downloaded network.

The feature space is small and fixed: oriented edges on a grid (Dalal & Triggs 2005, without their contrast normalisation, so
that a blurred edge is a weaker one), mean colours on a grid, and the strength of fine detail on a grid; then the principal
components of the shop's real pictures. In it the real pictures of a category span a manifold: balls around them, each as wide
as the distance to its k-th nearest neighbour (Kynkäänniemi et al. 2019, "Improved Precision and Recall Metric for Assessing
Generative Models").

What it is: a measure of whether shapes, colours and sharpness are those of the shop's own pictures of the category, calibrated on
real pictures that were held back from the training. What it is not: a judgement of taste, of legible print or of meaning. A ghost of two
products laid over each other, or a picture near the category's average, may count as inside; that is why precision is read
together with coverage (`gan/evaluation.py`). Numbers of two shops, or of two sets of held-out pictures, do not compare.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

Pictures = NDArray[np.uint8]  # [N, 3, R, R], R a multiple of 32
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

SIDE = 32  # pictures are averaged down to this before anything is measured
NUM_ORIENTATIONS = 8
NUM_COMPONENTS = 48
NUM_NEIGHBOURS = 3
MEMORISED_SIDE = 16  # pictures are compared for copies at this side, where small shifts and noise no longer show
MEMORISED_FRAC = 0.4  # of the median distance from a held-out real picture to the training pictures
GREY = np.array([0.299, 0.587, 0.114])  # luma of red, green, blue (ITU-R BT.601)


def averaged(pictures: Pictures, side: int) -> Floats:
    """Pictures averaged down to `side`: [N, 3, side, side] in 0..1."""
    n, channels, resolution, _ = pictures.shape
    assert pictures.dtype == np.uint8
    assert channels == 3
    assert resolution % side == 0
    step = resolution // side
    small: Floats = pictures.reshape(n, 3, side, step, side, step).mean(axis=(3, 5)) / 255
    return small


def feature_groups(pictures: Pictures) -> tuple[Floats, Floats, Floats]:
    """Edges [N, 640], colours [N, 192] and fine detail [N, 16] of pictures."""
    small = averaged(pictures, SIDE)
    grey = np.einsum("ncij,c->nij", small, GREY)
    down, right = np.gradient(grey, axis=(1, 2))
    strength = np.hypot(down, right)
    turn = (np.arctan2(down, right) % np.pi) / np.pi * NUM_ORIENTATIONS
    lower, share = np.floor(turn).astype(int), turn % 1
    edges = np.zeros((len(grey), NUM_ORIENTATIONS, SIDE, SIDE))
    for orientation in range(NUM_ORIENTATIONS):
        # a gradient between two orientations is shared by both
        is_lower = lower % NUM_ORIENTATIONS == orientation
        is_upper = (lower + 1) % NUM_ORIENTATIONS == orientation
        edges[:, orientation] = strength * (is_lower * (1 - share) + is_upper * share)
    around = (grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]) / 4
    detail = np.pad(np.abs(grey[:, 1:-1, 1:-1] - around), ((0, 0), (1, 1), (1, 1)))[:, None]
    oriented = np.sqrt(np.concatenate([_on_grid(edges, 8), _on_grid(edges, 4)], axis=1))
    return oriented, _on_grid(small, 8), np.sqrt(_on_grid(detail, 4))


def _on_grid(maps: Floats, cells: int) -> Floats:
    """Mean of [N, C, S, S] over a grid of cells: [N, C x cells x cells]."""
    n, channels, side, _ = maps.shape
    width = side // cells
    means: Floats = maps.reshape(n, channels, cells, width, cells, width).mean(axis=(3, 5)).reshape(n, -1)
    return means


@dataclass(frozen=True)
class FeatureSpace:
    """The principal components of real pictures' features, each group of features scaled to the same total variance."""

    mean: Floats  # [F]
    scale: Floats  # [F]
    components: Floats  # [D, F]

    @classmethod
    def fit(cls, pictures: Pictures) -> "FeatureSpace":
        """The space of real pictures [N, 3, R, R]."""
        groups = feature_groups(pictures)
        mean = np.concatenate([group.mean(axis=0) for group in groups])
        spread = [np.sqrt(group.var(axis=0).sum()) or 1.0 for group in groups]
        scale = np.repeat(spread, [group.shape[1] for group in groups])
        _, _, directions = np.linalg.svd((np.concatenate(groups, axis=1) - mean) / scale, full_matrices=False)
        return cls(mean, scale, directions[:NUM_COMPONENTS])

    def __call__(self, pictures: Pictures) -> Floats:
        """Features [N, D] of pictures [N, 3, R, R]."""
        features: Floats = (
            (np.concatenate(feature_groups(pictures), axis=1) - self.mean) / self.scale
        ) @ self.components.T
        return features


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

    `held_out_realism` [H] ascends: how deep held-out real pictures lie in the training pictures' manifold. `copy_distance`: a picture
    that is nearer than this to a training picture counts as memorised.
    """

    space: FeatureSpace
    reference: Floats  # [M, D] features of training pictures
    radii: Floats  # [M]
    held_out_realism: Floats  # [H]
    reference_pixels: Floats  # [M, P]
    copy_distance: float

    @classmethod
    def fit(cls, space: FeatureSpace, training: Pictures, held_out: Pictures) -> "CategoryQuality":
        """From the category's training pictures (more than k) and held-out ones (at least one)."""
        reference = space(training)
        radii = ball_radii(reference)
        pixels = _pixels(training)
        distance = cdist(_pixels(held_out), pixels).min(axis=1)
        return cls(
            space=space,
            reference=reference,
            radii=radii,
            held_out_realism=np.sort(realism(space(held_out), reference, radii)),
            reference_pixels=pixels,
            copy_distance=float(MEMORISED_FRAC * np.median(distance)),
        )

    def quality(self, pictures: Pictures) -> Floats:
        """Share of held-out real pictures that look no more real than each picture: [N] in 0..1, 0.5 for a typical real one."""
        depth = realism(self.space(pictures), self.reference, self.radii)
        shares: Floats = np.searchsorted(self.held_out_realism, depth, side="right") / len(self.held_out_realism)
        return shares

    def is_memorised(self, pictures: Pictures) -> Flags:
        """Whether each picture is a copy, or nearly, of a training picture: [N]."""
        near: Flags = cdist(_pixels(pictures), self.reference_pixels).min(axis=1) <= self.copy_distance
        return near


def _pixels(pictures: Pictures) -> Floats:
    return averaged(pictures, MEMORISED_SIDE).reshape(len(pictures), -1)
