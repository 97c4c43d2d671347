"""The pipeline: every job in its order, what it reads and writes, declared once. Imports nothing of the project."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parent.parent


# The rooms that every job runs in, and those of its engine. Neither this file nor a command is among them: they change no result.
EVERY_JOBS_CODE = ("lib/settings.py", "lib/tables", "lib/formats", "lib/lake", "lib/runs")
ENGINE_CODE = {
    "spark": ("lib/engines/spark.py", "lib/engines/arrow_tasks.py"),
    "ray": ("lib/engines/ray_train.py",),
    "local": (),
}


@dataclass(frozen=True)
class Job:
    """One submit target.

    `reads` are the tables it cannot do without, `may_read` those it uses where they exist ("*": all but those of ops), `models` the current models it takes from
    `ops/models`; `writes` are its outputs. `code` names the rooms (folders, or files at the root of a package) that its result
    depends on, beside its own file, EVERY_JOBS_CODE and ENGINE_CODE: a change there makes its results stale, and no other does.

    `makes_log`: it writes a log instead of reading one, so no mapping bears on it. `finds_new_files`: what is new it can only tell
    by looking, so it is never passed over. `before_events`: it comes before silver/events, from which the log's times are known.
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

    @property
    def path(self) -> Path:
        """The job's file below the checkout."""
        return Path("jobs") / self.engine / f"{self.name}.py"

    @property
    def code_rooms(self) -> tuple[str, ...]:
        """All rooms whose code the job's result depends on."""
        return (*EVERY_JOBS_CODE, *ENGINE_CODE[self.engine], *self.code)


PIPELINE: tuple[Job, ...] = (
    Job(
        "simulate",
        "spark",
        "writes the raw log of a simulated market with known truth",
        code=("rl/market", "rl/dataset", "rl/observation.py", "lib/statistics"),
        makes_log=True,
        before_events=True,
    ),
    Job(
        "ingest",
        "spark",
        "reads new files of the log, every record as received",
        writes=("bronze/*", "bronze/images", "bronze/rejects"),
        finds_new_files=True,
        before_events=True,
    ),
    Job(
        "clean",
        "spark",
        "types, rejects, deduplicates, sessions, bots, pseudonyms",
        reads=("bronze/*",),
        may_read=("bronze/images",),
        writes=("silver/events", "silver/items", "bronze/rejects"),
        code=("lib/cleaning",),
        before_events=True,
    ),
    Job(
        "featurize",
        "spark",
        "profiles, interest tags, interactions, labelled examples",
        reads=("silver/events",),
        may_read=("silver/items",),
        writes=("gold/user_profiles", "gold/item_profiles", "gold/interactions", "gold/examples", "gold/scaling"),
        code=("lib/features",),
    ),
    Job(
        "als",
        "spark",
        "implicit-feedback ALS factors",
        reads=("gold/interactions",),
        writes=("gold/vectors",),
        code=("lib/ranking",),
    ),
    Job(
        "train_encoder",
        "ray",
        "purchase encoder and two towers on Ray Train",
        reads=("gold/examples", "gold/interactions"),
        may_read=("silver/items",),
        writes=("gold/vectors", "gold/model_metrics"),
        code=("lib/models", "lib/ranking", "lib/statistics"),
    ),
    Job(
        "recommend",
        "spark",
        "ranked lists of every strategy, each row with its reason",
        reads=("gold/interactions",),
        may_read=("gold/vectors", "silver/items"),
        writes=("gold/recommendations",),
        code=("lib/ranking",),
    ),
    Job(
        "evaluate",
        "spark",
        "ranking metrics with intervals, paired against popularity",
        reads=("gold/recommendations", "gold/interactions"),
        writes=("gold/ranking_metrics",),
        code=("lib/ranking", "lib/statistics"),
    ),
    Job(
        "decisions",
        "spark",
        "sessions with logged impressions become episodes",
        reads=("silver/events",),
        may_read=("silver/items",),
        writes=("gold/decisions",),
        code=("rl/dataset", "rl/observation.py"),
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
    ),
    Job(
        "experiment",
        "spark",
        "the log's arms compared",
        reads=("silver/events",),
        writes=("gold/experiments",),
        code=("lib/statistics",),
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
            "lib/statistics",
        ),
    ),
    Job(
        "make_creatives",
        "ray",
        "generated pictures and labelled adverts of recommended items",
        reads=("gold/recommendations", "silver/items"),
        models=("gan",),
        writes=("gold/creatives",),
        code=("gan/adverts", "gan/arrays.py", "gan/generator.py", "gan/metrics", "gan/provenance.py", "gan/training"),
    ),
    Job(
        "report",
        "local",
        "one HTML page of all that",
        may_read=("*",),
        code=("lib/report",),
    ),
)

JOBS: dict[str, Job] = {job.name: job for job in PIPELINE}
