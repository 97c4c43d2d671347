from typing import Any

import numpy as np
import pytest

from gan.adverts.candidates import Candidate, Limits, candidates, tried
from gan.metrics.calibration import qualities
from gan.metrics.quality import CategoryQuality
from gan.training.dataset import PreparedPictures
from tests.gan.conftest import SIDE


class Known:
    """Takes the place of a generator: its pictures are given."""

    def __init__(self, pictures: np.ndarray) -> None:
        self.made = pictures

    def pictures(self, label: int, seeds: list[int]) -> np.ndarray:
        return self.made[: len(seeds)]


@pytest.fixture(scope="module")
def discs(prepared: PreparedPictures) -> CategoryQuality:
    return qualities(prepared, [0])[0]


def disc(red: int, green: int, blue: int) -> np.ndarray:
    picture = np.full((3, SIDE, SIDE), 245, np.uint8)
    down, right = np.ogrid[:SIDE, :SIDE]
    picture[:, np.hypot(down - 16, right - 16) < 8] = np.array([[red], [green], [blue]])
    return picture


def judged(quality: CategoryQuality, pictures: list[np.ndarray], own: np.ndarray, **limits: float) -> list[Candidate]:
    generator: Any = Known(np.stack(pictures))
    return candidates(generator, quality, 0, list(range(len(pictures))), own, Limits(**limits))


def test_candidates_come_nearest_in_colour_first_and_those_of_another_colour_are_refused(
    discs: CategoryQuality,
) -> None:
    made = [disc(30, 90, 190), disc(190, 60, 50), disc(60, 150, 70), disc(200, 52, 54)]
    found = judged(discs, made, disc(200, 52, 54), min_quality=0, max_colour_difference=12)
    assert [candidate.seed for candidate in found] == [3, 1, 0, 2]
    assert [candidate.refused is None for candidate in found] == [True, True, False, False]
    assert found[2].refused is not None
    assert found[2].refused.startswith("of another colour: ")
    assert found[2].refused.endswith("in CIELAB from the item's own picture is above 12")
    green_alone = judged(discs, [made[2]], disc(200, 52, 54), min_quality=0, max_colour_difference=12)
    assert tried(green_alone) == (green_alone, None)


def test_a_copy_of_a_training_picture_is_refused_whatever_its_quality(
    discs: CategoryQuality, prepared: PreparedPictures
) -> None:
    training = prepared.of(0, held_out=False)[:3]
    found = judged(discs, list(training[..., ::-1]), training[0], min_quality=0.1, max_colour_difference=300)
    assert [candidate.refused for candidate in found] == ["a copy of a training picture"] * 3


def test_the_first_candidate_that_passes_is_taken() -> None:
    def candidate(seed: int, refused: str | None = None) -> Candidate:
        return Candidate(disc(1, 2, 3), seed, 0.5, 1.0, refused)

    bad, good, better = candidate(1, "bad"), candidate(2), candidate(3)
    assert tried([bad, good, better]) == ([bad], good)
    assert tried([bad]) == ([bad], None)
