"""What content vectors are worth: on a catalogue of fashion, and for items that nobody had bought before.

    python -m benchmarks.content fashion FOLDER --page FILE [--text hashed|sentences|both]
    python -m benchmarks.content cold LAKE FORMAT [--text hashed|sentences|both] [--window valid|test]

`fashion` reads products.csv and images.parquet (shared data), fits the encoder of pictures and the fusion by the functions of
train_content, in this process, and reports category agreement@10: the share of a photographed product's ten nearest photographed products that are of its
articleType, which is given to no input. The page shows neighbours by title, picture and all together, for a person to judge.

`--text` is how titles are seen, as `train_content.text`. `cold` asks of a lake's window, the test window by default, who wanted items that were new to everybody: those that nobody had touched before it, and,
since few shops have many of these, a fifth of all items whose past is hidden from the fit. Nothing is chosen by the test window.
"""

import argparse
import base64
import html
import io
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import torch
from PIL import Image
from sklearn.feature_extraction.text import TfidfVectorizer

from lib.cli.jobs import load_job
from lib.content import judging, sentences
from lib.content.fitting import ContentPlan, content_vectors, fit_fusion, fit_pictures, picture_vectors
from lib.content.inputs import COLUMNS, PICTURE, TAGS, Inputs, described_items, unit_rows
from lib.content.judging import (
    content_scores,
    counted_users,
    judged_by,
    popularity_of_cold,
    recall_of_cold,
    same_for_all,
    window_of,
)
from lib.content.neighbours import agreement, nearest
from lib.content.networks import Fusion, PictureAgreement
from lib.content.users import mean_of_history
from lib.engines.arrow_tasks import InProcess
from lib.models.rows import Weights, weighted_pairs
from lib.models.two_tower import PairSampler
from lib.pictures.decoding import decode
from lib.pipeline import JOBS
from lib.ranking.known_pairs import known_pairs
from lib.ranking.validation import wanted_items
from lib.runs.run import start_run
from lib.settings import JobSettings
from lib.statistics.bootstrap import mean_interval
from lib.tables.silver import LEVELS
from tests.machine import machine

JOB = load_job(JOBS["train_content"])
SETTINGS = JOB.TrainContentSettings(cluster={"num_workers": 1})
PLAN: ContentPlan = JOB.plan_of(SETTINGS)
RESOLUTION: int = SETTINGS.resolution
SHOWN, NEIGHBOURS = 24, 10
HIDDEN = 5  # one item of so many is hidden
POPULARITY_SEEDS = range(5)


