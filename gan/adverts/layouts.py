"""Where the parts of an advert stand, for standard advert sizes."""

from collections.abc import Sequence
from dataclasses import dataclass

from gan.adverts.typesetting import Box


@dataclass(frozen=True)
class Layout:
    """Where each part of an advert stands."""

    size: tuple[int, int]
    panel: Box  # darker background behind the picture
    picture: Box
    kicker: Box | None
    title: Box
    price: Box
    button: Box
    title_sizes: Sequence[int]
    title_lines: int
    price_sizes: Sequence[int]
    button_sizes: Sequence[int]
    mark_size: int


def parse_size(size: str) -> tuple[int, int]:
    """Width and height of a size such as "300x250".

    Raises:
        ValueError: it is not a size, or is too small for legible text, or too large.
    """
    width, separator, height = size.partition("x")
    if not (separator and width.isdigit() and height.isdigit()):
        raise ValueError(f"{size!r} is not a size; expected width x height in pixels, such as 300x250")
    w, h = int(width), int(height)
    smallest = (600, 90) if w >= 3 * h else (120, 400) if h >= 2 * w else (250, 200)
    if w < smallest[0] or h < smallest[1] or w > 2000 or h > 2000:
        raise ValueError(f"{size} cannot hold an advert; its shape needs {smallest[0]}x{smallest[1]} to 2000x2000")
    return w, h


def layout_of(width: int, height: int) -> Layout:
    """The layout of a size that `parse_size` accepted."""
    if width >= 3 * height:
        return _wide(width, height)
    return _tall(width, height) if height >= 2 * width else _rectangle(width, height)


def _wide(width: int, height: int) -> Layout:
    """Picture left, words in the middle, price and button right."""
    edge = round(height * 0.09)
    panel = Box(0, 0, height + edge, height)
    picture = Box(edge + edge // 2, edge, edge + edge // 2 + height - 2 * edge, height - edge)
    button = Box(width - edge * 2 - round(height * 1.5), round(height * 0.28), width - edge * 2, round(height * 0.72))
    price = Box(button.left - edge * 2 - round(height * 1.35), 0, button.left - edge * 2, height)
    words = Box(panel.right + edge * 2, edge, price.left - edge * 2, height - edge)
    kicker_height = round(height * 0.2)
    return Layout(
        size=(width, height), panel=panel, picture=picture,
        kicker=Box(words.left, words.top, words.right, words.top + kicker_height),
        title=Box(words.left, words.top + kicker_height, words.right, words.bottom),
        price=price, button=button,
        title_sizes=_sizes(height * 0.27, height * 0.16), title_lines=2,
        price_sizes=_sizes(height * 0.30, height * 0.13), button_sizes=_sizes(height * 0.18, height * 0.11),
        mark_size=max(round(height * 0.1), 9),
    )  # fmt: skip


def _rectangle(width: int, height: int) -> Layout:
    """Picture left, words right of it, price and button below."""
    edge = round(height * 0.064)
    foot = round(height * 0.24)
    side = min(round(width * 0.48), height - foot - 2 * edge)
    panel = Box(0, 0, side + 2 * edge, height - foot)
    picture = Box(edge, (panel.height - side) // 2, edge + side, (panel.height - side) // 2 + side)
    words = Box(panel.right + edge, edge, width - edge, panel.bottom - edge // 2)
    kicker_height = round(height * 0.075)
    row = Box(edge, height - foot, width - edge, height)
    button = Box(
        row.right - round(row.width * 0.45), row.top + round(foot * 0.2), row.right, row.bottom - round(foot * 0.2)
    )
    return Layout(
        size=(width, height), panel=panel, picture=picture,
        kicker=Box(words.left, words.top, words.right, words.top + kicker_height),
        title=Box(words.left, words.top + kicker_height, words.right, words.bottom),
        price=Box(row.left, row.top, button.left - edge, row.bottom), button=button,
        title_sizes=_sizes(height * 0.088, height * 0.056), title_lines=6,
        price_sizes=_sizes(height * 0.116, height * 0.06), button_sizes=_sizes(height * 0.064, height * 0.044),
        mark_size=max(round(height * 0.042), 10),
    )  # fmt: skip


def _tall(width: int, height: int) -> Layout:
    """Picture on top, words below it, price and button at the foot."""
    unit = min(width, round(height * 0.27))  # so that a broad advert leaves enough room for its texts
    edge = round(unit * 0.075)
    side = width - 2 * edge
    panel = Box(0, 0, width, max(side + 2 * edge, round(height * 0.42)))
    picture = Box(edge, (panel.height - side) // 2, edge + side, (panel.height - side) // 2 + side)
    button_height = round(unit * 0.27)
    button = Box(edge, height - edge - button_height, width - edge, height - edge)
    price = Box(edge, button.top - round(unit * 0.36), width - edge, button.top)
    words = Box(edge, panel.bottom + edge, width - edge, price.top)
    kicker_height = round(unit * 0.12)
    return Layout(
        size=(width, height), panel=panel, picture=picture,
        kicker=Box(words.left, words.top, words.right, words.top + kicker_height),
        title=Box(words.left, words.top + kicker_height, words.right, words.bottom),
        price=price, button=button,
        title_sizes=_sizes(unit * 0.165, unit * 0.1), title_lines=8,
        price_sizes=_sizes(unit * 0.2, unit * 0.1), button_sizes=_sizes(unit * 0.106, unit * 0.075),
        mark_size=max(round(unit * 0.07), 10),
    )  # fmt: skip


def _sizes(largest: float, smallest: float) -> list[int]:
    return list(range(round(largest), max(round(smallest), 9) - 1, -1))
