"""Setting text in a box: the fonts, wrapping, ellipsis, and the largest size at which a text fits.

The fonts are Roboto Regular and Bold (Apache License 2.0, `gan/adverts/fonts/LICENSE`); Pillow's own font has neither accents nor
currency signs.
"""

import io
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal, NamedTuple

from PIL.ImageFont import FreeTypeFont, Layout, truetype

Weight = Literal["Regular", "Bold"]
ELLIPSIS = "…"
LINE_HEIGHT = 1.2  # of the font's size
UNASSIGNED = "\uffff"  # in no font, so that it is drawn as the sign for a missing character


class Box(NamedTuple):
    """A rectangle in pixels: [left, right) x [top, bottom)."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def height(self) -> int:
        return self.bottom - self.top


@dataclass(frozen=True)
class SetText:
    """A text broken into lines, with its font."""

    lines: tuple[str, ...]
    weight: Weight
    size: int

    @property
    def font(self) -> FreeTypeFont:
        return font(self.weight, self.size)

    @property
    def line_height(self) -> int:
        return round(self.size * LINE_HEIGHT)

    @property
    def width(self) -> int:
        return max((text_width(line, self.font) for line in self.lines), default=0)

    @property
    def height(self) -> int:
        return self.line_height * len(self.lines)


@cache
def _font_file(weight: Weight) -> bytes:
    return (files("gan.adverts") / "fonts" / f"Roboto-{weight}.ttf").read_bytes()


@cache
def font(weight: Weight, size: int) -> FreeTypeFont:
    """The font at a size in pixels; its layout does not depend on what else the machine has installed."""
    return truetype(io.BytesIO(_font_file(weight)), size, layout_engine=Layout.BASIC)


@cache
def is_drawable(character: str) -> bool:
    """Whether the fonts have a shape for the character."""
    sample = font("Regular", 16)
    missing = sample.getmask(UNASSIGNED)
    shape = sample.getmask(character)
    return character.isspace() or shape.size != missing.size or bytes(shape) != bytes(missing)


def drawable(text: str) -> str:
    """The text in NFC, with single spaces as white space, without characters that the fonts cannot draw."""
    composed = unicodedata.normalize("NFC", text)
    return " ".join("".join(c for c in composed if is_drawable(c)).split())


def text_width(text: str, face: FreeTypeFont) -> int:
    """Width in pixels from the text's origin to its right end, rounded up."""
    left, _, right, _ = face.getbbox(text, anchor="ls")
    return -int(-max(face.getlength(text), right - min(left, 0)) // 1)


def wrap(text: str, face: FreeTypeFont, width: int) -> list[str]:
    """Lines no wider than `width` pixels, broken at spaces; a single word that is wider is broken too."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if text_width(longer, face) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        line = word
        while text_width(line, face) > width and len(line) > 1:
            cut = next(c for c in range(len(line) - 1, 0, -1) if c == 1 or text_width(line[:c], face) <= width)
            lines.append(line[:cut])
            line = line[cut:]
    return [*lines, line] if line else lines


def ellipsised(lines: Sequence[str], face: FreeTypeFont, width: int, max_lines: int) -> list[str]:
    """The first `max_lines` lines; where there are more, the last one kept ends in an ellipsis that still fits."""
    if len(lines) <= max_lines:
        return list(lines)
    last = lines[max_lines - 1]
    while last and text_width(last.rstrip(" ,.;:-") + ELLIPSIS, face) > width:
        last = last[:-1]
    return [*lines[: max_lines - 1], last.rstrip(" ,.;:-") + ELLIPSIS]


def fit(text: str, box: Box, *, sizes: Sequence[int], weight: Weight, max_lines: int) -> SetText:
    """The text at the first of `sizes` (descending) at which it fits the box, else at the last one, cut by an ellipsis."""
    assert list(sizes) == sorted(sizes, reverse=True)
    for size in sizes:
        face = font(weight, size)
        room = min(max_lines, box.height // round(size * LINE_HEIGHT))
        lines = wrap(text, face, box.width)
        no_word_broken = all(text_width(word, face) <= box.width for word in text.split())
        if len(lines) <= room and no_word_broken:
            return SetText(tuple(lines), weight, size)
    assert room >= 1, f"not even one line of {sizes[-1]} pixels fits into {box}"
    return SetText(tuple(ellipsised(lines, face, box.width, room)), weight, sizes[-1])
