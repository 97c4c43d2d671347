"""The candidates that a release's users have now, beside those that they had when it was made: its reference."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from lib.candidates.features import FEATURES, USER_FEATURES
from lib.candidates.known import READ
from lib.drift.compare import Ints, Measure, Sides
from lib.serving.reference import reference_of
from lib.serving.release import Release
from lib.serving.users import users_of

SCORE = "score"


def candidates_now(
    release: Release, interactions: ds.Dataset, moment: datetime, *, num_users: int, num_rows: int, seed: int
) -> pl.DataFrame:
    """What `reference_of` would have given at a moment, of the same catalogue, retrievers and ranker.

    Args:
        release: the release.
        interactions: gold/interactions.
        moment: up to which events count (exclusive).
        num_users: users to draw, all alike; those that the release does not know are among them, without vectors.
        num_rows: of the reference; the sample has no more.
        seed: of the draw.
    """
    before = pc.field("event_time") < moment
    keys = _users_before(interactions, before)
    drawn = np.random.default_rng(seed).permutation(len(keys))[:num_users]
    chosen = keys.gather(np.sort(drawn).tolist())
    found = interactions.to_table([*READ], filter=before & pc.field("user_key").isin(chosen.to_arrow()))
    rows = pl.DataFrame(found)
    item = release.catalogue.positions(rows["item_id"].to_arrow().cast(pa.string()))
    users = users_of(rows.with_columns(item=pl.Series(item)), {})
    places = np.array([release.users.place(key) for key in rows["user_key"].unique().sort()], np.int64)
    vectors = {model: _taken(held, places) for model, held in release.users.vectors.items()}
    facts = replace(release.facts, as_of=moment)
    then = replace(release, facts=facts, users=replace(users, vectors=vectors))
    return reference_of(then, num_rows=num_rows, seed=seed)


def users_of_rows(rows: pl.DataFrame) -> Ints:
    """(rows,): which rows are of one user, who are not named: of those that follow each other, with the same features of the user."""
    if not len(rows):
        return np.zeros(0, np.int64)
    own = rows.select(USER_FEATURES).fill_nan(None)
    is_new = own.select(pl.any_horizontal(pl.all().ne_missing(pl.all().shift()))).to_series().to_numpy().copy()
    is_new[0] = False
    return np.asarray(np.cumsum(is_new), np.int64)


def measures_of(then: pl.DataFrame, now: pl.DataFrame) -> tuple[list[Measure], Sides]:
    """Every feature, and the score, of the candidates then and now."""
    found = [Measure(name, _values(then[name]), _values(now[name])) for name in (*FEATURES, SCORE)]
    return found, Sides(users_of_rows(then), users_of_rows(now))


def _values(column: pl.Series) -> np.ndarray:
    return column.cast(pl.Float64).fill_null(float("nan")).to_numpy()


def _users_before(interactions: ds.Dataset, before: pc.Expression) -> pl.Series:
    """The keys of all users with an event before a moment, sorted."""
    found: Sequence[pl.Series] = [
        pl.Series("user_key", batch["user_key"].unique(), pl.String)
        for batch in interactions.to_batches(["user_key"], filter=before)
    ]
    return pl.concat([pl.Series("user_key", [], pl.String), *found]).unique().sort()


def _taken(vectors: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The vectors at places, NaN at -1."""
    found = np.full((len(places), vectors.shape[1]), np.nan, np.float32)
    found[places >= 0] = vectors[places[places >= 0]]
    return found
