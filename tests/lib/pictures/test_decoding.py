import io
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib.pictures import decoding
from lib.pictures.decoding import decode

WHITE = (255, 255, 255)
NUM_MUTATIONS = 3000
MOST_MEBIBYTES = 800  # by which decoding one picture may grow a process


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def photograph(width: int = 96, height: int = 80) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (height // 2, width // 2, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height))


def camera_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation
    exif[0x011A] = 72.0  # resolution
    exif[0x010F] = "Maker"
    exif[0x8769] = {0x9000: b"0230", 0x829A: (1, 60)}  # a folder within
    return exif


def png(width: int, height: int, colour: int, channels: int, pixels: bytes | None = None) -> bytes:
    """A PNG of 8 bits whose header says this; without `pixels` a mid-grey one."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    if pixels is None:
        row, packer = b"\0" + b"\x80" * (width * channels), zlib.compressobj(1)
        pixels = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def tiled_tiff(tile_side: int) -> bytes:
    """A TIFF of 64 x 64 pixels in one tile of another side."""
    content = zlib.compress(bytes(1000))
    content += bytes(len(content) % 2)
    tags = (
        (256, 64), (257, 64), (258, 8), (259, 8), (262, 1), (277, 1), (322, tile_side), (323, tile_side), (324, 8),
        (325, len(content)),
    )  # fmt: skip
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(content)) + content + directory + bytes(4)


def gif(side: int) -> bytes:
    frame = b"," + struct.pack("<HHHH", 0, 0, side, side) + b"\0\x02\x02\x4c\x01\0;"
    return b"GIF89a" + struct.pack("<HH", side, side) + b"\x80\0\0" + bytes(6) + frame


def bmp(side: int) -> bytes:
    small = encoded(Image.new("RGB", (8, 8)), "BMP")
    return small[:18] + struct.pack("<ii", side, side) + small[26:]


def zoo() -> dict[str, bytes]:
    """A small picture in every format and colour mode that is read, and in some that are not."""
    plain, exif = photograph(), camera_exif()
    frames = [plain.rotate(90 * turn) for turn in range(3)]
    several = {"save_all": True, "append_images": frames[1:]}
    deep = Image.fromarray((np.arange(80 * 96).reshape(80, 96) * 8).astype(np.uint16))
    found = {f"JPEG {mode}": encoded(plain.convert(mode), "JPEG", exif=exif) for mode in ("RGB", "L", "CMYK")}
    found |= {f"PNG {mode}": encoded(plain.convert(mode), exif=exif) for mode in ("RGB", "RGBA", "L", "LA", "P", "1")}
    found |= {f"BMP {mode}": encoded(plain.convert(mode), "BMP") for mode in ("RGB", "L", "P", "1")}
    modes = ("RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "YCbCr", "I", "F")
    found |= {f"TIFF {mode}": encoded(plain.convert(mode), "TIFF") for mode in modes}
    packed = ("tiff_lzw", "tiff_deflate", "packbits", "jpeg")
    found |= {f"TIFF {way}": encoded(plain, "TIFF", compression=way) for way in packed}
    found |= {f"{kind} of 16 bits": encoded(deep, kind) for kind in ("PNG", "TIFF")}
    found |= {f"{kind} of frames": encoded(plain, kind, **several) for kind in ("PNG", "GIF", "WEBP", "TIFF")}
    return found | {
        "JPEG progressive": encoded(plain, "JPEG", progressive=True),
        "PNG palette": encoded(plain.convert("P"), transparency=3),
        "GIF": encoded(plain, "GIF"),
        "WEBP": encoded(plain, "WEBP", exif=exif),
        "WEBP lossless": encoded(plain.convert("RGBA"), "WEBP", lossless=True),
        "AVIF": encoded(plain, "AVIF", exif=exif),
        "PPM": encoded(plain, "PPM"),
        "EPS": encoded(plain, "EPS"),
        "PDF": encoded(plain, "PDF"),
    }


UNREAD = {"TIFF I", "TIFF F", "PPM", "EPS", "PDF"}


def mutated(data: bytes, chance: random.Random) -> bytes:
    """The file cut off, with some bytes changed (anywhere, or in its header), or with some put in."""
    changed, way = bytearray(data), chance.randrange(4)
    if way == 0:
        return data[: chance.randrange(len(data))]
    if way == 1:
        place = chance.randrange(len(data))
        changed[place:place] = chance.randbytes(chance.randint(1, 40))
        return bytes(changed)
    reach = len(data) if way == 2 else min(300, len(data))
    for _ in range(chance.randint(1, 8)):
        changed[chance.randrange(reach)] = chance.choice((0, 1, 128, 254, 255, chance.randrange(256)))
    return bytes(changed)


def test_a_picture_is_averaged_down_to_the_resolution() -> None:
    halves = Image.new("RGB", (64, 64), (200, 0, 0))
    halves.paste((0, 0, 100), (32, 0, 64, 64))
    pixels = decode(encoded(halves), 32)
    assert pixels.shape == (3, 32, 32)
    assert pixels.dtype == np.uint8
    assert pixels[:, 5, 10].tolist() == [200, 0, 0]
    assert pixels[:, 5, 20].tolist() == [0, 0, 100]


def test_what_is_transparent_becomes_white() -> None:
    pixels = decode(encoded(Image.new("RGBA", (32, 32), (0, 0, 0, 0))), 32)
    assert (pixels == 255).all()


def test_a_picture_that_is_no_square_is_padded_with_white_not_stretched() -> None:
    pixels = decode(encoded(Image.new("RGB", (32, 16), (10, 20, 30))), 32)
    assert pixels[:, 16, 16].tolist() == [10, 20, 30]
    assert pixels[:, 2, 16].tolist() == list(WHITE)
    assert pixels[:, 30, 16].tolist() == list(WHITE)


def test_a_photograph_that_lies_on_its_side_is_set_upright() -> None:
    lying = Image.new("RGB", (64, 64), WHITE)
    lying.paste((0, 0, 0), (0, 0, 32, 64))  # dark left half
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it upright
    pixels = decode(encoded(lying, "JPEG", exif=exif), 32)
    assert pixels[:, 4, 16].max() < 20
    assert pixels[:, 28, 16].min() > 235


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1"])
def test_other_colour_modes_are_read(mode: str) -> None:
    image = Image.new("RGB", (40, 40), WHITE).convert(mode)
    assert decode(encoded(image, "JPEG" if mode == "CMYK" else "PNG"), 32).min() > 250


def test_a_picture_smaller_than_the_resolution_is_enlarged() -> None:
    assert decode(encoded(Image.new("RGB", (8, 8), (9, 9, 9))), 32).shape == (3, 32, 32)


@pytest.mark.parametrize("data", [b"", b"not a picture", encoded(Image.new("RGB", (64, 64)), "PNG")[:60]])
def test_what_cannot_be_decoded_is_nothing(data: bytes) -> None:
    assert decode(data, 32) is None


def test_every_format_and_mode_is_read_but_those_without_an_agreed_white() -> None:
    found = {name: decode(data, 32) for name, data in zoo().items()}
    assert {name for name, picture in found.items() if picture is None} == UNREAD
    upright = {
        name: picture for name, picture in found.items() if name not in UNREAD | {"PNG of 16 bits", "TIFF of 16 bits"}
    }
    assert all(abs(float(picture.mean()) - 148) < 4 for picture in upright.values())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_undone(kind: str, orientation: int) -> None:
    stored = Image.new("RGB", (64, 64), WHITE)
    stored.paste((0, 0, 0), (0, 0, 32, 32))  # dark at the upper left
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = decode(encoded(stored, kind, exif=exif), 32)
    dark = {1: (8, 8), 2: (8, 24), 3: (24, 24), 4: (24, 8), 5: (8, 8), 6: (8, 24), 7: (24, 24), 8: (24, 8)}[orientation]
    assert {place for place in ((8, 8), (8, 24), (24, 8), (24, 24)) if pixels[0][place] < 40} == {dark}


def test_no_odd_exif_header_costs_the_picture() -> None:
    chance, header, picture = random.Random(0), camera_exif().tobytes(), photograph()
    for _ in range(NUM_MUTATIONS // 10):
        changed = bytearray(header)
        for _ in range(chance.randint(1, 6)):
            changed[chance.randrange(6, len(header))] = chance.choice((0, 1, 2, 3, 5, 12, 255, chance.randrange(256)))
        assert decode(encoded(picture, "JPEG", exif=bytes(changed)), 32) is not None


def test_of_a_broken_exif_header_the_orientation_is_still_read() -> None:
    lying = Image.new("RGB", (64, 64), WHITE)
    lying.paste((0, 0, 0), (0, 0, 32, 64))  # dark left half
    orientation = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    resolution = struct.pack("<HHI4s", 0x011A, 2, 4, b"72 d")  # as a text
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + orientation + resolution + bytes(4)
    pixels = decode(encoded(lying, "JPEG", exif=exif), 32)
    assert pixels[:, 4, 16].max() < 20
    assert pixels[:, 28, 16].min() > 235


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_greys_of_sixteen_bits_keep_their_greys(kind: str) -> None:
    slope = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (64, 1))
    pixels = decode(encoded(Image.fromarray(slope), kind), 32)
    assert pixels.mean() == pytest.approx(127, abs=1)
    assert pixels[:, 0, 0].tolist() == [2, 2, 2]  # the mean of 0 and 4
    assert pixels[:, 0, 31].tolist() == [253, 253, 253]  # of 250 and 255


def test_greys_of_twelve_bits_or_inverted_are_not_guessed() -> None:
    data = encoded(Image.fromarray(np.full((40, 40), 4095, np.uint16)), "TIFF")
    inverted = data.replace(struct.pack("<HHIHH", 262, 3, 1, 1, 0), struct.pack("<HHIHH", 262, 3, 1, 0, 0))
    assert inverted != data
    assert decode(inverted, 32) is None


def test_a_picture_above_the_side_is_averaged_down_first_and_looks_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(photograph(640, 400).convert("RGBA"))
    whole = decode(data, 32)
    monkeypatch.setattr(decoding, "MAX_SIDE", 160)
    assert np.abs(decode(data, 32).astype(int) - whole).max() <= 2


def test_no_file_however_damaged_raises() -> None:
    chance, files = random.Random(0), list(zoo().values())
    for number in range(NUM_MUTATIONS):
        picture = decode(mutated(files[number % len(files)], chance), 32)
        assert picture is None or (picture.shape, picture.dtype) == ((3, 32, 32), np.uint8)


LARGE: dict[str, Callable[[], bytes]] = {
    "strip": lambda: png(1000, 60_000, 2, 3),
    "PNG header": lambda: png(40_000, 40_000, 2, 3, b"x"),
    "GIF header": lambda: gif(60_000),
    "BMP header": lambda: bmp(40_000),
    "TIFF tile": lambda: tiled_tiff(30_000),
    "PNG": lambda: png(7000, 7000, 6, 4),
    "JPEG": lambda: encoded(Image.new("RGB", (7000, 7000), (9, 99, 9)), "JPEG", progressive=True, subsampling=0),
}
DECODE_AND_TELL = """
import resource, sys
from pathlib import Path
from lib.pictures.decoding import decode
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before, picture = peak(), decode(Path(sys.argv[1]).read_bytes(), 32)
print(picture is not None, peak() - before)
"""


@pytest.mark.parametrize("name", LARGE)
def test_no_file_takes_gigabytes(name: str, tmp_path: Path) -> None:
    file = tmp_path / "picture"
    file.write_bytes(LARGE[name]())
    told = subprocess.run(
        [sys.executable, "-c", DECODE_AND_TELL, str(file)], capture_output=True, text=True, check=True
    ).stdout.split()
    assert told[0] == str(name in ("PNG", "JPEG"))
    assert int(told[1]) < (MOST_MEBIBYTES if name in ("PNG", "JPEG") else 50)
