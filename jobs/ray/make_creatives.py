"""make_creatives: gold/recommendations, silver/items, model `gan` -> gold/creatives and the files that it names.

For the most recommended items that have a title: pictures from the generator, each judged beside the shop's own pictures that it was
trained on. They are looked through in order of preference (nearest to the item's own picture in colour, where the generator's
training knew one, else by quality); the first that passes is composed into adverts, the first of those before it are recorded as refused, with
the reason: a copy of a training picture, or too unlike the real ones. Everything shown says that it is AI-generated, on the picture
and in the file. An advert shows the kind of product, not the very item: the generator knows categories, no items. A rerun, a retry
or a kill changes nothing.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, field_validator

from gan.adverts.composition import Copy, compose, marked, price_text
from gan.adverts.layouts import parse_size
from gan.generator import GENERATOR_FILE, PREPARED_FILE, KeptGenerator, seeds_of
from gan.metrics.features import averaged
from gan.metrics.generator_metrics import feature_space, quality_of
from gan.metrics.quality import CategoryQuality
from gan.provenance import SourceType, provenance, save
from gan.training import dataset as pictures
from gan.training.dataset import PreparedPictures
from lib.runs.run import Run, start_run
from lib.settings import JobSettings
from lib.tables import contract

Pixels = NDArray[np.uint8]  # [3, R, R]
Row = dict[str, Any]

MODEL = "gan"
COLOUR_GRID = 8  # pictures are compared in colour at this side
IMAGE_SIDE = 320  # of the picture that stands alone, in pixels
MEMORISED, UNLIKE = "a copy of a training picture", "quality {quality:.2f} is below {limit:g}"


class MakeCreativesSettings(JobSettings):
    """Which items are advertised, in what sizes, and what a picture must reach."""

    num_items: int = Field(12, ge=1, le=100_000, description="items advertised: the most often recommended")
    max_rank: int = Field(10, ge=1, description="places of a list that count as recommended")
    num_candidates: int = Field(48, ge=1, le=1000, description="pictures generated for an item, to choose from")
    min_quality: float = Field(
        0.3, ge=0, le=1, description="share of held-out real pictures that a picture must look at least as real as"
    )
    max_refused: int = Field(5, ge=1, description="refused pictures recorded of an item: the first ones")
    sizes: tuple[str, ...] = Field(
        ("300x250", "728x90", "160x600"), min_length=1, description="adverts, width x height in pixels"
    )
    call_to_action: str = Field("Shop now", min_length=1, max_length=30, description="words on the button")
    seed: int = Field(0, ge=0, description="of the pictures' noise")

    @field_validator("sizes")
    @classmethod
    def can_hold_an_advert(cls, sizes: tuple[str, ...]) -> tuple[str, ...]:
        for size in sizes:
            parse_size(size)
        return sizes


@dataclass(frozen=True)
class Product:
    """What an advert tells of an item."""

    item_id: str
    title: str
    category: tuple[str, ...]
    brand: str | None
    price: Decimal | None
    currency: str | None

    @property
    def kicker(self) -> str | None:
        """The small line above the title: the brand, where the title does not name it, else the category."""
        if self.brand and self.brand.lower() not in self.title.lower():
            return self.brand
        return self.category[-1] if self.category else None


@dataclass(frozen=True)
class Candidate:
    """A generated picture and what is thought of it."""

    pixels: Pixels
    seed: int
    quality: float
    refused: str | None  # why


def most_recommended(run: Run, *, max_rank: int) -> list[str]:
    """Items by how often they stand in the first places of a list, over all strategies and questions; ties by id."""
    counts: Counter[str] = Counter()
    rows = run.dataset("gold/recommendations").scanner(columns=["item_id"], filter=pc.field("rank") <= max_rank)
    for batch in rows.to_batches():
        for counted in pc.value_counts(batch["item_id"]).to_pylist():
            counts[counted["values"]] += counted["counts"]
    return sorted(counts, key=lambda item: (-counts[item], item))


def products(run: Run, item_ids: Sequence[str]) -> dict[str, Product]:
    """The items that the catalogue knows by a title."""
    columns = ["item_id", "title", "category", "brand", "price", "currency"]
    is_wanted = pc.is_in(pc.field("item_id"), value_set=pa.array(item_ids, pa.string()))
    rows = run.read_arrow("silver/items", columns, is_wanted & pc.field("title").is_valid()).to_pylist()
    return {row["item_id"]: Product(**(row | {"category": tuple(row["category"] or ())})) for row in rows}


def candidates(
    generator: KeptGenerator, quality: CategoryQuality, label: int, seeds: Sequence[int], *, min_quality: float
) -> list[Candidate]:
    """A picture for each seed, judged."""
    made = generator.pictures(label, seeds)
    found = []
    for pixels, seed, score, copied in zip(made, seeds, quality.quality(made), quality.is_memorised(made), strict=True):
        reason = (
            MEMORISED if copied else UNLIKE.format(quality=score, limit=min_quality) if score < min_quality else None
        )
        found.append(Candidate(pixels, seed, float(score), reason))
    return found


def by_preference(found: Sequence[Candidate], own: Pixels | None) -> list[Candidate]:
    """Candidates in the order in which they are tried: nearest to the item's own picture [3, R, R] in colour, else by quality."""
    if own is None:
        return sorted(found, key=lambda candidate: -candidate.quality)
    made = averaged(np.stack([candidate.pixels for candidate in found]), COLOUR_GRID)
    distance = np.square(made - averaged(own[None], COLOUR_GRID)).sum(axis=(1, 2, 3))
    return [found[place] for place in np.argsort(distance, kind="stable")]


