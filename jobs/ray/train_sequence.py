"""train_sequence: gold/sessions, gold/interactions -> gold/vectors, model `sequence`.

One run of Ray Train fits a causal transformer over users' latest events (lib/models/sequence.py) several times: on all events before an early
moment, then, from these weights on, on all before each later one: windows' begins, and `run.as_of`. A user's events are one sequence, in their order across visits; a visit of
nobody is a sequence of its own. The last but one, which ends where the validation window begins, is what a version is judged by: it becomes the current one only where it is
not worse on the validation window than the one before (lib/runs/promotion.py), by what comes next in visits, and by lists of what users
wanted there where gold/interactions tells. Epochs save checkpoints, at most one each ten seconds, from which a killed worker or job continues.

The vectors of all fits, of users and of items, stand in gold/vectors: their dot products say what a user takes in later visits. The
weights are files of the version, from which `lib/models/sequence_weights.py` answers for anybody's events so far. A rerun, a retry or
a kill changes nothing.

Tasks bring whole users together in shares, of which each worker keeps one in memory, and write the users' vectors. The driver
holds the catalogue, the weights, and samples by which versions are judged.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import torch
from pydantic import Field, model_validator
from ray import train
from ray.train.torch import prepare_model

from lib.engines.parts import files_written
from lib.engines.ray_tasks import RayParts, RayRun, batches_of
from lib.engines.ray_train import fit_on_workers, last_state, ray_session, report_epoch, report_when_due
from lib.lake.writes import conform, write_files
from lib.models import sequence_tasks as tasks
from lib.models import sequence_weights
from lib.models.fitting import State
from lib.models.known_fits import fit_before, known_by_fit
from lib.models.sequence import PieceSampler, SequenceModel, Sequences, weights_of
from lib.models.sequence_fit import SequencePlan, fit_sequence
from lib.models.sequence_tasks import SequenceFit
from lib.models.sequence_weights import SequenceWeights
from lib.ranking.validation import scores_of_vectors, wanted_between
from lib.ranking.vector_files import copied_vectors
from lib.runs.model_registry import judged
from lib.runs.promotion import EarlierFitsSettings, PromotionSettings, Row, Scores, settle, validation_from
from lib.runs.run import start_run
from lib.settings import JobSettings
from lib.tables import contract

MODEL = "sequence"
MAX_VISITS = 2_000  # of the validation window, by which a version is judged: the first by the hash of their ids
MIN_BATCHES = 50  # of an epoch, so that a small log is trained on enough
NEXT_METRIC = f"MRR@{tasks.NEXT_K} of what comes next"


class TrainSequenceSettings(EarlierFitsSettings, PromotionSettings, JobSettings):
    """Defaults chosen on validation windows of the market and of a real shop, Online Retail."""

    num_epochs: int = Field(3, ge=1, description="passes of the oldest fit over all events that it knows")
    more_epochs: int = Field(
        1, ge=1, description="passes of each other fit, which goes on from the weights of the one before"
    )
    batch_events: int = Field(1024, ge=2, description="events of a batch, over all workers, about")
    learning_rate: float = Field(
        8e-3,
        gt=0,
        description="highest learning rate (AdamW); it grows at first, then falls; half of it where a fit goes on",
    )
    weight_decay: float = Field(0.0, ge=0, description="weight decay (AdamW)")
    dimensions: int = Field(64, ge=2, le=4096, description="length of the vectors, a multiple of num_heads")
    num_blocks: int = Field(2, ge=1, le=64, description="blocks of attention and a feed-forward layer")
    num_heads: int = Field(2, ge=1, le=64, description="heads of attention")
    length: int = Field(50, ge=2, le=4096, description="latest events that count")
    dropout: float = Field(0.2, ge=0, lt=1, description="share of what a layer gives that training leaves out")
    num_negatives: int = Field(
        128, ge=1, description="items drawn for each batch that a right one is told from; with no more items, all are"
    )
    horizon: int = Field(50, ge=1, description="events after a visit of which one is learned as what is taken later")
    browsing_weight: float = Field(
        0.1,
        gt=0,
        description="weight of browsing, relative to what the log calls relevant, in what is learned as taken later",
    )
    max_failures: int = Field(3, ge=0, description="how often lost workers are restarted")
    seed: int = Field(0, ge=0, description="seed of weights, pieces, negatives and dropout")

    @model_validator(mode="after")
    def _heads_divide(self) -> "TrainSequenceSettings":
        if self.dimensions % self.num_heads:
            raise ValueError(f"dimensions ({self.dimensions}) must be a multiple of num_heads ({self.num_heads})")
        return self


@dataclass(frozen=True)
class Task:
    """All that a worker needs."""

    fits: Mapping[str, SequenceFit]  # by model, the oldest first
    plans: Mapping[str, SequencePlan]
    shares: RayParts  # the events of each worker's users
    sizes: Mapping[str, Any]  # of the model
    horizon: int
    browsing_weight: float

    def sequences(self, fit: SequenceFit, rank: int) -> Sequences:
        """The sequences of a worker's users; one without any of two events works on those of the next worker."""
        shares = self.shares.partitions
        for share in shares[rank:] + shares[:rank]:
            known = tasks.known_of(tasks.events_in(batches_of(share)), as_of=fit.as_of, item_ids=fit.item_ids)
            if (np.diff(known.starts) > 1).any():
                weight = np.where(known.is_relevant, 1.0, self.browsing_weight)
                return Sequences(*map(torch.from_numpy, (known.items, known.starts, known.visit_end, weight)))
        raise AssertionError("a fit knows some sequences of two events")

    def untrained(self, fit: SequenceFit) -> SequenceModel:
        """A model of the fit's items."""
        torch.manual_seed(self.plans[MODEL].seed)
        return SequenceModel(len(fit.item_ids), **self.sizes)

    def begun(self, model: str, states: Mapping[str, State]) -> SequenceModel:
        """The model from which a fit begins: it goes on from the weights of the one before."""
        begun, before = self.untrained(self.fits[model]), fit_before(self.fits, model)
        if before is not None:
            begun.take(states[before]["model"], self.fits[before].item_ids, own_ids=self.fits[model].item_ids)
        return begun


