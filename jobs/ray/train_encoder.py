"""train_encoder: gold/examples, gold/interactions, silver/items, gold/user_profiles -> gold/vectors, gold/model_metrics, gold/propensity_to_buy, models `encoder`, `two_tower`.

One run of Ray Train fits the purchase encoder, then the two towers (lib/models), each twice. The encoder is fitted on
train and stopped early by valid; then it is fitted again on both for as many epochs, and tested on test next to logistic
regression and boosted trees, which are tuned and fitted again alike on the same examples (lib/models/baselines.py); its vectors
describe the users as of `run.as_of`. Of the three the one with the lowest log loss on valid serves: its probabilities,
calibrated on valid (lib/models/calibration.py), are gold/propensity_to_buy (lib/models/propensity.py). An encoder that stands back as a
candidate is not among them. The two towers are fitted on all
interactions before the validation window, then on all before `run.as_of`; evaluate judges their lists. The first fits
are what a version is judged by: it becomes the current one only where it is not worse on valid than the one before
(lib/runs/promotion.py), whose rows stay otherwise. Epochs save checkpoints, at most one each ten seconds, from which a killed worker or job
continues. Users without a history get no two-tower vector, nor do items without interactions. A rerun, a retry or a kill
changes nothing.

Each worker keeps a share in memory: of the examples it opens the files that hold it; of the interactions, whose files are
of days, tasks bring whole users together first, and a share of more than `two_tower_chunk_rows` is taken in chunks, one after
the other. From SPARSE_FROM_ITEMS items on (lib/models/tower_training.py) the two towers' gradients are sparse. Tasks write the
vectors of users and items. The driver holds the models, which have a
row an item, and samples: versions are judged by at most MAX_JUDGED examples and MAX_USERS users (lib/ranking/validation.py).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from deltalake.transaction import AddAction
from pydantic import Field
from ray import train
from ray.train.torch import prepare_model
from torch import nn

from lib.engines.arrow_tasks import gathered
from lib.engines.parts import files_written
from lib.engines.ray_tasks import RayParts, RayRun
from lib.engines.ray_train import fit_on_workers, last_state, ray_session, report_epoch, report_when_due
from lib.lake.lake import Lake
from lib.lake.shares import rows_of_share
from lib.models import propensity, rows, tasks
from lib.models.baselines import ENCODER, MODELS, Encoder, Fits, fit_baselines
from lib.models.calibration import calibration_of
from lib.models.fitting import EncoderPlan, Examples, Keep, State, TwoTowerPlan, fit_encoder, fit_two_towers, joined
from lib.models.judging import choose, encoder_of, judge, log_likelihoods
from lib.models.propensity import Served
from lib.models.purchase_encoder import PurchaseEncoder
from lib.models.rows import Weights
from lib.models.tower_training import TowerTraining, num_chunks, shares_of_users, tower_fits, weighed_pairs
from lib.models.tower_vectors import tower_scores, vectors_written
from lib.models.workers import average_row_gradients, rows_of_all_workers, total_over_workers
from lib.ranking.vector_files import copied_vectors
from lib.runs.model_registry import judged
from lib.runs.promotion import UNREADABLE, EarlierFitsSettings, PromotionSettings, Row, Scores, commit_beside, settle
from lib.runs.run import Run, start_run
from lib.runs.weights import load_weights, save_weights
from lib.settings import JobSettings
from lib.tables import contract
from lib.tables.gold import SPLITS

MAX_JUDGED = 200_000  # examples of a split by which a version is judged, and on which the baselines are fitted
USERS_PER_SHARD = 500_000  # of gold/propensity_to_buy, at most about


class TrainEncoderSettings(EarlierFitsSettings, PromotionSettings, JobSettings):
    """The two towers' defaults were chosen on validation windows of the market and of a real shop, Online Retail."""

    num_epochs: int = Field(40, ge=1, description="maximum number of passes of the purchase encoder over its examples")
    patience: int = Field(5, ge=1, description="epochs without a lower validation loss before it stops")
    batch_size: int = Field(256, ge=1, description="batch size of the purchase encoder, over all workers")
    learning_rate: float = Field(1e-3, gt=0, description="learning rate of the purchase encoder (AdamW)")
    weight_decay: float = Field(1e-2, ge=0, description="weight decay of the purchase encoder (AdamW)")
    two_tower_epochs: int = Field(
        6, ge=1, description="epochs of the oldest fit of the two towers; each draws as many pairs as it knows"
    )
    more_two_tower_epochs: int = Field(
        2, ge=1, description="epochs of each other fit, which goes on from the weights of the one before"
    )
    two_tower_batch_size: int = Field(
        1024,
        ge=2,
        description="batch size of the two towers, over all workers; its pairs are each other's negatives",
    )
    two_tower_learning_rate: float = Field(1e-2, gt=0, description="learning rate of the two towers (Adam)")
    two_tower_dimensions: int = Field(64, ge=1, le=4096, description="length of the two towers' vectors")
    two_tower_chunk_rows: int = Field(
        10_000_000,
        ge=1,
        description="rows of gold/interactions whose users a worker holds at once, about; it takes a larger share in chunks",
    )
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

    lake: Lake
    version: int  # of gold/examples
    num_examples: Mapping[str, int]  # labelled ones, by split
    encoder: EncoderPlan | None  # None: the labels are unfit to train a purchase model
    towers: TowerTraining
    shares: RayParts  # the interactions, by whole users
    weights: Weights

    def examples(self, split: str, share: int, num_shares: int) -> Examples:
        """The labelled examples of a share of a split."""
        columns, version = ["user_key", "features", "label"], self.version
        where = {"split": split}
        return rows.labelled_examples(
            rows_of_share(self.lake, "gold/examples", version, columns, where=where, share=share, num_shares=num_shares)
        )

    def sample(self, split: str) -> Examples:
        """At most about MAX_JUDGED of a split's labelled examples: a draw, since files hold users by a keyed hash."""
        return self.examples(split, 0, max(1, math.ceil(self.num_examples[split] / MAX_JUDGED)))


