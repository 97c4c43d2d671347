"""What is asked for since a release and in as long a time before it: by whom, of which items, what is done, at what price."""

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from lib.drift.compare import Measure, Sides
from lib.serving.release import Release

COLUMNS = ("event_id", "user_key", "item_id", "event_type", "event_time", "price", "currency")
OF_NEWCOMERS = ("unknown_user", "unknown_item")
MOST_CATEGORIES = 50  # that are told apart; all others are one
SECONDS_OF_DAY = 86_400


class Window(NamedTuple):
    """[start, end)."""

    start: datetime
    end: datetime

    def of(self, events: pl.DataFrame) -> pl.DataFrame:
        """Its events."""
        return events.filter((pl.col("event_time") >= self.start) & (pl.col("event_time") < self.end))


def measures_of(
    events: pl.DataFrame, release: Release, before: Window, since: Window
) -> tuple[list[Measure], Sides, Mapping[str, str]]:
    """Shares of users and items that were unknown when each window began, kinds of events, categories, and prices.

    Args:
        events: with COLUMNS, of people.
        release: whose moment is where one window ends and the other begins.
        before: as long a time before.
        since: what came since.

    Returns:
        The measures, the units of their rows, and for some measures what changed most.
    """
    sides = [window.of(events) for window in (before, since)]
    units = pl.concat([side.select(pl.coalesce("user_key", "event_id").alias("unit")) for side in sides])
    number = units["unit"].rank("dense").to_numpy().astype(np.int64) - 1
    at = len(sides[0])
    new_users = [
        _new_users(side["user_key"], release, window.start) for side, window in zip(sides, (before, since), strict=True)
    ]
    new_items = [
        _new_items(side["item_id"], release, window.start) for side, window in zip(sides, (before, since), strict=True)
    ]
    prices = [side["price"].cast(pl.Float64).fill_null(float("nan")).to_numpy() for side in _of_one_currency(sides)]
    told: dict[str, str] = {}
    found = [
        Measure("unknown_user", new_users[0], new_users[1]),
        Measure("unknown_item", new_items[0], new_items[1]),
        Measure("price", prices[0], prices[1]),
    ]
    for name, texts in (
        ("event_type", [side["event_type"] for side in sides]),
        ("category", [_categories(side["item_id"], release) for side in sides]),
    ):
        values, told[name] = _numbered(texts)
        found.append(Measure(name, values[0], values[1], is_category=True))
    return found, Sides(number[:at], number[at:]), told


def _new_users(keys: pl.Series, release: Release, start: datetime) -> np.ndarray:
    """1 where a user had not done anything before the start, else 0; NaN where the event names none."""
    every = keys.drop_nulls().unique()
    first = {key: _first_seen(release, key) for key in every}
    moment = _microseconds(start)
    new = {key: float(at is None or at >= moment) for key, at in first.items()}
    return keys.replace_strict(new, default=float("nan"), return_dtype=pl.Float64).fill_null(float("nan")).to_numpy()


def _first_seen(release: Release, key: str) -> int | None:
    place = release.users.place(key)
    return None if place < 0 else int(release.users.events.time[int(release.users.starts[place])])


def _new_items(ids: pl.Series, release: Release, start: datetime) -> np.ndarray:
    """1 where nobody had touched an item before the start, nor a catalogue told of it before the release, else 0."""
    place = release.catalogue.positions(ids.to_arrow().cast(pa.string()))
    age = release.catalogue.sums["age_days"].cast(pl.Float64).fill_null(np.inf).fill_nan(np.inf).to_numpy()
    days = (release.facts.as_of - start).total_seconds() / SECONDS_OF_DAY
    known = np.zeros(len(place), bool)
    known[place >= 0] = age[place[place >= 0]] > days
    return np.where(known, 0.0, 1.0)


def _of_one_currency(sides: list[pl.DataFrame]) -> list[pl.DataFrame]:
    """The sides, with prices of the currency that most events of the first have alone."""
    most = sides[0].filter(pl.col("price").is_not_null())["currency"].mode().sort()
    code = most[0] if len(most) else None
    return [side.with_columns(price=pl.when(pl.col("currency").eq_missing(code)).then("price")) for side in sides]


def _categories(ids: pl.Series, release: Release) -> pl.Series:
    place = release.catalogue.positions(ids.to_arrow().cast(pa.string()))
    catalogue = release.catalogue
    names = [" > ".join(path) or None for path in catalogue.tag_paths]
    names += [None] * (catalogue.num_tags - len(names))
    tag = np.where(place >= 0, catalogue.tag[np.maximum(place, 0)], catalogue.num_tags - 1) if len(catalogue) else place
    return pl.Series(names, dtype=pl.String).gather(tag.tolist())


def _numbered(texts: list[pl.Series]) -> tuple[list[np.ndarray], str]:
    """Texts of both sides as numbers, NaN where there is none, and which share changed most."""
    counts = pl.concat([text.rename("text") for text in texts]).drop_nulls().value_counts(sort=True)
    names = counts.sort("count", "text", descending=[True, False])["text"][:MOST_CATEGORIES].to_list()
    number, other = {name: float(place) for place, name in enumerate(names)}, float(len(names))
    values = [
        pl.select(pl.when(text.is_not_null()).then(text.replace_strict(number, default=other, return_dtype=pl.Float64)))
        .to_series()
        .fill_null(float("nan"))
        .to_numpy()
        for text in texts
    ]
    shares = [[float(np.mean(side == place)) if len(side) else 0.0 for place in range(len(names))] for side in values]
    if not names:
        return values, ""
    most = max(range(len(names)), key=lambda place: abs(shares[1][place] - shares[0][place]))
    return values, f"most by {names[most]}, {shares[0][most]:.3f} then and {shares[1][most]:.3f} now"


def _microseconds(moment: datetime) -> int:
    return int(moment.timestamp()) * 1_000_000 + moment.microsecond