def main() -> int:
    """Print the figures; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.content", description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    fashion_parser = kinds.add_parser("fashion")
    fashion_parser.add_argument("folder", type=Path)
    fashion_parser.add_argument("--page", type=Path, default=Path("fashion.html"))
    fashion_parser.add_argument("--epochs", type=int, default=PLAN.picture_epochs)
    cold_parser = kinds.add_parser("cold")
    cold_parser.add_argument("lake", type=Path)
    cold_parser.add_argument("format")
    cold_parser.add_argument("--window", choices=("valid", "test"), default="test")
    for kind_parser in (fashion_parser, cold_parser):
        kind_parser.add_argument("--text", choices=("hashed", "sentences", "both"), default="hashed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = (
        fashion(options.folder, options.page, options.text)
        if options.kind == "fashion"
        else cold(options.lake, options.format, options.text, options.window)
    )
    for line in lines:
        print(line, flush=True)
    print(f"{datetime.now(UTC):%Y-%m-%d}, {time.process_time():.0f} CPU seconds. Machine: {machine()}.")
    return 0


def described(items: pa.Table, text: str) -> Inputs:
    """What titles and tags say of items, as train_content finds it."""
    size = SETTINGS.said_dimensions
    found = described_items(items, num_dimensions=size, seed=0, with_titles=text != "sentences")
    if text == "hashed":
        return found
    titles = sentences.said_titles(pl.Series(items["title"])).drop_nulls().unique().sort()
    seen = list(sentences.packed_titles(titles, sentences.sentence_vectors(titles.to_list())))
    directions = sentences.directions_of(contents(sentences.spread_of(seen)), num_dimensions=size)
    reduced = contents(sentences.reduce_titles(seen, directions=InProcess(directions)))
    vectors = sentences.by_item(items["title"], reduced, num_dimensions=size)
    return found.with_modality(sentences.MODALITY, *vectors)


def contents(parts: Iterable[pa.RecordBatch]) -> list[tuple[str, bytes]]:
    """The kind and content of parts."""
    return [(batch["kind"][0].as_py(), batch["content"][0].as_py()) for batch in parts]


def fashion(folder: Path, page: Path, text: str) -> Iterator[str]:
    """Category agreement@10 of each kind of vector, and the page."""
    products = pl.read_csv(folder / "products.csv", infer_schema=False, truncate_ragged_lines=True).unique(
        "id", keep="first", maintain_order=True
    )
    photos = pl.read_parquet(folder / "images.parquet").with_columns(pl.col("id").cast(pl.String))
    pixels = {item: decode(jpg, RESOLUTION) for item, jpg in photos.select("id", "jpg").iter_rows()}
    has_photo = products["id"].is_in([item for item, picture in pixels.items() if picture is not None]).to_numpy()
    place = np.flatnonzero(has_photo)
    shown = products[place]
    stacked = np.stack([pixels[item] for item in shown["id"]])
    kinds = shown["articleType"].fill_null("").to_list()
    yield f"{len(products):,} products, {len(place):,} with a photo; {len(set(kinds))} article types among these"
    yield "\n| vectors | inputs | agreement@10 |\n|---|---|---|"

    def row(name: str, inputs: str, vectors: Any) -> str:
        value, low, high = mean_interval(agreement(nearest(vectors, NEIGHBOURS), kinds), 0)
        return f"| {name} | {inputs} | {value:.3f} ({low:.3f} to {high:.3f}) |"

    raw = stacked.reshape(len(stacked), -1).astype(np.float32) / 255
    yield row("raw pixels", f"photo, {RESOLUTION} x {RESOLUTION}", unit_rows(raw - raw.mean(axis=0)))
    titles = shown["productDisplayName"].fill_null("").to_list()
    yield row("TF-IDF", "title", TfidfVectorizer(sublinear_tf=True).fit_transform(titles))
    for levels in ((), ("masterCategory", "subCategory")):
        said = described(items_of(products, levels), text)
        of_each = dict(zip(said.names, np.split(said.values[place], np.cumsum(said.widths)[:-1], axis=1), strict=True))
        names = "gender, colour, season, year, usage" + (", category and subcategory" if levels else "")
        if not levels:
            yield from (row(f"title: {name}", "title", own) for name, own in of_each.items() if name != TAGS)
        yield row("tags, reduced", names, of_each[TAGS])
        seen = fitted_pictures(stacked, said.values[place])
        yield row("picture", f"photo; learnt beside title, {names}", seen)
        inputs = said.with_modality(PICTURE, *placed(seen, place, len(said)))
        torch.manual_seed(PLAN.seed)
        fusion = Fusion(inputs.widths, PLAN.num_dimensions)
        yield row("fused, not learnt", f"title, photo, {names}", content_vectors(fusion, inputs)[place])
        fit_fusion(fusion, inputs, None, PLAN)
        fused = content_vectors(fusion, inputs)[place]
        shares = ", ".join(f"{name} {share}" for name, share in zip(inputs.names, fusion.shares(), strict=True))
        yield row(f"fused ({shares})", f"title, photo, {names}", fused)
        for name in inputs.names:
            yield row(f"fused without {name}", "", content_vectors(fusion, inputs.without(name))[place])
        if not levels:
            by_kind = {name: own for name, own in of_each.items() if name != TAGS} | {PICTURE: seen, "fused": fused}
            page.write_text(page_of(shown, photos, by_kind))
    yield f"\nNeighbours by title, picture and all together (without category): {page}"


def items_of(products: pl.DataFrame, levels: Sequence[str]) -> pa.Table:
    """The products as rows of silver/items; articleType is left out, whatever the levels."""
    fields = {"gender": "gender", "colour": "baseColour", "season": "season", "year": "year", "usage": "usage"}
    attributes = [
        [(name, value) for name, value in zip(fields, row, strict=True) if value]
        for row in products.select(*fields.values()).iter_rows()
    ]
    category = [[level for level in row if level] for row in products.select(*levels).iter_rows()] if levels else None
    size = len(products)
    return pa.table(
        {
            "item_id": products["id"].to_arrow(),
            "title": products["productDisplayName"].to_arrow(),
            "category": pa.array(category or [None] * size, pa.list_(pa.string())),
            "brand": pa.nulls(size, pa.string()),
            "price": pa.nulls(size, pa.float64()),
            "attributes": pa.array(attributes, pa.map_(pa.string(), pa.string())),
        }
    )


def fitted_pictures(pixels: np.ndarray[Any, np.dtype[np.uint8]], said: Any) -> Any:
    """The vectors of pictures by an encoder that was trained on them."""
    torch.manual_seed(PLAN.seed)
    model = PictureAgreement(PLAN.num_dimensions, said.shape[1])
    num_batches = -(-2 * len(pixels) // PLAN.picture_batch_size)
    fit_pictures(model, torch.from_numpy(pixels.copy()), torch.from_numpy(said), PLAN, num_batches=num_batches)
    return picture_vectors(model.encoder, pixels)


def placed(vectors: Any, place: Any, size: int) -> tuple[Any, Any]:
    """Vectors of some of the items, and which these are."""
    values = np.zeros((size, vectors.shape[1]), np.float32)
    values[place] = vectors
    known = np.zeros(size, bool)
    known[place] = True
    return values, known


def page_of(shown: pl.DataFrame, photos: pl.DataFrame, vectors: dict[str, Any]) -> str:
    """A page with products drawn by a seed, and their nearest neighbours by each kind of vector."""
    jpg = dict(photos.select("id", "jpg").iter_rows())
    drawn = np.random.default_rng(0).choice(len(shown), SHOWN, replace=False)
    found = {name: nearest(values, 6)[drawn] for name, values in vectors.items()}
    kinds = shown["articleType"].to_list()

    def card(row: int, kind: str) -> str:
        with Image.open(io.BytesIO(jpg[shown["id"][row]])) as photo:
            small = io.BytesIO()
            photo.convert("RGB").resize((72, 72)).save(small, "JPEG", quality=70)
        title = html.escape(f"{shown['productDisplayName'][row]} ({kinds[row]})")
        mark = "same" if kinds[row] == kind else "other"
        data = base64.b64encode(small.getvalue()).decode()
        return f'<figure class="{mark}"><img src="data:image/jpeg;base64,{data}" alt=""><figcaption>{title}</figcaption></figure>'

    blocks = []
    for number, row in enumerate(drawn.tolist()):
        lists = "".join(
            f"<div><h3>{name}</h3>{''.join(card(other, kinds[row]) for other in rows[number].tolist())}</div>"
            for name, rows in found.items()
        )
        blocks.append(f"<section>{card(row, kinds[row])}<div class=lists>{lists}</div></section>")
    style = (
        "body{font:13px sans-serif;margin:24px;max-width:860px}section{display:flex;gap:24px;border-top:1px solid #ccc;padding:12px 0}"
        "figure{display:inline-block;width:92px;margin:4px;vertical-align:top}img{width:72px;height:72px;border:3px solid transparent}"
        ".same img{border-color:#2a7}.other img{border-color:#d66}figcaption{font-size:10px}h3{margin:4px}"
    )
    head = (
        "<h1>Nearest neighbours by title, picture and both</h1><p>Products drawn by a seed. Green: of the same article type, which no "
        "vector was given; red: of another. Inputs: title, gender, colour, season, year, usage, photo.</p>"
    )
    return f"<!doctype html><meta charset=utf-8><title>Neighbours</title><style>{style}</style>{head}{''.join(blocks)}"


def cold(lake: Path, format_name: str, text: str, window: str) -> Iterator[str]:
    """Recall@50 of items that were new to everybody, by content vectors beside popularity; the lake is copied."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "lake"
        shutil.copytree(lake, copy, ignore=shutil.ignore_patterns("raw", "logs", "files"))
        yield from cold_of_copy(copy, format_name, text, window)


