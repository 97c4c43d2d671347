"""The pipeline, declared once: the jobs in order, and what each reads and writes. Imports nothing from the project."""

import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parent.parent


# The code that every job runs, and the code of each engine. This file and the commands are not included: they change no
# result.
EVERY_JOBS_CODE = ("lib/settings.py", "lib/tables", "lib/formats", "lib/lake", "lib/runs")
ENGINE_CODE = {
    "spark": (
        *("lib/engines/spark.py", "lib/engines/spark_properties.py", "lib/engines/local_tasks.py"),
        *("lib/engines/parts.py", "lib/engines/held_parts.py", "lib/engines/arrow_tasks.py"),
    ),
    "ray": (
        *("lib/engines/ray_train.py", "lib/engines/ray_tasks.py"),
        *("lib/engines/parts.py", "lib/engines/held_parts.py", "lib/engines/arrow_tasks.py"),
    ),
    "local": (),
}


@dataclass(frozen=True)
class Size:
    """What one process of a job asks of a cluster."""

    cores: float
    memory: float  # GiB, all of it
    heap: float = 0  # GiB of it for Java; Python's processes take the rest
    gpus: int = 0


@dataclass(frozen=True)
class Workers:
    """A job's executors or training workers: one by one as they are needed, or all at once."""

    size: Size
    at_most: int


@dataclass(frozen=True)
class Job:
    """One submit target.

    `reads` are the tables it requires, `may_read` those it uses if they exist ("*": all but those of ops), `models` the
    current models it takes from `ops/models`; `writes` are its outputs. `code` lists the rooms (folders or files) that
    its result depends on, besides its own file, EVERY_JOBS_CODE and ENGINE_CODE: only a change in these makes its
    results stale.

    `makes_log`: it writes a log instead of reading one, so the mapping does not affect it. `finds_new_files`: it can
    only tell what is new by looking, so it always runs. `before_events`: it runs before silver/events exists, which
    gives the log's times. `by_day`: it can make single days anew (docs/decisions/0018). `runs`: other jobs that it runs
    itself, again and again, with their own settings. `goes_on`: it does not end by itself.

    `driver` and `workers` are what it asks of a cluster where nothing else is said: the sizes for some 50 M events a day
    (docs/scaling.md). The driver of a Ray job is the head.
    """

    name: str
    engine: Literal["spark", "ray", "local"]
    does: str
    reads: tuple[str, ...] = ()
    may_read: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    makes_log: bool = False
    finds_new_files: bool = False
    before_events: bool = False
    by_day: bool = False
    runs: tuple[str, ...] = ()
    goes_on: bool = False
    driver: Size = Size(cores=1, memory=3, heap=1)
    workers: Workers | None = None

    @property
    def path(self) -> Path:
        """The job's file, relative to the checkout."""
        return Path("jobs") / self.engine / f"{self.name}.py"

    @property
    def file(self) -> Path:
        """The job's file here: in the checkout, or beside the job that was submitted with the zip of our packages."""
        own = ROOT / self.path
        return own if own.is_file() else Path(sys.argv[0]).absolute().parent.parent / self.engine / f"{self.name}.py"

    @property
    def code_rooms(self) -> tuple[str, ...]:
        """All rooms whose code the job's result depends on."""
        return (*EVERY_JOBS_CODE, *ENGINE_CODE[self.engine], *self.code)

    def uses(self, other: "Job") -> bool:
        """Whether the other writes a table, or trains a model, that this one reads, or writes a table that it writes too."""
        tables = {*self.reads, *self.may_read, *self.writes}
        return (
            not tables.isdisjoint(other.writes)
            or ("*" in tables and bool(other.writes))
            or other.name in map(maker_of, self.models)
        )


def maker_of(model: str) -> str:
    """The job that makes a model of ops/models."""
    return "publish" if model == "release" else f"train_{model}"


