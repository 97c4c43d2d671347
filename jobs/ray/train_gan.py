"""train_gan: bronze/images, silver/items -> gold/model_metrics, model `gan`.

Tasks decode the catalogue's pictures, at most `max_pictures`, which the driver and each worker's share are made of. Each gets
a class by its item's category; a share of each class is held out, and a conditional GAN is trained on the rest with Ray
Train. The run's folder holds the prepared pictures, the options, the losses, a grid of samples and the generator (the moving
average of its weights). Every epoch leaves a checkpoint, from which a killed worker or job resumes. The generator becomes the
current one only where it is not worse than the one before on the same pictures (lib/runs/promotion.py). Pictures that cannot
be decoded, or whose class is too rare, are left out and counted. A log without pictures is skipped.
"""

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from pydantic import Field, ValidationInfo, field_validator

from gan.arrays import Picture, Pictures
from gan.generator import GENERATOR_FILE, PREPARED_FILE, KeptGenerator, sample_grid
from gan.metrics.calibration import qualities
from gan.metrics.generator_metrics import Measure, measure
from gan.metrics.quality import NUM_NEIGHBOURS, CategoryQuality
from gan.provenance import provenance, save
from gan.training import dataset
from gan.training.augment import AUGMENTATIONS
from gan.training.dataset import Category, PreparedPictures
from gan.training.loop import EpochLosses, TrainOptions, resolved
from gan.training.networks import num_parameters
from gan.training.train import fit
from lib.engines.arrow_tasks import gathered
from lib.engines.ray_tasks import RayRun
from lib.engines.ray_train import ray_session
from lib.pictures import catalogue
from lib.runs.promotion import UNREADABLE, PromotionSettings, Row, Scores, commit_beside, settle
from lib.runs.run import Run, start_run
from lib.settings import JobSettings
from lib.statistics.bootstrap import mean_interval
from lib.tables import contract

MODEL = "gan"
JUDGED_BY = ("quality", "coverage")  # neither alone: pictures near the average are of good quality, and all alike
GRID_CLASSES, GRID_PICTURES = 24, 8
BETA1, BETA2 = 0.0, 0.99  # of Adam in the adversarial epochs
NEEDED = NUM_NEIGHBOURS + 2  # minimum pictures of a class: one with its neighbours, and one held out


class TrainGanSettings(PromotionSettings, JobSettings):
    """The defaults suit the simulator's drawn pictures and photographs of fashion; training takes minutes on 2 cores."""

    resolution: Literal[32, 64] = Field(32, description="side of the pictures, in pixels")
    num_epochs: int = Field(21, ge=1, description="epochs, including the start epochs; each leaves a checkpoint")
    num_start_epochs: int = Field(
        16,
        ge=0,
        description="first epochs, in which the generator learns by reconstruction, without a discriminator",
    )
    steps_per_epoch: int = Field(40, ge=1, description="batches in an epoch, whatever the number of pictures")
    batch_size: int = Field(64, ge=2, description="pictures in a batch, over all workers")
    base_channels: int = Field(24, ge=4, le=256, description="channels of the finest feature map")
    latent_dim: int = Field(32, ge=2, description="dimensions of the generator's noise")
    learning_rate_start: float = Field(4e-3, gt=0, description="of generator and encoder in the start epochs (Adam)")
    kl_weight: float = Field(2e-4, ge=0, description="weight of the divergence in the reconstruction loss")
    reconstruction_weight: float = Field(
        50.0, ge=0, description="weight of the reconstruction loss beside the generator's adversarial loss"
    )
    learning_rate_generator: float = Field(2e-4, gt=0, description="of the generator (Adam)")
    learning_rate_discriminator: float = Field(5e-4, gt=0, description="of the discriminator (Adam)")
    ema_decay: float = Field(
        0.99, ge=0, lt=1, description="decay per step of the moving average of the generator's weights"
    )
    augmentations: tuple[Literal["colour", "translation", "cutout"], ...] = Field(
        ("translation",), description="differentiable augmentations of what the discriminator sees"
    )
    min_pictures: int = Field(12, ge=NEEDED, description="a category with fewer pictures is merged into its parent")
    max_pictures: int = Field(20_000, ge=NEEDED, description="maximum number of pictures used; the seed decides which")
    held_out_frac: float = Field(
        0.15, gt=0, le=0.5, description="share of each class held out of training, to measure quality"
    )
    max_failures: int = Field(3, ge=0, description="how often lost workers are restarted")
    num_resamples: int = Field(1000, ge=100, description="bootstrap resamples of the pictures")
    seed: int = Field(0, ge=0, description="of weights, noise, batches, the held-out share and the bootstrap")

    @field_validator("num_start_epochs")
    @classmethod
    def is_part_of_all_epochs(cls, value: int, info: ValidationInfo) -> int:
        if value > (most := info.data.get("num_epochs", value)):
            raise ValueError(f"should be at most num_epochs, which is {most}")
        return value


