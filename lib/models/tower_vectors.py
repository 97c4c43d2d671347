"""The two towers' vectors: tasks write those of all users and items; those of a few users say how good a version is."""

from collections.abc import Mapping
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from deltalake.transaction import AddAction

from lib.engines.parts import TASK_BYTES, files_written
from lib.engines.ray_tasks import RayParts, RayRun
from lib.models import rows, tasks
from lib.models.rows import Weights
from lib.models.tasks import TowerFit
from lib.models.two_tower import TwoTower
from lib.ranking.validation import scores_of_vectors, wanted_between
from lib.runs.promotion import Row, Scores


def vectors_written(
    run: RayRun, fits: Mapping[str, TowerFit], towers: Mapping[str, TwoTower], shares: RayParts, weights: Weights
) -> list[AddAction]:
    """The files of gold/vectors in which tasks have written the vectors of each fit's users and items.

    Args:
        run: whose version it is.
        fits: by model.
        towers: by model, fitted.
        shares: the interactions, by whole users.
        weights: of pairs.
    """
    written = []
    for model, fit in fits.items():
        given: dict[str, Any] = {"lake": run.lake.absolute(), "fit": run.engine.broadcast(fit)}
        given["towers"] = run.engine.broadcast(towers[model])
        written += files_written(shares.then(tasks.write_tower_users, weights=weights, **given))
        ranges = tasks.item_ranges(fit, towers[model].item.embedding_dim)
        items = run.engine.over(ranges, task_bytes=TASK_BYTES)
        written += files_written(items.then(tasks.write_tower_items, **given))
    return written


def tower_scores(run: RayRun, fit: TowerFit, towers: TwoTower, weights: Weights, current: Row) -> Scores:
    """How well this version's fit from before the validation window, and the current version's, find what was wanted."""
    interactions = run.dataset("gold/interactions")
    wanted = wanted_between(interactions, fit.as_of, run.as_of)
    theirs = pc.field("user_key").isin(wanted["user_key"]) & (pc.field("event_time") < fit.as_of)
    stored = pl.DataFrame(interactions.to_table(columns=[*rows.INTERACTION_COLUMNS], filter=theirs))
    known = rows.weighted_pairs(stored, as_of=fit.as_of, item_ids=fit.item_ids, weights=weights)
    vectors = [
        rows.tower_users(towers, known, version=fit.version, as_of=fit.as_of),
        rows.tower_items(towers, fit.item_ids, version=fit.version, as_of=fit.as_of),
    ]
    return scores_of_vectors(run.lake, "two_tower", pa.concat_tables(vectors), wanted, current=current["version"])
