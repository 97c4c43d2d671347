"""A small shop of five items, and what people did there, as the tasks see it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from lib.candidates.catalogue import catalogue_of
from lib.candidates.histories import Histories, histories_of
from lib.candidates.known import READ, added_items, item_sums, known_pairs, known_users
from lib.candidates.sources import Retrieval

NOW = datetime(2026, 3, 1, tzinfo=UTC)
TITLES = pa.table(
    {
        "item_id": ["a", "b", "c", "e"],
        "title": ["Apple", "Bread", "Cheese", "Egg"],
        "category": [["food", "fruit"], ["food", "bakery"], ["food", "dairy"], None],
        "price": [1.0, 2.0, 4.0, None],
    }
)


def event(user: str, item: str, days_ago: float, **overrides: Any) -> dict[str, Any]:
    time = NOW - timedelta(days=days_ago)
    return {"user_key": user, "item_id": item, "event_time": time, "weight": 1.0, "num_relevant": 1} | overrides


def interactions(*events: dict[str, Any]) -> pl.DataFrame:
    schema = {"user_key": pl.String, "item_id": pl.String, "event_time": pl.Datetime("us", "UTC")}
    return pl.DataFrame(list(events), schema={**schema, "weight": pl.Float64, "num_relevant": pl.Int64}).select(READ)


def shop(
    rows: pl.DataFrame,
    *,
    num_proposed: int = 3,
    ease: np.ndarray | None = None,
    titles: pa.Table = TITLES,
    **vectors: np.ndarray,
) -> tuple[Retrieval, Histories]:
    """The retrieval as of NOW with these weights of EASE and item vectors, and the histories of all users of the rows."""
    pairs = known_pairs(rows, as_of=NOW)
    catalogue = catalogue_of(added_items(item_sums(pairs)), titles)
    weights = np.zeros((0, 0), np.float32) if ease is None else ease.astype(np.float32)
    retrieval = Retrieval(
        NOW, catalogue, weights, {name: found.astype(np.float32) for name, found in vectors.items()}, num_proposed
    )
    users = rows.select("user_key").unique().join(known_users(rows, as_of=NOW), on="user_key", how="left")
    return retrieval, histories_of(pairs, users, catalogue, vectors={})


def with_vectors(histories: Histories, **vectors: np.ndarray) -> Histories:
    """The histories with users' vectors, a row each."""
    found = {name: values.astype(np.float32) for name, values in vectors.items()}
    return Histories(histories.user_keys, histories.pairs, histories.users, found)