assert set(AUGMENTATIONS) == {"colour", "translation", "cutout"}


def train_options(settings: TrainGanSettings, *, num_classes: int) -> TrainOptions:
    """The training's options, from the settings."""
    return TrainOptions(
        resolution=settings.resolution,
        num_classes=num_classes,
        num_epochs=settings.num_epochs,
        num_start_epochs=settings.num_start_epochs,
        steps_per_epoch=settings.steps_per_epoch,
        batch_size=settings.batch_size,
        latent_dim=settings.latent_dim,
        base_channels=settings.base_channels,
        learning_rate_start=settings.learning_rate_start,
        kl_weight=settings.kl_weight,
        reconstruction_weight=settings.reconstruction_weight,
        learning_rate_generator=settings.learning_rate_generator,
        learning_rate_discriminator=settings.learning_rate_discriminator,
        beta1=BETA1,
        beta2=BETA2,
        ema_decay=settings.ema_decay,
        augmentations=settings.augmentations,
        seed=settings.seed,
    )


def largest_classes(labels: NDArray[np.int64], number: int) -> list[int]:
    """The labels of the classes with most pictures, ascending."""
    largest: list[int] = np.argsort(-np.bincount(labels), kind="stable")[:number].tolist()
    return sorted(largest)


def require_enough(counts: Counter[str], *, num_workers: int) -> None:
    """Refuse too few pictures to train on, to share out or to measure by; `counts` are the pictures of each class.

    Raises:
        ValueError: there are too few.
    """
    total = counts.total()
    if not total or min(counts.values()) < NEEDED:
        raise ValueError(
            f"{total} pictures could be decoded; a generator needs at least {NEEDED} of a class, and hundreds to be any good: "
            "add pictures to the catalogue, or end the pipeline earlier with --to experiment"
        )
    if total < 2 * num_workers:
        raise ValueError(
            f"{total} pictures are too few for {num_workers} training workers; "
            f"set --cluster.num-workers {total // 2} or add pictures"
        )


def metric_rows(measures: Sequence[Measure], *, version: str, seed: int, num_resamples: int) -> list[dict[str, object]]:
    """Rows of gold/model_metrics: means over pictures with a bootstrap interval."""
    rows: list[dict[str, object]] = []
    for found in measures:
        value, low, high = mean_interval(found.values, seed, num_resamples=num_resamples)
        names = {"model": MODEL, "version": version, "split": found.split, "metric": found.metric}
        rows.append(names | {"value": value, "low": low, "high": high, "n": len(found.values)})
    return rows


def read_pictures(run: RayRun, settings: TrainGanSettings) -> tuple[dict[str, Picture], int]:
    """One picture of each item, decoded by tasks, and how many are undecodable."""
    limits = {"max_pictures": settings.max_pictures, "seed": settings.seed}
    files = run.files_of({"": "bronze/images"})
    in_files = files.then(catalogue.choose_in_files, **limits)
    keys = in_files.to_shards(1).then(catalogue.choose_of_chosen, **limits).collected()
    chosen = dict(gathered(keys, catalogue.KEY, catalogue.GATHERED).iter_rows())
    given = {"chosen": run.engine.broadcast(chosen), "resolution": settings.resolution}
    found = catalogue.decoded(files.then(catalogue.decode_chosen, **given).collected(), settings.resolution)
    return found, len(chosen) - len(found)


def read_categories(run: Run, item_ids: Sequence[str]) -> dict[str, Category]:
    """Each item's category path; empty where the catalogue has none."""
    known: dict[str, Category] = {}
    if run.has("silver/items"):
        is_asked = pc.field("item_id").isin(item_ids)
        for batch in run.dataset("silver/items").to_batches(columns=["item_id", "category"], filter=is_asked):
            known |= {row["item_id"]: tuple(row["category"] or ()) for row in batch.to_pylist()}
    return {item: known.get(item, ()) for item in item_ids}