def train_worker(config: dict[str, Task]) -> None:
    """The work of each Ray Train worker; epochs save the states of both models in one checkpoint."""
    torch.set_num_threads(1)
    task = config["task"]
    context = train.get_context()
    rank, num_workers = context.get_world_rank(), context.get_world_size()
    states: dict[str, State] = last_state() or {}

    def keep(model: str, state: State) -> None:
        states[model] = state
        report_when_due(states, {"model": model, "epoch": state["epoch"], "loss": state["loss"]})

    def fit_purchase_model(model: str, train: Examples, valid: Examples, plan: EncoderPlan) -> State:
        torch.manual_seed(plan.seed)
        return fit_encoder(
            prepare_model(PurchaseEncoder(train.features.shape[1])),
            train,
            valid,
            plan,
            rank=rank,
            total=total_over_workers,
            state=states.get(model),
            keep=partial(keep, model),
        )

    if task.encoder is not None:
        size, more = (math.ceil(task.num_examples[split] / num_workers) for split in ("train", "valid"))
        own, valid = (task.examples(split, rank, num_workers) for split in ("train", "valid"))
        chosen = fit_purchase_model(judged("encoder"), own.repeated_to(size), valid, task.encoder)
        num_epochs = max(1, chosen["best_epoch"])
        again = replace(task.encoder, num_epochs=num_epochs, patience=num_epochs)
        both = joined(own, valid).repeated_to(size + more)
        fit_purchase_model("encoder", both, both.first(0), again)
    for model in task.towers.fits:
        fit_towers(task.towers, model, states, partial(keep, model))
    report_epoch(states, {"models": len(states)})


def fit_towers(training: TowerTraining, model: str, states: Mapping[str, State], keep: Keep) -> State:
    """In a training worker: fit the two towers on the pairs of its users, from the state of this fit or of the one before on."""
    rank, towers = train.get_context().get_world_rank(), training.begun(model, states)
    # Of sparse gradients only the rows that a batch touches are exchanged; a wrapper would exchange all.
    return fit_two_towers(
        prepare_model(towers, parallel_strategy=None if towers.is_sparse else "ddp"),
        training.chunks(model, rank),
        training.plan_of(model),
        num_batches=training.num_batches(model),
        rank=rank,
        gather=rows_of_all_workers,
        average=average_row_gradients if towers.is_sparse else lambda _: None,
        state=states.get(model),
        keep=keep,
    )


