"""A small palette from a picture: tones of one hue, with enough contrast to read text.

Colours are made in OKLCH (Ottosson 2020, "A perceptual color space for image processing"), where colours of equal lightness look
equally light whatever their hue.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gan.arrays import Picture

Floats = NDArray[np.float64]
Rgb = tuple[int, int, int]

WHITE: Rgb = (255, 255, 255)
READABLE = 4.5  # least contrast of small text (WCAG 2.2, success criterion 1.4.3)
COLOURFUL = 0.035  # least chroma of a pixel that counts for the hue
NUM_HUES = 36

FROM_LMS = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)
FROM_LAB = np.array(
    [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]]
)


@dataclass(frozen=True)
class Palette:
    """The colours of one advert. `ink`, `muted` and `accent` are legible on `ground`, and white on `accent`."""

    ground: Rgb  # background of the advert
    panel: Rgb  # background of the picture, a little darker
    line: Rgb  # the advert's border
    ink: Rgb  # the title
    muted: Rgb  # secondary text
    accent: Rgb  # price and button


def palette_of(pixels: Picture, name: str) -> Palette:
    """The palette of a picture, from its strongest hue; where it has no colour, the name decides the hue."""
    hue = dominant_hue(pixels)
    if hue is None:
        hue = int.from_bytes(hashlib.sha256(name.encode()).digest()[:2]) / 2**16 * 2 * np.pi
    return Palette(
        ground=colour(0.975, 0.010, hue),
        panel=colour(0.925, 0.034, hue),
        line=colour(0.86, 0.035, hue),
        ink=colour(0.26, 0.035, hue),
        muted=readable(0.50, 0.03, hue, on=colour(0.975, 0.010, hue)),
        accent=readable(0.54, 0.15, hue, on=colour(0.975, 0.010, hue)),
    )


def dominant_hue(pixels: Picture) -> float | None:
    """The hue (radians) that most of the colourful pixels share, weighted by chroma; None for a picture without colour."""
    _, a, b = oklab(pixels.reshape(3, -1).T / 255).T
    chroma = np.hypot(a, b)
    is_colourful = chroma > COLOURFUL
    if is_colourful.mean() < 0.02:
        return None
    a, b, chroma = a[is_colourful], b[is_colourful], chroma[is_colourful]
    bins = np.floor((np.arctan2(b, a) / (2 * np.pi) % 1) * NUM_HUES).astype(int) % NUM_HUES
    weight = np.bincount(bins, weights=chroma, minlength=NUM_HUES)
    weight = weight + np.roll(weight, 1) + np.roll(weight, -1)  # for a hue that lies between two bins
    near = (bins - int(weight.argmax()) + 1) % NUM_HUES <= 2
    return float(np.arctan2(b[near].sum(), a[near].sum()))


def oklab(srgb: Floats) -> Floats:
    """OKLab [N, 3] of sRGB [N, 3] in 0..1."""
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    lab: Floats = np.cbrt(linear @ np.linalg.inv(FROM_LMS).T) @ np.linalg.inv(FROM_LAB).T
    return lab


def colour(lightness: float, chroma: float, hue: float) -> Rgb:
    """An OKLCH colour in sRGB; where sRGB cannot show the chroma, with the most that it can."""
    linear = _linear_rgb(lightness, chroma, hue)
    while chroma > 0 and (linear.min() < 0 or linear.max() > 1):
        chroma = max(chroma - 0.002, 0.0)
        linear = _linear_rgb(lightness, chroma, hue)
    linear = linear.clip(0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    red, green, blue = (round(float(v) * 255) for v in srgb)
    return red, green, blue


def _linear_rgb(lightness: float, chroma: float, hue: float) -> Floats:
    linear: Floats = FROM_LMS @ (FROM_LAB @ np.array([lightness, chroma * np.cos(hue), chroma * np.sin(hue)])) ** 3
    return linear


def readable(lightness: float, chroma: float, hue: float, *, on: Rgb) -> Rgb:
    """The colour, darkened until it is legible on `on` and white is legible on it."""
    while min(contrast(tone := colour(lightness, chroma, hue), on), contrast(tone, WHITE)) < READABLE:
        lightness -= 0.01
    return tone


def contrast(one: Rgb, other: Rgb) -> float:
    """Contrast ratio of two colours, 1..21 (WCAG 2.2)."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(rgb: Rgb) -> float:
    srgb = np.array(rgb) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ np.array([0.2126, 0.7152, 0.0722]))