PIPELINE: tuple[Job, ...] = (
    Job(
        "simulate",
        "spark",
        "writes the raw log of a simulated market with known truth",
        code=("rl/market", "rl/dataset", "rl/observation.py", "lib/statistics"),
        makes_log=True,
        before_events=True,
        workers=Workers(Size(cores=2, memory=5, heap=1), at_most=4),
    ),
    Job(
        "ingest",
        "spark",
        "reads new files of the log, every record as received",
        writes=("bronze/*", "bronze/images", "bronze/rejects"),
        code=("lib/ingestion",),
        finds_new_files=True,
        before_events=True,
        workers=Workers(Size(cores=2, memory=6, heap=1), at_most=4),
    ),
    Job(
        "clean",
        "spark",
        "types and deduplicates records, adds sessions, bot flags and pseudonyms",
        reads=("bronze/*",),
        may_read=("bronze/images",),
        writes=("silver/events", "silver/items", "silver/descriptions", "bronze/rejects"),
        code=("lib/cleaning",),
        before_events=True,
        by_day=True,
        workers=Workers(Size(cores=2, memory=6, heap=1), at_most=8),
    ),
    Job(
        "featurize",
        "spark",
        "profiles, interest tags, interactions, labelled examples",
        reads=("silver/events",),
        may_read=("silver/items",),
        writes=(
            *("gold/daily", "gold/user_days", "gold/item_days", "gold/interactions"),
            *("gold/user_profiles", "gold/item_profiles", "gold/examples", "gold/scaling"),
        ),
        code=("lib/features",),
        by_day=True,
        workers=Workers(Size(cores=2, memory=6, heap=1), at_most=8),
    ),
    Job(
        "sessions",
        "spark",
        "visits: what somebody did with which items, in order",
        reads=("silver/events",),
        writes=("gold/sessions",),
        code=(
            *("lib/features/changed_days.py", "lib/features/days.py"),
            *("lib/next_item/__init__.py", "lib/next_item/sessions.py"),
        ),
        workers=Workers(Size(cores=2, memory=6, heap=1), at_most=8),
    ),
    Job(
        "als",
        "spark",
        "implicit-feedback ALS factors",
        reads=("gold/interactions",),
        writes=("gold/vectors",),
        code=("lib/ranking", "lib/statistics", "lib/engines/mllib.py", "lib/engines/exchange.py"),
        driver=Size(cores=2, memory=6, heap=4),
        workers=Workers(Size(cores=4, memory=12, heap=9), at_most=4),
    ),
    Job(
        "train_encoder",
        "ray",
        "purchase encoder and two towers on Ray Train",
        reads=("gold/examples", "gold/interactions"),
        may_read=("silver/items", "gold/user_profiles"),
        writes=("gold/vectors", "gold/model_metrics", "gold/propensity_to_buy"),
        code=("lib/models", "lib/ranking", "lib/statistics"),
        driver=Size(cores=2, memory=8),
        workers=Workers(Size(cores=4, memory=16, gpus=1), at_most=2),
    ),
    Job(
        "train_sequence",
        "ray",
        "a causal transformer over users' latest events on Ray Train",
        reads=("gold/sessions",),
        may_read=("gold/interactions",),
        writes=("gold/vectors",),
        code=("lib/models", "lib/ranking", "lib/statistics"),
        driver=Size(cores=2, memory=8),
        workers=Workers(Size(cores=4, memory=16, gpus=1), at_most=2),
    ),
    Job(
        "train_content",
        "ray",
        "vectors of every item from its title, tags and picture, on Ray Train",
        reads=("silver/items",),
        may_read=("bronze/images", "gold/interactions"),
        writes=("gold/vectors", "gold/model_metrics"),
        code=(
            *("lib/content", "lib/pictures", "lib/models", "lib/ranking", "lib/statistics"),
            "lib/candidates/known.py",
        ),
        driver=Size(cores=2, memory=8),
        workers=Workers(Size(cores=4, memory=16, gpus=1), at_most=2),
    ),
    Job(
        "train_ranker",
        "ray",
        "the ranker of all retrievers' candidates: trees and networks on Ray Train, validation chooses",
        reads=("gold/interactions",),
        may_read=("gold/vectors", "silver/items", "silver/descriptions"),
        writes=("gold/model_metrics",),
        code=(
            "lib/candidates",
            "lib/content/users.py",
            "lib/ranking",
            "lib/models/workers.py",
            "lib/statistics",
        ),
        driver=Size(cores=2, memory=8),
        workers=Workers(Size(cores=4, memory=8), at_most=2),
    ),
    Job(
        "recommend",
        "spark",
        "candidates of every retriever, and lists of every strategy, each row with its reason",
        reads=("gold/interactions",),
        may_read=("gold/vectors", "silver/items", "silver/descriptions"),
        models=("ranker",),
        writes=("gold/candidates", "gold/recommendations"),
        code=("lib/candidates", "lib/content/users.py", "lib/ranking", "lib/statistics"),
        driver=Size(cores=2, memory=6, heap=2),
        workers=Workers(Size(cores=2, memory=8, heap=2), at_most=8),
    ),
    Job(
        "evaluate",
        "spark",
        "ranking metrics with intervals, strategies paired; what comes next in a visit",
        may_read=("gold/recommendations", "gold/interactions", "gold/sessions", "silver/events", "silver/items"),
        models=("sequence",),
        writes=("gold/ranking_metrics",),
        code=(
            *("lib/next_item", "lib/models/__init__.py", "lib/models/sequence_weights.py"),
            *("lib/ranking", "lib/statistics"),
        ),
        workers=Workers(Size(cores=2, memory=6, heap=1), at_most=4),
    ),
    Job(
        "decisions",
        "spark",
        "sessions with logged impressions become episodes",
        reads=("silver/events", "gold/item_days"),
        may_read=("silver/items",),
        writes=("gold/decisions",),
        code=("rl/dataset", "rl/observation.py", "lib/features/prices.py", "lib/features/priced_items.py"),
        driver=Size(cores=2, memory=6, heap=2),
        workers=Workers(Size(cores=2, memory=6, heap=1), at_most=4),
    ),
    Job(
        "train_policy",
        "ray",
        "Q-learning on logged decisions, valued off-policy before it may serve",
        reads=("gold/decisions",),
        writes=("gold/policy_values",),
        code=(
            "rl/dataset",
            "rl/learning",
            "rl/market",
            "rl/observation.py",
            "rl/ope",
            "rl/policies.py",
            "lib/statistics",
        ),
        driver=Size(cores=4, memory=12),
    ),
    Job(
        "experiment",
        "spark",
        "compares the arms of the log's experiments",
        reads=("silver/events",),
        writes=("gold/experiments",),
        code=("lib/statistics",),
        workers=Workers(Size(cores=2, memory=5, heap=3), at_most=2),
    ),
    Job(
        "train_gan",
        "ray",
        "a conditional GAN of product pictures on Ray Train",
        reads=("bronze/images",),
        may_read=("silver/items",),
        writes=("gold/model_metrics",),
        code=(
            "gan/adverts",
            "gan/arrays.py",
            "gan/generator.py",
            "gan/metrics",
            "gan/provenance.py",
            "gan/training",
            "lib/pictures",
            "lib/statistics",
        ),
        driver=Size(cores=2, memory=8),
        workers=Workers(Size(cores=4, memory=16, gpus=1), at_most=2),
    ),
    Job(
        "make_creatives",
        "ray",
        "generated pictures and labelled adverts of recommended items",
        reads=("gold/recommendations", "silver/items"),
        models=("gan",),
        writes=("gold/creatives",),
        code=(
            *("gan/adverts", "gan/arrays.py", "gan/generator.py", "gan/metrics", "gan/provenance.py", "gan/training"),
            "lib/pictures",
        ),
        driver=Size(cores=4, memory=8),
    ),
    Job(
        "publish",
        "spark",
        "one release of all that a server answers from",
        reads=("gold/interactions", "silver/events"),
        may_read=(
            *("gold/vectors", "gold/sessions", "gold/creatives", "gold/item_days"),
            *("silver/items", "silver/descriptions"),
        ),
        models=("ranker", "sequence", "policy"),
        code=(
            *("lib/candidates", "lib/content/users.py", "lib/features/interactions.py"),
            *("lib/features/prices.py", "lib/features/priced_items.py", "rl/dataset", "rl/observation.py"),
            *("rl/serving.py", "rl/learning/__init__.py", "rl/learning/qnet_weights.py"),
            *("lib/features/days.py", "lib/models/__init__.py", "lib/models/sequence_weights.py", "lib/next_item"),
            *("lib/online", "lib/ranking", "lib/serving", "lib/statistics"),
        ),
        driver=Size(cores=2, memory=8, heap=2),
        workers=Workers(Size(cores=2, memory=8, heap=2), at_most=8),
    ),
    Job(
        "track",
        "local",
        "records each model version in MLflow",
        may_read=("gold/model_metrics", "gold/vectors", "gold/policy_values"),
        driver=Size(cores=1, memory=3),
    ),
    Job(
        "report",
        "local",
        "one HTML page about all of it",
        may_read=("*",),
        code=("lib/report",),
        driver=Size(cores=1, memory=3),
    ),
)