def tower_training(run: RayRun, shares: RayParts, weights: Weights, settings: TrainEncoderSettings) -> TowerTraining:
    """What the workers need to train the two towers; the batches are split over them."""
    num_workers = settings.cluster.num_workers
    fits = tower_fits(run, shares, num_fits_before=settings.num_fits_before)
    return TowerTraining(
        fits=fits,
        pairs={model: weighed_pairs(run, shares, fit, weights) for model, fit in fits.items()},
        num_workers=num_workers,
        plan=TwoTowerPlan(
            num_epochs=settings.two_tower_epochs,
            batch_size=math.ceil(settings.two_tower_batch_size / num_workers),
            learning_rate=settings.two_tower_learning_rate,
            seed=settings.seed,
            num_parts=len(shares.partitions) // num_workers,
        ),
        more_epochs=settings.more_two_tower_epochs,
        num_dimensions=settings.two_tower_dimensions,
        history_length=settings.history_length,
        lake=run.lake.absolute(),
        version_of_items=run.version_of("silver/items") if run.has("silver/items") else None,
    )


def task_of(
    run: RayRun, settings: TrainEncoderSettings, *, num_examples: Mapping[str, int], with_encoder: bool
) -> Task:
    """The workers' task; batches are split over the workers, so that the total size does not depend on their number."""
    num_workers = settings.cluster.num_workers
    num_rows, chunk_rows = run.dataset("gold/interactions").count_rows(), settings.two_tower_chunk_rows
    chunks = num_chunks(num_rows, num_workers=num_workers, chunk_rows=chunk_rows)
    files = run.files_of({"": "gold/interactions"})
    assert isinstance(files, RayParts)
    shares = shares_of_users(files, until=run.as_of, num_shares=num_workers * chunks)
    weights = Weights(settings.half_life_days, settings.browsing_weight)
    return Task(
        lake=run.lake.absolute(),
        version=run.version_of("gold/examples"),
        num_examples=num_examples,
        encoder=EncoderPlan(
            num_epochs=settings.num_epochs,
            patience=settings.patience,
            batch_size=math.ceil(settings.batch_size / num_workers),
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            seed=settings.seed,
        )
        if with_encoder
        else None,
        towers=tower_training(run, shares, weights, settings),
        shares=shares,
        weights=weights,
    )


def count_examples(run: RayRun) -> tuple[dict[str, int], int]:
    """The number of labelled examples of each split, and how many of train are positive."""
    dataset, label = run.dataset("gold/examples"), pc.field("label")
    labelled = {split: dataset.count_rows((pc.field("split") == split) & label.is_valid()) for split in SPLITS}
    return labelled, dataset.count_rows((pc.field("split") == "train") & (label == 1))


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


def has_both_classes(run: Run, num_labelled: int, num_positive: int) -> bool:
    """Whether a purchase model can be trained on the labels of train; if not, logs why and what to change."""
    if 0 < num_positive < num_labelled:
        return True
    run.log(
        f"leaves out the purchase model: all {num_labelled:,} labels of the train split are {int(num_positive > 0)}, and "
        "it needs both classes; change valid_from and test_from in the mapping, which set the label windows"
    )
    return False


def fit(run: RayRun, task: Task, settings: TrainEncoderSettings) -> dict[str, State]:
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


def require_numbers(run: RayRun) -> None:
    """Check that every feature is a finite number.

    Raises:
        ValueError: some are not.
    """
    unfit = run.files_of({"": "gold/examples"}).then(propensity.count_unfit).collected()
    num_unfit = gathered(unfit, propensity.UNFIT, propensity.GATHERED)["num_users"].sum()
    if num_unfit:
        raise ValueError(
            f"gold/examples: {num_unfit:,} rows have features that are null, infinite or not a number; run featurize again"
        )


