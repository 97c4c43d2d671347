"""Differentiable augmentation (Zhao et al. 2020, "Differentiable Augmentation for Data-Efficient GAN Training").

Real and generated pictures are both augmented before the discriminator sees them, and gradients pass through to the generator.
So the discriminator cannot memorise a few hundred pictures, and the augmentations do not show in what is generated. Each
picture is augmented at random, by the random generator passed in. Pictures are [N, 3, R, R] in -1..1; the result has the same
shape, and its values may leave -1..1.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

TRANSLATION_FRAC = 1 / 8  # largest shift, as a share of the side
CUTOUT_FRAC = 1 / 2  # side of the blanked square, as a share of the picture's


def _uniform(pictures: Tensor, random: torch.Generator) -> Tensor:
    """A number in [0, 1) for each picture: [N, 1, 1, 1]."""
    return torch.rand(len(pictures), 1, 1, 1, generator=random, device=pictures.device, dtype=pictures.dtype)


def _integers(pictures: Tensor, low: int, high: int, random: torch.Generator) -> Tensor:
    """An integer in [low, high] for each picture: [N]."""
    return torch.randint(low, high + 1, (len(pictures),), generator=random, device=pictures.device)


def colour(pictures: Tensor, random: torch.Generator) -> Tensor:
    """Brightness shifted by -0.5..0.5, saturation scaled by 0..2, contrast by 0.5..1.5."""
    brighter = pictures + (_uniform(pictures, random) - 0.5)
    grey = brighter.mean(dim=1, keepdim=True)
    saturated = grey + (brighter - grey) * (2 * _uniform(pictures, random))
    mean = saturated.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (saturated - mean) * (0.5 + _uniform(pictures, random))


def translation(pictures: Tensor, random: torch.Generator) -> Tensor:
    """Shifted by up to an eighth of the side in each direction; the uncovered edge is 0 (mid-grey)."""
    side = pictures.shape[-1]
    reach = round(side * TRANSLATION_FRAC)
    down, right = (_integers(pictures, -reach, reach, random)[:, None] for _ in range(2))
    # the index of each output row or column in the padded picture
    place = torch.arange(side, device=pictures.device)[None] + reach
    rows, columns = (place + down)[:, :, None], (place + right)[:, None, :]  # [N, R, 1], [N, 1, R]
    padded = pad(pictures, (reach, reach, reach, reach)).permute(0, 2, 3, 1)  # [N, R + 2 reach, R + 2 reach, 3]
    picture = torch.arange(len(pictures), device=pictures.device)[:, None, None]
    return padded[picture, rows, columns].permute(0, 3, 1, 2)


def cutout(pictures: Tensor, random: torch.Generator) -> Tensor:
    """A square of half the side, centred anywhere, set to 0 (mid-grey)."""
    side = pictures.shape[-1]
    half = round(side * CUTOUT_FRAC) // 2
    centre_row, centre_column = (_integers(pictures, 0, side, random)[:, None] for _ in range(2))
    place = torch.arange(side, device=pictures.device)[None]
    in_rows = (place >= centre_row - half) & (place < centre_row + half)
    in_columns = (place >= centre_column - half) & (place < centre_column + half)
    blank = in_rows[:, None, :, None] & in_columns[:, None, None, :]  # [N, 1, R, R]
    return pictures * ~blank


AUGMENTATIONS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "colour": colour,
    "translation": translation,
    "cutout": cutout,
}


def augment(pictures: Tensor, names: Sequence[str], random: torch.Generator) -> Tensor:
    """Apply the named augmentations in order; without any, the pictures stay as they are. An unknown name is a ValueError."""
    for name in names:
        if name not in AUGMENTATIONS:
            raise ValueError(f"no augmentation is named {name!r}; known are {', '.join(AUGMENTATIONS)}")
        pictures = AUGMENTATIONS[name](pictures, random)
    assert pictures.ndim == 4
    return pictures
