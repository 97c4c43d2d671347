"""make_creatives: gold/recommendations, silver/items, model `gan` -> gold/creatives and the files that it names.

For each of the most recommended items that have a title and a picture, the generator makes pictures. They are tried from the one
that is nearest in colour to the item's own picture; the first is taken that is no copy of a training picture, good enough, and
near enough in colour, and it is composed into adverts. The first few that failed before it are recorded as refused, with the
reason. Every creative says that it is AI-generated, on the picture and in the file. An advert shows the kind of product in the
item's colour, not the very item, because the generator knows categories only. A rerun, a retry or a kill changes nothing.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from pydantic import Field, field_validator

from gan.adverts.candidates import Limits, candidates, tried
from gan.adverts.creatives import Creative, Product, creatives_of
from gan.adverts.layouts import parse_size
from gan.generator import GENERATOR_FILE, PREPARED_FILE, KeptGenerator, seeds_of
from gan.metrics.calibration import qualities
from gan.provenance import SourceType, provenance, save
from gan.training import dataset
from gan.training.dataset import PreparedPictures
from lib.runs.run import Run, start_run
from lib.settings import JobSettings
from lib.tables import contract

Row = dict[str, Any]

MODEL = "gan"


class MakeCreativesSettings(JobSettings):
    """Which items are advertised, in what sizes, and how good a picture must be."""

    num_items: int = Field(12, ge=1, le=100_000, description="items advertised: the most often recommended")
    max_rank: int = Field(10, ge=1, description="ranks of a list that count as recommended, from 1 up to this one")
    num_candidates: int = Field(192, ge=1, le=1000, description="pictures generated for an item, to choose from")
    min_quality: float = Field(
        0.3,
        ge=0,
        le=1,
        description="minimum quality of a picture: the share of real pictures of its category that look no more real",
    )
    max_colour_difference: float = Field(
        12.0,
        ge=0,
        description="maximum distance in CIELAB between the product's colours in a picture and in the item's own picture",
    )
    max_refused: int = Field(5, ge=1, description="refused pictures recorded for an item, the first ones")
    sizes: tuple[str, ...] = Field(
        ("300x250", "728x90", "160x600"), min_length=1, description="sizes of the adverts, width x height in pixels"
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
class Model:
    """A registered generator and the pictures that it was trained on."""

    version: str
    trained_on: Mapping[str, int]  # versions of the tables of pictures
    generator: KeptGenerator
    prepared: PreparedPictures


def ranked_items(counts: Mapping[str, int]) -> list[str]:
    """Items by how often they are recommended, most often first; ties by id."""
    return sorted(counts, key=lambda item: (-counts[item], item))


def shown_products(
    item_ids: Sequence[str], products: Mapping[str, Product], prepared: PreparedPictures
) -> list[tuple[Product, int]]:
    """The products with a class of the generator and a picture of their own, each with its class's label, in the order of the ids."""
    pictured = set(prepared.item_ids)
    known = [products[item] for item in item_ids if item in products and item in pictured]
    names = [dataset.class_of(product.category, prepared.classes) for product in known]
    return [
        (product, prepared.classes.index(name)) for product, name in zip(known, names, strict=True) if name is not None
    ]


def creatives(
    shown: Sequence[tuple[Product, int]], model: Model, settings: MakeCreativesSettings
) -> Iterator[Creative]:
    """All creatives of the products, made one after another; `shown` holds each product with the label of its class."""
    prepared, limits = model.prepared, Limits(settings.min_quality, settings.max_colour_difference)
    known = qualities(prepared, {label for _, label in shown})
    own = dict(zip(prepared.item_ids, prepared.pixels, strict=True))
    for product, label in shown:
        seeds = seeds_of(product.item_id, settings.num_candidates, settings.seed)
        refused, chosen = tried(candidates(model.generator, known[label], label, seeds, own[product.item_id], limits))
        yield from creatives_of(
            product,
            model.generator.classes[label],
            refused[: settings.max_refused],
            chosen,
            call_to_action=settings.call_to_action,
            sizes=settings.sizes,
        )


def creative_id(item_id: str, kind: str, version: str, seed: int) -> str:
    """The first 32 hex digits of a SHA-256 of what a creative depends on."""
    return hashlib.sha256(f"{item_id}|{kind}|{version}|{seed}".encode()).hexdigest()[:32]


