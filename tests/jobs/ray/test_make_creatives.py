import hashlib
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gan.adverts.creatives import Product
from gan.generator import GENERATOR_FILE, PREPARED_FILE, KeptGenerator
from gan.provenance import read as read_provenance
from gan.training import dataset as pictures
from gan.training.loop import new_state, train_epoch
from lib.cli.jobs import load_job
from lib.pipeline import JOBS
from lib.runs import model_registry
from tests.gan.tiny_options import TINY
from tests.jobs.ray.killed import KilledError
from tests.lakes import START, TEST_FROM, SmallLake

LIST = {
    "as_of": TEST_FROM,
    "strategy": "popularity",
    "question": "all",
    "score": 1.0,
    "reason": "bought by many",
}
VERSION = "train_gan-000001"
CLASSES = ("Shapes / Bars", "Shapes / Squares")
ITEMS = [
    {"item_id": "bar", "title": "A red bar", "category": ["Shapes", "Bars"], "brand": "Kestrel", "currency": "EUR"},
    {"item_id": "square", "title": "Kestrel square", "category": ["Shapes", "Squares"], "brand": "Kestrel"},
    {"item_id": "untitled", "title": None, "category": ["Shapes", "Squares"]},
    {"item_id": "alien", "title": "Of another kind", "category": ["Elsewhere"]},
    {"item_id": "rare", "title": "Hardly recommended", "category": ["Shapes", "Bars"]},
]
PRICES = {"bar": Decimal("12.5000")}
OPTIONS = replace(TINY, batch_size=16, latent_dim=8, base_channels=8, seed=0)


def drawn(label: int, seed: int) -> np.ndarray:
    """A bar (0) or a square (1) of some colour and place: uint8 [3, 32, 32]."""
    rng = np.random.default_rng([seed, label])
    image = Image.new("RGB", (64, 64), (245, 245, 240))
    left, top = rng.integers(6, 14, size=2)
    image.paste(tuple(rng.integers(0, 200, size=3)), (left, top, left + 40, top + (12 if label == 0 else 40)))
    return np.asarray(image.resize((32, 32), Image.Resampling.BOX)).transpose(2, 0, 1)


@pytest.fixture(scope="module")
def prepared() -> pictures.PreparedPictures:
    found = {f"i{n:03d}": drawn(n % 2, n) for n in range(80)} | {"bar": drawn(0, 1000), "square": drawn(1, 1000)}
    own = {"bar": CLASSES[0], "square": CLASSES[1]}
    classes = {item: own.get(item) or CLASSES[int(item[1:]) % 2] for item in found}
    return pictures.prepare(found, classes, held_out_frac=0.2, seed=0)


@pytest.fixture(scope="module")
def generator(prepared: pictures.PreparedPictures) -> KeptGenerator:
    """A small generator that has learned something within seconds."""
    torch.set_num_threads(1)
    options = replace(OPTIONS, num_epochs=4, num_start_epochs=4, steps_per_epoch=25)
    state = new_state(options, torch.device("cpu"))
    for _ in range(options.num_epochs):
        train_epoch(state, torch.from_numpy(prepared.pixels), torch.from_numpy(prepared.labels), options)
    return KeptGenerator(state.ema, prepared.classes)


