from pathlib import Path

import numpy as np
import pytest

from rl.market.log_files import make_folders, read_manifest, write_catalogue, write_manifest
from rl.market.products import Attributes


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    make_folders(tmp_path)
    return tmp_path


def test_only_texts_that_need_quotes_get_them(raw: Path) -> None:
    products = Attributes(
        item_id=("a", "b", "c"),
        title=('A 12" mug', "Mug, blue", "Plain mug"),
        category=("Home",) * 3,
        subcategory=("Mugs",) * 3,
        brand=("", "Birch", "Dune"),
        colour=("Red", "Blue", "Grey"),
        price=np.array([12.5, 3.0, 0.99]),
    )
    write_catalogue(raw, products)
    assert (raw / "market" / "items" / "items.csv").read_bytes().decode() == (
        "item_id,title,category,subcategory,brand,colour,price,currency\n"
        'a,"A 12"" mug",Home,Mugs,,Red,12.50,EUR\n'
        'b,"Mug, blue",Home,Mugs,Birch,Blue,3.00,EUR\n'
        "c,Plain mug,Home,Mugs,Dune,Grey,0.99,EUR\n"
    )


def test_a_manifest_is_read_back(raw: Path) -> None:
    assert read_manifest(raw) is None
    write_manifest(raw, {"simulate": {"seed": 3}})
    assert read_manifest(raw) == {"simulate": {"seed": 3}}
