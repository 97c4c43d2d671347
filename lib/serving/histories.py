"""What is known of one user now: the history of the release and what came since, by the functions that batch jobs use."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from lib.candidates.histories import Histories, OwnDays, OwnPairs
from lib.candidates.known import DAY_MICROSECONDS, pair_sums
from lib.features.interactions import interactions
from lib.online.state import LiveEvent
from lib.serving.release import Release
from lib.serving.users import UserEvents

NOBODY = ""  # the key of a visitor without one
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ONE = timedelta(microseconds=1)
NO_EVENTS = UserEvents(np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.float64), np.zeros(0, np.int64))


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
    events = release.users.events_of(place) if place >= 0 else NO_EVENTS
    moment = (release.facts.as_of - EPOCH) // ONE
    if live:
        since = _weighed(release, live)
        events = UserEvents(*map(np.concatenate, zip(events, since, strict=True)))  # type: ignore[arg-type]
        moment = max(moment, int(events.time.max(initial=0)) + 1)
    known = UserEvents(*(values[events.time < moment] for values in events))  # type: ignore[arg-type]
    if not len(known.time):
        return None
    age = (moment - known.time) / DAY_MICROSECONDS
    num_orders = len(np.unique(known.time[known.num_relevant > 0]))
    days = OwnDays(np.array([num_orders], np.float64), age.min(keepdims=True), age.max(keepdims=True))
    vectors = {
        model: np.asarray(found[place : place + 1]) if place >= 0 else np.full((1, found.shape[1]), np.nan, np.float32)
        for model, found in release.users.vectors.items()
    }
    return Histories(pa.array([key]), _pairs(known, age), days, vectors)


def _pairs(events: UserEvents, age: NDArray[np.float64]) -> OwnPairs:
    """The known pairs of one user, as `known_pairs` has them; an item that the catalogue lacks is none."""
    order = np.lexsort((age, events.item))
    order = order[events.item[order] >= 0]
    item = events.item[order].astype(np.int64)
    starts = np.flatnonzero(np.diff(item, prepend=-1))
    sums = pair_sums(starts, age[order], events.weight[order], events.num_relevant[order])
    is_known = sums["weight"] > 0
    item = item[starts][is_known]
    return OwnPairs(np.zeros_like(item), item, **{name: values[is_known] for name, values in sums.items()})


def _weighed(release: Release, live: Sequence[LiveEvent]) -> UserEvents:
    """Events since the release as rows of gold/interactions would hold them."""
    facts, kept = release.facts, [event for event in live if event.event_type != "impression"]
    if len({(event.item_id, event.event_time) for event in kept}) == len(kept):
        return _single(release, kept)
    events = pl.DataFrame(
        {
            "user_key": [NOBODY] * len(kept),
            "item_id": [event.item_id for event in kept],
            "event_type": [event.event_type for event in kept],
            "event_time": pl.Series([event.event_time for event in kept], dtype=pl.Datetime("us", "UTC")),
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


def _single(release: Release, live: Sequence[LiveEvent]) -> UserEvents:
    """The same where no two are at one moment: each is a row of its own, and `interactions` has nothing to add up."""
    facts, place_of = release.facts, release.catalogue.place_of
    return UserEvents(
        np.array([place_of.get(event.item_id, -1) for event in live], np.int32),
        np.array([(event.event_time - EPOCH) // ONE for event in live], np.int64),
        np.array([facts.event_weights.get(event.event_type, 0.0) for event in live], np.float64),
        np.array([event.event_type == facts.relevant for event in live], np.int64),
    )
