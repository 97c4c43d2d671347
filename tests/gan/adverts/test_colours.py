import numpy as np
import pytest

from gan.adverts.colours import cielab, colour_differences, product_pixels

GROUND = (245, 245, 240)


def shown(*colours: tuple[int, int, int], left: int = 8, ground: tuple[int, int, int] = GROUND) -> np.ndarray:
    """A picture [1, 3, 32, 32] of a product: 16 rows high, a band of each colour, 12 columns wide."""
    picture = np.tile(np.array(ground, np.uint8)[:, None, None], (1, 32, 32))
    for number, colour in enumerate(colours):
        height = 16 // len(colours)
        top = 8 + number * height
        picture[:, top : top + height, left : left + 12] = np.array(colour)[:, None, None]
    return picture[None]


@pytest.mark.parametrize(
    ("srgb", "expected"),  # as published for sRGB under D65
    [
        ((255, 255, 255), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 255, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
        ((119, 119, 119), (50.03, 0, 0)),
    ],
)
def test_known_colours_have_their_published_values(
    srgb: tuple[int, int, int], expected: tuple[float, float, float]
) -> None:
    assert cielab(np.array(srgb) / 255) == pytest.approx(expected, abs=0.02)


def test_a_product_is_what_differs_from_the_ground_wherever_it_stands() -> None:
    red = cielab(np.array([200, 50, 50]) / 255)
    for picture in (shown((200, 50, 50)), shown((200, 50, 50), left=2, ground=(30, 30, 30))):
        (pixels,) = product_pixels(picture)
        assert pixels == pytest.approx(np.tile(red, (16 * 12, 1)))
    assert len(product_pixels(shown(GROUND))[0]) == 32 * 32  # a product of the ground's colour


def test_a_small_accent_is_no_other_colour_and_a_second_half_is() -> None:
    own, accented = shown((200, 52, 54))[0], shown((200, 52, 54))
    accented[:, :, 8:10, 8:14] = 20  # 12 of 192 pixels are black
    assert colour_differences(accented, own)[0] < 6
    # half the pixels are green, 90 away: the median may still be red
    assert colour_differences(shown((200, 52, 54), (70, 148, 84)), own)[0] > 40
    assert colour_differences(own[None], shown((200, 52, 54), (70, 148, 84))[0])[0] > 40


def test_green_and_blue_are_far_from_red_and_pink_and_a_shade_is_near() -> None:
    own_red, own_pink = shown((200, 52, 54))[0], shown((232, 140, 172))[0]
    assert colour_differences(shown((70, 148, 84)), own_red)[0] > 80
    assert colour_differences(shown((58, 104, 190)), own_pink)[0] > 50
    assert colour_differences(shown((208, 60, 50), left=14), own_red)[0] < 6
