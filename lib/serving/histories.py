"""What is known of one user now: the history of the release and what came since, by the functions that batch jobs use."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pyarrow as pa

from lib.candidates.histories import Histories
from lib.candidates.known import known_pairs, known_users
from lib.features.interactions import interactions
from lib.online.state import LiveEvent
from lib.serving.release import Release
from lib.serving.users import UserEvents

NOBODY = ""  # the key of a visitor without one
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ONE = timedelta(microseconds=1)
NO_EVENTS = UserEvents(
    np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.float64), np.zeros(0, np.int64)
)


def history_of(release: Release, user_key: str | None, live: Sequence[LiveEvent]) -> Histories | None:
    """What somebody did until now; None where nothing is known.

    Ages are counted from the release's moment, or from right after the latest event where that is later: without events since
    the release, what is known is exactly what the batch jobs knew.
    """
    place = release.users.place(user_key) if user_key else -1
    return _history(release, place, user_key or NOBODY, live)


def past_of(release: Release, place: int) -> Histories | None:
    """What the release knows of the user at a place."""
    return _history(release, place, NOBODY, ())


def _history(release: Release, place: int, key: str, live: Sequence[LiveEvent]) -> Histories | None:
    rows = _frame(release.users.events_of(place) if place >= 0 else NO_EVENTS)
    moment = release.facts.as_of
    if live:
        rows = pl.concat([rows, _frame(_weighed(release, live))])
        moment = max(moment, max(event.event_time for event in live) + ONE)
    users = known_users(rows, as_of=moment)
    if users.is_empty():
        return None
    pairs = known_pairs(rows, as_of=moment).filter(pl.col("item_id") >= 0).sort("item_id")
    vectors = {
        model: np.asarray(found[place : place + 1]) if place >= 0 else np.full((1, found.shape[1]), np.nan, np.float32)
        for model, found in release.users.vectors.items()
    }
    placed = pairs.with_columns(user=pl.lit(0, pl.Int64), item=pl.col("item_id"))
    return Histories(pa.array([key]), placed, users, vectors)


def _frame(events: UserEvents) -> pl.DataFrame:
    """Rows as `known_pairs` reads them, of one user; an item's number stands for its id."""
    return pl.DataFrame(
        {
            "user_key": pl.zeros(len(events.item), pl.UInt8, eager=True),
            "item_id": events.item.astype(np.int64),
            "event_time": pl.Series(events.time).cast(pl.Datetime("us", "UTC")),
            "weight": events.weight,
            "num_relevant": events.num_relevant,
        }
    )


def _weighed(release: Release, live: Sequence[LiveEvent]) -> UserEvents:
    """Events since the release as rows of gold/interactions would hold them."""
    facts = release.facts
    events = pl.DataFrame(
        {
            "user_key": [NOBODY] * len(live),
            "item_id": [event.item_id for event in live],
            "event_type": [event.event_type for event in live],
            "event_time": pl.Series([event.event_time for event in live], dtype=pl.Datetime("us", "UTC")),
        }
    )
    rows = interactions(
        events,
        valid_from=facts.as_of,
        test_from=facts.as_of,
        event_weights=facts.event_weights,
        relevant=facts.relevant,
    )
    item = release.catalogue.positions(rows["item_id"].to_arrow().cast(pa.string()))
    return UserEvents(
        item.astype(np.int32),
        rows["event_time"].dt.epoch("us").to_numpy(),
        rows["weight"].to_numpy(),
        rows["num_relevant"].to_numpy(),
    )
