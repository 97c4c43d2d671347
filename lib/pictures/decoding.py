"""Decoding one picture file, whoever made it and whatever is wrong with it, in bounded memory.

A picture counts as undecodable where its format is none of FORMATS, where a decoder gives up on it, where its header promises
more than MAX_PIXELS or sides further apart than MAX_SIDE_RATIO, and where its greys have no agreed white (32 bits, floating
point). Sizes are judged by the header, before memory is asked for. Of EXIF only the orientation is read.
"""

import io
import warnings
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps
from PIL.TiffImagePlugin import TILELENGTH, TILEWIDTH, TiffImageFile

Picture = NDArray[np.uint8]  # [3, R, R]: RGB, channels first, 0..255
FORMATS: Final = (
    "JPEG",
    "PNG",
    "GIF",
    "WEBP",
    "AVIF",
    "BMP",
    "TIFF",
)  # what browsers show, and TIFF; no EPS, which is a program
MAX_FILE_BYTES: Final = 64 * 2**20
MAX_PIXELS: Final = 50_000_000  # some 400 MB while it is decoded; a camera's 45 megapixels pass
MAX_SIDE_RATIO: Final = 16  # of the long side to the short one, which is 2 pixels wide in a picture of 32
MAX_SIDE: Final = 2048  # pixels; larger pictures are averaged down before anything else is done with them
WHITE: Final = (255, 255, 255)
UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # what sets a picture of this EXIF orientation upright


class UndecodableError(ValueError):
    """A picture that is not decoded, with the reason."""


def decode(data: bytes, resolution: int) -> Picture | None:
    """Decode a picture file: upright, on white, padded to a square, scaled down by averaging; None where it is undecodable.

    Of several frames the first is taken.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow says of odd headers that it can live with
            upright = _upright(data, resolution)
    except (
        Exception
    ):  # Pillow lets through whatever its parsers meet: struct.error, KeyError, ZeroDivisionError and more
        return None
    square = ImageOps.pad(_on_white(upright), (max(upright.size),) * 2, color=WHITE)
    reduced = square.resize((resolution, resolution), Image.Resampling.BOX if square.width >= resolution else None)
    return np.asarray(reduced).transpose(2, 0, 1)


def _upright(data: bytes, resolution: int) -> Image.Image:
    """The picture in RGB or RGBA, upright, with no side above MAX_SIDE."""
    if len(data) > MAX_FILE_BYTES:
        raise UndecodableError(f"{len(data):,} bytes")
    with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
        _require_bounded(opened)
        opened.draft("RGB", (2 * resolution, 2 * resolution))  # lets a JPEG be decoded at a fraction of its size
        opened.load()
        coloured = _coloured(opened)
        small = coloured.reduce(-(-max(coloured.size) // MAX_SIDE)) if max(coloured.size) > MAX_SIDE else coloured
        method = UPRIGHT.get(_orientation(opened))
    return small if method is None else small.transpose(method)


def _require_bounded(opened: Image.Image) -> None:
    """Refuse by its header a picture that would take too much memory or hardly be seen."""
    width, height = opened.size
    sizes = [(width, height)]
    if isinstance(opened, TiffImageFile):  # its tiles are decoded whole, whatever the size of the picture
        sizes.append((opened.tag_v2.get(TILEWIDTH, 1), opened.tag_v2.get(TILELENGTH, 1)))
    if any(one * other > MAX_PIXELS for one, other in sizes):
        raise UndecodableError(f"{width} x {height} pixels are more than {MAX_PIXELS:,}")
    if max(width, height) > MAX_SIDE_RATIO * min(width, height):
        raise UndecodableError(f"{width} x {height} is a strip")


def _coloured(opened: Image.Image) -> Image.Image:
    """The decoded picture in RGBA where something in it may be transparent, else in RGB."""
    if opened.mode.startswith(("I", "F")):
        return _from_sixteen_bits(opened).convert("RGB")
    mode = "RGBA" if opened.has_transparency_data else "RGB"
    return opened if opened.mode == mode else opened.convert(mode)


def _from_sixteen_bits(opened: Image.Image) -> Image.Image:
    """Greys of 16 bits as greys of 8; Pillow's own conversion would make everything above 255 white."""
    tags = opened.tag_v2 if isinstance(opened, TiffImageFile) else {}
    bits, black_is_zero = (
        tags.get(ExifTags.Base.BitsPerSample, (16,)),
        tags.get(ExifTags.Base.PhotometricInterpretation, 1),
    )
    if not opened.mode.startswith("I;16") or bits != (16,) or black_is_zero != 1:
        raise UndecodableError(f"greys of mode {opened.mode} have no agreed white")
    wide = np.asarray(opened)
    greys = (wide // 257).astype(np.uint8)  # 65535 is 255 x 257
    if "transparency" in opened.info:
        greys[wide == opened.info["transparency"]] = 255
    return Image.fromarray(greys)


def _orientation(opened: Image.Image) -> int:
    """The EXIF orientation, 1..8; 1, which is upright, where there is none that can be read."""
    try:
        found = opened.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # as in `decode`: the header is broken, the picture is not
        return 1
    return found if isinstance(found, int) else 1


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    ground = Image.new("RGBA", image.size, (*WHITE, 255))
    ground.alpha_composite(image)
    return ground.convert("RGB")