# Jobs that a scheduler, or a person, starts beside the pipeline.
UPKEEP: tuple[Job, ...] = (
    Job(
        "erase",
        "local",
        "removes a person who asked to be forgotten",
        may_read=("*",),
        code=("lib/cleaning", "lib/engines/arrow_tasks.py", "lib/online"),
        finds_new_files=True,
        before_events=True,
        driver=Size(cores=2, memory=6),
    ),
    Job(
        "maintain",
        "local",
        "brings small files together and removes what is past its retention",
        may_read=("*",),
        finds_new_files=True,
        before_events=True,
        driver=Size(cores=2, memory=6),
    ),
    Job(
        "drift",
        "local",
        "measures how far candidates, events and rewards have moved since the release that serves",
        reads=("gold/interactions", "silver/events"),
        models=("release",),
        writes=("gold/drift",),
        code=(
            *(
                "lib/drift",
                "lib/candidates",
                "lib/content/users.py",
                "lib/features/__init__.py",
                "lib/features/days.py",
            ),
            *(
                "lib/features/interactions.py",
                "lib/models/__init__.py",
                "lib/models/sequence_weights.py",
                "lib/next_item",
            ),
            *("lib/online", "lib/ranking", "lib/serving", "lib/statistics"),
        ),
        finds_new_files=True,
        driver=Size(cores=2, memory=8),
    ),
    Job(
        "serve",
        "ray",
        "answers over HTTP from the current release, and takes events",
        models=("release",),
        code=(
            *("lib/candidates", "lib/cleaning/pseudonyms.py", "lib/content/users.py", "lib/engines/ray_serve.py"),
            *(
                "lib/features",
                "lib/live",
                "lib/models",
                "lib/next_item",
                "lib/online",
                "lib/ranking",
                "lib/serving",
                "lib/statistics",
                "rl/dataset",
                "rl/learning/__init__.py",
                "rl/learning/qnet_weights.py",
                "rl/observation.py",
                "rl/serving.py",
            ),
        ),
        finds_new_files=True,
        before_events=True,
        goes_on=True,
        driver=Size(cores=2, memory=8),
        workers=Workers(Size(cores=2, memory=8), at_most=4),
    ),
)

