"""Choosing among generated pictures: no copies, none too unlike the real ones, and none of another colour than the item's."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from gan.adverts.colours import colour_differences
from gan.arrays import Picture
from gan.generator import KeptGenerator
from gan.metrics.quality import CategoryQuality

MEMORISED = "a copy of a training picture"
UNLIKE = "too unlike real pictures: quality {quality:.2f} is below {limit:g}"
OTHER_COLOUR = "of another colour: {difference:.0f} in CIELAB from the item's own picture is above {limit:g}"


@dataclass(frozen=True)
class Limits:
    """What a picture must reach to be shown."""

    min_quality: float
    max_colour_difference: float  # in CIELAB (gan/adverts/colours.py)


@dataclass(frozen=True)
class Candidate:
    """A generated picture for an item."""

    picture: Picture
    seed: int
    quality: float
    colour_difference: float  # from the item's own picture
    refused: str | None  # the reason; None where it passed


def candidates(
    generator: KeptGenerator, quality: CategoryQuality, label: int, seeds: Sequence[int], own: Picture, limits: Limits
) -> list[Candidate]:
    """A picture for each seed, nearest in colour to the item's own picture first; with the reason where it is refused."""
    made = generator.pictures(label, seeds)
    judged = zip(
        made, seeds, quality.quality(made), quality.is_memorised(made), colour_differences(made, own), strict=True
    )
    found = [
        Candidate(picture, seed, float(score), float(difference), _refusal(score, copied, difference, limits))
        for picture, seed, score, copied, difference in judged
    ]
    return sorted(found, key=lambda candidate: candidate.colour_difference)


def _refusal(quality: float, is_copy: bool, colour_difference: float, limits: Limits) -> str | None:
    if is_copy:
        return MEMORISED
    if quality < limits.min_quality:
        return UNLIKE.format(quality=quality, limit=limits.min_quality)
    if colour_difference > limits.max_colour_difference:
        return OTHER_COLOUR.format(difference=colour_difference, limit=limits.max_colour_difference)
    return None


def tried(ordered: Sequence[Candidate]) -> tuple[list[Candidate], Candidate | None]:
    """The candidates refused before one passed, and that one; None where all were refused."""
    refused = list(takewhile(lambda candidate: candidate.refused is not None, ordered))
    return refused, ordered[len(refused)] if len(refused) < len(ordered) else None
