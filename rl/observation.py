"""What a policy observes at a decision: pure functions on a log's arrays, used by the decisions job and by the market.

The raw counts behind an observation (`Counts`) come from two sources: `rl/dataset/logged.py` searches a log for them, and the
market keeps them while it simulates. `observe` alone turns counts into features, so a policy sees in the market what it saw in
the log.

A policy sees the user's events before the session's first decision, the session's earlier decisions and the reactions to them so
far, and each item's counts before the decision's UTC date.

In `rl`, a click is a click-through: a view event with a request id, which it shares with the impression that it answers. A view
that follows a search, for example, has no request id and is not a click. The names of gold's features use the word differently:
there, it stands for any action of a shopper (`lib/features/user_features.py`).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lib.tables.silver import LEVELS

Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]

IMPRESSION, VIEW, CART, PURCHASE = range(4)
KINDS = ("impression", "view", "cart", "purchase")  # the event types that count here, by code
COUNTED = ("impressions", "clicks", "views", "carts", "purchases")  # a click-through counts as click and as view
EVENT_WEIGHT = np.array([0.0, 1.0, 2.0, 4.0])  # by kind: how much an event says about its user's taste
MAX_STEPS = 5
DAY_US = 86_400_000_000

STATE_FEATURES = (
    "past_impressions",  # of the user, before the session: ln(1 + n) / 5, like the four counts below
    "past_clicks",
    "past_views",
    "past_carts",
    "past_purchases",
    "click_rate",  # click-throughs per impression, smoothed
    "purchase_rate",  # purchases per view, smoothed
    "price_level",  # mean price position of the items in the user's events, weighted by EVENT_WEIGHT; 0.5 without any
    "recency",  # ln(1 + hours from the previous session to the first decision) / 7, at most 1; 1 without one
    "hour_sin",
    "hour_cos",
    "step",  # earlier decisions in this session / 5, like the three counts below
    "session_clicks",
    "session_carts",
    "session_purchases",
    "last_clicked",  # 1 when the previous decision was clicked
)
CANDIDATE_FEATURES = (
    "category_share",  # share of the user's past EVENT_WEIGHT in the candidate's fine category, smoothed towards 0
    "group_share",  # the same in its coarse category
    "brand_share",  # the same for its brand
    "price_position",  # share of the items of its fine category that cost less
    "price_gap",  # |price_position - price_level|
    "item_viewed",  # ln(1 + n): the user's earlier views of it
    "item_bought",  # ln(1 + n): the user's earlier purchases of it
    "item_click_rate",  # click-throughs per impression of all users, smoothed towards the shop's rate; x 2
    "item_cart_rate",  # carts per view, in the same way
    "item_purchase_rate",  # purchases per view, in the same way
    "item_popularity",  # ln of its purchases over an average item's, / 3, within -1..1
    "shown_item",  # times shown in the session
    "shown_category",  # times its fine category was shown in the session / 5
    "shown_group",  # times its coarse category was shown / 5
    "clicked_category",  # click-throughs in the session on its fine category / 5
    "last_category",  # 1 when the previous decision showed its fine category
)


class Catalogue(NamedTuple):
    """Item attributes as arrays of shape (I,), by item index; codes count from 0, and unknown has its own code."""

    category: Ints  # fine
    group: Ints  # coarse category
    brand: Ints
    price_position: Floats  # 0..1: share of the items of its fine category that cost less; 0.5 without a price

    @classmethod
    def of(
        cls, categories: Sequence[Sequence[str] | None], brands: Sequence[str | None], prices: Sequence[float | None]
    ) -> "Catalogue":
        """The catalogue of I items as silver/items holds them: categories coarse to fine, brands, prices.

        All items without a category share one code, and so do all items without a brand.
        """
        paths = [tuple(path or ()) for path in categories]
        category, group = (
            _codes([LEVELS.join(path) for path in paths]),
            _codes([path[0] if path else "" for path in paths]),
        )
        price = np.array([np.nan if p is None else float(p) for p in prices], dtype=float)
        key = np.where(np.isnan(price), -1.0, price)
        by_price = np.lexsort((key, category))
        position = np.full(len(price), 0.5)
        for rows in np.split(by_price, np.flatnonzero(np.diff(category[by_price])) + 1):
            known = rows[~np.isnan(price[rows])]
            position[known] = np.searchsorted(price[known], price[known]) / max(len(known), 1)
        return cls(category, group, _codes([brand or "" for brand in brands]), position)


class Counts(NamedTuple):
    """The raw counts behind N observations with K candidates each."""

    past: Floats  # (N, 5) the user's events before the session's first decision, as COUNTED
    past_weight: Floats  # (N,) sum of EVENT_WEIGHT over these events
    past_price: Floats  # (N,) the same, each times its item's price position
    hours_away: Floats  # (N,) since the previous session; inf without one
    hour: Floats  # (N,) of day, UTC
    step: Floats  # (N,) decisions of the session before this one
    reactions: Floats  # (N, 3) click-throughs, carts, purchases in reaction to these
    last_clicked: Floats  # (N,) 0 or 1
    category_weight: Floats  # (N, K) EVENT_WEIGHT of the user's past in the candidate's fine category
    group_weight: Floats  # (N, K)
    brand_weight: Floats  # (N, K)
    price_position: Floats  # (N, K)
    item_viewed: Floats  # (N, K) the user's past views of the candidate
    item_bought: Floats  # (N, K)
    item_counts: Floats  # (N, K, 5) all users' events on the candidate before the decision's date, as COUNTED
    mean_counts: Floats  # (N, 5) the same for an average item
    shown_item: Floats  # (N, K) times in the session
    shown_category: Floats  # (N, K)
    shown_group: Floats  # (N, K)
    clicked_category: Floats  # (N, K)
    last_category: Floats  # (N, K) 0 or 1


def observe(counts: Counts) -> tuple[Floats, Floats]:
    """The observations of a policy: states (N, S) and candidate features (N, K, F), float32.

    The columns are STATE_FEATURES and CANDIDATE_FEATURES; most values lie in 0..1.
    """
    c = counts
    price_level = (c.past_price + 1.0) / (c.past_weight + 2.0)
    angle = 2 * np.pi * c.hour / 24
    states = np.column_stack(
        [
            np.log1p(c.past) / 5,
            (c.past[:, 1] + 1) / (c.past[:, 0] + 10),
            (c.past[:, 4] + 1) / (c.past[:, 2] + 10),
            price_level,
            np.minimum(np.log1p(c.hours_away) / 7, 1.0),
            np.sin(angle),
            np.cos(angle),
            c.step / MAX_STEPS,
            c.reactions / MAX_STEPS,
            c.last_clicked,
        ]
    )
    total = c.past_weight[:, None] + 5.0
    impressions, clicks, views, carts, purchases = np.moveaxis(c.item_counts, 2, 0)
    shop = c.mean_counts[:, None, :]
    features = np.stack(
        [
            c.category_weight / total,
            c.group_weight / total,
            c.brand_weight / total,
            c.price_position,
            np.abs(c.price_position - price_level[:, None]),
            np.log1p(c.item_viewed),
            np.log1p(c.item_bought),
            2 * smoothed_rate(clicks, impressions, shop[..., 1], shop[..., 0]),
            2 * smoothed_rate(carts, views, shop[..., 3], shop[..., 2]),
            2 * smoothed_rate(purchases, views, shop[..., 4], shop[..., 2]),
            np.clip(np.log((purchases + 1) / (shop[..., 4] + 1)) / 3, -1, 1),
            c.shown_item,
            c.shown_category / MAX_STEPS,
            c.shown_group / MAX_STEPS,
            c.clicked_category / MAX_STEPS,
            c.last_category,
        ],
        axis=2,
    )
    assert states.shape[1] == len(STATE_FEATURES)
    assert features.shape[2] == len(CANDIDATE_FEATURES)
    return states.astype(np.float32), features.astype(np.float32)


def smoothed_rate(hits: Floats, trials: Floats, shop_hits: Floats, shop_trials: Floats, prior: float = 20.0) -> Floats:
    """`hits / trials` shrunk towards the shop's rate as if `prior` trials at that rate had been seen (empirical Bayes)."""
    shop_rate = (shop_hits + 0.1) / (shop_trials + 1.0)
    return (hits + prior * shop_rate) / (trials + prior)


def _codes(texts: Sequence[str]) -> Ints:
    """A code for each text: its place among the distinct texts in alphabetical order."""
    return np.unique(np.array(texts, dtype=object).astype(str), return_inverse=True)[1].astype(np.int64)
