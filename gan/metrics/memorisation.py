"""Whether a generated picture copies, or nearly copies, a training picture."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from gan.arrays import Pictures
from gan.metrics.features import averaged

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
COMPARED_SIDE = 16  # pixels; at this side small shifts and noise no longer matter
COPY_FRAC = 0.4  # of the median distance from a held-out real picture to its nearest training picture


@dataclass(frozen=True)
class CopyDetector:
    """The training pictures of one category, and the distance up to which a picture counts as a copy of one of them."""

    training: Floats  # [M, P]
    copy_distance: float

    @classmethod
    def fit(cls, training: Pictures, held_out: Pictures) -> "CopyDetector":
        """Fit to the category's training pictures and held-out ones, at least one of each."""
        pixels = _pixels(training)
        distance = cdist(_pixels(held_out), pixels).min(axis=1)
        return cls(pixels, float(COPY_FRAC * np.median(distance)))

    def __call__(self, pictures: Pictures) -> Flags:
        """Whether each picture lies within `copy_distance` of a training picture: [N]."""
        near: Flags = cdist(_pixels(pictures), self.training).min(axis=1) <= self.copy_distance
        return near


def _pixels(pictures: Pictures) -> Floats:
    return averaged(pictures, COMPARED_SIDE).reshape(len(pictures), -1)
