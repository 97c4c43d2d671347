import csv
import io
import json
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gan.generator import KeptGenerator
from gan.provenance import read as read_provenance
from gan.training import dataset as pictures
from lib.cli.jobs import load_job
from lib.pipeline import JOBS
from lib.runs import model_registry
from lib.runs.weights import load_weights
from tests.jobs.ray.killed import run_to_a_broken_end
from tests.lakes import START, SmallLake

IMAGE = {"source_file": "images.parquet", "batch_id": "ingest-000001", "arrived_at": START}
NUM_PICTURES = 40
CHECKPOINTS_BEFORE_KILL = 2
TINY = {
    "num_epochs": 6,
    "num_start_epochs": 2,
    "steps_per_epoch": 2,
    "batch_size": 8,
    "base_channels": 4,
    "latent_dim": 4,
    "min_pictures": 6,
    "num_resamples": 100,
}


def png(item: int) -> bytes:
    """A dark square (even items) or bar (odd ones) of a colour of its own."""
    rng = np.random.default_rng(item)
    image = Image.new("RGB", (48, 48), (245, 245, 240))
    left, top = rng.integers(6, 14, size=2)
    image.paste(tuple(rng.integers(0, 200, size=3)), (left, top, left + 28, top + (28 if item % 2 == 0 else 8)))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


class PictureLake(SmallLake):
    """The tables that the job reads: pictures of two categories, and one file that is no picture."""

    def put_pictures(self, number: int = NUM_PICTURES, *, with_items: bool = True) -> None:
        contents = {f"i{item:02d}": png(item) for item in range(number)} | {"bad": b"no picture"}
        rows = [
            IMAGE | {"item_id": item, "bytes": data, "source_file_sha256": f"sha-{item}"}
            for item, data in contents.items()
        ]
        self.put("bronze/images", *rows)
        if with_items:
            categories = [["Shapes", "Bars" if item % 2 else "Squares"] for item in range(number)]
            self.put("silver/items", *({"item_id": f"i{i:02d}", "category": c} for i, c in enumerate(categories)))

    def settings(self, job: ModuleType, **overrides: Any) -> Any:
        return job.TrainGanSettings(**(self.shared_settings | TINY | overrides))


@pytest.fixture
def small_lake(tmp_path: Path) -> PictureLake:
    return PictureLake(tmp_path)


@pytest.fixture(scope="module")
def job() -> ModuleType:
    return load_job(JOBS["train_gan"])


