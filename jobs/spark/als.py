"""als: gold/interactions -> gold/vectors (model als), ops/models.

Implicit-feedback ALS (Hu, Koren and Volinsky 2008), fitted on all interactions before `as_of`, by one of two engines of one
contract: tasks that run together, which hold blocks of users and of items and solve them by `implicit`'s kernel
(lib/ranking/als_fit.py), or Spark's MLlib (lib/engines/mllib.py). The score of a user and an item is the dot product of their
factors. A second fit, which ends where the validation window begins, is what the version is judged by: it becomes the current
one only where it is not worse than the one before (lib/runs/promotion.py), whose factors stay otherwise. Tasks write the
vectors. A rerun, a retry or a kill changes nothing; a fit that was cut off goes on from its last checkpoint.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from functools import partial
from typing import Literal, Protocol

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from deltalake.transaction import AddAction
from pydantic import Field

from lib.engines.arrow_tasks import gathered
from lib.engines.spark import SparkRun, start_run
from lib.lake.writes import num_rows, remove_files, transaction_id
from lib.ranking import als_tasks
from lib.ranking.als_fit import BlockedFits, Hyperparameters, vectors_in
from lib.ranking.als_search import search
from lib.ranking.als_tasks import VECTORS
from lib.ranking.validation import METRIC, ndcg_of_vectors, scores_of_vectors, wanted_items, with_known
from lib.ranking.vector_files import copied_vectors
from lib.runs.model_registry import judged, models
from lib.runs.promotion import (
    EarlierFitsSettings,
    PromotionSettings,
    Row,
    Scores,
    moments_of_fits,
    settle,
    validation_from,
)
from lib.settings import JobSettings

MODEL = "als"


class AlsSettings(EarlierFitsSettings, PromotionSettings, JobSettings):
    """Defaults chosen by NDCG@10, over all and over new items, on the validation window of Online Retail."""

    engine: Literal["blocked", "mllib"] = Field(
        "blocked", description="tasks that run together and solve blocks by `implicit`'s kernel, or Spark's MLlib"
    )
    rank: int = Field(64, ge=1, le=1024, description="length of a factor")
    alpha: float = Field(4.0, gt=0, description="confidence added to a pair per unit of strength")
    regularization: float = Field(
        0.12, ge=0, description="lambda; multiplied by the number of a user's or item's pairs (ALS-WR)"
    )
    half_life_days: float | None = Field(
        60.0, gt=0, description="age at which an interaction counts half in a pair's strength, in days; null: never"
    )
    num_iterations: int = Field(12, ge=1, le=100, description="sweeps over users and items")
    warm_iterations: int | None = Field(
        None,
        ge=1,
        le=100,
        description="sweeps of a fit that begins from the current version's factors, by the blocked engine; unset: every fit "
        "begins from numbers drawn from the ids, and is the same whatever was fitted before",
    )
    search: bool = Field(
        False,
        description="try other ranks, regularizations, alphas and half-lives on the validation window, and fit with the best; "
        "what was tried is in the log and in `files/als/<run>.json`",
    )
    cg_steps: int = Field(
        3, ge=1, le=100, description="conjugate-gradient steps of the blocked engine, a factor and sweep"
    )
    checkpoint_every: int = Field(
        4, ge=0, description="sweeps of the blocked engine after which factors are left in the lake; 0: never"
    )
    pairs_per_task: int = Field(
        500_000,
        ge=1,
        description="interactions for which the blocked engine takes one more task, up to those that can run at once",
    )
    num_blocks: int | None = Field(
        None, ge=1, le=10_000, description="MLlib's blocks of users and of items; unset: by the number of pairs"
    )
    seed: int = Field(0, ge=0, description="seed of the initial factors")

    @property
    def hyperparameters(self) -> Hyperparameters:
        """Those that a search looks for, as they are set."""
        return Hyperparameters(self.rank, self.alpha, self.regularization, self.half_life_days)


class Fits(Protocol):
    """What fits, by whichever engine."""

    def fit(
        self, version: str, as_of: datetime, wanted: Hyperparameters, *, start: str | None = None, sweeps: int = 0
    ) -> list[AddAction] | None: ...

    def drop_checkpoints(self) -> None: ...


def fits_of(run: SparkRun, settings: AlsSettings) -> Fits:
    """The engine that is set."""
    if settings.engine == "mllib":
        from lib.engines.mllib import MllibFits  # noqa: PLC0415 - seconds that the other engine need not wait for

        return MllibFits(run, MODEL, settings.num_iterations, settings.num_blocks, settings.seed)
    return BlockedFits(
        run,
        MODEL,
        until=run.as_of,
        num_sweeps=settings.num_iterations,
        cg_steps=settings.cg_steps,
        seed=settings.seed,
        checkpoint_every=settings.checkpoint_every,
        pairs_per_task=settings.pairs_per_task,
    )


def wanted_in_window(run: SparkRun) -> pa.Table:
    """What users bought (or what the log counts as relevant) in the validation window, and knew before it.

    `user_key`, `items`, `known`.
    """
    start, end = validation_from(run), run.as_of
    days = pl.date_range(start.date(), end.date(), eager=True).to_list()
    files = run.files_of({"": "gold/interactions"}, holding={"event_date": days})
    found = files.then(als_tasks.find_wanted, start=start, end=end).collected()
    wanted = wanted_items(gathered(found, als_tasks.WANTED, als_tasks.GATHERED).to_arrow().to_batches())
    user_keys = run.engine.broadcast(wanted["user_key"].to_pylist())
    files = run.files_of({"": "gold/interactions"})
    found = files.then(als_tasks.find_known, user_keys=user_keys, until=start).collected()
    return with_known(wanted, gathered(found, als_tasks.KNOWN, als_tasks.GATHERED).to_arrow().to_batches())


def scores(run: SparkRun, fit: Sequence[AddAction] | None, current: Row) -> Scores:
    """How well this version's fit from before the validation window, and the current version's, find what was wanted."""
    if fit is None:
        return Scores()
    wanted = wanted_in_window(run)
    vectors = vectors_in(run.lake, fit, wanted["user_key"].combine_chunks())
    return scores_of_vectors(run.lake, MODEL, vectors, wanted, current=current["version"])


def searched(run: SparkRun, fits: Fits, start: Hyperparameters) -> Hyperparameters:
    """The best of what is tried on the validation window; what is set where nothing was wanted in it."""
    wanted = wanted_in_window(run)
    if not wanted.num_rows:
        run.log("nothing is searched", why="nothing was wanted in the validation window")
        return start
    users = wanted["user_key"].combine_chunks()

    def score(point: Hyperparameters) -> float:
        version = "-".join([run.run_id, "tried", *(str(value) for value in asdict(point).values())])
        files = fits.fit(version, validation_from(run), point)
        found = 0.0
        if files is not None:
            found = float(ndcg_of_vectors(vectors_in(run.lake, files, users), wanted).mean())
            remove_files(run.lake, VECTORS, files)
        run.log("tried", **asdict(point), **{METRIC: found})
        return found

    tried = search(start, score)
    rows = [asdict(trial.point) | {METRIC: trial.score} for trial in tried]
    run.lake.write_text(f"files/als/{run.run_id}.json", json.dumps(rows, indent=1))
    run.log("chosen", trials=len(tried), **asdict(tried[0].point))
    return tried[0].point


def stored_fits(run: SparkRun) -> dict[str, datetime]:
    """The fits in gold/vectors before this run wrote, with their moments."""
    if not run.lake.exists(VECTORS):
        return {}
    dataset = run.lake.dataset(VECTORS, run.version_before(VECTORS))
    is_item = (pc.field("model") == MODEL) & (pc.field("kind") == "item")
    found: dict[str, datetime] = {}
    for batch in dataset.to_batches(columns=["version", "as_of"], filter=is_item):
        found |= dict(pl.DataFrame(batch).unique().iter_rows())
    return found


def warm_start(run: SparkRun, stored: Mapping[str, datetime], *, rank: int) -> str | None:
    """The version from whose factors this run's fits begin: the last that was ever current; none if it is of another rank."""
    others = [row for row in models(run.lake) if row["model"] == MODEL and row["version"] != run.run_id]
    versions = [row["version"] for row in others if row["status"] != "candidate" and row["version"] in stored]
    if not versions:
        run.log("begins from nothing", why="gold/vectors holds no version that was current")
        return None
    is_of_version = (pc.field("model") == MODEL) & (pc.field("version") == versions[-1]) & (pc.field("kind") == "item")
    dataset = run.lake.dataset(VECTORS, run.version_before(VECTORS))
    length = len(dataset.head(1, columns=["values"], filter=is_of_version)["values"][0])
    if length != rank:
        run.log("begins from nothing", why=f"the factors of {versions[-1]} are of length {length}, not {rank}")
        return None
    return str(versions[-1])


