"""The pipeline: every job in its order, what it reads and writes, declared once. Imports nothing of the project."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Job:
    """One submit target.

    `reads` are the tables it cannot do without, `may_read` those it uses where they exist, `models` the current models it
    takes from `ops/models`; `writes` are its outputs. `code` names the packages beside `lib` and its own file whose change
    makes its results stale.
    """

    name: str
    engine: Literal["spark", "ray", "local"]
    does: str
    reads: tuple[str, ...] = ()
    may_read: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    code: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The job's file below the checkout."""
        return Path("jobs") / self.engine / f"{self.name}.py"


PIPELINE: tuple[Job, ...] = (
    Job("simulate", "spark", "writes the raw log of a simulated market with known truth", code=("rl",)),
    Job(
        "ingest",
        "spark",
        "reads new files of the log, every record as received",
        writes=("bronze/*", "bronze/images", "bronze/rejects"),
    ),
    Job(
        "clean",
        "spark",
        "types, rejects, deduplicates, sessions, bots, pseudonyms",
        reads=("bronze/*",),
        may_read=("bronze/images",),
        writes=("silver/events", "silver/items", "bronze/rejects"),
    ),
    Job(
        "featurize",
        "spark",
        "profiles, interest tags, interactions, labelled examples",
        reads=("silver/events",),
        may_read=("silver/items",),
        writes=(
            "gold/user_profiles",
            "gold/item_profiles",
            "gold/interactions",
            "gold/examples",
            "gold/scaling",
        ),
    ),
    Job("als", "spark", "implicit-feedback ALS factors", reads=("gold/interactions",), writes=("gold/vectors",)),
    Job(
        "train_encoder",
        "ray",
        "purchase encoder and two towers on Ray Train",
        reads=("gold/examples", "gold/interactions"),
        may_read=("silver/items", "gold/user_profiles", "gold/item_profiles"),
        writes=("gold/vectors", "gold/model_metrics"),
    ),
    Job(
        "recommend",
        "spark",
        "ranked lists of every strategy, each row with its reason",
        reads=("gold/interactions",),
        may_read=("gold/vectors", "silver/items", "gold/item_profiles"),
        writes=("gold/recommendations",),
    ),
    Job(
        "evaluate",
        "spark",
        "ranking metrics with intervals, paired against popularity",
        reads=("gold/recommendations", "gold/interactions"),
        may_read=("gold/item_profiles",),
        writes=("gold/ranking_metrics",),
    ),
    Job(
        "decisions",
        "spark",
        "sessions with logged impressions become episodes",
        reads=("silver/events",),
        may_read=("silver/items",),
        writes=("gold/decisions",),
        code=("rl",),
    ),
    Job(
        "train_policy",
        "ray",
        "Q-learning on logged decisions, valued off-policy before it may serve",
        reads=("gold/decisions",),
        writes=("gold/policy_values",),
        code=("rl",),
    ),
    Job("experiment", "spark", "the log's arms compared", reads=("silver/events",), writes=("gold/experiments",)),
    Job(
        "train_gan",
        "ray",
        "a conditional GAN of product pictures on Ray Train",
        reads=("bronze/images",),
        may_read=("silver/items",),
        writes=("gold/model_metrics",),
        code=("gan",),
    ),
    Job(
        "make_creatives",
        "ray",
        "generated pictures and labelled adverts of recommended items",
        reads=("gold/recommendations", "silver/items"),
        models=("gan",),
        writes=("gold/creatives",),
        code=("gan",),
    ),
    Job("report", "local", "one HTML page of all that"),
)

JOBS: dict[str, Job] = {job.name: job for job in PIPELINE}
