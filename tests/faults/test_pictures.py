"""Product photographs as they come: the cases of ../shared/faults/13-picture-zoo, in one log."""

from pathlib import Path

import polars as pl
import pytest

from lib.pictures import catalogue
from lib.pictures.catalogue import KEYS
from tests.shops import Shop

GOOD = {f"G{number:03d}" for number in range(24)}


def test_a_catalogue_of_odd_photographs_is_used_or_counted(faults: Path, tmp_path: Path) -> None:
    zoo = faults / "13-picture-zoo"
    shop = Shop.of_case(zoo / "exif", tmp_path)
    for case in ("greys", "strip"):
        shop.put(f"images/{case}.parquet", (zoo / case / "log" / "images" / "p.parquet").read_bytes())
    assert shop.run().code == 0
    keys = catalogue.chosen_pictures(pl.DataFrame(shop.table("bronze/images", *KEYS)), max_pictures=100, seed=0)
    chosen = dict(keys.select("item_id", "source_file_sha256").iter_rows())
    found = catalogue.read_pictures(shop.lake.dataset("bronze/images"), chosen, 32)
    assert set(found) == GOOD | {"EXIF", "GREY16", "GIF", "WEBP", "CMYK", "PALETTE"}
    assert set(chosen) - set(found) == {"STRIP", "CUT", "HTML"}
    assert [row["reason"] for row in shop.read("bronze/rejects")] == ["bad_value:bytes"]  # that of no bytes
    upright = found["EXIF"].mean(axis=0)
    assert upright[4, 28] < 64  # dark above on the right
    assert upright[28, 4] > 192  # bright below on the left
    assert found["GREY16"].mean() == pytest.approx(122, abs=2)
    for red in ("GIF", "WEBP", "CMYK", "PALETTE"):
        assert found[red][:, 16, 16].tolist() == pytest.approx([200, 30, 30], abs=12)