def train_worker(config: dict[str, Task]) -> None:
    """The work of each Ray Train worker; epochs save the states of all fits in one checkpoint."""
    torch.set_num_threads(1)
    task, rank = config["task"], train.get_context().get_world_rank()
    states: dict[str, State] = last_state() or {}

    def keep(model: str, state: State) -> None:
        states[model] = state
        report_when_due(states, {"model": model, "epoch": state["epoch"], "loss": state["loss"]})

    for model, fit in task.fits.items():
        sampler = PieceSampler(task.sequences(fit, rank), length=task.sizes["length"], horizon=task.horizon)
        fit_sequence(
            prepare_model(task.begun(model, states)),
            sampler,
            task.plans[model],
            rank=rank,
            state=states.get(model),
            keep=partial(keep, model),
        )
    report_epoch(states, {"fits": len(states)})


def known_fits(run: RayRun, shares: RayParts, settings: TrainSequenceSettings) -> dict[str, SequenceFit]:
    """What the fits know, the oldest first: the one that serves, and those before it that know anything."""
    given = {"num_fits_before": settings.num_fits_before}
    known = known_by_fit(run, shares, MODEL, tasks.count_known, tasks.GATHERED, **given)
    fits = {fit: SequenceFit(of.version, of.as_of, tuple(of.item_ids), **of.counts) for fit, of in known.items()}
    return {model: fit for model, fit in fits.items() if model == MODEL or fit.num_sequences}


def task_of(run: RayRun, settings: TrainSequenceSettings) -> Task:
    """The workers' task; batches are split over the workers, so that the total size does not depend on their number."""
    num_workers = settings.cluster.num_workers
    files = run.files_of({"": "gold/sessions"})
    given = {"until": run.as_of, "relevant": run.mapping.relevance, "num_shards": num_workers}
    shares = files.then(tasks.spread_events, **given).to_shards(num_workers)
    assert isinstance(shares, RayParts)
    fits = known_fits(run, shares, settings)
    plan: dict[str, Any] = {name: getattr(settings, name) for name in ("weight_decay", "num_negatives", "seed")}
    rates: dict[str, Any] = {"num_epochs": settings.num_epochs, "learning_rate": settings.learning_rate}
    goes_on: dict[str, Any] = {"num_epochs": settings.more_epochs, "learning_rate": settings.learning_rate / 2}
    sizes = ("num_blocks", "num_heads", "length", "dropout")
    return Task(
        fits=fits,
        plans={
            model: SequencePlan(
                num_batches=max(MIN_BATCHES, math.ceil(fit.num_events / settings.batch_events)),
                **plan,
                **(goes_on if place else rates),
            )
            for place, (model, fit) in enumerate(fits.items())
        },
        shares=shares,
        sizes={"num_dimensions": settings.dimensions, **{name: getattr(settings, name) for name in sizes}},
        horizon=settings.horizon,
        browsing_weight=settings.browsing_weight,
    )


def judged_visits(run: RayRun) -> pl.Series:
    """Lists of the items of at most MAX_VISITS visits of two events or more that begin in the validation window, until `run.as_of`."""
    begins = (pc.field("started_at") >= validation_from(run)) & (pc.field("started_at") < run.as_of)
    columns = ["session_id", "items", "event_times"]
    chosen = pl.DataFrame(schema={"session_id": pl.String, "items": pl.List(pl.String), "draw": pl.UInt64})
    for batch in run.dataset("gold/sessions").to_batches(columns=columns, filter=begins):
        before = pl.col("event_times").list.eval(pl.element() < pl.lit(run.as_of)).list.sum()
        visits = pl.DataFrame(batch).with_columns(pl.col("items").list.head(before), draw=pl.col("session_id").hash())
        visits = visits.filter(pl.col("items").list.len() > 1).select(chosen.columns)
        chosen = pl.concat([chosen, visits]).sort("draw", "session_id").head(MAX_VISITS)
    return chosen["items"]