def keep(run: Run, generator: KeptGenerator, history: Sequence[EpochLosses], options: TrainOptions) -> None:
    """Write the generator, its options and its losses into the run's folder."""
    folder = run.files(MODEL)
    generator.save(folder / GENERATOR_FILE, base_channels=options.base_channels, tables=run.inputs)
    (folder / "options.json").write_text(
        json.dumps(resolved(options) | {"classes": list(generator.classes)}, indent=2, ensure_ascii=False)
    )
    with (folder / "losses.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(history[0]))
        writer.writeheader()
        writer.writerows(history)


def curves_of(history: Sequence[EpochLosses]) -> dict[str, list[float]]:
    """What every epoch has told, by name."""
    columns = {name: [row[name] for row in history] for name in history[0] if name != "epoch"}
    known = {name: [value for value in values if value is not None] for name, values in columns.items()}
    return {name: values for name, values in known.items() if len(values) == len(history)}


def keep_samples(run: Run, generator: KeptGenerator, labels: Sequence[int], *, seed: int) -> None:
    """Write a grid of pictures of these classes into the run's folder; `seed` is the training's."""
    facts = provenance(
        model=MODEL,
        version=run.run_id,
        training_data={"bronze/images": run.version_of("bronze/images")},
        as_of=run.as_of,
        seed=seed,
        category="samples of all classes",
    )
    grid = sample_grid(generator, labels, num_pictures=GRID_PICTURES)
    save(grid, run.files(MODEL) / "samples.png", facts, "trainedAlgorithmicMedia")


def scores(
    run: Run, prepared: PreparedPictures, known: Mapping[int, CategoryQuality], generator: KeptGenerator, current: Row
) -> Scores:
    """Both generators' quality and coverage, against the same pictures, in the classes that both know."""
    file = run.lake.local(current["uri"]) / GENERATOR_FILE
    try:
        before = KeptGenerator.load(file)
    except UNREADABLE:
        return Scores(why=f"{run.uri(file)} holds no generator that can be loaded")
    shared = {label: quality for label, quality in known.items() if prepared.classes[label] in before.classes}
    if not shared or before.network.resolution != generator.network.resolution:
        return Scores(why="it makes pictures of another size, or of none of today's classes")

    def sample_before(label: int, number: int) -> Pictures:
        return before.sample(before.classes.index(prepared.classes[label]), number)

    return Scores(
        judged_values(measure(prepared, shared, generator.sample)),
        judged_values(measure(prepared, shared, sample_before)),
    )


def judged_values(measures: Sequence[Measure]) -> dict[str, NDArray[np.float64]]:
    """The values of the metrics that decide which generator is current."""
    return {found.metric: found.values for found in measures if found.metric in JUDGED_BY}


def publish(run: Run, rows: Sequence[dict[str, object]], kept: str | None) -> None:
    """Commit the metrics, beside those of the generator that stays current."""
    table = pa.Table.from_pylist(rows, schema=contract("gold/model_metrics").schema)
    commit_beside(run, "gold/model_metrics", MODEL, table, kept)


def prepare(run: RayRun, settings: TrainGanSettings) -> PreparedPictures:
    """The pictures that the generator is trained on and measured by.

    Raises:
        ValueError: there are too few.
    """
    found, undecodable = read_pictures(run, settings)
    classes = dataset.assign_classes(read_categories(run, list(found)), min_pictures=settings.min_pictures)
    counts = Counter(classes[item] for item in found if item in classes)
    rare = len(found) - counts.total()
    run.log("read pictures", pictures=len(found), undecodable=undecodable, of_rare_class=rare, classes=len(counts))
    require_enough(counts, num_workers=settings.cluster.num_workers)
    return dataset.prepare(found, classes, held_out_frac=settings.held_out_frac, seed=settings.seed)


def main(settings: TrainGanSettings) -> None:
    with start_run("train_gan", settings, RayRun) as run:
        torch.set_num_threads(1)  # one thread, so that jobs on a small machine do not slow each other down
        run.version_of("bronze/images")  # without which the job is skipped, before Ray is started
        with ray_session(settings.cluster):
            prepared = prepare(run, settings)
            path = run.files(MODEL) / PREPARED_FILE
            dataset.write(prepared, path)
            run.keep_files()
            options = train_options(settings, num_classes=len(prepared.classes))
            state = fit(
                run.lake, run.uri(path), options, settings.cluster, name=run.run_id, max_failures=settings.max_failures
            )
        last = state.history[-1]
        losses = {"loss_d": last["loss_discriminator"], "loss_g": last["loss_generator"]}
        run.log("trained", epochs=state.num_epochs_done, **losses)
        generator = KeptGenerator(state.ema, prepared.classes)
        keep(run, generator, state.history, options)
        keep_samples(run, generator, largest_classes(prepared.labels, GRID_CLASSES), seed=options.seed)
        known = qualities(prepared)
        measures = measure(prepared, known, generator.sample)
        run.log("measured", **{found.metric: float(found.values.mean()) for found in measures})
        rows = metric_rows(measures, version=run.run_id, seed=settings.seed, num_resamples=settings.num_resamples)
        kept = settle(
            run,
            MODEL,
            partial(scores, run, prepared, known, generator),
            max_loss_frac=settings.max_loss_frac,
            folder=run.files(MODEL),
            checkpoint=run.files(MODEL) / GENERATOR_FILE,
            num_parameters=num_parameters(generator.network),
            curves=curves_of(state.history),
        )
        publish(run, rows, kept)


if __name__ == "__main__":
    main(TrainGanSettings.from_command_line())
