"""The job train_content: an encoder of pictures and two fusions on two real Ray Train workers, in a small shop of two kinds of things."""

import io
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lib.cli.jobs import load_job
from lib.pipeline import JOBS
from lib.runs import model_registry
from tests.lakes import START, TEST_FROM, VALID_FROM, SmallLake

NUM_ITEMS = 24
OPTIONS: dict[str, Any] = {
    "picture_epochs": 1,
    "fusion_epochs": 1,
    "num_batches": 20,
    "batch_size": 32,
    "picture_batch_size": 16,
    "num_dimensions": 8,
    "said_dimensions": 8,
}
KINDS = ("red shirt", "garden hose")


@pytest.fixture
def small_lake(tmp_path: Path) -> SmallLake:
    return SmallLake(tmp_path)


@pytest.fixture(scope="module")
def job() -> ModuleType:
    return load_job(JOBS["train_content"])


def shop(lake: SmallLake, *, future: int = 0) -> None:
    """Two kinds of items, of which every user buys one; the last two items are bought after the validation window began alone."""
    rows = []
    for user in range(20):
        for day in range(0, 28, 3):
            late = START + timedelta(days=day) >= VALID_FROM
            number = (user + day) % (NUM_ITEMS // 2 - (0 if late else 1))
            item = f"i{2 * number + user % 2:02}"
            rows.append({"user_key": f"u{user:02}", "item_id": item, "event_time": START + timedelta(days=day)})
    known = [row for row in rows if row["event_time"] < TEST_FROM + timedelta(days=future)]
    lake.put("gold/interactions", *known, base={"split": "train", "weight": 1.0, "count": 1, "num_relevant": 1})


def catalogue(lake: SmallLake) -> None:
    """Every item has a title, but the last, which has a picture alone; one picture cannot be decoded."""
    items, images = [], []
    for place in range(NUM_ITEMS):
        file = io.BytesIO()
        Image.new("RGB", (32, 32), (200, 20, 20) if place % 2 == 0 else (20, 160, 40)).save(file, "PNG")
        title = f"{KINDS[place % 2]} {place}" if place < NUM_ITEMS - 1 else None
        items.append({"item_id": f"i{place:02}", "title": title})
        data = b"no picture" if place == 0 else file.getvalue()
        images.append({"item_id": f"i{place:02}", "bytes": data, "source_file_sha256": f"{place:064x}"})
    lake.put("silver/items", *items)
    base = {"arrived_at": START, "batch_id": "b", "source_file": "p"}
    lake.put("bronze/images", *images, base=base)


@pytest.mark.slow
def test_every_item_has_a_vector_of_its_kind_and_the_future_changes_none(
    job: ModuleType, small_lake: SmallLake, on_workers: None
) -> None:
    catalogue(small_lake)
    found = []
    for future in (0, 6):
        shop(small_lake, future=future)
        job.main(job.TrainContentSettings(**small_lake.shared_settings, **OPTIONS))
        current = model_registry.current_model(small_lake.lake, "content")
        assert current is not None
        rows = [row for row in small_lake.read("gold/vectors") if row["version"] == current["version"]]
        assert [row["id"] for row in rows] == [
            f"i{place:02}" for place in range(NUM_ITEMS)
        ]  # the last two have no past
        assert {row["as_of"] for row in rows} == {TEST_FROM}
        found.append(np.array([row["values"] for row in rows]))
    np.testing.assert_array_equal(found[0], found[1])
    near = found[0] @ found[0].T
    same = np.arange(NUM_ITEMS)[:, None] % 2 == np.arange(NUM_ITEMS) % 2
    assert near[same].mean() > near[~same].mean() + 0.3
    metrics = {row["metric"]: row for row in small_lake.read("gold/model_metrics")}
    assert metrics.keys() == {
        *("NDCG@10", "NDCG@10 without text", "NDCG@10 without picture"),
        *("cold recall@50", "cold recall@50 without text", "cold recall@50 without picture"),
    }
    assert metrics["cold recall@50"]["value"] > 0


@pytest.mark.bad_input("a catalogue without titles, tags and pictures")
def test_a_catalogue_that_says_and_shows_nothing_is_skipped(
    job: ModuleType, small_lake: SmallLake, capsys: pytest.CaptureFixture[str]
) -> None:
    small_lake.put("silver/items", {"item_id": "a"}, {"item_id": "b"})
    job.main(job.TrainContentSettings(**small_lake.shared_settings))
    told = "skipped: of 2 items the catalogue gives no title, category, brand or attribute, and no picture"
    assert told in capsys.readouterr().out
    assert not small_lake.lake.exists("gold/vectors")
