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
of days, tasks bring whole users together first. Tasks write the users' vectors. The driver holds the models, which have a
row an item, and samples: versions are judged by at most MAX_JUDGED examples and MAX_USERS users (lib/ranking/validation.py).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import polars as pl
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
from lib.engines.ray_tasks import RayParts, RayRun, batches_of
from lib.engines.ray_train import fit_on_workers, last_state, ray_session, report_epoch, report_when_due
from lib.lake.lake import Lake
from lib.lake.shares import rows_of_share
from lib.lake.writes import conform, write_files
from lib.models import propensity, rows, tasks
from lib.models.baselines import ENCODER, MODELS, Encoder, Fits, fit_baselines
from lib.models.calibration import calibration_of
from lib.models.fitting import EncoderPlan, Examples, State, TwoTowerPlan, fit_encoder, fit_two_towers, joined
from lib.models.judging import choose, encoder_of, judge, log_likelihoods
from lib.models.known_fits import known_by_fit
from lib.models.propensity import Served
from lib.models.purchase_encoder import PurchaseEncoder
from lib.models.rows import Weights
from lib.models.tasks import TowerFit
from lib.models.two_tower import Pairs, PairSampler, TwoTower
from lib.models.workers import rows_of_all_workers, total_over_workers
from lib.ranking.known_pairs import spread_interactions
from lib.ranking.validation import scores_of_vectors, wanted_items
from lib.ranking.vector_files import copied_vectors
from lib.runs.model_registry import judged
from lib.runs.promotion import UNREADABLE, PromotionSettings, Row, Scores, commit_beside, settle
from lib.runs.run import Run, start_run
from lib.runs.weights import load_weights, save_weights
from lib.settings import JobSettings
from lib.tables import contract
from lib.tables.gold import SPLITS

MAX_JUDGED = 200_000  # examples of a split by which a version is judged, and on which the baselines are fitted
USERS_PER_SHARD = 500_000  # of gold/propensity_to_buy, at most about
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

    lake: Lake
    versions: Mapping[str, int]
    num_examples: Mapping[str, int]  # labelled ones, by split
    encoder: EncoderPlan | None  # None: the labels are unfit to train a purchase model
    towers: Mapping[str, TowerFit]  # by model, the one that is judged first
    shares: RayParts  # the interactions of each worker's users
    weights: Weights
    num_dimensions: int
    history_length: int
    two_tower: TwoTowerPlan

    def examples(self, split: str, share: int, num_shares: int) -> Examples:
        """The labelled examples of a share of a split."""
        columns, version = ["user_key", "features", "label"], self.versions["gold/examples"]
        where = {"split": split}
        return rows.labelled_examples(
            rows_of_share(self.lake, "gold/examples", version, columns, where=where, share=share, num_shares=num_shares)
        )

    def sample(self, split: str) -> Examples:
        """At most about MAX_JUDGED of a split's labelled examples: a draw, since files hold users by a keyed hash."""
        return self.examples(split, 0, max(1, math.ceil(self.num_examples[split] / MAX_JUDGED)))

    def pairs_of_worker(self, fit: TowerFit, rank: int) -> Pairs:
        """The pairs of a worker's users; one whose users are all unknown works on those of the next worker."""
        shares = self.shares.partitions
        for share in shares[rank:] + shares[:rank]:
            known = tasks.pairs_of(batches_of(share), fit, self.weights)
            if len(known.user_keys):
                return known.pairs
        raise AssertionError("a fit knows some users")

    def untrained_towers(self, fit: TowerFit) -> TwoTower:
        """Two towers over the fit's items, with their category and brand if the lake has silver/items."""
        version = self.versions.get("silver/items")
        items = None
        if version is not None:
            items = self.lake.dataset("silver/items", version).to_table(columns=["item_id", "category", "brand"])
        torch.manual_seed(self.two_tower.seed)
        return TwoTower(rows.item_tags(fit.item_ids, items), self.num_dimensions)


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
    for model, fit in task.towers.items():
        own_pairs = task.pairs_of_worker(fit, rank)
        fit_two_towers(
            prepare_model(task.untrained_towers(fit)),
            PairSampler(own_pairs, num_items=len(fit.item_ids), history_length=task.history_length),
            task.two_tower,
            num_batches=max(MIN_BATCHES, math.ceil(fit.num_pairs / task.two_tower.batch_size / num_workers)),
            rank=rank,
            gather=rows_of_all_workers,
            state=states.get(model),
            keep=partial(keep, model),
        )
    report_epoch(states, {"models": len(states)})