class ShopLake(SmallLake):
    """The tables and files that the job reads."""

    def put_shop(self) -> None:
        """All items in every list, in the order of ITEMS; the last one beyond the tenth place."""
        self.put("silver/items", *(item | {"price": PRICES.get(str(item["item_id"]))} for item in ITEMS))
        ranks = [1, 2, 3, 4, 11]
        self.put(
            "gold/recommendations",
            *(
                LIST | {"user_key": f"u{user}", "rank": rank, "item_id": item["item_id"]}
                for user in range(3)
                for rank, item in zip(ranks, ITEMS, strict=True)
                if user < 2 or rank != 2  # the square is recommended less often than the bar
            ),
        )

    def put_generator(self, generator: KeptGenerator, prepared: pictures.PreparedPictures) -> None:
        folder = self.lake.files("gan", VERSION)
        generator.save(folder / GENERATOR_FILE, base_channels=8, tables={})
        pictures.write(prepared, folder / PREPARED_FILE)
        row = {
            "model": "gan", "version": VERSION, "run_id": VERSION, "uri": f"files/gan/{VERSION}", "sha256": None,
            "inputs": [{"table": "bronze/images", "version": 4}], "status": "promoted", "num_parameters": 1,
            "created_at": START,
        }  # fmt: skip
        model_registry.register_model(self.lake, row)

    def settings(self, job: ModuleType, **overrides: Any) -> Any:
        return job.MakeCreativesSettings(
            **(
                self.shared_settings
                | {"num_candidates": 24, "min_quality": 0.05, "max_colour_difference": 300}
                | overrides
            )
        )

    def creatives(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.lake.dataset("gold/creatives").to_table().sort_by("creative_id").to_pylist()
        return rows

    def files(self) -> dict[str, bytes]:
        folder = self.lake.folder / "files" / "creatives"
        return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*.*")}


@pytest.fixture
def small_lake(tmp_path: Path) -> ShopLake:
    return ShopLake(tmp_path)


@pytest.fixture(scope="module")
def job() -> ModuleType:
    return load_job(JOBS["make_creatives"])


def test_recommended_items_get_a_picture_and_an_advert_of_every_size(
    small_lake: ShopLake, job: ModuleType, generator: KeptGenerator, prepared: pictures.PreparedPictures
) -> None:
    small_lake.put_shop()
    small_lake.put_generator(generator, prepared)
    job.main(small_lake.settings(job))
    rows = small_lake.creatives()
    accepted = [row for row in rows if row["status"] == "accepted"]
    kinds = ("image", "advert_300x250", "advert_728x90", "advert_160x600")
    assert Counter((row["item_id"], row["kind"]) for row in accepted) == {
        (item, kind): 1 for item in ("bar", "square") for kind in kinds
    }
    assert len({row["creative_id"] for row in rows}) == len(rows)
    for row in rows:
        path = small_lake.lake.folder / row["uri"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == row["sha256"]
        facts = dict(row["provenance"])
        assert read_provenance(path) == facts
        assert facts["synthetic"] == "true"
        assert facts["training_data"] == "bronze/images@4"
        assert facts["date"] == "2026-01-21"
        assert (row["generator_version"], facts["version"]) == (VERSION, VERSION)
        assert int(facts["seed"]) == row["seed"]
        assert 0 <= row["quality"] <= 1
        if row["kind"].startswith("advert"):
            with Image.open(path) as image:
                assert f"advert_{image.width}x{image.height}" == row["kind"]


def test_a_killed_run_taken_up_again_ends_with_the_same_files_and_rows(
    tmp_path: Path,
    job: ModuleType,
    generator: KeptGenerator,
    prepared: pictures.PreparedPictures,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken, whole = ShopLake(tmp_path / "broken"), ShopLake(tmp_path / "whole")
    for lake in (broken, whole):
        lake.put_shop()
        lake.put_generator(generator, prepared)
    save, saved = job.save, []

    def save_three(*arguments: Any) -> str:
        if len(saved) == 3:
            raise KilledError
        saved.append(arguments)
        return str(save(*arguments))

    with monkeypatch.context() as patched:
        patched.setattr(job, "save", save_three)
        with pytest.raises(KilledError):
            job.main(broken.settings(job))
    assert len(broken.files()) == 3
    assert not broken.lake.exists("gold/creatives")
    job.main(broken.settings(job))
    job.main(whole.settings(job))
    assert broken.files() == whole.files()
    assert broken.creatives() == whole.creatives()
    assert len(whole.files()) == len(whole.creatives())


def test_what_is_of_another_colour_than_the_item_is_refused_and_recorded(
    small_lake: ShopLake, job: ModuleType, generator: KeptGenerator, prepared: pictures.PreparedPictures
) -> None:
    small_lake.put_shop()
    small_lake.put_generator(generator, prepared)
    job.main(small_lake.settings(job, min_quality=0, max_colour_difference=0, max_refused=2))
    rows = small_lake.creatives()
    assert {(row["kind"], row["status"]) for row in rows} == {("image", "refused")}
    reasons = [row["reason"] for row in rows if not row["reason"].startswith("a copy")]
    assert reasons
    assert all(reason.startswith("of another colour: ") and reason.endswith("is above 0") for reason in reasons)


def test_what_is_too_unlike_the_real_pictures_is_refused_and_recorded(
    small_lake: ShopLake,
    job: ModuleType,
    generator: KeptGenerator,
    prepared: pictures.PreparedPictures,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small_lake.put_shop()
    untaught = new_state(OPTIONS, torch.device("cpu")).ema
    small_lake.put_generator(KeptGenerator(untaught, prepared.classes), prepared)
    job.main(small_lake.settings(job, min_quality=0.3, max_refused=2))
    rows = small_lake.creatives()
    assert Counter(row["item_id"] for row in rows) == {"bar": 2, "square": 2}
    assert {(row["kind"], row["status"]) for row in rows} == {("image", "refused")}
    assert all(row["reason"].startswith("too unlike real pictures: quality 0.") for row in rows)
    assert all((small_lake.lake.folder / row["uri"]).is_file() for row in rows)
    assert "items_without_a_picture_that_passed=2" in capsys.readouterr().out


def test_items_are_counted_over_all_lists_and_ties_broken_by_id(small_lake: ShopLake, job: ModuleType) -> None:
    small_lake.put_shop()
    with job.start_run("make_creatives", small_lake.settings(job)) as run:
        counts = job.read_counts(run, max_rank=10)
        assert counts == {"alien": 3, "bar": 3, "untitled": 3, "square": 2}
        assert job.ranked_items(counts) == ["alien", "bar", "untitled", "square"]
        assert set(job.read_products(run, ["bar", "untitled", "nowhere"])) == {"bar"}


def test_items_without_a_title_a_picture_or_a_learned_category_are_not_shown(job: ModuleType) -> None:
    bar, ring, alien, unseen = (
        Product(item, "A title", category, None, None, None)
        for item, category in (
            ("bar", ("Shapes", "Bars")),
            ("ring", ("Shapes", "Bars", "Bent")),
            ("alien", ("Elsewhere",)),
            ("unseen", ("Shapes", "Bars")),
        )
    )
    products = {product.item_id: product for product in (bar, ring, alien, unseen)}
    learned = pictures.PreparedPictures(
        ["bar", "ring", "alien"], np.zeros(3, int), np.zeros(3, bool), np.zeros((3, 3, 32, 32), np.uint8),
        ("Shapes / Squares", "Shapes / Bars"),
    )  # fmt: skip
    shown = job.shown_products(["ring", "untitled", "alien", "unseen", "bar"], products, learned)
    assert shown == [(ring, 1), (bar, 1)]


def test_a_shop_without_a_generator_is_skipped(
    small_lake: ShopLake, job: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    small_lake.put_shop()
    job.main(small_lake.settings(job))
    assert "skipped: there is no generator of pictures" in capsys.readouterr().out
    assert not small_lake.lake.exists("gold/creatives")


def test_a_shop_without_recommendations_or_titles_is_skipped(
    small_lake: ShopLake,
    job: ModuleType,
    generator: KeptGenerator,
    prepared: pictures.PreparedPictures,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small_lake.put_generator(generator, prepared)
    job.main(small_lake.settings(job))
    assert "skipped: there is no gold/recommendations" in capsys.readouterr().out
    untitled = ShopLake(small_lake.lake.folder.parent / "untitled")
    untitled.put_generator(generator, prepared)
    untitled.put("silver/items", {"item_id": "bar", "category": ["Shapes", "Bars"]})
    untitled.put("gold/recommendations", LIST | {"user_key": "u", "rank": 1, "item_id": "bar"})
    job.main(untitled.settings(job))
    assert "skipped: no recommended item has a title" in capsys.readouterr().out
    assert not untitled.lake.exists("gold/creatives")


def test_items_of_kinds_that_were_never_learned_are_skipped(
    small_lake: ShopLake,
    job: ModuleType,
    generator: KeptGenerator,
    prepared: pictures.PreparedPictures,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small_lake.put_generator(generator, prepared)
    small_lake.put("silver/items", ITEMS[3])
    small_lake.put("gold/recommendations", LIST | {"user_key": "u", "rank": 1, "item_id": "alien"})
    job.main(small_lake.settings(job))
    assert (
        f"skipped: no recommended item has a picture and a category that {VERSION} has learned"
        in capsys.readouterr().out
    )


def test_a_size_that_holds_no_advert_is_refused_before_anything_starts(small_lake: ShopLake, job: ModuleType) -> None:
    with pytest.raises(ValueError, match="468x60 cannot hold an advert"):
        small_lake.settings(job, sizes=("300x250", "468x60"))