def main(settings: AlsSettings) -> None:
    with start_run("als", settings) as run:
        fits = fits_of(run, settings)
        if run.lake.last_committed_run(VECTORS, transaction_id("als", VECTORS, {"model": MODEL})) >= run.number:
            run.commit_written("gold/vectors", [], where={"model": MODEL})  # it was cut off afterwards
            fits.drop_checkpoints()
            return
        chosen = searched(run, fits, settings.hyperparameters) if settings.search else settings.hyperparameters
        stored = stored_fits(run)
        before = warm_start(run, stored, rank=chosen.rank) if settings.warm_iterations else None

        def fit(version: str, as_of: datetime, start: str | None) -> list[AddAction] | None:
            is_known = start is not None and start in stored and stored[start] <= as_of
            sweeps = settings.warm_iterations or 0
            return fits.fit(version, as_of, chosen, start=start if is_known else None, sweeps=sweeps)

        served = fit(run.run_id, run.as_of, before)
        if served is None:
            run.skip(f"no interaction before {run.as_of:%Y-%m-%d %H:%M}")
        moments = moments_of_fits(run, run.run_id, settings.num_fits_before)
        by_valid = fit(judged(run.run_id), moments[judged(run.run_id)], before and judged(before))
        kept = settle(
            run,
            MODEL,
            partial(scores, run, by_valid),
            max_loss_frac=settings.max_loss_frac,
            folder=VECTORS,
            num_parameters=num_rows(served) * chosen.rank,
        )
        files = [*served, *(by_valid or [])]
        if kept is None:
            for name, moment in moments.items():
                files += (fit(name, moment, None) or []) if name not in (run.run_id, judged(run.run_id)) else []
        files += copied_vectors(run, MODEL, kept, before=True)
        run.commit_written("gold/vectors", files, where={"model": MODEL})
        fits.drop_checkpoints()


if __name__ == "__main__":
    main(AlsSettings.from_command_line())