def shares_of(run: RayRun, settings: TrainEncoderSettings) -> RayParts:
    """What was known as of the run, whole users in a share, as many shares as workers."""
    num_shares = settings.cluster.num_workers
    files = run.files_of({"": "gold/interactions"})
    shares = files.then(
        spread_interactions, columns=rows.INTERACTION_COLUMNS, until=run.as_of, num_shards=num_shares
    ).to_shards(num_shares)
    assert isinstance(shares, RayParts)
    return shares


def tower_fits(run: RayRun, shares: RayParts) -> dict[str, TowerFit]:
    """What the fits of the two towers know: the one to judge by, which may know nobody, and the one that serves."""
    known = known_by_fit(run, shares, "two_tower", tasks.count_known, tasks.GATHERED)
    return {fit: TowerFit(of.version, of.as_of, of.item_ids.to_arrow(), **of.counts) for fit, of in known.items()}


def task_of(
    run: RayRun, settings: TrainEncoderSettings, *, num_examples: Mapping[str, int], with_encoder: bool
) -> Task:
    """The workers' task; batches are split over the workers, so that the total size does not depend on their number."""
    num_workers = settings.cluster.num_workers
    tables = ["gold/examples", "gold/interactions"] + (["silver/items"] if run.has("silver/items") else [])
    shares = shares_of(run, settings)
    return Task(
        lake=run.lake.absolute(),
        versions={table: run.version_of(table) for table in tables},
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
        towers={model: fit for model, fit in tower_fits(run, shares).items() if model == "two_tower" or fit.num_users},
        shares=shares,
        weights=Weights(settings.half_life_days, settings.browsing_weight),
        num_dimensions=settings.two_tower_dimensions,
        history_length=settings.history_length,
        two_tower=TwoTowerPlan(
            num_epochs=settings.two_tower_epochs,
            batch_size=math.ceil(settings.two_tower_batch_size / num_workers),
            learning_rate=settings.two_tower_learning_rate,
            seed=settings.seed,
        ),
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
    towers = {}
    for model, fit in task.towers.items():
        towers[model] = task.untrained_towers(fit)
        towers[model].load_state_dict(states[model]["model"])
    served_first = {"two_tower": towers["two_tower"], **towers}
    kept = register(
        run, served_first, partial(tower_scores, run, task, towers.get(judged("two_tower"))), states, settings
    )
    table, written = contract("gold/vectors"), []
    for model, fit in task.towers.items():
        given = {"towers": run.engine.broadcast(towers[model]), "fit": fit, "weights": task.weights}
        written += files_written(task.shares.then(tasks.write_tower_users, lake=task.lake, **given))
        items = rows.tower_items(towers[model], fit.item_ids, version=fit.version, as_of=fit.as_of)
        written += write_files(run.lake, table, [conform(table, items)])
    commit_vectors(run, "two_tower", written, kept)


def tower_scores(run: RayRun, task: Task, towers: TwoTower | None, current: Row) -> Scores:
    """How well this version's fit from before the validation window, and the current version's, find what was wanted."""
    if towers is None:
        return Scores()
    fit, interactions = task.towers[judged("two_tower")], run.dataset("gold/interactions")
    in_window = (pc.field("event_time") >= fit.as_of) & (pc.field("event_time") < run.as_of)
    asked = interactions.to_batches(columns=["user_key", "item_id"], filter=in_window & (pc.field("num_relevant") > 0))
    wanted = wanted_items(asked)
    theirs = pc.field("user_key").isin(wanted["user_key"]) & (pc.field("event_time") < fit.as_of)
    stored = pl.DataFrame(interactions.to_table(columns=[*rows.INTERACTION_COLUMNS], filter=theirs))
    known = rows.weighted_pairs(stored, as_of=fit.as_of, item_ids=fit.item_ids, weights=task.weights)
    vectors = [
        rows.tower_users(towers, known, version=fit.version, as_of=fit.as_of),
        rows.tower_items(towers, fit.item_ids, version=fit.version, as_of=fit.as_of),
    ]
    return scores_of_vectors(run.lake, "two_tower", pa.concat_tables(vectors), wanted, current=current["version"])


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
            known = task.towers["two_tower"]
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
