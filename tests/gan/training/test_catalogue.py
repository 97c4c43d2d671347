import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pytest
from PIL import Image

from gan.training import catalogue
from gan.training.catalogue import chosen_pictures, read_content, read_pictures

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "there is.png"
    Image.new("RGB", (40, 40), (200, 30, 30)).save(path)
    return path


def test_an_item_has_the_picture_that_arrived_last_and_a_seed_draws_among_too_many() -> None:
    later = START + timedelta(days=1)
    rows = pa.table(
        {
            "item_id": ["a", "a", "b", "c"],
            "arrived_at": [later, START, START, START],
            "source_file_sha256": ["a-new", "a-old", "b", "c"],
        }
    )
    assert chosen_pictures(rows, max_pictures=9, seed=0) == {"a": "a-new", "b": "b", "c": "c"}
    drawn = {tuple(chosen_pictures(rows, max_pictures=2, seed=seed)) for seed in range(20)}
    assert all(len(items) == 2 for items in drawn)
    assert {item for items in drawn for item in items} == {"a", "b", "c"}


def test_a_picture_may_lie_outside_the_lake(tmp_path: Path, picture: Path) -> None:
    assert read_content(str(picture)) == picture.read_bytes()
    assert read_content(picture.as_uri()) == picture.read_bytes()
    assert read_content(str(tmp_path / "absent.png")) is None


def test_what_is_no_file_or_too_large_a_one_is_not_read(
    tmp_path: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
    for uri in ("/dev/zero", str(tmp_path), str(tmp_path / "pipe"), "a\0b", "", "unheard-of://a/b", "http://"):
        assert read_content(uri) is None
    monkeypatch.setattr(catalogue, "MAX_FILE_BYTES", picture.stat().st_size - 1)
    assert read_content(str(picture)) is None


def test_the_chosen_picture_of_each_item_is_decoded_and_the_undecodable_left_out(tmp_path: Path, picture: Path) -> None:
    data = picture.read_bytes()
    rows = [
        {"item_id": "held", "source_file_sha256": "new", "bytes": data, "uri": None},
        {"item_id": "held", "source_file_sha256": "old", "bytes": b"of another day", "uri": None},
        {"item_id": "named", "source_file_sha256": "new", "bytes": None, "uri": str(picture)},
        {"item_id": "cut", "source_file_sha256": "new", "bytes": data[:60], "uri": None},
        {"item_id": "gone", "source_file_sha256": "new", "bytes": None, "uri": str(tmp_path / "absent.png")},
        {"item_id": "unchosen", "source_file_sha256": "new", "bytes": data, "uri": None},
    ]
    images = pads.dataset(pa.Table.from_pylist(rows))
    found = read_pictures(images, dict.fromkeys(("held", "named", "cut", "gone"), "new"), 32)
    assert set(found) == {"held", "named"}
    assert all((picture == np.array([200, 30, 30])[:, None, None]).all() for picture in found.values())
