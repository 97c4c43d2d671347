from pathlib import Path

import numpy as np

from gan.training import dataset as pictures
from gan.training.dataset import ALL, assign_classes, class_of, prepare


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
