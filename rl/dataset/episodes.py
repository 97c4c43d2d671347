"""Episodes of a shard of whole users: rows of silver/events in, rows of gold/decisions out. Arrow and NumPy only.

Observations and rewards come from `rl/dataset/logged.py`. Here the log's texts become numbers, incomplete episodes are left
out, and the result gets the columns of the table.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lib.tables import contract
from rl.dataset.context import ContextCode
from rl.dataset.decisions import Flags, Floats, Ints
from rl.dataset.logged import REWARDS, Events, ItemDays, RewardWeights, read_decisions
from rl.observation import IMPRESSION, KINDS, Catalogue

SCHEMA = contract("gold/decisions").schema
EVENT_COLUMNS = (
    "event_id",
    "user_key",
    "item_id",
    "event_type",
    "event_time",
    "session_id",
    "request_id",
    "position",
    "propensity",
    "policy",
    "candidates",
    "context",
)


@dataclass(frozen=True)
class Shop:
    """What every shard needs from the whole log; its size is that of the catalogue, times days for the counts."""

    item_ids: pa.Array  # [I] every item of the log and the catalogue
    catalogue: Catalogue  # of these items
    item_days: ItemDays
    context: ContextCode
    default_candidates: list[str]  # item ids for impressions whose candidates the log does not hold; may be empty
    valid_from: datetime
    test_from: datetime
    end: datetime
    session_gap: timedelta
    rewards: RewardWeights = REWARDS


def episodes(batches: Iterable[pa.RecordBatch], *, shop: Shop) -> Iterator[pa.RecordBatch]:
    """The decisions of one shard, for `mapInArrow`.

    The columns are `owner` and `EVENT_COLUMNS`, without the events of bots. A shard holds all events of its owners. The owner
    of an event is its user, else its request, else the event itself. A session is left out where one of its impressions cannot
    be a decision (no propensity, no candidates, or its item is not among them), or where its positions are not 1, 2, ...; the
    user's events still count as the past of later sessions. A session that was still open when the log ended is truncated: none
    of its rows has `is_last`.
    """
    received = list(batches)
    if not received:
        return
    order = [(name, "ascending") for name in ("owner", "event_time", "kind", "event_id")]
    table = pa.Table.from_batches(received)
    kind = pc.index_in(table["event_type"], value_set=pa.array(KINDS))
    table = table.append_column("kind", kind).filter(pc.is_valid(kind)).sort_by(order).combine_chunks()
    impressions = table.filter(pc.equal(table["kind"], IMPRESSION)).combine_chunks()
    if len(impressions):
        yield from _decisions(table, impressions, shop).to_batches()


def _decisions(table: pa.Table, impressions: pa.Table, shop: Shop) -> pa.Table:
    events = _events(table, shop)
    shown = events.item[events.kind == IMPRESSION]
    candidates = _candidates(impressions, shop)
    propensities = impressions["propensity"].to_numpy()
    usable = (candidates == shown[:, None]).any(axis=1) & (propensities > 0)
    stand_in = np.where(np.arange(candidates.shape[1]) == 0, shown[:, None], -1)  # these rows are filtered out below
    log = read_decisions(
        events,
        np.where(usable[:, None], candidates, stand_in),
        np.where(usable, propensities, 1.0),
        catalogue=shop.catalogue,
        item_days=shop.item_days,
        rewards=shop.rewards,
    )
    has_user = pc.is_valid(impressions["user_key"]).to_numpy()
    position = impressions["position"].to_numpy()  # float, nan where null
    in_order = ~has_user | np.isnan(position) | (position == log.step + 1)
    kept = _whole(log.episode, usable & in_order)
    ends = _ended(table, events, log.row, shop) | ~has_user
    context = impressions["context"].combine_chunks()
    states = np.hstack([log.states, shop.context.states(context, impressions["position"].combine_chunks())])
    extra = shop.context.candidates(context, candidates, shop.item_ids)
    features = np.concatenate([log.candidate_features, extra], axis=2)
    return _rows(
        impressions.filter(pa.array(kept)).combine_chunks(),
        step=log.step[kept],
        states=states[kept],
        candidates=_candidate_ids(impressions, shop).filter(pa.array(kept)),
        features=features[kept],
        mask=candidates[kept] >= 0,
        actions=log.actions[kept],
        rewards=log.rewards[kept],
        closes=log.is_last[kept],
        ends=ends[kept],
        shop=shop,
    )


def _events(table: pa.Table, shop: Shop) -> Events:
    """The shard's events as integers."""
    owner = _codes(table["owner"])
    session = _codes(pc.coalesce(table["session_id"], table["owner"]))
    request = pc.fill_null(_dictionary(table["request_id"]).indices, -1).to_numpy().astype(np.int64)
    time_us = table["event_time"].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()
    return Events(
        owner, session, time_us, table["kind"].to_numpy().astype(np.int64), _items(table["item_id"], shop), request
    )


