"""Composing an advert: the generated picture with its mark, title, price and call to action, in standard advert sizes.

There are three layouts, chosen by proportion: wide (728x90), tall (160x600) and rectangle (300x250). Every text has its own box
and is set at a size that fits it.
"""

from dataclasses import dataclass, field
from decimal import Decimal

from PIL import Image, ImageDraw

from gan.adverts.layouts import Layout, layout_of
from gan.adverts.palette import WHITE, Palette, Rgb, palette_of
from gan.adverts.typesetting import Box, SetText, drawable, fit, font, text_width
from gan.arrays import Picture
from gan.provenance import MARK

SMOOTH = 4  # shapes are drawn this many times larger, then scaled down, for smooth edges
MARK_GROUND, MARK_INK = (24, 24, 27), WHITE
SYMBOLS = {"EUR": "€", "USD": "$", "GBP": "£", "JPY": "¥", "CNY": "¥", "INR": "₹", "KRW": "₩", "ILS": "₪", "VND": "₫"}
WITHOUT_DECIMALS = ("JPY", "KRW", "VND", "CLP", "ISK", "HUF")


@dataclass(frozen=True)
class Copy:
    """The texts of an advert; one that is None is left out."""

    title: str
    call_to_action: str
    kicker: str | None = None  # small line above the title
    price: str | None = None


@dataclass
class Advert:
    """A composed advert, and where each of its texts was drawn."""

    image: Image.Image
    text_boxes: dict[str, Box] = field(default_factory=dict)


def price_text(price: Decimal | None, currency: str | None) -> str | None:
    """A price as shown: €1,299.00, ¥1,299, PLN 12.50; the number alone where the currency is unknown; None without a price."""
    if price is None:
        return None
    number = f"{price:,.0f}" if currency in WITHOUT_DECIMALS else f"{price:,.2f}"
    if currency is None:
        return number
    return f"{SYMBOLS[currency]}{number}" if currency in SYMBOLS else f"{currency} {number}"


def upscaled(pixels: Picture, side: int) -> Image.Image:
    """A generated picture [3, R, R] enlarged by Lanczos interpolation."""
    return Image.fromarray(pixels.transpose(1, 2, 0)).resize((side, side), Image.Resampling.LANCZOS)


