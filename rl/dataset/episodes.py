"""Episodes of a shard of whole users: rows of silver/events in, rows of gold/decisions out. Arrow and NumPy only.

Observations and rewards come from `rl/dataset/logged.py`. Here the log's texts become numbers, incomplete episodes are left
out, and the result gets the columns of the table.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lib.tables import contract
from rl.dataset.context import ContextCode
from rl.dataset.decisions import Flags, Floats, Ints
from rl.dataset.logged import REWARDS, Events, ItemDays, LoggedDecisions, RewardWeights, ShopDays, read_decisions
from rl.dataset.rules import KEPT, RULES, Shown, broken_rules
from rl.observation import IMPRESSION, KINDS, Catalogue

LEFT_OUT = pa.schema([pa.field("rule", pa.string()), pa.field("num_impressions", pa.int64())])
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
    """What every shard needs from the whole log; its size is that of the catalogue."""

    item_ids: pa.Array  # [I] every item of the log and the catalogue
    catalogue: Catalogue  # of these items
    item_days: Callable[[Ints], ItemDays]  # reads the counts of some items, by their indices
    shop_days: ShopDays
    context: ContextCode
    default_candidates: list[str]  # item ids for impressions whose candidates the log does not hold; may be empty
    valid_from: datetime
    as_of: datetime  # the test split begins here, and what comes later teaches nothing about decisions before it
    end: datetime
    session_gap: timedelta
    rewards: RewardWeights = REWARDS


def episodes(batches: Iterable[pa.RecordBatch], *, shop: Shop) -> Iterator[pa.RecordBatch]:
    """The decisions of one shard, for `mapInArrow`.

    The columns are `owner` and `EVENT_COLUMNS`, without the events of bots. A shard holds all events of its owners. The owner
    of an event is its user, else its request, else the event itself. Impressions of one moment are ordered by request and
    position. Those that break a rule (`rl/dataset/rules.py`) are left out; they still count as the past of the user's later
    sessions. An impression without a user is an episode of its own. A session that was still open at `as_of` or when the log
    ended is truncated: none of its rows has `is_last`.
    """
    shard = _sorted(batches)
    if shard is not None:
        yield from _decisions(*shard, shop).to_batches()


def left_out(batches: Iterable[pa.RecordBatch], *, shop: Shop) -> Iterator[pa.RecordBatch]:
    """How many impressions of a shard are no decisions, by the first rule that each breaks: rows of LEFT_OUT.

    The shard is one that `episodes` takes, or its impressions alone.
    """
    shard = _sorted(batches)
    if shard is not None:
        table, impressions = shard
        events = _events(table, shop)
        broken = _broken_rules(impressions, events, _candidates(impressions, shop), shop)
        counts = np.bincount(broken[broken != KEPT], minlength=len(RULES))
        found = pa.table([pa.array(RULES), pa.array(counts, pa.int64())], schema=LEFT_OUT)
        yield from found.filter(pc.greater(found["num_impressions"], 0)).to_batches()


def _sorted(batches: Iterable[pa.RecordBatch]) -> tuple[pa.Table, pa.Table] | None:
    """The shard's events, each owner's in the order of time, and the impressions among them; None where there are none."""
    received = list(batches)
    if not received:
        return None
    table = pa.Table.from_batches(received)
    kind = pc.index_in(table["event_type"], value_set=pa.array(KINDS))
    table = table.append_column("kind", kind).filter(pc.is_valid(kind)).combine_chunks()
    table = table.append_column("request_from", pa.array(_first_positions(table)))
    names = ("owner", "event_time", "kind", "request_from", "request_id", "position", "event_id")
    table = table.sort_by([(name, "ascending") for name in names]).combine_chunks()
    impressions = table.filter(pc.equal(table["kind"], IMPRESSION)).combine_chunks()
    return (table, impressions) if len(impressions) else None


def _first_positions(table: pa.Table) -> Floats:
    """[n] the lowest position of each event's request: what orders requests of one moment where positions go on through them."""
    request = _requests(table)
    lowest = np.full(len(table) + 1, np.inf)
    np.fmin.at(lowest, request, table["position"].to_numpy())
    return lowest[request]


def _decisions(table: pa.Table, impressions: pa.Table, shop: Shop) -> pa.Table:
    events = _events(table, shop)
    shown = events.item[events.kind == IMPRESSION]
    candidates = _candidates(impressions, shop)
    broken = _broken_rules(impressions, events, candidates, shop)
    kept = broken == KEPT
    stand_in = np.where(np.arange(candidates.shape[1]) == 0, shown[:, None], -1)  # these rows are filtered out below
    log = read_decisions(
        events,
        np.where(kept[:, None], candidates, stand_in),
        np.where(kept, impressions["propensity"].to_numpy(), 1.0),
        catalogue=shop.catalogue,
        item_days=shop.item_days(np.unique(candidates[candidates >= 0])),
        shop_days=shop.shop_days,
        rewards=shop.rewards,
        as_of_us=_us(shop.as_of),
    )
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
        ends=_ended(table, impressions, events, log, shop)[kept],
        shop=shop,
    )


