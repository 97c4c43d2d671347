import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gan.training import dataset as pictures
from gan.training.dataset import ALL, assign_classes, class_of, decode, prepare

WHITE = (255, 255, 255)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


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


def test_a_rare_category_falls_back_to_the_coarser_one_and_then_to_all() -> None:
    categories = {f"shoe{n}": ("Shoes", "Boots") for n in range(3)}
    categories |= {"heel": ("Shoes", "Heels"), "clog": ("Shoes", "Clogs"), "mug": ("Home", "Mugs"), "odd": ()}
    classes = assign_classes(categories, min_pictures=2)
    assert {classes[f"shoe{n}"] for n in range(3)} == {"Shoes / Boots"}
    assert (classes["heel"], classes["clog"]) == ("Shoes", "Shoes")
    assert (classes["mug"], classes["odd"]) == (ALL, ALL)


def test_what_is_too_rare_even_for_all_is_left_out() -> None:
    categories = {"a": ("Shoes",), "b": ("Shoes",), "mug": ("Home",)}
    assert assign_classes(categories, min_pictures=2) == {"a": "Shoes", "b": "Shoes"}
    assert assign_classes({"mug": ("Home",)}, min_pictures=2) == {"mug": ALL}
    assert assign_classes({}, min_pictures=2) == {}


def test_a_category_takes_the_finest_class_that_stands_for_it() -> None:
    classes = ("Shoes", "Shoes / Boots", "all")
    assert class_of(("Shoes", "Boots"), classes) == "Shoes / Boots"
    assert class_of(("Shoes", "Clogs"), classes) == "Shoes"
    assert class_of(("Home",), classes) == "all"
    assert class_of(("Home",), ("Shoes",)) is None


def test_a_share_of_each_class_is_held_out_and_no_order_matters() -> None:
    found = {f"i{n}": np.full((3, 32, 32), n, np.uint8) for n in range(12)}
    classes = {f"i{n}": "big" if n < 10 else "small" for n in range(12)} | {"unseen": "big"}
    prepared = prepare(found, classes, held_out_frac=0.2, seed=1)
    again = prepare(dict(reversed(found.items())), classes, held_out_frac=0.2, seed=1)
    assert prepared.classes == ("big", "small")
    assert [len(prepared.of(label, held_out=True)) for label in (0, 1)] == [2, 1]
    assert [len(prepared.of(label, held_out=False)) for label in (0, 1)] == [8, 1]
    assert again.item_ids == prepared.item_ids
    assert (again.is_held_out == prepared.is_held_out).all()
    assert all((prepared.pixels[place] == int(item[1:])).all() for place, item in enumerate(prepared.item_ids))


def test_a_prepared_file_is_read_back_whole_or_shared_out(tmp_path: Path, prepared: pictures.PreparedPictures) -> None:
    path = tmp_path / "pictures.parquet"
    pictures.write(prepared, path)
    whole = pictures.read(path)
    assert (whole.item_ids, whole.classes) == (prepared.item_ids, prepared.classes)
    assert (whole.pixels == prepared.pixels).all()
    assert (whole.labels == prepared.labels).all()
    shares = [pictures.read_training_share(path, rank=rank, num_workers=3) for rank in range(3)]
    assert not any(share.is_held_out.any() for share in shares)
    shared = sorted(item for share in shares for item in share.item_ids)
    assert shared == [i for i, out in zip(prepared.item_ids, prepared.is_held_out, strict=True) if not out]
    assert [len(share.item_ids) for share in shares] == [27, 27, 26]
