"""train_encoder: gold/examples, gold/interactions, silver/items -> gold/vectors, gold/model_metrics, models `encoder`, `two_tower`.

One run of Ray Train fits the purchase encoder, then the two towers (lib/models), each twice. The encoder is fitted on
train and stopped early by valid; then it is fitted again on both for as many epochs, and tested on test next to logistic
regression on the same examples; its vectors describe the users as of `run.as_of`. The two towers are fitted on all
interactions before the validation window, then on all before `run.as_of`; evaluate judges their lists. The first fits
are what a version is judged by: it becomes the current one only where it is not worse on valid than the one before
(lib/runs/promotion.py), whose rows stay otherwise. Each worker reads its share once, by rank, and keeps it in memory.
Every epoch saves a checkpoint, from which a killed worker or job continues. Users without a history get no two-tower
vector, nor do items without interactions. A rerun, a retry or a kill changes nothing.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from pydantic import Field
from ray import train
from ray.train.torch import prepare_model
from torch import nn

from lib.engines.ray_train import fit_on_workers, last_state, ray_session, report_epoch
from lib.lake.lake import Lake
from lib.models import rows
from lib.models.fitting import EncoderPlan, Examples, State, TwoTowerPlan, fit_encoder, fit_two_towers, joined
from lib.models.judging import REFERENCE, encoder_of, judge, log_likelihoods
from lib.models.purchase_encoder import PurchaseEncoder
from lib.models.rows import WeightedPairs
from lib.models.two_tower import PairSampler, TwoTower
from lib.models.workers import rows_of_all_workers, total_over_workers
from lib.ranking.validation import scores_of_vectors, wanted_items
from lib.runs.model_registry import judged
from lib.runs.promotion import UNREADABLE, PromotionSettings, Row, Scores, commit_beside, settle, validation_from
from lib.runs.run import Run, start_run
from lib.settings import JobSettings
from lib.tables import contract
from lib.tables.gold import SPLITS

MIN_BATCHES = 50  # per epoch of the two towers, so that a small log is trained on enough


class TrainEncoderSettings(PromotionSettings, JobSettings):
    """The two towers' defaults were chosen on validation windows of the market and of a real shop, Online Retail."""

    num_epochs: int = Field(40, ge=1, description="maximum number of passes of the purchase encoder over its examples")
    patience: int = Field(5, ge=1, description="epochs without a lower validation loss before it stops")
    batch_size: int = Field(256, ge=1, description="batch size of the purchase encoder, over all workers")
    learning_rate: float = Field(1e-3, gt=0, description="learning rate of the purchase encoder (AdamW)")
    weight_decay: float = Field(1e-2, ge=0, description="weight decay of the purchase encoder (AdamW)")
    two_tower_epochs: int = Field(
        6, ge=1, description="epochs of the two towers; each draws as many pairs as the log holds"
    )
    two_tower_batch_size: int = Field(
        1024,
        ge=2,
        description="batch size of the two towers, over all workers; its pairs are each other's negatives",
    )
    two_tower_learning_rate: float = Field(1e-2, gt=0, description="learning rate of the two towers (Adam)")
    two_tower_dimensions: int = Field(64, ge=1, le=4096, description="length of the two towers' vectors")
    history_length: int = Field(16, ge=1, description="items drawn from a user's history for each training pair")
    half_life_days: float = Field(30, gt=0, description="age at which an interaction counts half, in days")
    browsing_weight: float = Field(
        0.1, gt=0, description="weight of browsing, relative to purchases, in the targets of the two towers"
    )
    max_failures: int = Field(3, ge=0, description="how often lost workers are restarted")
    num_resamples: int = Field(1000, ge=100, description="bootstrap resamples of users")
    seed: int = Field(0, ge=0, description="seed of weights, batches and bootstrap")


