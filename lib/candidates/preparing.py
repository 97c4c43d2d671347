"""What a job does before its tasks make candidates: it brings together what is known at some moments, and makes their retrievals."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from lib.candidates import near_tasks, tasks
from lib.candidates.catalogue import Catalogue, catalogue_of, with_untouched
from lib.candidates.known import ITEM_SUMS, READ, added_items
from lib.candidates.sources import CONTENT, MODELS, Retrieval
from lib.candidates.tasks import Moment
from lib.engines.arrow_tasks import gathered
from lib.engines.parts import Parts, TaskRun
from lib.ranking import ann
from lib.ranking.ease import MAX_ITEMS, Weights
from lib.ranking.known_pairs import spread_interactions
from lib.ranking.near_ease import ENTRIES, NearGram, at_places, near_gram, near_matrix, outside, said_by_tail
from lib.ranking.topk import vectors as matrix_of
from lib.runs import model_registry

ROWS_PER_SHARD = 500_000  # of gold/interactions; what is known of their users must fit in a task's memory

ITEMS_PER_SHARD = 10_000  # whose pairs with all others a task holds, where EASE is approximated


class Tables(NamedTuple):
    """What a job of candidates reads; it names the tables itself."""

    interactions: str
    vectors: str
    items: str
    descriptions: str  # says which items a catalogue describes


class RetrievalSettings(BaseModel):
    """What the retrievers propose; a ranker must be trained and used with the same."""

    model_config = ConfigDict(frozen=True)

    num_proposed: int = Field(
        40, ge=1, le=1000, description="items that each retriever proposes for a user, beside the user's own items"
    )
    ease_penalty: float = Field(
        200, gt=0, description="penalty of EASE's squared weights, in users; chosen on validation windows"
    )
    min_support: int = Field(
        3,
        ge=1,
        description="distinct users who must have two items together before one speaks for the other; a reason tells of no "
        "fewer buyers",
    )
    max_ease_items: int = Field(
        10_000,
        ge=1,
        le=MAX_ITEMS,
        description="items up to which EASE is exact: its matrix is dense (400 MB and some 20 s for 10,000); of a larger catalogue "
        "so many of the most owned are exact among themselves, and what others say is approximated",
    )
    ease_neighbours: int = Field(
        100,
        ge=1,
        le=1000,
        description="items that EASE learns an item from where it is approximated: that takes at most 8 bytes for each "
        "(80 MB for 100,000 items with 100)",
    )

    max_untouched_items: int = Field(
        10_000,
        ge=0,
        description="items at most that a catalogue describes and nobody has touched, which content vectors may propose",
    )
    ann_from_items: int = Field(
        50_000,
        ge=1,
        description="items of a catalogue from which on candidates by vectors come from an index, which finds most of the best",
    )
    ann_probes: int = Field(
        128,
        ge=1,
        le=65_536,
        description="lists of such an index, of 4 times the square root of the items, that a search looks at",
    )

    def retrieval_options(self) -> dict[str, float | int]:
        """What a ranker's candidates depend on."""
        names = (
            "num_proposed",
            "ease_penalty",
            "min_support",
            "max_ease_items",
            "ease_neighbours",
            "max_untouched_items",
        )
        return {name: getattr(self, name) for name in names}


def versions_at(run: TaskRun, tables: Tables, as_of: datetime) -> dict[str, str]:
    """Model -> the latest fit of its vectors that used nothing from `as_of` on and is no candidate.

    That is the current version's, and for an earlier moment the one that was made for it or before.
    """
    found: dict[str, str] = {}
    if tables.vectors not in run.inputs:
        return found
    stored = run.dataset(tables.vectors)
    for model in (*MODELS, CONTENT):
        is_item = (pc.field("model") == model) & (pc.field("kind") == "item") & (pc.field("as_of") <= as_of)
        fits = pl.DataFrame(stored.to_table(["version", "as_of"], filter=is_item)).unique()
        stand_back = model_registry.candidates(run.lake, model)
        is_usable = [model_registry.version_of(fit) not in stand_back for fit in fits["version"]]
        usable = fits.filter(pl.Series(is_usable, dtype=pl.Boolean))
        if len(usable):
            found[model] = usable.sort("as_of", "version")["version"][-1]
    return found


def described(
    run: TaskRun, tables: Tables, moments: Mapping[str, Moment], versions: Mapping[str, Mapping[str, str]]
) -> Parts:
    """What is known at each moment of users and items, by shard of users, with the users' vectors; kept.

    Args:
        run: the run.
        tables: of which it may lack the vectors.
        moments: by name.
        versions: moment -> model -> version of its vectors.
    """
    num_rows = run.lake.num_rows(tables.interactions, run.version_of(tables.interactions))
    num_shards = run.num_shards(num_rows, rows_per_shard=ROWS_PER_SHARD)
    given = {"columns": READ, "until": None, "num_shards": num_shards}
    spread = run.files_of({"": tables.interactions}).then(spread_interactions, **given)
    for model in MODELS:
        wanted = {f"{model}/{name}": chosen[model] for name, chosen in versions.items() if model in chosen}
        if wanted:
            files = run.files_of({"": tables.vectors}, holding={"model": [model], "kind": ["user"]})
            spread = spread.union(files.then(tasks.spread_vectors, versions=wanted, num_shards=num_shards))
    return spread.to_shards(num_shards).then(tasks.describe, moments=moments).keep()