def version_scores(run: RayRun, fits: Mapping[str, SequenceWeights], task: Task, current: Row) -> Scores:
    """How well this version's fit from before the validation window, and the current version's, say what came there."""
    if judged(MODEL) not in fits:
        return Scores()
    folder = run.lake.local(current["uri"])
    try:
        before = sequence_weights.load(folder, judged(MODEL))
    except sequence_weights.UNREADABLE:
        return Scores(why=f"{run.uri(folder)} holds no weights of it from before a validation window")
    visits = judged_visits(run)
    new, current_scores = (
        {NEXT_METRIC: tasks.reciprocal_ranks(weights, visits)} for weights in (fits[judged(MODEL)], before)
    )
    of_lists = list_scores(run, fits[judged(MODEL)], task.fits[judged(MODEL)], current)
    if not len(visits) or of_lists.why:
        return of_lists
    return Scores(new | dict(of_lists.new), current_scores | dict(of_lists.current))


def list_scores(run: RayRun, weights: SequenceWeights, fit: SequenceFit, current: Row) -> Scores:
    """The same of lists of what users wanted in the window, by the vectors; of none where gold/interactions tells of nobody."""
    if not run.has("gold/interactions"):
        return Scores()
    wanted = wanted_between(run.dataset("gold/interactions"), fit.as_of, run.as_of)
    if not wanted.num_rows:
        return Scores()
    theirs = pc.field("user_key").isin(wanted["user_key"]) & (pc.field("started_at") < fit.as_of)
    stored = pl.DataFrame(run.dataset("gold/sessions").to_table(columns=tasks.READ.names, filter=theirs))
    events = tasks.events_of(stored, relevant=run.mapping.relevance)
    vectors = pa.concat_tables([tasks.user_vectors(weights, events, fit), tasks.item_vectors(weights, fit)])
    return scores_of_vectors(run.lake, MODEL, vectors, wanted, current=current["version"])


def publish(run: RayRun, task: Task, states: Mapping[str, State], settings: TrainSequenceSettings) -> None:
    """Write the weights, settle the version, and commit the vectors of users and items beside those of the one that stays current."""
    fits: dict[str, SequenceWeights] = {}
    folder = run.files(MODEL)
    for name, fit in task.fits.items():
        model = task.untrained(fit)
        model.load_state_dict(states[name]["model"])
        fits[name] = weights_of(model, fit.item_ids)
        if name in (MODEL, judged(MODEL)):
            sequence_weights.save(fits[name], folder, name, tables=run.inputs)
    if judged(MODEL) in fits:
        found = tasks.reciprocal_ranks(fits[judged(MODEL)], judged_visits(run))
        run.log("what comes next in visits of the validation window", mrr=float(found.mean()) if len(found) else None)
    kept = settle(
        run,
        MODEL,
        partial(version_scores, run, fits, task),
        max_loss_frac=settings.max_loss_frac,
        folder=folder,
        checkpoint=folder / f"{MODEL}.safetensors",
        num_parameters=sum(array.size for array in fits[MODEL].arrays.values()),
        curves={f"{name} {curve}": values for name in fits for curve, values in states[name]["curves"].items()},
    )
    table, written, lake = contract("gold/vectors"), [], run.lake.absolute()
    for name, fit in task.fits.items():
        given = {"weights": run.engine.broadcast(fits[name]), "fit": fit}
        written += files_written(task.shares.then(tasks.write_user_vectors, lake=lake, **given))
        written += write_files(run.lake, table, [conform(table, tasks.item_vectors(fits[name], fit))])
    written += copied_vectors(run, MODEL, kept)
    run.commit_written("gold/vectors", written, where={"model": MODEL})


def main(settings: TrainSequenceSettings) -> None:
    """Fit the model and publish its weights and vectors."""
    with start_run("train_sequence", settings, RayRun) as run:
        torch.set_num_threads(1)  # leave the other core to other processes
        run.version_of("gold/sessions")  # without which the job is skipped, before Ray is started
        with ray_session(settings.cluster):
            task = task_of(run, settings)
            known, num_workers = task.fits[MODEL], settings.cluster.num_workers
            if known.num_sequences < num_workers:
                run.skip(
                    f"{known.num_sequences} users or visits with two events or more before {run.as_of:%Y-%m-%d %H:%M}, fewer "
                    f"than the {num_workers} training workers; take a longer log"
                )
            run.log("read", sequences=known.num_sequences, events=known.num_events, items=len(known.item_ids))
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
            publish(run, task, states, settings)


if __name__ == "__main__":
    main(TrainSequenceSettings.from_command_line())
