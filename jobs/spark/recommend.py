"""recommend: gold/interactions, gold/vectors, silver/items, silver/descriptions, model `ranker` -> gold/candidates, gold/recommendations.

Retrieves candidates for every user (lib/candidates/sources.py), and makes the list of every user by every strategy
(lib/candidates/lists.py) for both questions: `all` ranks every item, `new` those that the user had not interacted with before
`as_of`. `ranked` is the strategy to serve: the ranker's order of all retrievers' candidates (train_ranker). Items are those that
someone had interacted with before `as_of`, and those that a catalogue describes and content vectors know; users are all in gold/interactions (of one who first appears later, only the key
is used). A rerun, a retry or a kill changes nothing.

Tasks bring whole users together in shards, and write candidates and lists of a shard into files. What is known of the
catalogue is sent to every task: the items' vectors, of a large catalogue with their indexes, and EASE's matrix.
"""

from pydantic import Field

from lib.candidates import tasks
from lib.candidates.current import ranker_at
from lib.candidates.lists import RANKED, VERBS, WITHOUT_RULES, Wording
from lib.candidates.preparing import RetrievalSettings, Tables, described, retrievals, versions_at
from lib.candidates.rules import Rules
from lib.candidates.sources import CONTENT, MODELS
from lib.candidates.tasks import Moment
from lib.engines.arrow_tasks import files_of
from lib.engines.spark import start_run
from lib.settings import JobSettings

NAME = "now"  # of the one moment
TABLES = Tables("gold/interactions", "gold/vectors", "silver/items", "silver/descriptions")


class RecommendSettings(RetrievalSettings, JobSettings):
    """The length of the lists, and what is retrieved for them."""

    list_length: int = Field(10, ge=1, le=1000, description="items in a list")
    max_per_category: int | None = Field(
        None,
        ge=1,
        description="items of one category in a ranked list, while others are left; unset: no cap. Where this or num_explored is "
        "set, evaluate tells of `ranked_without_rules` too: the difference is the price",
    )
    num_explored: int = Field(
        0, ge=0, le=1000, description="last places of a ranked list that are given to items that are new in the shop"
    )
    explored_days: float = Field(28, gt=0, description="age up to which an item is new in the shop")
    seed: int = Field(0, ge=0, description="seed of the draw of new items")


def main(settings: RecommendSettings) -> None:
    with start_run("recommend", settings) as run:
        moments, versions = {NAME: Moment(run.as_of)}, versions_at(run, TABLES, run.as_of)
        parts = described(run, TABLES, moments, {NAME: versions})
        found = retrievals(run, TABLES, parts, moments, {NAME: versions}, settings)
        if NAME not in found:
            run.skip(f"no interaction before {run.as_of:%Y-%m-%d %H:%M}")
        retrieval, ranker = found[NAME], ranker_at(run, run.as_of, settings.retrieval_options())
        run.log("retrieves", items=len(retrieval.catalogue), ease_items=retrieval.ease.shape[0], **versions)
        for model in [model for model in (*MODELS, CONTENT) if model not in versions]:
            run.log(f"{model} left out", why=f"no {model} vectors as of {run.as_of:%Y-%m-%d %H:%M} or before")
        if ranker is None:
            run.log(f"{RANKED} left out", why=f"no ranker that learned from before {run.as_of:%Y-%m-%d %H:%M} alone")
        written = parts.then(
            tasks.write_lists,
            lake=run.lake.absolute(),
            name=NAME,
            retrieval=run.engine.broadcast(retrieval),
            ranker=ranker,
            versions=versions | (dict.fromkeys((RANKED, WITHOUT_RULES), ranker.version) if ranker else {}),
            length=settings.list_length,
            wording=Wording(VERBS.get(run.mapping.relevance, "chosen"), settings.min_support),
            rules=Rules(settings.max_per_category, settings.num_explored, settings.explored_days, settings.seed),
        ).collected()
        parts.drop()
        for table in ("gold/candidates", "gold/recommendations"):
            run.commit_written(table, files_of(written, table))


if __name__ == "__main__":
    main(RecommendSettings.from_command_line())
