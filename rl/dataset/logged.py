"""Decisions read from a log, as arrays: for each impression, the observation at that moment and the reward that followed.

The decisions job calls `read_decisions` with shards of whole users of silver/events, the market with its own log. A click is a
click-through here: a view with the request id of an impression (`rl/observation.py`).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rl.observation import (
    CART,
    COUNTED,
    DAY_US,
    EVENT_WEIGHT,
    IMPRESSION,
    PURCHASE,
    VIEW,
    Catalogue,
    Counts,
    Floats,
    Ints,
    observe,
)


class RewardWeights(NamedTuple):
    """Rewards for the reactions to a shown product; a decision's reward is their sum, each kind of reaction counted once."""

    click: float = 1.0  # click-through
    cart: float = 1.0
    purchase: float = 3.0


REWARDS = RewardWeights()


class Events(NamedTuple):
    """A shard of whole users' events of the four kinds, sorted by user, then time: arrays of shape (E,).

    Users, sessions and requests are numbered by the caller, from 0; the rows of a session are contiguous. The events of bots
    are left out.
    """

    user: Ints
    session: Ints  # distinct over users
    time_us: Ints  # microseconds since 1970, UTC
    kind: Ints  # code of KINDS
    item: Ints  # index into the catalogue
    request: Ints  # shared by the impressions of a page and the reactions to them; -1 for none


class ItemDays(NamedTuple):
    """Counts of the events of items by UTC date, with or without a user: R rows in any order; days without events have none."""

    item: Ints  # (R,)
    day: Ints  # (R,), days since 1970
    counts: Floats  # (R, 5), columns as COUNTED


class ShopDays(NamedTuple):
    """The same counts of all items together: D rows, one for each date."""

    day: Ints  # (D,)
    counts: Floats  # (D, 5)

    @classmethod
    def of(cls, item_days: ItemDays) -> "ShopDays":
        """The sums of the counts of all items."""
        day, place = np.unique(item_days.day, return_inverse=True)
        counts = np.zeros((len(day), len(COUNTED)))
        np.add.at(counts, place, item_days.counts)
        return cls(day, counts)


class LoggedDecisions(NamedTuple):
    """N decisions read from a log, in the order of its events."""

    row: Ints  # (N,) index of the impression among the events
    user: Ints  # (N,)
    episode: Ints  # (N,) the session
    step: Ints  # (N,) from 0
    states: Floats  # (N, S) float32
    candidates: Ints  # (N, K) item indices
    candidate_features: Floats  # (N, K, F) float32
    actions: Ints  # (N,) index of the shown candidate
    propensities: Floats  # (N,)
    rewards: Floats  # (N,)
    is_last: NDArray[np.bool_]  # (N,) the session's last decision


def read_decisions(
    events: Events,
    candidates: Ints,
    propensities: Floats,
    *,
    catalogue: Catalogue,
    item_days: ItemDays,
    shop_days: ShopDays | None = None,
    rewards: RewardWeights = REWARDS,
    as_of_us: int | None = None,
) -> LoggedDecisions:
    """Every impression of a shard as a decision, with the observation at that moment.

    A reaction rewards the impression of its item under its request, and no other of that page (`answered`). A decision before
    `as_of_us` (microseconds since 1970) is rewarded by the reactions before it alone: what came later was not known then.

    `candidates` (N, K) and `propensities` (N,) belong to the shard's N impressions, in the order of the events. Decisions with
    fewer than K candidates are padded with -1, and the caller must ignore the features there. A session's decisions are one
    episode; its impressions are steps 0, 1, ... `item_days` may be those of the candidates alone, where
    `shop_days` are those of all items. The catalogue must have a row for every item of the events, if need be one
    without category, brand and price.

    Raises:
        ValueError: an impression's item is not among its candidates.
    """
    row = np.flatnonzero(events.kind == IMPRESSION)
    shown = events.item[row]
    is_shown = candidates == shown[:, None]
    if not is_shown.any(axis=1).all():
        bad = int(np.flatnonzero(~is_shown.any(axis=1))[0])
        raise ValueError(f"impression {bad} shows item {shown[bad]}, which is not among its candidates")
    session = events.session[row]
    first = np.r_[True, session[1:] != session[:-1]][: len(row)]
    begin = np.flatnonzero(first)[np.cumsum(first) - 1] if len(row) else row
    step = np.arange(len(row)) - begin
    is_last = np.r_[first[1:], True][: len(row)]
    counts = past_counts(events, row[begin], candidates, catalogue)
    answers = answered(events)
    counts |= session_counts(events, row, step, candidates, catalogue, answers)
    counts |= _items(
        item_days,
        shop_days or ShopDays.of(item_days),
        events.time_us[row] // DAY_US,
        candidates,
        len(catalogue.category),
    )
    states, features = observe(
        Counts(
            **counts,
            hour=events.time_us[row] % DAY_US / (DAY_US / 24),
            step=step.astype(float),
            price_position=catalogue.price_position[candidates],
        )
    )
    return LoggedDecisions(
        row,
        events.user[row],
        session,
        step,
        states,
        candidates,
        features,
        is_shown.argmax(axis=1),
        propensities,
        _rewards(events, answers, rewards, as_of_us)[row],
        is_last,
    )