@dataclass(frozen=True)
class Task:
    """All that a worker needs: where the tables are, their versions, and how to fit."""

    lake: str
    versions: dict[str, int]
    as_of: datetime
    valid_from: datetime  # where the validation window begins, which ends at as_of
    half_life_days: float
    browsing_weight: float
    num_dimensions: int
    history_length: int
    encoder: EncoderPlan | None  # None: the labels are unfit to train a purchase model
    two_tower: TwoTowerPlan
    is_judged: bool  # whether enough is known before the validation window to fit two towers on

    def examples(self, split: str) -> Examples:
        """The labelled examples of a split."""
        columns, is_of_split = ["user_key", "features", "label"], pc.field("split") == split
        return rows.labelled_examples(self._rows("gold/examples", columns, is_of_split))

    def weighted_pairs(self, as_of: datetime) -> WeightedPairs:
        """The weighted pairs of users and items known before `as_of`."""
        columns = ["user_key", "item_id", "event_time", "weight", "num_relevant"]
        return rows.weighted_pairs(
            self._rows("gold/interactions", columns, pc.field("event_time") < as_of),
            as_of=as_of,
            half_life_days=self.half_life_days,
            browsing_weight=self.browsing_weight,
        )

    def wanted_items(self) -> pa.Table:
        """What users wanted in the validation window; see lib/ranking/validation.py."""
        in_window = (pc.field("event_time") >= self.valid_from) & (pc.field("event_time") < self.as_of)
        is_wanted = in_window & (pc.field("num_relevant") > 0)
        return wanted_items(self._rows("gold/interactions", ["user_key", "item_id"], is_wanted))

    def untrained_towers(self, item_ids: pa.Array) -> TwoTower:
        """Two towers over these items, with their category and brand if the lake has silver/items."""
        is_known = "silver/items" in self.versions
        items = self._rows("silver/items", ["item_id", "category", "brand"]) if is_known else None
        torch.manual_seed(self.two_tower.seed)
        return TwoTower(rows.item_tags(item_ids, items), self.num_dimensions)

    def _rows(self, table: str, columns: list[str], filter: pc.Expression | None = None) -> pa.Table:
        return Lake(self.lake).dataset(table, self.versions[table]).to_table(columns=columns, filter=filter)


def train_worker(config: dict[str, Task]) -> None:
    """The work of each Ray Train worker; every epoch saves the states of both models in one checkpoint."""
    torch.set_num_threads(1)
    task = config["task"]
    context = train.get_context()
    rank, num_workers = context.get_world_rank(), context.get_world_size()
    states: dict[str, State] = last_state() or {}

    def keep(model: str, state: State) -> None:
        states[model] = state
        report_epoch(states, {"model": model, "epoch": state["epoch"], "loss": state["loss"]})

    def fit_purchase_model(model: str, train: Examples, valid: Examples, plan: EncoderPlan) -> State:
        share = rows.share_of(len(train.labels), rank, num_workers)
        torch.manual_seed(plan.seed)
        return fit_encoder(
            prepare_model(PurchaseEncoder(train.features.shape[1])),
            Examples(train.features[share], train.labels[share]),
            Examples(valid.features[rank::num_workers], valid.labels[rank::num_workers]),
            plan,
            rank=rank,
            total=total_over_workers,
            state=states.get(model),
            keep=lambda state: keep(model, state),
        )

    def fit_towers(model: str, as_of: datetime) -> None:
        known = task.weighted_pairs(as_of)
        own = rows.pairs_of_users(known.pairs, rank, num_workers)
        fit_two_towers(
            prepare_model(task.untrained_towers(known.item_ids)),
            PairSampler(own, num_items=len(known.item_ids), history_length=task.history_length),
            task.two_tower,
            num_batches=max(MIN_BATCHES, math.ceil(len(known.pairs.item) / task.two_tower.batch_size / num_workers)),
            rank=rank,
            gather=rows_of_all_workers,
            state=states.get(model),
            keep=lambda state: keep(model, state),
        )

    if task.encoder is not None:
        train_examples, valid = task.examples("train"), task.examples("valid")
        chosen = fit_purchase_model(judged("encoder"), train_examples, valid, task.encoder)
        num_epochs = max(1, chosen["best_epoch"])
        both = joined(train_examples, valid)
        again = replace(task.encoder, num_epochs=num_epochs, patience=num_epochs)
        fit_purchase_model("encoder", both, both.first(0), again)
    if task.is_judged:
        fit_towers(judged("two_tower"), task.valid_from)
    fit_towers("two_tower", task.as_of)