def retrievals(
    run: TaskRun,
    tables: Tables,
    parts: Parts,
    moments: Mapping[str, Moment],
    versions: Mapping[str, Mapping[str, str]],
    settings: RetrievalSettings,
) -> dict[str, Retrieval]:
    """The retrieval of each moment at which some item is known."""
    sums = gathered(parts.of(tasks.SUMS).collected(), tasks.SUMS, tasks.GATHERED)
    items = None
    if run.has(tables.items):
        items = run.read_arrow(tables.items, ["item_id", "title", "category", "price"])
    catalogues = {
        name: catalogue_of(with_untouched(added_items(of_moment.select(*ITEM_SUMS)), untouched), items)
        for name in moments
        if len(of_moment := sums.filter(moment=name))
        for untouched in [described_before(run, tables, moments[name].as_of, versions[name].get(CONTENT), settings)]
    }
    ease = ease_weights(run, parts, catalogues, settings)
    found = {}
    for name, catalogue in catalogues.items():
        of_items = {
            model: item_vectors(run, tables.vectors, model, version, catalogue)
            for model, version in versions[name].items()
        }
        indexes = None
        if len(catalogue) >= settings.ann_from_items:
            indexes = {model: ann.built(items, num_probes=settings.ann_probes) for model, items in of_items.items()}
        as_of = moments[name].as_of
        found[name] = Retrieval(as_of, catalogue, ease[name], of_items, settings.num_proposed, indexes=indexes)
    return found


def ease_weights(
    run: TaskRun, parts: Parts, catalogues: Mapping[str, Catalogue], settings: RetrievalSettings
) -> dict[str, Weights]:
    """EASE's weights between the items of each catalogue: exact where somebody has at most `max_ease_items`, else among the most owned."""
    chosen = {name: near_tasks.supported(catalogue, 1) for name, catalogue in catalogues.items()}
    small = {name: places for name, places in chosen.items() if len(places) <= settings.max_ease_items}
    found: dict[str, Weights] = {}
    if small:
        found |= _exact_weights(run, parts, catalogues, small, settings)
    if len(small) < len(catalogues):
        large = {name: catalogue for name, catalogue in catalogues.items() if name not in small}
        found |= _near_weights(run, parts, large, settings)
    return found


def _exact_weights(
    run: TaskRun,
    parts: Parts,
    catalogues: Mapping[str, Catalogue],
    chosen: Mapping[str, NDArray[np.int64]],
    settings: RetrievalSettings,
) -> dict[str, NDArray[np.float32]]:
    """EASE's weights of catalogues, of which somebody has the items at the `chosen` places; 0 for the others."""
    found = _weights_among(run, parts, catalogues, chosen, settings)
    for name, places in chosen.items():
        if 0 < len(found[name]) < len(catalogues[name]):
            whole = np.zeros((int(places.max(initial=-1)) + 1,) * 2, np.float32)
            whole[np.ix_(places, places)] = found[name]
            found[name] = whole
    return found


def _weights_among(
    run: TaskRun,
    parts: Parts,
    catalogues: Mapping[str, Catalogue],
    chosen: Mapping[str, NDArray[np.int64]],
    settings: RetrievalSettings,
    others: Mapping[str, sp.csr_array] | None = None,
) -> dict[str, NDArray[np.float32]]:
    """EASE's weights among the items at the `chosen` places of catalogues, given what those of others say, (chosen, chosen); (0, 0) if nobody has any."""
    item_ids = {name: catalogues[name].item_ids.take(pa.array(places)) for name, places in chosen.items()}
    pairs = parts.of(*(f"{tasks.PAIR}/{name}" for name in chosen))
    counts = pairs.then(tasks.count_pairs, item_ids=run.engine.broadcast(item_ids)).to_shards(max(1, len(item_ids)))
    given: dict[str, Any] = {"penalty": settings.ease_penalty, "min_support": settings.min_support}
    if others is not None:
        given["others"] = run.engine.broadcast([others[name] for name in chosen])
    solved = counts.then(tasks.solve_ease, num_items=[len(ids) for ids in item_ids.values()], **given).collected()
    contents = dict(solved)
    found = {}
    for shard, (name, places) in enumerate(chosen.items()):
        content = contents.get(f"{tasks.WEIGHTS}/{shard}", b"")
        found[name] = np.frombuffer(content, np.float32).reshape((len(places) if content else 0,) * 2)
    return found