def _items(item_ids: pa.Array | pa.ChunkedArray, shop: Shop) -> Ints:
    found = pc.index_in(item_ids, value_set=shop.item_ids)
    assert found.null_count == 0, "item_ids holds every item of the log"
    index: Ints = found.to_numpy().astype(np.int64)
    return index


def _candidate_ids(impressions: pa.Table, shop: Shop) -> pa.ListArray:
    """[n] the items that could be shown: those of the log, else the default ones."""
    logged = impressions["candidates"].combine_chunks()
    return pc.coalesce(logged, pa.scalar(shop.default_candidates, logged.type))


def _candidates(impressions: pa.Table, shop: Shop) -> Ints:
    """[n, k] the same as indices into the catalogue, -1 where padded."""
    ids = _candidate_ids(impressions, shop)
    counts = ids.value_lengths().to_numpy()
    padded = np.full((len(ids), max(int(counts.max()), 1)), -1, dtype=np.int64)
    padded[np.arange(padded.shape[1]) < counts[:, None]] = _items(ids.flatten(), shop)
    return padded


def _whole(episode: Ints, good: Flags) -> Flags:
    """True for every row of an episode whose rows are all good."""
    number = np.unique(episode, return_inverse=True)[1]
    return np.asarray(np.bincount(number, weights=~good)[number] == 0)


def _ended(table: pa.Table, events: Events, rows: Ints, shop: Shop) -> Flags:
    """Whether the session of each impression at `rows` ended: the log continued for more than a session's gap after it."""
    last_us = np.zeros(int(events.session.max()) + 1, dtype=np.int64)
    np.maximum.at(last_us, events.session, events.time_us)
    open_from_us = int((shop.end - shop.session_gap).timestamp() * 1e6)
    return np.asarray(last_us[events.session[rows]] < open_from_us)


def _rows(
    impressions: pa.Table,
    *,
    step: Ints,
    states: Floats,
    candidates: pa.ListArray,
    features: Floats,
    mask: Flags,
    actions: Ints,
    rewards: Floats,
    closes: Flags,
    ends: Flags,
    shop: Shop,
) -> pa.Table:
    """The decisions as rows of gold/decisions; `closes` marks the last row of an episode, `ends` the rows of ended episodes."""
    time = impressions["event_time"].combine_chunks().cast(pa.timestamp("us", tz="UTC"))
    first_us = time.cast(pa.int64()).to_numpy()[np.arange(len(step)) - step]
    bounds = [int(moment.timestamp() * 1e6) for moment in (shop.valid_from, shop.test_from)]
    split = pa.array(["train", "valid", "test"]).take(pa.array(np.searchsorted(bounds, first_us, side="right")))
    following = pa.array(np.where(closes, 0, np.arange(len(step)) + 1), mask=closes)
    state = _lists(states.ravel(), np.full(len(states), states.shape[1]))
    vectors = _lists(features[mask].ravel(), np.full(int(mask.sum()), features.shape[2]))
    columns = {
        "episode_id": pc.coalesce(impressions["session_id"], impressions["event_id"]),
        "step": step,
        "user_key": impressions["user_key"],
        "event_time": time,
        "split": split,
        "state": state,
        "candidates": candidates,
        "candidate_features": pa.ListArray.from_arrays(_offsets(mask.sum(axis=1)), vectors),
        "action": actions,
        "propensity": impressions["propensity"],
        "propensity_source": pa.array(["logged"]).take(pa.array(np.zeros(len(step), dtype=np.int64))),
        "policy": pc.fill_null(impressions["policy"], "unknown"),
        "reward": rewards,
        "next_state": state.take(following),
        "is_last": closes & ends,
        "context": impressions["context"],
    }
    return pa.table({name: _as(columns[name], SCHEMA.field(name).type) for name in SCHEMA.names}, schema=SCHEMA)


def _as(column: object, type: pa.DataType) -> pa.Array:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    return (column if isinstance(column, pa.Array) else pa.array(column)).cast(type)


def _lists(values: Floats, lengths: Ints) -> pa.ListArray:
    return pa.ListArray.from_arrays(_offsets(lengths), pa.array(values.astype(np.float32)))


def _offsets(lengths: Ints) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))


def _dictionary(column: pa.ChunkedArray) -> pa.DictionaryArray:
    return column.combine_chunks().dictionary_encode()


def _codes(column: pa.ChunkedArray) -> Ints:
    numbers: Ints = _dictionary(column).indices.to_numpy().astype(np.int64)
    return numbers