def prior_sum(key: Ints, order: Ints, weight: Floats, query_key: Ints, query_order: Ints) -> Floats:
    """For each query, the sum of `weight` over the rows with the query's key and an order below the query's.

    `key` and `order` (E,) and the queries (any shape Q) are integers from 0; `weight` is (E,) or (E, W); the result is Q or
    Q + (W,). Costs O((E + Q) log E), whatever the number of keys: one sort, then binary search.
    """
    span = int(max(order.max(initial=0), query_order.max(initial=0))) + 1
    top = int(max(key.max(initial=0), query_key.max(initial=0))) + 1
    assert span * top < 2**63, "key and order do not fit into one 64-bit integer"
    code = key.astype(np.int64) * span + order
    by_code = np.argsort(code, kind="stable")
    total = np.concatenate([np.zeros((1, *weight.shape[1:])), np.cumsum(weight[by_code], axis=0)])
    code = code[by_code]
    low = np.searchsorted(code, query_key.astype(np.int64) * span)
    high = np.searchsorted(code, query_key.astype(np.int64) * span + query_order)
    difference: Floats = total[high] - total[low]
    return difference


def answered(events: Events) -> Ints:
    """(E,) the row of the impression that each event is a reaction to; -1 for none, and at impressions.

    It is the impression of the same item under the same request: where there are several, the last before the reaction, or
    the first where none came before.
    """
    found = np.full(len(events.user), -1, dtype=np.int64)
    pair = events.request * (int(events.item.max(initial=0)) + 1) + events.item
    key = np.unique(pair, return_inverse=True)[1].astype(np.int64) * max(len(pair), 1)
    code = key + np.arange(len(pair))  # ascending by request and item, then by row
    shown = np.flatnonzero((events.kind == IMPRESSION) & (events.request >= 0))
    shown = shown[np.argsort(code[shown])]
    reacting = np.flatnonzero((events.kind != IMPRESSION) & (events.request >= 0))
    if len(shown) and len(reacting):
        after = np.searchsorted(code[shown], code[reacting])
        for nearest in (np.minimum(after, len(shown) - 1), np.maximum(after - 1, 0)):  # the one before takes precedence
            is_same = key[shown[nearest]] == key[reacting]
            found[reacting[is_same]] = shown[nearest[is_same]]
    return found


def count_columns(kind: Ints, request: Ints) -> Floats:
    """Each event as a row of COUNTED: (E, 5) of 0 and 1; a view with a request counts as a click and as a view."""
    is_click = (kind == VIEW) & (request >= 0)
    return np.column_stack([kind == IMPRESSION, is_click, kind == VIEW, kind == CART, kind == PURCHASE]).astype(float)


def past_counts(events: Events, start: Ints, candidates: Ints, catalogue: Catalogue) -> dict[str, Floats]:
    """Counts of the user's events before row `start`, the session's first decision: (N,) for N decisions."""
    order = np.arange(len(events.user))
    weight = EVENT_WEIGHT[events.kind]
    user = events.user[start]

    def on_candidates(attribute: Ints, of_events: Floats) -> Floats:
        width = int(attribute.max(initial=0)) + 1
        key = events.user.astype(np.int64) * width + attribute[events.item]
        query = user[:, None].astype(np.int64) * width + attribute[candidates]
        return prior_sum(key, order, of_events, query, np.broadcast_to(start[:, None], query.shape))

    columns = [count_columns(events.kind, events.request), weight, weight * catalogue.price_position[events.item]]
    totals = prior_sum(events.user, order, np.column_stack(columns), user, start)
    item = np.arange(len(catalogue.category))
    own = on_candidates(item, np.column_stack([events.kind == VIEW, events.kind == PURCHASE]).astype(float))
    is_first = np.r_[True, events.session[1:] != events.session[:-1]][: len(order)]
    session_start = np.maximum.accumulate(np.where(is_first, order, 0))[start]
    before = np.maximum(session_start - 1, 0)
    is_known = (session_start > 0) & (events.user[before] == user)
    hours_away = (events.time_us[start] - events.time_us[before]) / (DAY_US / 24)
    return {
        "past": totals[:, :5],
        "past_weight": totals[:, 5],
        "past_price": totals[:, 6],
        "hours_away": np.where(is_known, hours_away, np.inf),
        "category_weight": on_candidates(catalogue.category, weight),
        "group_weight": on_candidates(catalogue.group, weight),
        "brand_weight": on_candidates(catalogue.brand, weight),
        "item_viewed": own[..., 0],
        "item_bought": own[..., 1],
    }