def _near_weights(
    run: TaskRun, parts: Parts, catalogues: Mapping[str, Catalogue], settings: RetrievalSettings
) -> dict[str, Weights]:
    """EASE's weights of catalogues, of the items that as many have as must support a weight.

    They are approximated, but for those between two of the `max_ease_items` most owned.
    """
    known = {name: near_tasks.supported(catalogue, settings.min_support) for name, catalogue in catalogues.items()}
    grams, entries = _near_entries(run, parts, catalogues, known, settings)
    owned = {name: most_owned(catalogues[name], settings.max_ease_items) for name in grams}
    heads = {name: np.flatnonzero(np.isin(known[name], places)) for name, places in owned.items()}
    places = {name: known[name][head] for name, head in heads.items()}
    others = {name: said_by_tail(gram, entries[name], heads[name]) for name, gram in grams.items()}
    among = _weights_among(run, parts, catalogues, places, settings, others) if places else {}
    found: dict[str, Weights] = {name: np.zeros((0, 0), np.float32) for name in catalogues}
    for name, head in heads.items():
        num_items = len(catalogues[name])
        found[name] = near_matrix(outside(entries[name], head), known[name], num_items)
        if len(among[name]):
            found[name] += at_places(among[name], places[name], num_items)
    return found


def _near_entries(
    run: TaskRun,
    parts: Parts,
    catalogues: Mapping[str, Catalogue],
    known: Mapping[str, NDArray[np.int64]],
    settings: RetrievalSettings,
) -> tuple[dict[str, NearGram], dict[str, pl.DataFrame]]:
    """Of the items at the `known` places of catalogues, of which somebody has one, what is kept of the Gram matrix, and approximated weights."""
    diagonal = {name: near_tasks.squares(catalogues[name])[places] for name, places in known.items()}
    item_ids = {name: catalogues[name].item_ids.take(pa.array(places)) for name, places in known.items()}
    num_shards = max(1, run.engine.parallelism, *(-(-len(ids) // ITEMS_PER_SHARD) for ids in item_ids.values()))
    pairs = parts.of(*(f"{tasks.PAIR}/{name}" for name in catalogues))
    counts = pairs.then(near_tasks.count_near, item_ids=run.engine.broadcast(item_ids), num_shards=num_shards)
    given = {"penalty": settings.ease_penalty, "num_neighbours": settings.ease_neighbours}
    kept = counts.to_shards(num_shards).then(
        near_tasks.keep_nearest, diagonals=run.engine.broadcast(diagonal), **given
    ).keep()  # fmt: skip
    frames = near_tasks.frames_of(kept.collected())
    grams = {
        name: near_gram(
            frames[near_tasks.NEAREST, name].sort("item", maintain_order=True),
            frames[near_tasks.TOTAL, name],
            len(places),
        )
        for name, places in known.items()
        if (near_tasks.TOTAL, name) in frames
    }
    given = {"penalty": settings.ease_penalty, "min_support": settings.min_support}
    totals = kept.of(*(f"{near_tasks.TOTAL}/{name}" for name in grams))
    solved = near_tasks.frames_of(
        totals.then(near_tasks.solve_near, grams=run.engine.broadcast(grams), **given).collected()
    )
    kept.drop()
    return grams, {name: solved.get((tasks.WEIGHTS, name), pl.DataFrame(schema=ENTRIES)) for name in grams}


def described_before(
    run: TaskRun, tables: Tables, as_of: datetime, version: str | None, settings: RetrievalSettings
) -> pl.Series:
    """The items with a content vector that a catalogue describes; one that it describes at a later time is not among them.

    Of an item that only events describe nothing was known before the first of them. Beyond `max_untouched_items`, the first
    in the order of their hashes.
    """
    none = pl.Series("item_id", [], pl.String)
    if version is None or not run.has(tables.descriptions):
        return none
    time = pc.field("event_time")
    known = pc.field("is_catalogue") & (time.is_null() | (time < as_of))
    listed = pl.DataFrame(run.read_arrow(tables.descriptions, ["item_id"], known)).unique()
    is_item = (pc.field("model") == CONTENT) & (pc.field("kind") == "item") & (pc.field("version") == version)
    with_vector = pl.DataFrame(run.dataset(tables.vectors).to_table(["id"], filter=is_item)).rename({"id": "item_id"})
    found = listed.join(with_vector, on="item_id", how="semi")["item_id"]
    order = found.hash(seed=0).arg_sort()
    return found.gather(order[: settings.max_untouched_items])


def most_owned(catalogue: Catalogue, num_items: int) -> NDArray[np.int64]:
    """The positions of the items that most users have, in the catalogue's order; ties by position. Some user has each."""
    num_users = catalogue.sums["num_users"].to_numpy()
    order = np.argsort(-num_users, kind="stable")[: np.count_nonzero(num_users)]
    return np.sort(order[:num_items])


def item_vectors(run: TaskRun, table: str, model: str, version: str, catalogue: Catalogue) -> NDArray[np.float32]:
    """The vectors of the catalogue's items, (items, d), NaN for one without."""
    is_wanted = (pc.field("model") == model) & (pc.field("kind") == "item") & (pc.field("version") == version)
    rows = run.dataset(table).to_table(["id", "values"], filter=is_wanted)
    found = matrix_of(rows["values"].combine_chunks())
    position = catalogue.positions(rows["id"])
    placed = np.full((len(catalogue), found.shape[1]), np.nan, np.float32)
    placed[position[position >= 0]] = found[position >= 0]
    return placed
