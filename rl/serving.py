"""A promoted policy as a server asks it: what showing each of some items is worth to a user now.

What it observes is what the job decisions finds in a log, by the same functions (rl/dataset/logged.py): of the user's events of
the release, those that came since, and what the server has shown. Counts of items are those before the release's date.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lib.candidates.catalogue import Catalogue as Items
from lib.engines.arrow_tasks import Broadcast, packed, rows_of, shards_by, table_rows, unpacked
from lib.online.records import microseconds
from lib.runs.weights import load_arrays, save_arrays
from lib.serving.request import Request
from lib.serving.users import mapped, numbers_of, place_in
from lib.tables.silver import EVENTS
from rl.dataset.logged import Events, answered, past_counts, session_counts
from rl.learning import qnet_weights
from rl.learning.qnet_weights import QWeights
from rl.observation import COUNTED, DAY_US, IMPRESSION, KINDS, Catalogue, Counts, Floats, observe

NAME = "dqn"
PAST = "past"  # kind of a part
NETWORK, FACTS, SHOP, KEYS, STARTS = "qnet.safetensors", "policy.json", "shop.safetensors", "keys.npy", "starts.npy"
CODES = {kind: code for code, kind in enumerate(KINDS)}


class PastEvents(NamedTuple):
    """What users did and were shown, one user's after the other's, by time; every array is (E,)."""

    item: NDArray[np.int32]  # position in the release's catalogue; the number of its items for one that it lacks
    time_us: NDArray[np.int64]  # microseconds since 1970, UTC
    kind: NDArray[np.int8]  # code of KINDS
    request: NDArray[np.int32]  # its number among the user's, -1 for none


class Past(NamedTuple):
    """The users of a release, sorted by key; of user u the events are `starts[u] : starts[u + 1]`."""

    keys: NDArray[np.uint64]  # (U, 2)
    starts: NDArray[np.int64]  # (U + 1,)
    events: PastEvents

    def of(self, user_key: str | None) -> PastEvents:
        """What one user did; nothing of one who is unknown."""
        place = -1 if user_key is None else place_in(self.keys, user_key)
        rows = slice(0, 0) if place < 0 else slice(int(self.starts[place]), int(self.starts[place + 1]))
        return PastEvents(*(np.asarray(values[rows]) for values in self.events))  # type: ignore[arg-type]


class ShopNow(NamedTuple):
    """The items of a release, and one after them that stands for all others, as a policy sees them."""

    catalogue: Catalogue  # (I + 1,)
    item_counts: Floats  # (I + 1, 5), columns as COUNTED, before the release's date
    mean_counts: Floats  # (5,), of an average item of the shop


@dataclass(frozen=True)
class LivePolicy:
    """A `lib.serving.policy.Policy`: the value of an item is the network's Q."""

    version: str
    network: QWeights
    shop: ShopNow
    past: Past
    gap: timedelta  # of silence that ends a session
    items: Items

    @property
    def name(self) -> str:
        """What answers and the log call it."""
        return NAME

    def values(self, request: Request, items: NDArray[np.int64]) -> Floats:
        """Q of each item, (n,)."""
        states, features = self.observed(request, items)
        return self.network.values(states[0], features[0])

    def observed(self, request: Request, items: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """What the policy observes: a state (1, S) and the features (1, n, F) of the items."""
        events = self._events(request, int(items[0]))
        shown = np.flatnonzero((events.kind == IMPRESSION) & (events.session == events.session[-1]))
        last_two, step = shown[-2:], np.arange(len(shown))[-2:]
        candidates = np.broadcast_to(items, (len(last_two), len(items)))
        now_us = events.time_us[-1:]
        counts = past_counts(events, shown[:1], items[None], self.shop.catalogue)
        of_session = session_counts(events, last_two, step, candidates, self.shop.catalogue, answered(events))
        return observe(
            Counts(
                **counts,
                **{name: values[-1:] for name, values in of_session.items()},
                item_counts=self.shop.item_counts[items][None],
                mean_counts=self.shop.mean_counts[None],
                hour=now_us % DAY_US / (DAY_US / 24),
                step=step[-1:].astype(float),
                price_position=self.shop.catalogue.price_position[items][None],
            )
        )

    def _events(self, request: Request, item: int) -> Events:
        """The user's events until now, by time, with the impression that is asked for at the end."""
        past = self.past.of(request.user_key)
        numbers: dict[str, int] = {}
        unknown, first = len(self.items), int(past.request.max(initial=-1)) + 1

        def number(request_id: str | None) -> int:
            return -1 if request_id is None else numbers.setdefault(request_id, first + len(numbers))

        since = [
            (
                microseconds(event.event_time),
                CODES[event.event_type],
                self.items.place_of.get(event.item_id, unknown),
                number(event.request_id),
            )
            for event in request.told()
            if event.event_type in CODES
        ]
        since += [
            (
                microseconds(decision.decided_at),
                IMPRESSION,
                self.items.place_of.get(shown, unknown),
                number(decision.request_id),
            )
            for decision in request.decisions
            for shown in decision.items
        ]
        since.sort(key=lambda event: event[:2])
        now = max(microseconds(request.now), since[-1][0] if since else 0)
        since.append((now, IMPRESSION, item, first + len(numbers)))
        time_us, kind, place, request_number = np.array(since, np.int64).T
        time_us = np.concatenate([past.time_us, time_us])
        is_first = np.diff(time_us, prepend=time_us[0]) > self.gap // timedelta(microseconds=1)
        return Events(
            user=np.zeros(len(time_us), np.int64),
            session=np.cumsum(is_first),
            time_us=time_us,
            kind=np.concatenate([past.kind, kind]).astype(np.int64),
            item=np.concatenate([past.item, place]).astype(np.int64),
            request=np.concatenate([past.request, request_number]).astype(np.int64),
        )

    def save(self, folder: Path) -> None:
        """Write it into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        qnet_weights.save(self.network, folder / NETWORK)
        facts = {"version": self.version, "gap_seconds": self.gap.total_seconds()}
        (folder / FACTS).write_text(json.dumps(facts))
        counts = {"item_counts": self.shop.item_counts, "mean_counts": self.shop.mean_counts}
        save_arrays(folder / SHOP, self.shop.catalogue._asdict() | counts)
        np.save(folder / KEYS, self.past.keys)
        np.save(folder / STARTS, self.past.starts)
        for name, values in self.past.events._asdict().items():
            np.save(folder / f"{name}.npy", values)


def read(folder: Path, items: Items) -> LivePolicy:
    """What `save` wrote; the users' events are read where they lie.

    Raises:
        OSError, ValueError, KeyError: it is not whole.
    """
    network = qnet_weights.load(folder / NETWORK)
    facts = json.loads((folder / FACTS).read_text())
    held, _ = load_arrays(folder / SHOP)
    catalogue = Catalogue(*(held[name] for name in Catalogue._fields))
    shop = ShopNow(catalogue, held["item_counts"], held["mean_counts"])
    events = PastEvents(*(mapped(folder / f"{name}.npy") for name in PastEvents._fields))  # type: ignore[arg-type]
    past = Past(mapped(folder / KEYS), mapped(folder / STARTS), events)  # type: ignore[arg-type]
    return LivePolicy(facts["version"], network, shop, past, timedelta(seconds=facts["gap_seconds"]), items)


def shop_now(described: pl.DataFrame, item_counts: pl.DataFrame, items: Items) -> ShopNow:
    """The items as a policy sees them.

    Args:
        described: item_id, category, brand and price of the shop's items.
        item_counts: item_id and COUNT_COLUMNS (rl/dataset/item_days.py), summed before the release's date.
        items: the release's.
    """
    own = pl.DataFrame({"item_id": pl.Series(items.item_ids)})
    named = pl.concat([own, described.select("item_id"), item_counts.select("item_id")]).unique().sort("item_id")
    place = own.join(named.with_row_index("place"), on="item_id", how="left", maintain_order="left")["place"].to_numpy()
    with_other = pl.concat([named, pl.DataFrame({"item_id": [None]}, schema={"item_id": pl.String})])
    table = with_other.join(described, on="item_id", how="left", maintain_order="left")
    prices = table["price"].cast(pl.Float64).to_list()
    whole = Catalogue.of(table["category"].to_list(), table["brand"].to_list(), prices)
    counted = with_other.join(item_counts, on="item_id", how="left", maintain_order="left")
    counts = counted.select(f"num_{name}" for name in COUNTED).fill_null(0).to_numpy().astype(np.float64)
    rows = np.append(place, len(named)).astype(np.int64)
    return ShopNow(
        Catalogue(whole.category[rows], whole.group[rows], whole.brand[rows], whole.price_position[rows]),
        counts[rows],
        counts.sum(axis=0) / max(1, len(named)),
    )


def spread_past(files: Iterable[pa.RecordBatch], *, until: datetime, num_shards: int) -> Iterator[pa.RecordBatch]:
    """Read files of silver/events (rows of TABLE_FILES), and pack what people did and were shown before a moment by shard of users."""
    read_columns = ("user_key", "item_id", "event_type", "event_time", "request_id", "position", "is_bot")
    schema = pa.schema([EVENTS.schema.field(name) for name in read_columns])
    of_people = ~pl.col("is_bot") & pl.col("user_key").is_not_null()
    wanted = of_people & pl.col("event_type").is_in(KINDS) & (pl.col("event_time") < until)
    for file in rows_of(files):
        for rows in table_rows(file["location"], schema):
            known = rows.filter(wanted).drop("is_bot")
            yield from packed(known, PAST, shards_by(known["user_key"], num_shards))


def pack_past(parts: Iterable[pa.RecordBatch], *, item_ids: Broadcast[pa.StringArray]) -> Iterator[pa.RecordBatch]:
    """A row for each user of a shard: user_key, and the columns of PastEvents as lists."""
    found = unpacked(parts).get(PAST)
    if found is None:
        return
    place = pc.fill_null(
        pc.index_in(found["item_id"].to_arrow().cast(pa.string()), value_set=item_ids.value), len(item_ids.value)
    )
    coded = found.with_columns(
        item=pl.Series(place, dtype=pl.Int32),
        time_us=pl.col("event_time").dt.epoch("us"),
        kind=pl.col("event_type").replace_strict(CODES, return_dtype=pl.Int8),
        request=pl.when(pl.col("request_id").is_null())
        .then(-1)
        .otherwise(pl.col("request_id").rank("dense").over("user_key")),
    ).sort("user_key", "time_us", "kind", "request", "position")
    lists = coded.group_by("user_key", maintain_order=True).agg(
        "item", "time_us", "kind", pl.col("request").cast(pl.Int32)
    )
    yield from packed(lists, PAST)


def past_of(rows: Iterable[pl.DataFrame]) -> Past:
    """The users of the rows of `pack_past`."""
    columns = {"item": pl.Int32, "time_us": pl.Int64, "kind": pl.Int8, "request": pl.Int32}
    none = pl.DataFrame(schema={"user_key": pl.String} | {name: pl.List(kind) for name, kind in columns.items()})
    users = pl.concat([none, *rows]).sort("user_key")
    keys = np.array([numbers_of(key) for key in users["user_key"].to_list()], np.uint64).reshape(-1, 2)
    starts = np.concatenate([[0], np.cumsum(users["item"].list.len().to_numpy().astype(np.int64))])
    events = PastEvents(*(users[name].explode(empty_as_null=False).to_numpy() for name in columns))
    return Past(keys, starts, events)


def counts_before(item_days: pl.DataFrame, moment: datetime) -> pl.DataFrame:
    """gold/item_days summed by item over the dates before that of a moment."""
    before = item_days.filter(pl.col("event_date") < moment.astimezone(UTC).date())
    return before.group_by("item_id").agg(pl.col(f"num_{name}" for name in COUNTED).sum())