def figures(rows: Sequence[Row], *, num_items: int) -> dict[str, int]:
    """What the log says about the rows of gold/creatives made for `num_items` items."""
    num_advertised = len({row["item_id"] for row in rows if row["status"] == "accepted"})
    return {
        "items": num_advertised,
        "adverts": sum(row["kind"] != "image" for row in rows),
        "refused_pictures": sum(row["status"] == "refused" for row in rows),
        "items_without_a_picture_that_passed": num_items - num_advertised,
    }


def read_model(run: Run) -> Model:
    """The current generator; ends the run as skipped where none is registered."""
    row = run.current_model(MODEL)
    if row is None:
        run.skip("there is no generator of pictures: train_gan has registered none")
    folder = run.lake.local(row["uri"])
    return Model(
        version=row["version"],
        trained_on={read["table"]: read["version"] for read in row["inputs"] if read["table"] == "bronze/images"},
        generator=KeptGenerator.load(folder / GENERATOR_FILE),
        prepared=dataset.read(folder / PREPARED_FILE),
    )


def read_counts(run: Run, *, max_rank: int) -> Counter[str]:
    """How often each item is among the first `max_rank` of a list, over all strategies and questions."""
    counts: Counter[str] = Counter()
    rows = run.dataset("gold/recommendations").scanner(columns=["item_id"], filter=pc.field("rank") <= max_rank)
    for batch in rows.to_batches():
        for counted in pc.value_counts(batch["item_id"]).to_pylist():
            counts[counted["values"]] += counted["counts"]
    return counts


def read_products(run: Run, item_ids: Sequence[str]) -> dict[str, Product]:
    """The items that have a title in the catalogue."""
    columns = ["item_id", "title", "category", "brand", "price", "currency"]
    is_wanted = pc.is_in(pc.field("item_id"), value_set=pa.array(item_ids, pa.string()))
    rows = run.read_arrow("silver/items", columns, is_wanted & pc.field("title").is_valid()).to_pylist()
    return {row["item_id"]: Product(**(row | {"category": tuple(row["category"] or ())})) for row in rows}


def write_creative(run: Run, creative: Creative, model: Model) -> Row:
    """Write a creative's file, with its provenance; returns its row of gold/creatives."""
    candidate = creative.candidate
    identity = creative_id(creative.item_id, creative.kind, model.version, candidate.seed)
    path = run.files("creatives") / f"{identity}.png"
    facts = provenance(
        model=MODEL,
        version=model.version,
        training_data=model.trained_on,
        as_of=run.as_of,
        seed=candidate.seed,
        category=creative.category,
    )
    is_picture = creative.kind == "image"
    source: SourceType = "trainedAlgorithmicMedia" if is_picture else "compositeWithTrainedAlgorithmicMedia"
    return {
        "creative_id": identity,
        "item_id": creative.item_id,
        "kind": creative.kind,
        "sha256": save(creative.image, path, facts, source),
        "uri": run.uri(path),
        "generator_version": model.version,
        "seed": candidate.seed,
        "quality": candidate.quality,
        "provenance": list(facts.items()),
        "status": "refused" if candidate.refused else "accepted",
        "reason": candidate.refused,
    }


def main(settings: MakeCreativesSettings) -> None:
    with start_run("make_creatives", settings) as run:
        torch.set_num_threads(1)  # one thread, so that jobs on a small machine do not slow each other down
        model = read_model(run)
        recommended = ranked_items(read_counts(run, max_rank=settings.max_rank))
        products = read_products(run, recommended)
        if not products:
            run.skip("no recommended item has a title in silver/items")
        shown = shown_products(recommended, products, model.prepared)[: settings.num_items]
        if not shown:
            run.skip(f"no recommended item has a picture and a category that {model.version} has learned")
        rows = [write_creative(run, creative, model) for creative in creatives(shown, model, settings)]
        run.log("made", **figures(rows, num_items=len(shown)))
        run.commit_arrow("gold/creatives", pa.Table.from_pylist(rows, schema=contract("gold/creatives").schema))


if __name__ == "__main__":
    main(MakeCreativesSettings.from_command_line())