def marked(pixels: Picture, side: int) -> Image.Image:
    """The picture alone, enlarged, with its mark."""
    image = upscaled(pixels, side)
    whole = Box(0, 0, side, side)
    place = mark_box(whole, max(side // 20, 10))
    _rounded(image, place, MARK_GROUND, radius=place.height // 2)
    _draw_mark(image, place, max(side // 20, 10))
    return image


def compose(pixels: Picture, copy: Copy, size: tuple[int, int], *, palette_name: str) -> Advert:
    """An advert with a generated picture [3, R, R]; `palette_name` decides the hue where the picture has no colour."""
    layout, palette = layout_of(*size), palette_of(pixels, palette_name)
    advert = Advert(_ground(layout, palette))
    _place_picture(advert.image, pixels, layout.picture)
    place = mark_box(layout.picture, layout.mark_size)
    _rounded(advert.image, place, MARK_GROUND, radius=place.height // 2)
    advert.text_boxes["mark"] = _draw_mark(advert.image, place, layout.mark_size)
    _draw_words(advert, copy, layout, palette)
    if copy.price:
        price = fit(copy.price, layout.price, sizes=layout.price_sizes, weight="Bold", max_lines=1)
        left = layout.price.right - price.width if layout.price.height == size[1] else layout.price.left
        top = layout.price.top + (layout.price.height - price.height) // 2
        advert.text_boxes["price"] = _draw_text(advert.image, price, (left, top), palette.accent)
    _draw_button(advert, copy.call_to_action, layout, palette)
    ImageDraw.Draw(advert.image).rectangle((0, 0, size[0] - 1, size[1] - 1), outline=palette.line)
    return advert


def _ground(layout: Layout, palette: Palette) -> Image.Image:
    image = Image.new("RGB", layout.size, palette.ground)
    ImageDraw.Draw(image).rectangle(
        (layout.panel.left, layout.panel.top, layout.panel.right - 1, layout.panel.bottom - 1), fill=palette.panel
    )
    _rounded(image, layout.picture, WHITE, radius=_radius(layout.picture))
    return image


def _place_picture(image: Image.Image, pixels: Picture, box: Box) -> None:
    picture = upscaled(pixels, box.width)
    image.paste(picture, (box.left, box.top), _rounded_mask(box, _radius(box)))


def _radius(box: Box) -> int:
    return max(box.width // 14, 4)


def mark_box(picture: Box, size: int) -> Box:
    """The plate behind the mark: inside the picture, at its lower left."""
    width, height = text_width(MARK, font("Bold", size)) + size, round(size * 1.6)
    gap = min(max(picture.width // 24, 2), (picture.width - width) // 2)
    left, bottom = picture.left + gap, picture.bottom - max(gap, 2)
    return Box(left, bottom - height, left + width, bottom)


def _draw_mark(image: Image.Image, place: Box, size: int) -> Box:
    face = font("Bold", size)
    return _draw_line(
        image, MARK, face, ((place.left + place.right) / 2, (place.top + place.bottom) / 2), MARK_INK, "mm"
    )


def _draw_words(advert: Advert, copy: Copy, layout: Layout, palette: Palette) -> None:
    """Kicker and title, one above the other."""
    gap = round(layout.title_sizes[0] * 0.2) if copy.kicker else 0
    room = Box(layout.title.left, layout.title.top + gap, layout.title.right, layout.title.bottom)
    title = fit(drawable(copy.title), room, sizes=layout.title_sizes, weight="Bold", max_lines=layout.title_lines)
    kicker: SetText | None = None
    if copy.kicker and layout.kicker:
        size = min(max(round(title.size * 0.62), 10), round(layout.kicker.height / 1.2))
        kicker = fit(drawable(copy.kicker).upper(), layout.kicker, sizes=[size], weight="Regular", max_lines=1)
    height = title.height + gap + (kicker.height if kicker else 0)
    column = Box(layout.title.left, (layout.kicker or layout.title).top, layout.title.right, layout.title.bottom)
    top = column.top + max(column.height - height, 0) // 2
    if kicker:
        advert.text_boxes["kicker"] = _draw_text(advert.image, kicker, (column.left, top), palette.muted)
        top += kicker.height + gap
    advert.text_boxes["title"] = _draw_text(advert.image, title, (column.left, top), palette.ink)


def _draw_button(advert: Advert, text: str, layout: Layout, palette: Palette) -> None:
    box = layout.button
    _rounded(advert.image, box, palette.accent, radius=box.height // 2)
    room = Box(box.left + box.height // 3, box.top, box.right - box.height // 3, box.bottom)
    label = fit(drawable(text), room, sizes=layout.button_sizes, weight="Bold", max_lines=1)
    middle = ((box.left + box.right) / 2, (box.top + box.bottom) / 2)
    advert.text_boxes["call_to_action"] = _draw_line(advert.image, label.lines[0], label.font, middle, WHITE, "mm")


def _draw_text(image: Image.Image, text: SetText, start: tuple[int, int], ink: Rgb) -> Box:
    left, top = start
    boxes = [
        _draw_line(image, line, text.font, (left, top + round((number + 0.5) * text.line_height)), ink, "lm")
        for number, line in enumerate(text.lines)
    ]
    return Box(
        min(b.left for b in boxes), min(b.top for b in boxes), max(b.right for b in boxes), max(b.bottom for b in boxes)
    )


def _draw_line(image: Image.Image, line: str, face: object, place: tuple[float, float], ink: Rgb, anchor: str) -> Box:
    draw = ImageDraw.Draw(image)
    draw.text(place, line, font=face, fill=ink, anchor=anchor)  # type: ignore[arg-type]
    left, top, right, bottom = draw.textbbox(place, line, font=face, anchor=anchor)  # type: ignore[arg-type]
    return Box(int(left), int(top), -int(-right // 1), -int(-bottom // 1))


def _rounded(image: Image.Image, box: Box, fill: Rgb, *, radius: int) -> None:
    image.paste(fill, (box.left, box.top, box.right, box.bottom), _rounded_mask(box, radius))


def _rounded_mask(box: Box, radius: int) -> Image.Image:
    large = Image.new("L", (box.width * SMOOTH, box.height * SMOOTH))
    ImageDraw.Draw(large).rounded_rectangle((0, 0, large.width - 1, large.height - 1), radius=radius * SMOOTH, fill=255)
    return large.resize((box.width, box.height), Image.Resampling.BOX)