def _broken_rules(impressions: pa.Table, events: Events, candidates: Ints, shop: Shop) -> Ints:
    """[n] the number of the first rule that each impression breaks, KEPT where it is a decision."""
    is_shown = events.kind == IMPRESSION
    session, time_us = events.session[is_shown], events.time_us[is_shown]
    request = events.request[is_shown]
    page = np.unique(
        np.column_stack([session, request, np.where(request < 0, time_us, 0)]), axis=0, return_inverse=True
    )
    has_user = pc.is_valid(impressions["user_key"]).to_numpy()
    ids = _candidate_ids(impressions, shop)
    return broken_rules(
        Shown(
            session=session,
            page=page[1].ravel(),
            time_us=time_us,
            position=np.where(
                has_user, impressions["position"].to_numpy(), np.nan
            ),  # else it says nothing about a session
            propensity=impressions["propensity"].to_numpy(),
            num_candidates=ids.value_lengths().to_numpy(),
            has_empty_candidate=_has_empty(ids),
            is_among=(candidates == events.item[is_shown][:, None]).any(axis=1),
        ),
        as_of_us=_us(shop.as_of),
    )


def _events(table: pa.Table, shop: Shop) -> Events:
    """The shard's events as integers; an event without a user has a user and a session of its own."""
    alone, row = pc.is_null(table["user_key"]).to_numpy(), np.arange(len(table))
    owner, session = _codes(table["owner"]), _codes(pc.coalesce(table["session_id"], table["owner"]))
    time_us = table["event_time"].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()
    return Events(
        np.where(alone, len(table) + row, owner),
        np.where(alone, len(table) + row, session),
        time_us,
        table["kind"].to_numpy().astype(np.int64),
        _items(table["item_id"], shop),
        _requests(table),
    )


def _requests(table: pa.Table) -> Ints:
    """[n] the number of each event's request among those of its owner, since a log may count requests by user; -1 for none."""
    owner, request = _codes(table["owner"]), pc.fill_null(_dictionary(table["request_id"]).indices, -1).to_numpy()
    number = np.unique(owner * (len(table) + 1) + request, return_inverse=True)[1]
    return np.where(request < 0, -1, number).astype(np.int64)


def _items(item_ids: pa.Array | pa.ChunkedArray, shop: Shop) -> Ints:
    found = pc.index_in(item_ids, value_set=shop.item_ids)
    assert found.null_count == 0, "item_ids holds every item of the log"
    index: Ints = found.to_numpy().astype(np.int64)
    return index


def _candidate_ids(impressions: pa.Table, shop: Shop) -> pa.ListArray:
    """[n] the items that could be shown, each once: those of the log, else the default ones."""
    logged = impressions["candidates"].combine_chunks()
    ids = pc.coalesce(logged, pa.scalar(shop.default_candidates, logged.type))
    row, value = pc.list_parent_indices(ids).to_numpy().astype(np.int64), pc.list_flatten(ids)
    code = value.dictionary_encode(null_encoding="encode").indices.to_numpy()
    first = np.sort(np.unique(row * (len(value) + 1) + code, return_index=True)[1])
    return pa.ListArray.from_arrays(_offsets(np.bincount(row[first], minlength=len(ids))), value.take(first))


def _has_empty(candidate_ids: pa.ListArray) -> Flags:
    """[n] whether one of the candidates is null or blank."""
    is_empty = _is_empty(candidate_ids.flatten())
    row = pc.list_parent_indices(candidate_ids).to_numpy()
    return np.asarray(np.bincount(row[is_empty], minlength=len(candidate_ids)) > 0)


def _is_empty(ids: pa.Array) -> Flags:
    length = pc.binary_length(pc.utf8_trim_whitespace(ids))
    empty: Flags = pc.fill_null(pc.equal(length, 0), True).to_numpy(zero_copy_only=False)
    return empty


def _candidates(impressions: pa.Table, shop: Shop) -> Ints:
    """[n, k] the same as indices into the catalogue, -1 where padded and for a null or blank candidate."""
    ids = _candidate_ids(impressions, shop)
    counts, flat = ids.value_lengths().to_numpy(), ids.flatten()
    is_empty = _is_empty(flat)
    index = np.full(len(flat), -1, dtype=np.int64)
    index[~is_empty] = _items(flat.filter(pa.array(~is_empty)), shop)
    padded = np.full((len(ids), max(int(counts.max()), 1)), -1, dtype=np.int64)
    padded[np.arange(padded.shape[1]) < counts[:, None]] = index
    return padded


def _ended(table: pa.Table, impressions: pa.Table, events: Events, log: LoggedDecisions, shop: Shop) -> Flags:
    """[n] whether the session of each impression was known to have ended: no event of it in a session's gap before `as_of`.

    For a session that began from `as_of` on, the log's end takes its place.
    """
    last_us = np.zeros(int(events.session.max()) + 1, dtype=np.int64)
    np.maximum.at(last_us, events.session, events.time_us)
    first_us = events.time_us[log.row[np.arange(len(log.row)) - log.step]]
    known_until = np.where(first_us < _us(shop.as_of), min(_us(shop.as_of), _us(shop.end)), _us(shop.end))
    gap_us = shop.session_gap // timedelta(microseconds=1)
    has_user = pc.is_valid(impressions["user_key"]).to_numpy()
    return np.asarray((last_us[log.episode] < known_until - gap_us) | ~has_user)


def _us(moment: datetime) -> int:
    """Microseconds since 1970."""
    return round(moment.timestamp() * 1e6)


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
    ends: Flags,
    shop: Shop,
) -> pa.Table:
    """The decisions as rows of gold/decisions; `ends` marks the rows of episodes that ended."""
    closes = np.r_[step[1:] == 0, True][: len(step)]
    time = impressions["event_time"].combine_chunks().cast(pa.timestamp("us", tz="UTC"))
    first_us = time.cast(pa.int64()).to_numpy()[np.arange(len(step)) - step]
    bounds = [_us(shop.valid_from), _us(shop.as_of)]
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
