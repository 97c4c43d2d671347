import io

import numpy as np
import polars as pl
import torch
from PIL import Image

from lib.content.networks import PictureEncoder
from lib.content.tasks import GATHERED, SEEN, decoded_share, see_pictures
from lib.engines.arrow_tasks import InProcess, gathered, packed
from lib.pictures.catalogue import PICTURE
from lib.pictures.decoding import decode


def parts(*item_ids: str) -> list[object]:
    """Plain pictures, each of its own brightness, a part each."""
    made = []
    for place, item in enumerate(item_ids):
        file = io.BytesIO()
        Image.new("RGB", (40, 40), (40 * place,) * 3).save(file, "PNG")
        picture = decode(file.getvalue(), 32)
        assert picture is not None
        rows = pl.DataFrame({"item_id": [item], "pixels": [picture.tobytes()]})
        made += list(packed(rows, PICTURE))
    return made


def test_a_worker_takes_no_more_pictures_than_it_is_to_learn_from_in_the_order_of_their_items() -> None:
    item_ids, pixels = decoded_share(parts("b", "a", "c"), resolution=32, at_most=2)
    assert item_ids == ["a", "b"]
    assert pixels.shape == (2, 3, 32, 32)
    assert pixels[:, 0, 0, 0].tolist() == [40, 0]
    assert decoded_share([], resolution=32, at_most=2)[0] == []


def test_all_pictures_are_seen_each_by_its_item() -> None:
    torch.manual_seed(0)
    encoder = PictureEncoder(8)
    seen = see_pictures(parts("b", "a", "c"), encoder=InProcess(encoder), resolution=32)
    found = gathered([(batch["kind"][0].as_py(), batch["content"][0].as_py()) for batch in seen], SEEN, GATHERED)
    assert found["item_id"].to_list() == ["b", "a", "c"]
    np.testing.assert_allclose(
        [np.linalg.norm(np.frombuffer(row, np.float32)) for row in found["values"].to_list()], 1, atol=1e-5
    )
