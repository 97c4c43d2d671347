import numpy as np
import pytest

from gan.adverts.palette import READABLE, WHITE, colour, contrast, dominant_hue, oklab, palette_of


def flat(red: int, green: int, blue: int) -> np.ndarray:
    return np.broadcast_to(np.array([red, green, blue], np.uint8)[:, None, None], (3, 8, 8)).copy()


def test_contrasts_are_those_of_the_standard() -> None:
    assert contrast((0, 0, 0), WHITE) == pytest.approx(21)
    assert contrast(WHITE, WHITE) == pytest.approx(1)
    assert contrast((119, 119, 119), WHITE) == pytest.approx(4.48, abs=0.01)


def test_oklab_is_that_of_its_paper() -> None:
    lab = oklab(np.array([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]))
    assert lab[0] == pytest.approx([1, 0, 0], abs=1e-3)
    assert lab[1] == pytest.approx([0.628, 0.225, 0.126], abs=1e-3)


def test_a_colour_comes_back_from_oklch() -> None:
    lightness, a, b = oklab(np.array([[200, 52, 54]]) / 255)[0]
    assert colour(lightness, float(np.hypot(a, b)), float(np.arctan2(b, a))) == pytest.approx((200, 52, 54), abs=1)


def test_the_hue_is_that_of_most_of_the_colour() -> None:
    picture = flat(250, 250, 250)
    picture[:, :4] = flat(200, 40, 40)[:, :4]
    picture[:, 4:5] = flat(40, 80, 200)[:, 4:5]
    assert dominant_hue(picture) == pytest.approx(dominant_hue(flat(200, 40, 40)), abs=1e-6)
    assert dominant_hue(flat(128, 128, 128)) is None


@pytest.mark.parametrize("rgb", [(238, 202, 72), (52, 52, 58), (70, 148, 84), (232, 140, 172), (255, 255, 255)])
def test_what_is_written_can_be_read(rgb: tuple[int, int, int]) -> None:
    palette = palette_of(flat(*rgb), "Shoes")
    for ink in (palette.ink, palette.muted, palette.accent):
        assert contrast(ink, palette.ground) >= READABLE
    assert contrast(WHITE, palette.accent) >= READABLE


def test_a_picture_without_colour_takes_the_hue_of_its_name() -> None:
    grey = flat(128, 128, 128)
    assert palette_of(grey, "Shoes") == palette_of(grey, "Shoes")
    assert palette_of(grey, "Shoes") != palette_of(grey, "Bags")