def task_of(run: Run, settings: TrainEncoderSettings, *, with_encoder: bool = True) -> Task:
    """The workers' task; batches are split over the workers, so that the total size does not depend on their number."""
    num_workers = settings.cluster.num_workers
    tables = ["gold/examples", "gold/interactions"] + (["silver/items"] if run.has("silver/items") else [])
    task = Task(
        lake=run.lake.absolute().path,
        versions={table: run.version_of(table) for table in tables},
        as_of=run.as_of,
        valid_from=validation_from(run),
        half_life_days=settings.half_life_days,
        browsing_weight=settings.browsing_weight,
        num_dimensions=settings.two_tower_dimensions,
        history_length=settings.history_length,
        encoder=None
        if not with_encoder
        else EncoderPlan(
            num_epochs=settings.num_epochs,
            patience=settings.patience,
            batch_size=math.ceil(settings.batch_size / num_workers),
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            seed=settings.seed,
        ),
        two_tower=TwoTowerPlan(
            num_epochs=settings.two_tower_epochs,
            batch_size=math.ceil(settings.two_tower_batch_size / num_workers),
            learning_rate=settings.two_tower_learning_rate,
            seed=settings.seed,
        ),
        is_judged=False,
    )
    return replace(task, is_judged=len(task.weighted_pairs(task.valid_from).user_keys) >= num_workers)


def labels_of(run: Run) -> NDArray[np.float32]:
    """The labels of the train split."""
    stored = run.read_arrow("gold/examples", ["label"], pc.field("split") == "train")["label"]
    labels: NDArray[np.float32] = stored.to_numpy().astype(np.float32)
    return labels


def require_rows(num_labelled: int, num_users: int, *, num_workers: int) -> None:
    """Check that the log is large enough to be split over the workers.

    Raises:
        ValueError: there are fewer labelled users, or users with a history, than workers.
    """
    for what, size in (("labelled users in the train split", num_labelled), ("users with a history", num_users)):
        if size < num_workers:
            raise ValueError(
                f"{size} {what}, fewer than the {num_workers} training workers; take a longer log"
                + (f" or set --cluster.num-workers {size}" if size else "")
            )


def has_both_classes(run: Run, labels: NDArray[np.float32]) -> bool:
    """Whether a purchase model can be trained on `labels`; if not, logs why and what to change."""
    if labels.min() != labels.max():
        return True
    run.log(
        f"leaves out the purchase model: all {len(labels):,} labels of the train split are {labels[0]:.0f}, and it needs "
        "both classes; change valid_from and test_from in the mapping, which set the label windows"
    )
    return False


def fit(run: Run, task: Task, settings: TrainEncoderSettings) -> dict[str, State]:
    """Both models' last states, from a Ray Train run that has the run's name and resumes where that stopped."""
    states: dict[str, State] = fit_on_workers(
        train_worker,
        task,
        settings.cluster,
        name=run.run_id,
        storage=run.storage("encoder"),
        max_failures=settings.max_failures,
    )
    return states


def publish_encoder(run: Run, task: Task, states: dict[str, State], settings: TrainEncoderSettings) -> None:
    """Settle the encoder's version, and commit its metrics and its vectors of users as of `run.as_of`."""
    train_examples, valid, test = (task.examples(split) for split in SPLITS)
    num_features = train_examples.features.shape[1]
    chosen = encoder_of(states[judged("encoder")]["best"], num_features)
    encoder = encoder_of(states["encoder"]["model"], num_features)
    judge_by = partial(judge, version=run.run_id, seed=settings.seed, num_resamples=settings.num_resamples)
    measured = judge_by(chosen, train_examples, valid, split="valid")
    measured += judge_by(encoder, joined(train_examples, valid), test, split="test")
    for split, (_, labels) in {"valid": valid, "test": test}.items():
        aucs = {row["model"]: row["value"] for row in measured if (row["split"], row["metric"]) == (split, "auc")}
        if None in aucs.values():
            run.log(f"{split} has only one class of labels: its AUC and PR-AUC are null", users=len(labels))
        else:
            run.log(f"AUC on {split}" if aucs else f"{split} has no known labels, so no metrics", **aucs)
    kept = register(
        run, {"encoder": encoder, judged("encoder"): chosen}, partial(encoder_scores, run, chosen, valid), settings
    )

    users = run.read_arrow("gold/examples", ["user_key", "features"], pc.field("split") == "test").sort_by("user_key")
    with torch.no_grad():
        vectors = encoder.represent(rows.feature_tensor(users["features"]))
    ids = users["user_key"].combine_chunks()
    stored = rows.vector_rows(vectors, ids, model="encoder", version=run.run_id, kind="user", as_of=run.as_of)
    commit_beside(run, "gold/vectors", "encoder", stored, kept)
    for model in ("encoder", REFERENCE):
        own = [row for row in measured if row["model"] == model]
        table = pa.Table.from_pylist(own, schema=contract("gold/model_metrics").schema)
        commit_beside(run, "gold/model_metrics", model, table, kept)