def publish_encoder(run: RayRun, task: Task, states: dict[str, State], settings: TrainEncoderSettings) -> None:
    """Settle the encoder's version, and commit its metrics, its vectors of users as of `run.as_of`, and their propensities."""
    train_examples, valid, test = (task.sample(split) for split in SPLITS)
    num_features = train_examples.features.shape[1]
    chosen = encoder_of(states[judged("encoder")]["best"], num_features)
    encoder = encoder_of(states["encoder"]["model"], num_features)
    fits = fit_baselines(train_examples, valid, seed=settings.seed)
    run.log("fitted the baselines: " + ", ".join(f"{model} {fit.told}" for model, fit in fits.items()))
    fits[ENCODER] = Fits(Encoder(chosen), Encoder(encoder), "")
    calibrations = {model: calibration_of(fit, valid) for model, fit in fits.items()}
    judge_by = partial(judge, version=run.run_id, seed=settings.seed, num_resamples=settings.num_resamples)
    measured = judge_by({model: fit.chosen for model, fit in fits.items()}, valid, split="valid")
    served_fits = {model: fit.served for model, fit in fits.items()}
    measured += judge_by(served_fits, test, split="test", calibrations=calibrations)
    for split, (_, labels) in {"valid": valid, "test": test}.items():
        if len(labels) < task.num_examples[split]:
            run.log(f"{split} is judged by a sample", users=len(labels), of=task.num_examples[split])
        aucs = {row["model"]: row["value"] for row in measured if (row["split"], row["metric"]) == (split, "auc")}
        if None in aucs.values():
            run.log(f"{split} has only one class of labels: its AUC and PR-AUC are null", users=len(labels))
        else:
            run.log(f"AUC on {split}" if aucs else f"{split} has no known labels, so no metrics", **aucs)
    both = {"encoder": encoder, judged("encoder"): chosen}
    kept = register(run, both, partial(encoder_scores, run, chosen, valid), states, settings)
    choice = choose(measured, [model for model in MODELS if model != ENCODER or kept is None])
    run.log(choice.told)
    errors = {row["metric"]: row["value"] for row in measured if (row["split"], row["model"]) == ("test", choice.model)}
    if "ece" in errors:
        run.log("calibration error on test", before=errors["ece"], after=errors["ece_calibrated"])
    publish_propensities(
        run, task, Served(choice.model, run.run_id, served_fits[choice.model], calibrations[choice.model])
    )
    users = run.files_of({"": "gold/examples"}, holding={"split": ["test"]})
    given = {"encoder": run.engine.broadcast(encoder), "version": run.run_id, "as_of": run.as_of}
    written = users.then(tasks.write_representations, lake=task.lake, **given)
    commit_vectors(run, "encoder", files_written(written), kept)
    for model in MODELS:
        own = [row for row in measured if row["model"] == model]
        table = pa.Table.from_pylist(own, schema=contract("gold/model_metrics").schema)
        commit_beside(run, "gold/model_metrics", model, table, kept)


def publish_propensities(run: RayRun, task: Task, served: Served) -> None:
    """Commit how likely each user buys from `run.as_of` on, by the model that serves, and what is to be expected of it."""
    num_users = run.dataset("gold/examples").count_rows(pc.field("split") == "test")
    if not num_users:
        run.log("writes no propensities: gold/examples describes nobody as of this run")
        return
    num_shards = run.num_shards(num_users, rows_per_shard=USERS_PER_SHARD)
    by: dict[str, Any] = {"as_of": run.as_of, "num_shards": num_shards}
    users = run.files_of({"": "gold/examples"}, holding={"split": ["test"]})
    predicted = users.then(propensity.predict, served=run.engine.broadcast(served), num_shards=num_shards)
    parts, shop_spend = predicted.of(propensity.PREDICTION), None
    if run.has("gold/user_profiles") and run.mapping.relevance == "purchase":
        profiles = run.files_of({"": "gold/user_profiles"}).then(propensity.spread_profiles, **by)
        known = profiles.union(task.shares.then(propensity.spread_days, **by))
        spent = known.to_shards(num_shards).then(propensity.count_spend).collected()
        spend, num_days = gathered(spent, propensity.SPEND, propensity.GATHERED).sum().row(0)
        shop_spend = spend / num_days if num_days else None
        parts = parts.union(known)
    if shop_spend is None:
        run.log("leaves expected_spend null: no profile of a user who bought says what was spent")
    counts = gathered(predicted.of(propensity.HISTOGRAM).collected(), propensity.HISTOGRAM, propensity.GATHERED)
    written = parts.to_shards(num_shards).then(
        propensity.write_propensities,
        lake=task.lake,
        model=served.name,
        version=served.version,
        as_of=run.as_of,
        deciles=propensity.deciles_of(counts),
        shop_spend=shop_spend,
    )
    run.commit_written("gold/propensity_to_buy", files_written(written))


