"""What a policy sees at a decision: pure functions from a log's arrays, used by the decisions job and by the market alike.

The raw counts behind an observation (`Counts`) are found in two ways: `read_decisions` finds them in a log, by searching;
the
market carries them along while it simulates. Both give them to `observe`, the one place that makes features of
counts, so a policy sees in the market what it saw in the log.

All that is seen of a user is what happened before the session's first decision; all that is seen of the session is its
earlier decisions and the reactions to them up to now; all that is seen of an item are counts before the decision's UTC date.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]

IMPRESSION, VIEW, CART, PURCHASE = range(4)
KINDS = ("impression", "view", "cart", "purchase")  # the event types that count here, by code
COUNTED = ("impressions", "clicks", "views", "carts", "purchases")  # a click is a view with a request
EVENT_WEIGHT = np.array([0.0, 1.0, 2.0, 4.0])  # by kind: how much an event says of its user's taste
MAX_STEPS = 5
DAY_US = 86_400_000_000

STATE_FEATURES = (
    "past_impressions",  # ln(1 + n) / 5, and so the other counts; the user, before the session
    "past_clicks",
    "past_views",
    "past_carts",
    "past_purchases",
    "click_rate",  # clicks per impression, smoothed
    "purchase_rate",  # purchases per view, smoothed
    "price_level",  # weighted mean price position of what the user touched, 0.5 where that is nothing
    "recency",  # ln(1 + hours from the session before to the first decision) / 7, at most 1; 1 where there was none
    "hour_sin",
    "hour_cos",
    "step",  # decisions in this session so far / 5, and so the next three; the session, up to now
    "session_clicks",
    "session_carts",
    "session_purchases",
    "last_clicked",  # 1 when the decision before was clicked
)
CANDIDATE_FEATURES = (
    "category_share",  # share of the user's past weight in the candidate's fine category, smoothed towards 0
    "group_share",  # in its coarse category
    "brand_share",  # in its brand
    "price_position",  # share of the items of its fine category that cost less
    "price_gap",  # |price_position - price_level|
    "item_viewed",  # ln(1 + n): the user's earlier views of it
    "item_bought",  # ln(1 + n): the user's earlier purchases of it
    "item_click_rate",  # clicks per impression of all users, smoothed to the shop's; x 2
    "item_cart_rate",  # carts per view, likewise
    "item_purchase_rate",  # purchases per view, likewise
    "item_popularity",  # ln of its purchases over an average item's, / 3, within -1..1
    "shown_item",  # times shown in the session
    "shown_category",  # times its fine category was shown in the session / 5
    "shown_group",  # times its coarse category was shown / 5
    "clicked_category",  # clicks in the session on its fine category / 5
    "last_category",  # 1 when the decision before showed its fine category
)


class Catalogue(NamedTuple):
    """Item attributes as arrays of shape (I,), by item index; codes count from 0, unknown being a code of its own."""

    category: Ints  # fine
    group: Ints  # coarse category
    brand: Ints
    price_position: Floats  # 0..1: share of the items of its fine category that cost less; 0.5 without a price

    @classmethod
    def of(
        cls, categories: Sequence[Sequence[str] | None], brands: Sequence[str | None], prices: Sequence[float | None]
    ) -> "Catalogue":
        """The catalogue of I items as silver/items holds them: categories coarse to fine, brands, prices.

        An item without a category shares one with all such items; so do items without a brand.
        """
        paths = [tuple(path or ()) for path in categories]
        category, group = (
            _codes(["\x1f".join(path) for path in paths]),
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
    past_weight: Floats  # (N,) sum of EVENT_WEIGHT over them
    past_price: Floats  # (N,) the same times the item's price position
    hours_away: Floats  # (N,) since the session before; inf where there was none
    hour: Floats  # (N,) of day, UTC
    step: Floats  # (N,) decisions of the session before this one
    reactions: Floats  # (N, 3) clicks, carts, purchases in reaction to them
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
    """Features of a policy's observation: states (N, S) and candidate features (N, K, F), float32.

    Columns are STATE_FEATURES and CANDIDATE_FEATURES; all lie roughly in 0..1.
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
    """Each text's code, 0 for the first in order of text."""
    return np.unique(np.array(texts, dtype=object).astype(str), return_inverse=True)[1].astype(np.int64)