def cold_of_copy(lake: Path, format_name: str, text: str, window: str) -> Iterator[str]:
    """The lines of the table."""
    with start_run("train_content", JobSettings(lake={"path": str(lake)}, log={"format": format_name})) as run:
        times = run.times
        start, end = (times.test_from, times.end) if window == "test" else (times.valid_from, times.test_from)
        items = run.read_arrow("silver/items", COLUMNS).sort_by("item_id")
        interactions = pl.DataFrame(run.dataset("gold/interactions").to_table(columns=[*judging.COLUMNS]))
        seen = pictures_of_lake(run, items["item_id"])
    item_ids = items["item_id"].combine_chunks().cast(pa.string())
    said = described(items, text)
    inputs = said
    if seen is not None:
        place, pixels = seen
        inputs = said.with_modality(PICTURE, *placed(fitted_pictures(pixels, said.values[place]), place, len(said)))
    yield "| items | cold | users | vectors | recall@50 among cold items | among all items | NDCG@10 |\n|---|---|---|---|---|---|---|"
    hidden = pl.Series(item_ids).filter(pl.Series(item_ids).hash(seed=0) % HIDDEN == 0)
    of_hidden = pl.col("item_id").is_in(hidden.implode()) & (pl.col("event_time") < start)
    for name, known in (("never touched", interactions), ("a fifth hidden", interactions.filter(~of_hidden))):
        yield from cold_rows(name, known, inputs, item_ids, items, start, end)