def encoder_scores(run: Run, chosen: PurchaseEncoder, valid: Examples, current: Row) -> Scores:
    """The log likelihoods of the labels of valid by the encoder that was chosen on it, and by the current version's."""
    new = {"log likelihood": log_likelihoods(chosen, valid)}
    file = run.lake.local(current["uri"]) / f"{judged('encoder')}.pt"
    num_features = chosen.hidden.in_features
    try:
        before = encoder_of(torch.load(file, map_location="cpu", weights_only=True), num_features)
    except UNREADABLE:
        return Scores(why=f"{run.uri(file)} holds no encoder of {num_features} features")
    return Scores(new, {"log likelihood": log_likelihoods(before, valid)})


def publish_two_towers(run: Run, task: Task, states: dict[str, State], settings: TrainEncoderSettings) -> None:
    """Settle the version of the two towers, and commit the vectors of users with a history and items with interactions."""
    fits = {"two_tower": (run.run_id, run.as_of)}
    if task.is_judged:
        fits[judged("two_tower")] = (judged(run.run_id), task.valid_from)
    towers, vectors = {}, {}
    for fit, (version, as_of) in fits.items():
        known = task.weighted_pairs(as_of)
        towers[fit] = task.untrained_towers(known.item_ids)
        towers[fit].load_state_dict(states[fit]["model"])
        vectors[fit] = rows.tower_rows(towers[fit], known, version=version, as_of=as_of)
    kept = register(run, towers, partial(tower_scores, run, task, vectors.get(judged("two_tower"))), settings)
    commit_beside(run, "gold/vectors", "two_tower", pa.concat_tables(vectors.values()), kept)


def tower_scores(run: Run, task: Task, fit: pa.Table | None, current: Row) -> Scores:
    """How well this version's fit from before the validation window, and the current version's, find what was wanted."""
    return (
        Scores()
        if fit is None
        else scores_of_vectors(run.lake, "two_tower", fit, task.wanted_items(), current=current["version"])
    )


def register(
    run: Run, fits: Mapping[str, nn.Module], score: Callable[[Row], Scores], settings: TrainEncoderSettings
) -> str | None:
    """Write a model's weights to its folder of the run and settle its version; the first of `fits` is the one that serves."""
    model, module = next(iter(fits.items()))
    folder = run.files(model)
    for fit, fitted in fits.items():
        torch.save(fitted.state_dict(), folder / f"{fit}.pt")
    return settle(
        run,
        model,
        score,
        max_loss_frac=settings.max_loss_frac,
        folder=folder,
        checkpoint=folder / f"{model}.pt",
        num_parameters=sum(parameter.numel() for parameter in module.parameters()),
    )


def main(settings: TrainEncoderSettings) -> None:
    """Fit both models and publish vectors, metrics and versions."""
    with start_run("train_encoder", settings) as run:
        torch.set_num_threads(1)  # leave the other core to other processes
        labels = labels_of(run)
        task = task_of(run, settings, with_encoder=len(labels) > 0 and has_both_classes(run, labels))
        known = task.weighted_pairs(run.as_of)
        run.log(
            "read",
            examples=len(labels),
            positive=int(labels.sum()),
            users=len(known.user_keys),
            items=len(known.item_ids),
            pairs=len(known.pairs.user),
        )
        require_rows(len(labels), len(known.user_keys), num_workers=settings.cluster.num_workers)
        with ray_session(settings.cluster):
            states = fit(run, task, settings)
        for model, state in states.items():
            run.log(f"trained {model}", epochs=state["epoch"], loss=state["loss"])
        if "encoder" in states:
            publish_encoder(run, task, states, settings)
        publish_two_towers(run, task, states, settings)


if __name__ == "__main__":
    main(TrainEncoderSettings.from_command_line())
