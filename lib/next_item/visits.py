"""Visits as arrays: the items of each in their order, and the prefixes after which the next item is asked.

An item is an index among the learnt items, which are sorted. A visit may hold items that nobody has learnt anything of: a batch gives
them indices after those, so that a strategy that answers with items of the visit can name them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
NOTHING = -1  # pads a prefix; also a next item that no strategy can name
FEW = 100  # items are looked up one by one where more than so many times as many are learnt
MAX_EVENTS = 30  # of a visit's latest that strategies look at


class Visits(NamedTuple):
    """Visits, the oldest first: the items of visit v are `items[starts[v] : starts[v + 1]]`."""

    items: Ints
    starts: Ints

    @property
    def visit(self) -> Ints:
        """[events] the visit of each event."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))


@dataclass(frozen=True)
class Catalogue:
    """The learnt items, sorted."""

    items: pl.Series

    @classmethod
    def of(cls, items: pl.Series) -> "Catalogue":
        """The distinct ones of some items."""
        return cls(items.unique().drop_nulls().sort())

    def __len__(self) -> int:
        return len(self.items)

    def codes(self, items: pl.Series) -> tuple[Ints, pl.Series]:
        """The index of each item, and the names of all indices: the learnt items, then the others among `items`, sorted."""
        if len(items) * FEW < len(self):
            return self._codes_of_few(items.to_list())
        known = self.items.to_frame("item").with_row_index("code")
        given = items.alias("item").to_frame()
        others = given.join(known, on="item", how="anti").unique().sort("item").to_series()
        names = pl.concat([self.items.alias("item"), others])
        coded = given.join(names.to_frame("item").with_row_index("code"), on="item", how="left", maintain_order="left")
        return coded["code"].cast(pl.Int64).to_numpy(), names

    @cached_property
    def code_of(self) -> dict[str, int]:
        """The index of each learnt item."""
        return {item: code for code, item in enumerate(self.items.to_list())}

    def _codes_of_few(self, items: Sequence[str]) -> tuple[Ints, pl.Series]:
        """The same without a look at every learnt item."""
        others = sorted({item for item in items if item not in self.code_of})
        further = {item: code for code, item in enumerate(others, start=len(self))}
        codes = np.array([self.code_of.get(item, further.get(item, NOTHING)) for item in items], dtype=np.int64)
        names = self.items.alias("item")
        return codes, pl.concat([names, pl.Series("item", others)]) if others else names


class Prefixes(NamedTuple):
    """The events so far of some visits."""

    recent: Ints  # [prefixes, up to MAX_EVENTS] their latest items, the newest first, padded with NOTHING
    length: Ints  # [prefixes] all events so far

    def __len__(self) -> int:
        return len(self.length)

    def part(self, rows: slice) -> "Prefixes":
        """Some of them."""
        return Prefixes(self.recent[rows], self.length[rows])

    def is_newest(self) -> Bools:
        """[prefixes, events] whether this is the newest event with its item."""
        newest: Bools = np.asarray(self.recent != NOTHING)
        for place in range(1, self.recent.shape[1]):
            newest[:, place] &= (self.recent[:, :place] != self.recent[:, place, None]).all(axis=1)
        return newest


def coded_visits(sessions: Sequence[Sequence[str]] | pl.Series, catalogue: Catalogue) -> tuple[Visits, pl.Series]:
    """Visits from lists of items, and the names of all indices; one of no items has no events."""
    lists = sessions if isinstance(sessions, pl.Series) else pl.Series(sessions, dtype=pl.List(pl.String))
    lengths = lists.list.len().to_numpy().astype(np.int64)
    items = lists.filter(lists.list.len() > 0).explode() if len(lists) else pl.Series([], dtype=pl.String)
    codes, names = catalogue.codes(items.cast(pl.String))
    return Visits(codes, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)), names


def whole(visits: Visits) -> Prefixes:
    """Each visit as the events so far."""
    return _before(visits.items, visits.starts[1:], np.diff(visits.starts))


class Asked(NamedTuple):
    """A question for each event after the first of each visit."""

    prefixes: Prefixes
    visit: Ints  # whose it is
    next_item: Ints  # what came; NOTHING if it cannot be named: neither learnt nor in the visit so far
    is_repeat: Bools  # whether it is in the visit so far


def asked(visits: Visits, num_items: int) -> Asked:
    """The questions of some visits, with `num_items` learnt items."""
    place = np.arange(len(visits.items)) - np.repeat(visits.starts[:-1], np.diff(visits.starts))
    event = np.flatnonzero(place > 0)
    prefixes = _before(visits.items, event, place[event])
    visit, item = visits.visit, visits.items
    first = pl.DataFrame({"visit": visit, "item": item}).select(pl.struct("visit", "item").is_first_distinct())
    is_repeat = ~first.to_series().to_numpy()[event]
    next_item = np.where(is_repeat | (item[event] < num_items), item[event], NOTHING)
    return Asked(prefixes, visit[event], next_item, is_repeat)


def _before(items: Ints, end: Ints, length: Ints) -> Prefixes:
    """The events before each position `end`, `length` of them."""
    width = int(min(MAX_EVENTS, length.max(initial=1)))
    place = end[:, None] - 1 - np.arange(width)
    is_there = np.arange(width) < length[:, None]
    recent = np.full(place.shape, NOTHING, dtype=np.int64)
    recent[is_there] = items[place[is_there]]
    return Prefixes(recent, length.astype(np.int64))
