"""publish: gold/interactions, gold/vectors, gold/sessions, gold/creatives, gold/item_days, silver/events, silver/items, silver/descriptions, models `ranker`, `sequence`, `policy` -> a release.

Brings together all that a server answers from, of one moment (`as_of`), in `<lake>/files/releases/<run_id>/` (lib/serving/release.py):
the catalogue and the retrievers' weights and vectors as recommend makes them, the ranker, what comes next in a visit, learnt from all visits
before `as_of`, what users did, adverts, and the promoted policy with what it knows of users and items. It is written whole before ops/models says where it is and the online state
points servers to it. A rerun, a retry or a kill changes nothing; a server that runs goes on with the release before.
"""

import json
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from lib.candidates.catalogue import Catalogue
from lib.candidates.current import ranker_at
from lib.candidates.known import READ
from lib.candidates.lists import VERBS, Wording
from lib.candidates.preparing import RetrievalSettings, Tables, described, retrievals, versions_at
from lib.candidates.sources import CONTENT, Retrieval
from lib.candidates.tasks import Moment
from lib.engines.spark import SparkRun, start_run
from lib.features.priced_items import priced_items
from lib.next_item.learning import model_at
from lib.online.open_state import open_state
from lib.online.state import StateUnavailableError
from lib.runs.errors import RetryableError
from lib.runs.model_registry import RELEASE, models
from lib.serving import release as releases
from lib.serving.reference import reference_of
from lib.serving.release import Facts, Release
from lib.serving.users import Users, users_of
from lib.settings import JobSettings
from lib.tables.gold import EVENT_WEIGHTS
from lib.tables.silver import SESSION_GAP
from rl import serving
from rl.learning import qnet_weights
from rl.observation import CANDIDATE_FEATURES, STATE_FEATURES
from rl.serving import LivePolicy

EVENTS_PER_SHARD = 1_000_000
NAME = "now"  # of the one moment
TABLES = Tables("gold/interactions", "gold/vectors", "silver/items", "silver/descriptions")


class PublishSettings(RetrievalSettings, JobSettings):
    """What a release holds; what is retrieved must be what the ranker was trained with."""

    max_per_category: int | None = Field(
        None, ge=1, description="items of one category in a ranked list, while others are left; unset: no cap"
    )
    next_visits: int = Field(
        50_000,
        ge=10,
        le=5_000_000,
        description="latest visits before `as_of` from which is learnt what comes next; 200,000 of half a million items "
        "take about 1 GB of the driver's memory",
    )
    reference_rows: int = Field(
        50_000,
        ge=100,
        le=1_000_000,
        description="candidates whose features and scores are kept, by which drift is told: some 300 users' of 40 by each retriever",
    )
    seed: int = Field(0, ge=0, description="seed of the draw of users of whom these are")
    keep_releases: int = Field(
        3,
        ge=2,
        le=1000,
        description="latest releases whose files stay; who was erased is gone from the disk after so many",
    )


def users_before(run: SparkRun, as_of: datetime, catalogue: Catalogue, versions: dict[str, str]) -> Users:
    """What users did before a moment, and their vectors."""
    rows = pl.DataFrame(run.read_arrow(TABLES.interactions, READ, pc.field("event_time") < as_of))
    item = catalogue.positions(rows["item_id"].to_arrow().cast(pa.string()))
    vectors = {}
    for model, version in versions.items():
        if model != CONTENT:  # a user's is made of the items'
            is_user = (pc.field("model") == model) & (pc.field("kind") == "user") & (pc.field("version") == version)
            found = run.read_arrow(TABLES.vectors, ["id", "values"], is_user)
            vectors[model] = pl.DataFrame(found)
    return users_of(rows.with_columns(item=pl.Series(item)), vectors)


def facts_of(run: SparkRun, retrieval: Retrieval, versions: dict[str, str], settings: PublishSettings) -> Facts:
    """What the release says of itself."""
    weights = run.property_of("gold/interactions", EVENT_WEIGHTS)
    return Facts(
        version=run.run_id,
        as_of=retrieval.as_of,
        versions=versions,
        wording=Wording(VERBS.get(run.mapping.relevance, "chosen"), settings.min_support),
        event_weights=json.loads(weights),
        relevant=run.mapping.relevance,
        visit_gap_minutes=float(run.property_of("silver/events", SESSION_GAP)),
        num_proposed=settings.num_proposed,
        max_per_category=settings.max_per_category,
        ann_probes=settings.ann_probes if retrieval.indexes is not None else None,
    )


def prices_of(run: SparkRun, catalogue: Catalogue) -> np.ndarray:
    """(items,): the last known price of each, NaN where there is none."""
    found = np.full(len(catalogue), np.nan)
    if run.has("silver/items"):
        items = run.read_arrow("silver/items", ["item_id", "price"])
        position = catalogue.positions(items["item_id"])
        price = pl.Series(items["price"]).cast(pl.Float64).fill_null(float("nan")).to_numpy()
        found[position[position >= 0]] = price[position >= 0]
    return found