# Jobs that run all day beside the pipeline (docs/live.md).
LIVE: tuple[Job, ...] = (
    Job(
        "stream",
        "spark",
        "takes the live log from Kafka, or new files as they come, and cleans it again and again",
        writes=("bronze/*",),
        code=("lib/ingestion", "lib/online", "lib/live"),
        finds_new_files=True,
        before_events=True,
        runs=("ingest", "clean"),
        goes_on=True,
        driver=Size(cores=2, memory=6, heap=2),
        workers=Workers(Size(cores=2, memory=6, heap=1), at_most=2),
    ),
)

JOBS: dict[str, Job] = {job.name: job for job in (*PIPELINE, *UPKEEP, *LIVE)}


@cache
def all_jobs_before(job: Job) -> frozenset[str]:
    """The jobs of the pipeline that end before this one begins: it uses what they make, or what a job between makes of it."""
    used = [other for other in PIPELINE[: PIPELINE.index(job)] if job.uses(other)]
    return frozenset(other.name for other in used).union(*map(all_jobs_before, used))


def jobs_before(job: Job) -> list[str]:
    """Those of them for which no other of them waits: the edges of the pipeline as a graph."""
    before = all_jobs_before(job)
    implied = frozenset[str]().union(*(all_jobs_before(JOBS[name]) for name in before))
    return [other.name for other in PIPELINE if other.name in before - implied]
