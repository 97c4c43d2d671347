from collections.abc import Callable

import numpy as np
import pytest

from gan.metrics.memorisation import CopyDetector
from gan.training.dataset import PreparedPictures

Products = Callable[[str, int, int], np.ndarray]


def shifted(pictures: np.ndarray, down: int, right: int) -> np.ndarray:
    """The pictures, moved by up to 2 pixels; the border is repeated."""
    wider = np.pad(pictures, ((0, 0), (0, 0), (2, 2), (2, 2)), mode="edge")
    side = pictures.shape[-1]
    return wider[:, :, 2 - down : 2 - down + side, 2 - right : 2 - right + side]


def recoloured(pictures: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return np.clip(np.round(change(pictures.astype(float))), 0, 255).astype(np.uint8)


PLANTED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as it is": lambda pictures: pictures,
    "mirrored": lambda pictures: pictures[..., ::-1],
    "2 pixels to the right": lambda pictures: shifted(pictures, 0, 2),
    "2 pixels up": lambda pictures: shifted(pictures, -2, 0),
    "1 pixel down, 1 to the left": lambda pictures: shifted(pictures, 1, -1),
    "2 pixels up, 1 to the right": lambda pictures: shifted(pictures, -2, 1),
    "darkened to 0.7": lambda pictures: recoloured(pictures, lambda pixels: pixels * 0.7),
    "darkened to 0.5": lambda pictures: recoloured(pictures, lambda pixels: pixels * 0.5),
    "darkened by 25": lambda pictures: recoloured(pictures, lambda pixels: pixels - 25),
    "of less contrast": lambda pictures: recoloured(pictures, lambda pixels: (pixels - 128) * 0.7 + 128),
    "all of it": lambda pictures: recoloured(shifted(pictures[..., ::-1], 1, -2), lambda pixels: pixels * 0.7),
}


@pytest.mark.parametrize("name", PLANTED)
@pytest.mark.parametrize("label", [0, 1])
def test_a_planted_copy_is_found(prepared: PreparedPictures, name: str, label: int) -> None:
    training = prepared.of(label, held_out=False)
    detector = CopyDetector.fit(training, prepared.of(label, held_out=True))
    assert detector(PLANTED[name](training)).mean() >= 0.95


def test_real_pictures_that_were_never_seen_are_hardly_ever_taken_for_copies(
    prepared: PreparedPictures, products: Products
) -> None:
    for label in (0, 1):
        detector = CopyDetector.fit(prepared.of(label, held_out=False), prepared.of(label, held_out=True))
        assert detector(prepared.of(label, held_out=True)).mean() <= 0.1
        assert detector(products(prepared.classes[label], 100, 9)).mean() <= 0.1


def test_pictures_of_64_pixels_are_compared_likewise(prepared: PreparedPictures) -> None:
    large = prepared.pixels.repeat(2, axis=2).repeat(2, axis=3)
    discs, held_out = large[~prepared.is_held_out & (prepared.labels == 0)], large[prepared.is_held_out]
    detector = CopyDetector.fit(discs, held_out)
    assert detector(shifted(discs[..., ::-1], 2, -1)).mean() >= 0.95


def test_a_flat_picture_is_no_copy(prepared: PreparedPictures) -> None:
    detector = CopyDetector.fit(prepared.of(0, held_out=False), prepared.of(0, held_out=True))
    assert not detector(np.full((2, 3, 32, 32), 245, np.uint8)).any()