def encoder_scores(run: Run, chosen: PurchaseEncoder, valid: Examples, current: Row) -> Scores:
    """The log likelihoods of the labels of valid by the encoder that was chosen on it, and by the current version's."""
    new = {"log likelihood": log_likelihoods(chosen, valid)}
    file = run.lake.local(current["uri"]) / f"{judged('encoder')}.safetensors"
    num_features = chosen.hidden.in_features
    try:
        before = encoder_of(load_weights(file)[0], num_features)
    except UNREADABLE:
        return Scores(why=f"{run.uri(file)} holds no encoder of {num_features} features")
    return Scores(new, {"log likelihood": log_likelihoods(before, valid)})


def publish_two_towers(run: RayRun, task: Task, states: dict[str, State], settings: TrainEncoderSettings) -> None:
    """Settle the version of the two towers, and commit the vectors of users with a history and items with interactions."""
    towers, fits = {}, task.towers.fits
    for model in fits:
        towers[model] = task.towers.untrained(model)
        towers[model].load_state_dict(states[model]["model"])

    def score(current: Row) -> Scores:
        first = judged("two_tower")
        return tower_scores(run, fits[first], towers[first], task.weights, current) if first in fits else Scores()

    served_first = {"two_tower": towers["two_tower"], **towers}
    kept = register(run, served_first, score, states, settings)
    commit_vectors(run, "two_tower", vectors_written(run, fits, towers, task.shares, task.weights), kept)


def commit_vectors(run: RayRun, model: str, written: list[AddAction], kept: str | None) -> None:
    """Replace a model's vectors by those in the files written, beside those of the version that stays current."""
    written += copied_vectors(run, model, kept)
    run.commit_written("gold/vectors", written, where={"model": model})


def register(
    run: Run,
    fits: Mapping[str, nn.Module],
    score: Callable[[Row], Scores],
    states: Mapping[str, State],
    settings: TrainEncoderSettings,
) -> str | None:
    """Write a model's weights to its folder of the run and settle its version; the first of `fits` is the one that serves."""
    model, module = next(iter(fits.items()))
    folder = run.files(model)
    for fit, fitted in fits.items():
        if fit not in (model, judged(model)):
            continue
        save_weights(folder / f"{fit}.safetensors", fitted.state_dict(), tables=dict(run.inputs))
    return settle(
        run,
        model,
        score,
        max_loss_frac=settings.max_loss_frac,
        folder=folder,
        checkpoint=folder / f"{model}.safetensors",
        num_parameters=sum(parameter.numel() for parameter in module.parameters()),
        curves={f"{fit} {name}": values for fit in fits for name, values in states[fit]["curves"].items()},
    )


def main(settings: TrainEncoderSettings) -> None:
    """Fit both models and publish vectors, metrics and versions."""
    with start_run("train_encoder", settings, RayRun) as run:
        torch.set_num_threads(1)  # leave the other core to other processes
        num_examples, num_positive = count_examples(run)
        num_labelled = num_examples["train"]
        with_encoder = num_labelled > 0 and has_both_classes(run, num_labelled, num_positive)
        run.version_of("gold/interactions")  # without which the job is skipped, before Ray is started
        with ray_session(settings.cluster):
            task = task_of(run, settings, num_examples=num_examples, with_encoder=with_encoder)
            known = task.towers.fits["two_tower"]
            run.log(
                "read",
                examples=num_labelled,
                positive=num_positive,
                users=known.num_users,
                items=len(known.item_ids),
                pairs=known.num_pairs,
            )
            require_rows(num_labelled, known.num_users, num_workers=settings.cluster.num_workers)
            require_numbers(run)
            states = fit(run, task, settings)
            for model, state in states.items():
                run.log(f"trained {model}", epochs=state["epoch"], loss=state["loss"])
            if "encoder" in states:
                publish_encoder(run, task, states, settings)
            publish_two_towers(run, task, states, settings)


if __name__ == "__main__":
    main(TrainEncoderSettings.from_command_line())