def cold_rows(
    name: str,
    interactions: pl.DataFrame,
    inputs: Inputs,
    item_ids: Any,
    items: pa.Table,
    start: datetime,
    end: datetime,
) -> Iterator[str]:
    """The lines of one choice of cold items."""
    in_window = (pl.col("event_time") >= start) & (pl.col("event_time") < end) & (pl.col("num_relevant") > 0)
    wanted = wanted_items(interactions.filter(in_window).select("user_key", "item_id").to_arrow().to_batches())
    users = pl.Series(wanted["user_key"].to_pylist())
    theirs = interactions.filter(pl.col("user_key").is_in(users.implode()))
    num_users = counted_users(known_pairs(interactions, as_of=start), item_ids)
    window = window_of(theirs, wanted, as_of=start, item_ids=item_ids, num_users=num_users)
    if not (window.wanted.sum(axis=0) * window.is_cold).any():
        yield f"| {name} | {window.is_cold.sum()} | nobody wanted one of them | | | | |"
        return
    known = interactions.filter(pl.col("item_id").is_in(pl.Series(item_ids).implode()))
    pairs = weighted_pairs(known, as_of=start, item_ids=item_ids, weights=Weights(60, 0.1)).pairs
    torch.manual_seed(PLAN.seed)
    fusion = Fusion(inputs.widths, PLAN.num_dimensions)
    untrained = content_vectors(fusion, inputs)
    fit_fusion(fusion, inputs, PairSampler(pairs, num_items=len(item_ids), history_length=PLAN.history_length), PLAN)

    def row(what: str, scored: judging.Scored, found: str = "") -> str:
        among_cold = recall_of_cold(window, scored)
        value, low, high = mean_interval(among_cold, 0)
        among_all = recall_of_cold(window, scored, among_all=True).mean()
        head = f"| {name} | {window.is_cold.sum()} | {len(among_cold):,} | {what}"
        return f"{head} | {value:.3f} ({low:.3f} to {high:.3f}) | {among_all:.3f} | {found} |"

    def content_row(what: str, vectors: Any) -> str:
        scored = content_scores(mean_of_history(window.histories, vectors), vectors)
        return row(what, scored, f"{judged_by(window, vectors)[judging.ALL].mean():.3f}")

    paths = [LEVELS.join(path or ()) for path in items["category"].to_pylist()]
    tags = np.array(pl.Series(paths).rank("dense").to_numpy() - 1, np.int64)
    tags[np.array([not path for path in paths])] = -1
    size = len(window.num_wanted)
    by_chance = [
        recall_of_cold(window, same_for_all(popularity_of_cold(window, None, seed=seed), size)).mean()
        for seed in POPULARITY_SEEDS
    ]
    yield row("popularity, ties drawn", same_for_all(popularity_of_cold(window, None, seed=0), size))
    yield f"| {name} | | | the same, mean of {len(by_chance)} draws | {np.mean(by_chance):.3f} | | |"
    if (tags >= 0).any():
        yield row(
            "popularity, of cold items their category's", same_for_all(popularity_of_cold(window, tags, seed=0), size)
        )
    for what, vectors in (("content, not learnt", untrained), ("content", content_vectors(fusion, inputs))):
        yield content_row(what, vectors)
    for modality in inputs.names if len(inputs.names) > 1 else ():
        yield content_row(f"content without {modality}", content_vectors(fusion, inputs.without(modality)))


def pictures_of_lake(run: Any, item_ids: pa.ChunkedArray) -> tuple[Any, Any] | None:
    """The places and pixels of the items with a picture; None in a lake without any."""
    if not run.has("bronze/images"):
        return None
    rows = run.dataset("bronze/images").to_table(columns=["item_id", "bytes"], filter=pc.field("bytes").is_valid())
    found = {
        item: decode(data, RESOLUTION)
        for item, data in zip(*(rows[name].to_pylist() for name in ("item_id", "bytes")), strict=True)
    }
    place = [number for number, item in enumerate(item_ids.to_pylist()) if found.get(item) is not None]
    ids = item_ids.to_pylist()
    return np.array(place), np.stack([found[ids[number]] for number in place])


if __name__ == "__main__":
    sys.exit(main())