def session_counts(
    events: Events, row: Ints, step: Ints, candidates: Ints, catalogue: Catalogue, answers: Ints
) -> dict[str, Floats]:
    """Counts of the session's earlier decisions and of the reactions to them so far."""
    order = np.arange(len(events.user))
    is_requested = np.flatnonzero(events.request >= 0)
    kind = events.kind[is_requested]
    shown = (kind == IMPRESSION).astype(float)
    clicked = (kind == VIEW).astype(float)
    session = events.session[is_requested].astype(np.int64)

    def on_candidates(attribute: Ints, of_events: Floats) -> Floats:
        width = int(attribute.max(initial=0)) + 1
        key = session * width + attribute[events.item[is_requested]]
        query = events.session[row][:, None].astype(np.int64) * width + attribute[candidates]
        return prior_sum(key, order[is_requested], of_events, query, np.broadcast_to(row[:, None], query.shape))

    reactions = np.column_stack([kind == VIEW, kind == CART, kind == PURCHASE]).astype(float)
    last = np.maximum(np.arange(len(row)) - 1, 0)
    has_last = step > 0
    click = np.flatnonzero((events.kind == VIEW) & (answers >= 0))
    first_click = np.full(len(order), len(order))
    np.minimum.at(first_click, answers[click], click)
    is_clicked = first_click[row[last]] < row if len(row) else row > 0
    last_category = catalogue.category[events.item[row[last]]] if len(row) else row
    by_category = on_candidates(catalogue.category, np.column_stack([shown, clicked]))
    return {
        "reactions": prior_sum(session, order[is_requested], reactions, events.session[row], row),
        "last_clicked": (has_last & is_clicked).astype(float),
        "shown_item": on_candidates(np.arange(len(catalogue.category)), shown),
        "shown_category": by_category[..., 0],
        "shown_group": on_candidates(catalogue.group, shown),
        "clicked_category": by_category[..., 1],
        "last_category": (has_last[:, None] & (catalogue.category[candidates] == last_category[:, None])).astype(float),
    }


def _items(item_days: ItemDays, shop_days: ShopDays, day: Ints, candidates: Ints, num_items: int) -> dict[str, Floats]:
    """Counts of the candidates, and of an average item, before each decision's date."""
    origin = int(min(days.min(initial=2**31) for days in (item_days.day, shop_days.day, day)))
    asked = day - origin
    of_each = np.broadcast_to(asked[:, None], candidates.shape)
    of_all = np.zeros_like(shop_days.day)
    return {
        "item_counts": prior_sum(item_days.item, item_days.day - origin, item_days.counts, candidates, of_each),
        "mean_counts": prior_sum(of_all, shop_days.day - origin, shop_days.counts, np.zeros_like(asked), asked)
        / num_items,
    }


def _rewards(events: Events, answers: Ints, rewards: RewardWeights, as_of_us: int | None) -> Floats:
    """(E,) the reward of each impression: the weights of its click-through, cart and purchase, each once.

    They count however late they come, but for an impression before `as_of_us`, which earns what came before that time.
    """
    known_until = np.iinfo(np.int64).max if as_of_us is None else as_of_us
    is_late = (events.time_us >= known_until) & (events.time_us[answers] < known_until)
    total = np.zeros(len(events.user))
    for kind, weight in zip((VIEW, CART, PURCHASE), rewards, strict=True):
        happened = np.zeros(len(total), dtype=bool)
        happened[answers[(events.kind == kind) & (answers >= 0) & ~is_late]] = True
        total += weight * happened
    return total
