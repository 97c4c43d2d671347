from decimal import Decimal

import numpy as np
import pytest

from gan.adverts.composition import MARK_GROUND, MARK_INK, Copy, compose, mark_box, marked, price_text
from gan.adverts.layouts import layout_of, parse_size
from gan.adverts.palette import contrast
from gan.adverts.typesetting import Box

SIZES = [
    (300, 250),
    (728, 90),
    (160, 600),
    (336, 280),
    (970, 90),
    (300, 600),
    (120, 600),
    (600, 90),
    (200, 400),
    (250, 250),
]
WHOLE = Copy("Kestrel Classic Purple Handbag", "Shop now", "Bags", "€148.99")
LONG = Copy(
    "The Unreasonably Long-Winded Donaudampfschifffahrtsgesellschaftskapitän Commemorative Extra Wide Hat, " * 3,
    "Discover all of our many offers",
    "A category of more words than anyone asked for " * 2,
    "HUF 1,234,567,890",
)
BARE = Copy("Mug", "Buy")


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    pixels = np.full((3, 32, 32), 245, np.uint8)
    pixels[:, 8:24, 8:24] = np.array([180, 40, 60], np.uint8)[:, None, None]
    return pixels


def lies_in(box: Box, room: Box) -> bool:
    return room.left <= box.left and room.top <= box.top and box.right <= room.right and box.bottom <= room.bottom


def overlap(one: Box, other: Box) -> bool:
    return one.left < other.right and other.left < one.right and one.top < other.bottom and other.top < one.bottom


@pytest.mark.parametrize("copy", [WHOLE, LONG, BARE], ids=["whole", "long", "bare"])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_every_text_lies_in_the_advert_and_beside_the_others(
    picture: np.ndarray, size: tuple[int, int], copy: Copy
) -> None:
    advert = compose(picture, copy, size, palette_name="Bags")
    assert advert.image.size == size
    expected = {"mark", "title", "call_to_action"} | ({"price", "kicker"} if copy.price else set())
    assert set(advert.text_boxes) == expected
    for name, box in advert.text_boxes.items():
        assert lies_in(box, Box(1, 1, size[0] - 1, size[1] - 1)), f"{name} at {box}"
    layout, boxes = layout_of(*size), advert.text_boxes
    assert lies_in(boxes["call_to_action"], layout.button)
    assert lies_in(mark_box(layout.picture, layout.mark_size), layout.picture)
    places = [box for name, box in boxes.items()]
    assert not any(overlap(one, other) for n, one in enumerate(places) for other in places[:n])


@pytest.mark.parametrize("size", SIZES[:3], ids=lambda size: f"{size[0]}x{size[1]}")
def test_the_mark_can_be_seen_and_read(picture: np.ndarray, size: tuple[int, int]) -> None:
    assert contrast(MARK_GROUND, MARK_INK) > 7
    advert = compose(picture, WHOLE, size, palette_name="Bags")
    box = advert.text_boxes["mark"]
    drawn = np.asarray(advert.image.crop(tuple(box)), dtype=int)
    luminance = drawn.mean(axis=2)
    assert (luminance < 60).mean() > 0.3  # its plate
    assert (luminance > 200).mean() > 0.05  # its letters
    assert box.height >= 6


def test_the_mark_stands_on_the_picture_alone_too(picture: np.ndarray) -> None:
    image = np.asarray(marked(picture, 320), dtype=int)
    assert image.shape == (320, 320, 3)
    place = mark_box(Box(0, 0, 320, 320), 16)
    plate = image[place.top : place.bottom, place.left : place.right].mean(axis=2)
    assert (plate < 60).mean() > 0.4
    assert (plate > 200).mean() > 0.05


def test_the_same_picture_and_words_give_the_same_advert(picture: np.ndarray) -> None:
    one, other = (compose(picture, WHOLE, (300, 250), palette_name="Bags").image.tobytes() for _ in range(2))
    assert one == other


def test_prices_are_written_as_their_currency_is() -> None:
    assert price_text(Decimal("1299.0000"), "EUR") == "€1,299.00"
    assert price_text(Decimal("1299.0000"), "JPY") == "¥1,299"
    assert price_text(Decimal("12.5"), "PLN") == "PLN 12.50"
    assert price_text(Decimal("12.5"), None) == "12.50"
    assert price_text(None, "EUR") is None


def test_sizes_are_read_and_those_that_hold_no_advert_refused() -> None:
    assert parse_size("300x250") == (300, 250)
    for size, why in {
        "300": "is not a size",
        "ax5": "is not a size",
        "300x25": "cannot hold",
        "468x60": "needs 600x90",
        "90x728": "cannot hold",
        "9000x5000": "cannot hold",
    }.items():
        with pytest.raises(ValueError, match=why):
            parse_size(size)