def creatives_of(run: SparkRun, catalogue: Catalogue) -> tuple[dict[str, str], ...]:
    """The adverts that may be shown, each with what it shows; all are generated, and labelled so."""
    if not run.has("gold/creatives"):
        return ()
    accepted = (pc.field("status") == "accepted") & (pc.field("kind") != "image")
    rows = run.read_arrow("gold/creatives", ["creative_id", "item_id", "kind", "uri", "sha256"], accepted)
    known = set(catalogue.item_ids.to_pylist())
    return tuple({**row, "label": "synthetic"} for row in rows.to_pylist() if row["item_id"] in known)


def policy_of(run: SparkRun, catalogue: Catalogue) -> LivePolicy | None:
    """The promoted policy with what it observes of users and items; None without one, or where it observes what no server sees."""
    row = run.current_model("policy")
    if row is None or row["as_of"] > run.as_of or not run.has("gold/item_days"):
        return None
    network = qnet_weights.load(run.lake.local(row["uri"]) / serving.NETWORK)
    if network.dims != (len(STATE_FEATURES), len(CANDIDATE_FEATURES)):
        run.log("policy left out", why="it learned from the context of a log's impressions, which no server is told")
        return None
    num_shards = run.num_shards(
        run.lake.num_rows("silver/events", run.version_of("silver/events")), rows_per_shard=EVENTS_PER_SHARD
    )
    spread = run.files_of({"": "silver/events"}).then(serving.spread_past, until=run.as_of, num_shards=num_shards)
    packed = spread.to_shards(num_shards).then(serving.pack_past, item_ids=run.engine.broadcast(catalogue.item_ids))
    past = serving.past_of(pl.read_ipc_stream(content) for _, content in packed.collected())
    item_days = pl.DataFrame(run.read_arrow("gold/item_days", filter=pc.field("event_date") < run.as_of.date()))
    shop = serving.shop_now(priced_items(run, TABLES.items), serving.counts_before(item_days, run.as_of), catalogue)
    gap = timedelta(minutes=float(run.property_of("silver/events", SESSION_GAP)))
    run.log("policy", version=row["version"], users=len(past.keys), events=len(past.events.item))
    return LivePolicy(row["version"], network, shop, past, gap, catalogue)


def release_of(run: SparkRun, settings: PublishSettings) -> Release:
    """The release as of `run.as_of`, in memory."""
    moments, versions = {NAME: Moment(run.as_of)}, versions_at(run, TABLES, run.as_of)
    parts = described(run, TABLES, moments, {NAME: versions})
    found = retrievals(run, TABLES, parts, moments, {NAME: versions}, settings)
    parts.drop()
    if NAME not in found:
        run.skip(f"no interaction before {run.as_of:%Y-%m-%d %H:%M}")
    retrieval, ranker = found[NAME], ranker_at(run, run.as_of, settings.retrieval_options())
    if ranker is None:
        run.log("ranker left out", why=f"none that learned from before {run.as_of:%Y-%m-%d %H:%M} alone")
    next_item = model_at(run, "gold/sessions", at_most=settings.next_visits) if run.has("gold/sessions") else None
    catalogue = retrieval.catalogue
    policy = policy_of(run, catalogue)
    named = versions | ({"ranker": ranker.version} if ranker else {}) | ({"policy": policy.version} if policy else {})
    return Release(
        facts=facts_of(run, retrieval, named, settings),
        retrieval=retrieval,
        prices=prices_of(run, catalogue),
        users=users_before(run, run.as_of, catalogue, versions),
        ranker=ranker,
        next_item=next_item,
        creatives=creatives_of(run, catalogue),
        policy=policy,
    )


def point_servers_to(run: SparkRun, folder: Path) -> None:
    """Let servers answer from the release.

    Raises:
        RetryableError: the online state does not answer.
    """
    live = run.settings.live
    if live.state is None and run.lake.is_remote:
        run.log("no online state is set (live.state): servers take the release from ops/models")
        return
    state = open_state(live, run.lake.path)
    try:
        state.set_release(run.run_id, run.uri(folder))
    except StateUnavailableError as error:
        raise RetryableError(f"the release is published, but no server knows: {error}") from None
    finally:
        state.close()


def remove_old(run: SparkRun, *, num_kept: int) -> None:
    """Remove the files of releases but the latest; their rows in ops/models stay."""
    made = [row for row in models(run.lake) if row["model"] == RELEASE]
    for row in made[:-num_kept]:
        run.lake.clear(row["uri"])


def main(settings: PublishSettings) -> None:
    with start_run("publish", settings) as run:
        release = release_of(run, settings)
        folder = run.files(releases.KIND)
        reference = reference_of(release, num_rows=settings.reference_rows, seed=settings.seed)
        releases.save(release, folder, reference=reference)
        num_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        run.log("release", items=len(release.catalogue), users=len(release.users), megabytes=num_bytes / 1e6)
        run.register_model(
            RELEASE,
            folder,
            checkpoint=folder / releases.MANIFEST,
            num_parameters=release.ranker.scorer.num_parameters if release.ranker else 0,
        )
        point_servers_to(run, folder)
        remove_old(run, num_kept=settings.keep_releases)


if __name__ == "__main__":
    main(PublishSettings.from_command_line())
