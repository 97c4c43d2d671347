"""Whether a generated picture copies, or nearly copies, a training picture: also mirrored, shifted, darker or of other contrast."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gan.arrays import Pictures
from gan.metrics.features import PICTURES_PER_STEP, SIDE, Floats, averaged, on_grid

Patterns = NDArray[np.float32]  # [N, P], each of length 1
Flags = NDArray[np.bool_]
MAX_SHIFT = 2  # pixels of SIDE, up, down, left and right; without the border, pictures this far apart still overlap
COMPARED_SIDE = 7  # to which the inner pixels are averaged down, so that noise and sharpness hardly matter
COPY_FRAC = 0.4  # of the median distance from a held-out real picture to its nearest training picture


@dataclass(frozen=True)
class CopyDetector:
    """The training pictures of one category, and the distance up to which a picture counts as a copy of one of them."""

    training: Patterns
    copy_distance: float

    @classmethod
    def fit(cls, training: Pictures, held_out: Pictures) -> "CopyDetector":
        """Fit to the category's training pictures and held-out ones, at least one of each."""
        inner = SIDE - 2 * MAX_SHIFT
        patterns = _patterns(_at(averaged(training, SIDE), MAX_SHIFT, MAX_SHIFT, inner))
        return cls(patterns, float(COPY_FRAC * np.median(_distances(held_out, patterns))))

    def __call__(self, pictures: Pictures) -> Flags:
        """Whether each picture lies within `copy_distance` of a training picture: [N]."""
        near: Flags = _distances(pictures, self.training) <= self.copy_distance
        return near


def _distances(pictures: Pictures, training: Patterns) -> Floats:
    """From each picture, mirrored and shifted as brings it nearest, to the nearest training picture: [N] in 0..2."""
    found = np.empty(len(pictures))
    for start in range(0, len(pictures), PICTURES_PER_STEP):
        some = averaged(pictures[start : start + PICTURES_PER_STEP], SIDE)
        correlation = np.max([(view @ training.T).max(axis=1) for view in _views(some)], axis=0)
        found[start : start + PICTURES_PER_STEP] = np.sqrt(np.maximum(2 - 2 * correlation, 0))
    return found


def _views(pixels: Floats) -> Iterator[Patterns]:
    """Pictures [N, 3, SIDE, SIDE] under every shift, as they are and mirrored."""
    for turned in (pixels, pixels[..., ::-1]):
        for top in range(2 * MAX_SHIFT + 1):
            for left in range(2 * MAX_SHIFT + 1):
                yield _patterns(_at(turned, top, left, SIDE - 2 * MAX_SHIFT))


def _at(pixels: Floats, top: int, left: int, side: int) -> Floats:
    return pixels[:, :, top : top + side, left : left + side]


def _patterns(pixels: Floats) -> Patterns:
    """Pixels [N, 3, S, S] averaged down, without their mean (brightness) and of length 1 (contrast): [N, P]; 0 for a flat picture."""
    reduced = on_grid(pixels, COMPARED_SIDE)
    centred = reduced - reduced.mean(axis=1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    patterns: Patterns = (centred / np.maximum(length, 1e-3)).astype(np.float32)
    return patterns