def tried(ordered: Sequence[Candidate]) -> tuple[list[Candidate], Candidate | None]:
    """The candidates refused before one passed, and that one; None where none did."""
    refused = list(takewhile(lambda candidate: candidate.refused is not None, ordered))
    return refused, ordered[len(refused)] if len(refused) < len(ordered) else None


def creative_id(item_id: str, kind: str, version: str, seed: int) -> str:
    """The first 32 hex digits of the hash of all that decides a creative."""
    return hashlib.sha256(f"{item_id}|{kind}|{version}|{seed}".encode()).hexdigest()[:32]


class Maker:
    """Makes the creatives of one item after another, files and rows."""

    def __init__(self, run: Run, settings: MakeCreativesSettings, model: Row) -> None:
        folder = run.lake.folder / model["uri"]
        self.run, self.settings, self.version = run, settings, model["version"]
        self.trained_on = {row["table"]: row["version"] for row in model["inputs"] if row["table"] == "bronze/images"}
        self.generator = KeptGenerator.load(folder / GENERATOR_FILE)
        self.prepared: PreparedPictures = pictures.read(folder / PREPARED_FILE)
        self.space = feature_space(self.prepared)
        self.places = {item: place for place, item in enumerate(self.prepared.item_ids)}
        self.qualities: dict[int, CategoryQuality] = {}

    def class_of(self, product: Product) -> str | None:
        """The generator's class for an item; None where it has learned none that fits."""
        return pictures.class_of(product.category, self.generator.classes)

    def own_picture(self, product: Product) -> Pixels | None:
        """The item's picture among those that the generator was trained and judged on: [3, R, R]."""
        place = self.places.get(product.item_id)
        return None if place is None else self.prepared.pixels[place]

    def quality_of(self, label: int) -> CategoryQuality:
        """What the real pictures of a class look like."""
        if label not in self.qualities:
            self.qualities[label] = quality_of(self.prepared, self.space, label)
        return self.qualities[label]

    def creatives(self, product: Product) -> Iterator[Row]:
        """Rows of gold/creatives of one item: the chosen picture, its adverts, and the pictures that were refused."""
        name = self.class_of(product)
        assert name is not None, f"{product.item_id} is of no class of {self.version}"
        label = self.generator.classes.index(name)
        seeds = seeds_of(product.item_id, self.settings.num_candidates, self.settings.seed)
        found = candidates(self.generator, self.quality_of(label), label, seeds, min_quality=self.settings.min_quality)
        refused, chosen = tried(by_preference(found, self.own_picture(product)))
        recorded = refused[: self.settings.max_refused]
        for candidate in [*recorded, chosen] if chosen else recorded:
            image = marked(candidate.pixels, IMAGE_SIDE)
            yield self._creative(product, name, "image", candidate, image, "trainedAlgorithmicMedia")
        if chosen is None:
            return
        price = price_text(product.price, product.currency)
        copy = Copy(product.title, self.settings.call_to_action, product.kicker, price)
        for size in self.settings.sizes:
            advert = compose(chosen.pixels, copy, parse_size(size), palette_name=name)
            kind = f"advert_{size}"
            yield self._creative(product, name, kind, chosen, advert.image, "compositeWithTrainedAlgorithmicMedia")

    def _creative(
        self, product: Product, name: str, kind: str, candidate: Candidate, image: Image.Image, source: SourceType
    ) -> Row:
        identity = creative_id(product.item_id, kind, self.version, candidate.seed)
        path: Path = self.run.files("creatives") / f"{identity}.png"
        facts = provenance(
            model=MODEL,
            version=self.version,
            training_data=self.trained_on,
            as_of=self.run.as_of,
            seed=candidate.seed,
            category=name,
        )
        return {
            "creative_id": identity,
            "item_id": product.item_id,
            "kind": kind,
            "sha256": save(image, path, facts, source),
            "uri": self.run.uri(path),
            "generator_version": self.version,
            "seed": candidate.seed,
            "quality": candidate.quality,
            "provenance": list(facts.items()),
            "status": "refused" if candidate.refused else "accepted",
            "reason": candidate.refused,
        }


def main(settings: MakeCreativesSettings) -> None:
    with start_run("make_creatives", settings) as run:
        torch.set_num_threads(1)  # a job must not starve its neighbours of two cores
        model = run.current_model(MODEL)
        if model is None:
            run.skip("there is no generator of pictures: train_gan has registered none")
        recommended = most_recommended(run, max_rank=settings.max_rank)
        known = products(run, recommended)
        if not known:
            run.skip("no recommended item has a title in silver/items")
        maker = Maker(run, settings, model)
        shown = [item for item in recommended if item in known and maker.class_of(known[item])][: settings.num_items]
        if not shown:
            run.skip(f"no recommended item is of a kind that {maker.version} has learned")
        rows = [row for item in shown for row in maker.creatives(known[item])]
        advertised = {row["item_id"] for row in rows if row["status"] == "accepted"}
        run.log(
            "made",
            items=len(advertised),
            adverts=sum(row["kind"] != "image" for row in rows),
            refused_pictures=sum(row["status"] == "refused" for row in rows),
            items_without_a_picture_that_passed=len(shown) - len(advertised),
        )
        run.commit_arrow("gold/creatives", pa.Table.from_pylist(rows, schema=contract("gold/creatives").schema))


if __name__ == "__main__":
    main(MakeCreativesSettings.from_command_line())
