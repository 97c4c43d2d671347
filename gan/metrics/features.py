"""The space in which pictures are compared: edges, colours and fine detail, reduced to principal components. NumPy only."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gan.arrays import Pictures

Floats = NDArray[np.float64]
SIDE = 32  # pictures are averaged down to it before anything is measured; R must be a multiple
NUM_ORIENTATIONS = 8
NUM_COMPONENTS = 48
PICTURES_PER_STEP = 256  # looked at together, to bound memory
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
    """Edges [N, 640], colours [N, 192] and fine detail [N, 16] of N > 0 pictures."""
    starts = range(0, len(pictures), PICTURES_PER_STEP)
    edges, colours, detail = zip(
        *(_groups_of(pictures[start : start + PICTURES_PER_STEP]) for start in starts), strict=True
    )
    return np.concatenate(edges), np.concatenate(colours), np.concatenate(detail)


def _groups_of(pictures: Pictures) -> tuple[Floats, Floats, Floats]:
    small = averaged(pictures, SIDE)
    grey = np.einsum("ncij,c->nij", small, GREY)
    down, right = np.gradient(grey, axis=(1, 2))
    strength = np.hypot(down, right)
    turn = (np.arctan2(down, right) % np.pi) / np.pi * NUM_ORIENTATIONS
    lower, share = np.floor(turn).astype(int), turn % 1
    edges = np.zeros((len(grey), NUM_ORIENTATIONS, SIDE, SIDE))
    for orientation in range(NUM_ORIENTATIONS):
        # a gradient between two orientations counts for both, in proportion
        is_lower = lower % NUM_ORIENTATIONS == orientation
        is_upper = (lower + 1) % NUM_ORIENTATIONS == orientation
        edges[:, orientation] = strength * (is_lower * (1 - share) + is_upper * share)
    around = (grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]) / 4
    detail = np.pad(np.abs(grey[:, 1:-1, 1:-1] - around), ((0, 0), (1, 1), (1, 1)))[:, None]
    oriented = np.sqrt(np.concatenate([on_grid(edges, 8), on_grid(edges, 4)], axis=1))
    return oriented, on_grid(small, 8), np.sqrt(on_grid(detail, 4))


def on_grid(maps: Floats, cells: int) -> Floats:
    """Mean of [N, C, S, S] over a grid of cells: [N, C x cells x cells]."""
    n, channels, side, _ = maps.shape
    width = side // cells
    means: Floats = maps.reshape(n, channels, cells, width, cells, width).mean(axis=(3, 5)).reshape(n, -1)
    return means


@dataclass(frozen=True)
class FeatureSpace:
    """Principal components of the features of real pictures, each group of features scaled to the same total variance."""

    mean: Floats  # [F]
    scale: Floats  # [F]
    components: Floats  # [D, F]

    @classmethod
    def fit(cls, pictures: Pictures) -> "FeatureSpace":
        """Fit the space to real pictures [N, 3, R, R]."""
        return cls.of(feature_groups(pictures))

    @classmethod
    def of(cls, groups: Sequence[Floats]) -> "FeatureSpace":
        """Fit the space to the groups of features of real pictures."""
        mean = np.concatenate([group.mean(axis=0) for group in groups])
        spread = [np.sqrt(group.var(axis=0).sum()) or 1.0 for group in groups]
        scale = np.repeat(spread, [group.shape[1] for group in groups])
        _, _, directions = np.linalg.svd((np.concatenate(groups, axis=1) - mean) / scale, full_matrices=False)
        return cls(mean, scale, directions[:NUM_COMPONENTS])

    def __call__(self, pictures: Pictures) -> Floats:
        """Features [N, D] of pictures [N, 3, R, R]."""
        return self.project(feature_groups(pictures))

    def project(self, groups: Sequence[Floats]) -> Floats:
        """Features [N, D] of pictures with these groups of features."""
        features: Floats = ((np.concatenate(groups, axis=1) - self.mean) / self.scale) @ self.components.T
        return features
