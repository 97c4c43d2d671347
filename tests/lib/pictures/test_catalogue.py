import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.dataset as pads
import pytest
from PIL import Image

from lib.engines.arrow_tasks import TABLE_FILES, InProcess, gathered
from lib.engines.local_tasks import LocalEngine
from lib.lake.lake import Lake
from lib.lake.writes import conform, write_files
from lib.pictures import catalogue
from lib.pictures.catalogue import (
    GATHERED,
    KEY,
    choose_in_files,
    choose_of_chosen,
    chosen_pictures,
    decode_chosen,
    decoded,
    hashed_order,
    read_content,
    read_pictures,
)
from lib.tables import contract
from tests.lakes import arrow_rows

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "there is.png"
    Image.new("RGB", (40, 40), (200, 30, 30)).save(path)
    return path


def chosen(keys: pl.DataFrame, *, max_pictures: int, seed: int = 0) -> dict[str, str]:
    found = chosen_pictures(keys, max_pictures=max_pictures, seed=seed)
    return dict(found.select("item_id", "source_file_sha256").iter_rows())


def test_an_item_has_the_picture_that_arrived_last_and_a_seed_draws_among_too_many() -> None:
    later = START + timedelta(days=1)
    keys = pl.DataFrame(
        {
            "item_id": ["a", "a", "b", "c"],
            "arrived_at": [later, START, START, START],
            "source_file_sha256": ["a-new", "a-old", "b", "c"],
        }
    )
    assert chosen(keys, max_pictures=9) == {"a": "a-new", "b": "b", "c": "c"}
    drawn = {tuple(sorted(chosen(keys, max_pictures=2, seed=seed))) for seed in range(20)}
    assert all(len(items) == 2 for items in drawn)
    assert {item for items in drawn for item in items} == {"a", "b", "c"}


def put_pictures(lake: Lake, number: int, content: bytes) -> pa.Table:
    """Two pictures of each item in files of ten, the later one first; returns what tasks are told of the files."""
    table = contract("bronze/images")
    base = {"source_file": "p.parquet", "batch_id": "b", "bytes": content}
    rows = [
        base
        | {"item_id": f"i{item:03d}", "arrived_at": START - timedelta(days=age), "source_file_sha256": f"{item}-{age}"}
        for age in range(2)
        for item in range(number)
    ]
    parts = [conform(table, arrow_rows(table, *rows[first : first + 10])) for first in range(0, len(rows), 10)]
    files = write_files(lake, table, parts)
    told = [{"location": f"{lake.uri(table.name)}/{file.path}", "num_bytes": file.size, "kind": ""} for file in files]
    return pa.Table.from_pylist(told, schema=TABLE_FILES)


def test_tasks_choose_what_is_chosen_of_all_and_give_no_more_to_the_driver(tmp_path: Path, picture: Path) -> None:
    engine, told = LocalEngine(1), []
    for number in (20, 80):
        files = engine.over(put_pictures(Lake(str(tmp_path)), number, picture.read_bytes()), task_bytes=1)
        assert len(files.partitions) == number / 5
        limits = {"max_pictures": 12, "seed": 0}
        keys = files.then(choose_in_files, **limits).to_shards(1).then(choose_of_chosen, **limits).collected()
        found = dict(gathered(keys, KEY, GATHERED).iter_rows())
        every = [f"i{item:03d}" for item in range(number)]
        assert found == {item: f"{int(item[1:])}-0" for item in hashed_order(every, 0)[:12]}
        parts = files.then(decode_chosen, chosen=InProcess(found), resolution=32).collected()
        pictures = decoded(parts, 32)
        assert set(pictures) == set(found)
        assert all((pixels == np.array([200, 30, 30])[:, None, None]).all() for pixels in pictures.values())
        told.append(sum(pixels.nbytes for pixels in pictures.values()) + sum(len(content) for _, content in keys))
    engine.close()
    assert told[1] == pytest.approx(told[0], rel=0.1)


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