@pytest.mark.slow
def test_a_killed_worker_and_a_failed_job_leave_what_one_whole_run_leaves(
    tmp_path: Path, job: ModuleType, ray_cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, whole = PictureLake(tmp_path / "broken"), PictureLake(tmp_path / "whole")
    for lake in (broken, whole):
        lake.put_pictures()
    settings = broken.settings(job, num_epochs=8)

    run_to_a_broken_end(
        job,
        settings,
        checkpoints=broken.lake.folder / "files" / "gan",
        after_checkpoints=CHECKPOINTS_BEFORE_KILL,
        last_output="keep",
    )
    assert not broken.lake.exists("gold/model_metrics")
    assert model_registry.current_model(broken.lake, "gan") is None

    capsys.readouterr()
    job.main(settings)
    told = capsys.readouterr().out
    assert "resumes train_gan-000001" in told
    assert f"pictures={NUM_PICTURES}  undecodable=1  of_rare_class=0  classes=2" in told
    job.main(whole.settings(job, num_epochs=8))

    first, second = (folder_of_model(lake) for lake in (broken, whole))
    one, other = (load_weights(folder / "generator.safetensors")[0] for folder in (first, second))
    assert all(torch.allclose(one[name], other[name], atol=1e-4) for name in other)
    rows = [list(csv.DictReader((folder / "losses.csv").read_text().splitlines())) for folder in (first, second)]
    assert [row["epoch"] for row in rows[0]] == [f"{epoch}.0" for epoch in range(1, 9)]
    assert len(rows[0]) == len(rows[1])
    check_files(first)
    for lake in (broken, whole):
        check_metrics(lake)


def folder_of_model(lake: PictureLake) -> Path:
    current = model_registry.current_model(lake.lake, "gan")
    assert current is not None
    assert current["version"] == "train_gan-000001"
    assert {row["table"] for row in current["inputs"]} == {"bronze/images", "silver/items", "silver/events"}
    return Path(lake.lake.folder / current["uri"])


def check_files(folder: Path) -> None:
    options = json.loads((folder / "options.json").read_text())
    assert options["classes"] == ["Shapes / Bars", "Shapes / Squares"]
    assert options["num_epochs"] == 8
    prepared = pictures.read(folder / "pictures.parquet")
    assert Counter(prepared.labels[prepared.is_held_out].tolist()) == {0: 3, 1: 3}
    generator = KeptGenerator.load(folder / "generator.safetensors")
    assert generator.sample(0, 2).shape == (2, 3, 32, 32)
    assert read_provenance(folder / "samples.png")["training_data"].startswith("bronze/images@")


def check_metrics(lake: PictureLake) -> None:
    rows = {(row["split"], row["metric"]): row for row in lake.read("gold/model_metrics")}
    assert {split for split, _ in rows} == {"train", "test"}
    assert {row["model"] for row in rows.values()} == {"gan"}
    assert rows["train", "coverage"]["n"] == 34
    assert rows["test", "held_out_precision"]["n"] == 6
    assert all(0 <= row["low"] <= row["value"] <= row["high"] <= 1 for row in rows.values())


@pytest.mark.slow
def test_a_generator_that_makes_worse_pictures_stands_as_a_candidate(
    small_lake: PictureLake, job: ModuleType, ray_cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    small_lake.put_pictures()
    start = {"num_epochs": 12, "num_start_epochs": 12, "steps_per_epoch": 8, "learning_rate_start": 1e-2}
    job.main(small_lake.settings(job, **start))
    before = small_lake.read("gold/model_metrics")
    capsys.readouterr()
    noise = {"num_epochs": 1, "num_start_epochs": 1, "steps_per_epoch": 1, "learning_rate_start": 1e-9}
    job.main(small_lake.settings(job, **noise))
    assert "gan train_gan-000002 stands as a candidate: " in capsys.readouterr().out
    assert folder_of_model(small_lake).name == "train_gan-000001"
    stored = small_lake.read("gold/model_metrics")
    assert [row for row in stored if row["version"] == "train_gan-000001"] == before
    assert {row["version"] for row in stored} == {"train_gan-000001", "train_gan-000002"}
    small_lake.put_pictures(30)
    job.main(small_lake.settings(job, resolution=64, **noise))
    models = {row["version"]: row for row in model_registry.models(small_lake.lake)}
    assert models["train_gan-000003"]["status"] == "promoted"
    assert "it makes pictures of another size" in models["train_gan-000003"]["reason"]


@pytest.mark.bad_input("a catalogue without pictures")
def test_a_catalogue_without_pictures_is_skipped(
    small_lake: PictureLake, job: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    small_lake.put("silver/items", {"item_id": "a", "title": "A"})
    job.main(small_lake.settings(job))
    assert "skipped: there is no bronze/images" in capsys.readouterr().out
    assert model_registry.current_model(small_lake.lake, "gan") is None
    assert not small_lake.lake.exists("gold/model_metrics")


@pytest.mark.usefixtures("ray_cluster")
def test_too_few_pictures_are_refused_in_one_line(small_lake: PictureLake, job: ModuleType) -> None:
    small_lake.put_pictures(3)
    with pytest.raises(ValueError, match="3 pictures could be decoded; a generator needs at least 5 of a class"):
        job.main(small_lake.settings(job))
    assert not small_lake.lake.exists("gold/model_metrics")


@pytest.mark.usefixtures("ray_cluster")
def test_pictures_too_few_for_the_workers_are_refused_in_one_line(small_lake: PictureLake, job: ModuleType) -> None:
    small_lake.put_pictures(12, with_items=False)
    with pytest.raises(
        ValueError, match=r"12 pictures are too few for 7 training workers; set --cluster.num-workers 6"
    ):
        job.main(small_lake.settings(job, cluster={"num_workers": 7}))


def test_more_start_epochs_than_epochs_are_refused(small_lake: PictureLake, job: ModuleType) -> None:
    with pytest.raises(ValueError, match="should be at most num_epochs, which is 6"):
        small_lake.settings(job, num_start_epochs=7)
