"""The colours of the product that a picture shows, and how different those of two pictures look (CIELAB)."""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from gan.arrays import Picture, Pictures
from gan.metrics.features import SIDE, averaged

Floats = NDArray[np.float64]

TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
WHITE_XYZ = np.array([0.95047, 1.0, 1.08883])  # D65
GROUND_DIFFERENCE = 12.0  # from the ground, up to which a pixel counts as ground
MIN_PRODUCT_FRAC = 0.03  # of the pixels; where fewer differ from the ground, the product has the ground's colour


def cielab(srgb: Floats) -> Floats:
    """CIELAB [..., 3] (D65) of sRGB [..., 3] in 0..1: lightness 0..100, green to red, blue to yellow."""
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    relative = linear @ TO_XYZ.T / WHITE_XYZ
    x, y, z = np.moveaxis(
        np.where(relative > 216 / 24389, np.cbrt(relative), (24389 / 27 * relative + 16) / 116), -1, 0
    )
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def product_pixels(pictures: Pictures) -> list[Floats]:
    """The colours in CIELAB of the product's pixels in each picture [N, 3, R, R]: [pixels, 3] each.

    They are the pixels that differ from the ground, which is the median of the picture's border.
    """
    pixels = cielab(averaged(pictures, SIDE).transpose(0, 2, 3, 1)).reshape(len(pictures), SIDE * SIDE, 3)
    ground = np.median(pixels[:, _border()], axis=1, keepdims=True)
    is_product = np.linalg.norm(pixels - ground, axis=2) > GROUND_DIFFERENCE
    is_product[is_product.mean(axis=1) < MIN_PRODUCT_FRAC] = True
    return [some[mask] for some, mask in zip(pixels, is_product, strict=True)]


def colour_differences(pictures: Pictures, own: Picture) -> Floats:
    """How different the product's colours look in each picture [N, 3, R, R] and in `own`: [N], in CIELAB, 2.3 just noticeable.

    It matters neither where the product stands nor how large it is.
    """
    (mine,) = product_pixels(own[None])
    return np.array([_difference(shown, mine) for shown in product_pixels(pictures)])


def _difference(one: Floats, other: Floats) -> float:
    """The distance of the median colours or, where it is larger, that from a pixel to the other product's nearest colour.

    Small accents do not move the median; a second colour that only one of the two has makes the mean distance of its pixels large.
    """
    apart = cdist(one, other)
    medians = np.linalg.norm(np.median(one, axis=0) - np.median(other, axis=0))
    return float(max(medians, apart.min(axis=1).mean(), apart.min(axis=0).mean()))


def _border() -> NDArray[np.bool_]:
    inside = np.zeros((SIDE, SIDE), dtype=bool)
    inside[1:-1, 1:-1] = True
    return ~inside.reshape(-1)
