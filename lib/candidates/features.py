"""The ranker's features of a candidate: what was known of user, item and both before the moment. NaN means unknown.

Each feature has a group, by which the reason of a row is found: the group that lifts the score most above what an ordinary
candidate's features would give is what moved it (lib/candidates/ranker.py). A group of "" gives no reason.
"""

import numpy as np
from numpy.typing import NDArray

from lib.candidates.catalogue import Catalogue
from lib.candidates.histories import Histories
from lib.candidates.known import HALF_LIVES
from lib.candidates.sources import (
    ALS,
    CONTENT,
    EASE,
    EASE_RECENT,
    POPULAR_IN_CATEGORY,
    SEQUENCE,
    TWO_TOWER,
    Candidates,
)

Floats = NDArray[np.float32]
BOUGHT, TOGETHER, TASTE, TRENDING, FITTING = "bought", "together", "taste", "trending", "fitting"
FOLLOWING = "following"
GROUPS = (BOUGHT, TOGETHER, TASTE, TRENDING, FITTING, FOLLOWING)

PAIR_FEATURES = (
    *("weight", "num_relevant", "num_orders", "share_of_orders", "last_days", "bought_days", "interval_days", "due"),
    *(*(f"bought_{days}" for days in HALF_LIVES), "weight_14", "weight_60"),
)
IS_COUNT = np.array(
    [not name.endswith("_days") and name != "due" for name in PAIR_FEATURES]
)  # 0 where there is no pair
SCORE_FEATURES = {
    **{EASE: TOGETHER, EASE_RECENT: TOGETHER, ALS: TASTE, TWO_TOWER: TASTE},
    **{SEQUENCE: FOLLOWING, CONTENT: FITTING, POPULAR_IN_CATEGORY: TRENDING},
}
STANDINGS = {f"{source}_standing": group for source, group in SCORE_FEATURES.items()}
ITEM_FEATURES = (
    *(*(f"item_bought_{days}" for days in HALF_LIVES), "item_weight_14", "item_recent_buyers", "item_buyers"),
    *("item_age_days", "item_silence_days", "item_trend", "item_log_price"),
)
USER_FEATURES = ("user_num_orders", "user_silence_days", "user_age_days", "user_num_items")
BOTH_FEATURES = ("price_fit", "tag_share")
GROUP_OF = {
    **dict.fromkeys(PAIR_FEATURES, BOUGHT),
    **SCORE_FEATURES,
    **STANDINGS,
    **dict.fromkeys(ITEM_FEATURES, TRENDING),
    **dict.fromkeys(USER_FEATURES, ""),
    **dict.fromkeys(BOTH_FEATURES, FITTING),
}
FEATURES = tuple(GROUP_OF)


def features_of(candidates: Candidates, block: Histories, catalogue: Catalogue) -> Floats:
    """(N, len(FEATURES)) of the candidates of a block."""
    user, item = candidates.user, candidates.item
    nothing = np.full(len(user), np.nan, np.float32)
    scores = np.column_stack([candidates.scores.get(source, nothing) for source in SCORE_FEATURES])
    columns = [
        _of_pairs(candidates.pair, block),
        scores,
        standings(user, scores),
        catalogue.features[item],
        _of_users(block)[user],
        _of_both(candidates, block, catalogue),
    ]
    found = np.concatenate(columns, axis=1, dtype=np.float32)
    assert found.shape == (len(user), len(FEATURES)), found.shape
    return found


def _of_pairs(pair: NDArray[np.int64], block: Histories) -> Floats:
    own = block.pairs
    with np.errstate(invalid="ignore", divide="ignore"):
        interval = np.where(
            own.num_orders > 1, (own.first_bought_days - own.bought_days) / (own.num_orders - 1), np.nan
        )
        derived = {
            "share_of_orders": own.num_orders / np.maximum(block.users.num_orders[own.user], 1),
            "interval_days": interval,
            "due": np.where(interval > 0, own.bought_days / interval, np.nan),
        }
    columns = [derived[name] if name in derived else getattr(own, name) for name in PAIR_FEATURES]
    of_pairs = np.column_stack(columns).astype(np.float32)
    without = np.where(IS_COUNT, 0, np.nan).astype(np.float32)
    return np.asarray(np.concatenate([of_pairs, without[None]])[pair])  # -1 is the last row


def standings(user: NDArray[np.int64], scores: Floats) -> Floats:
    """How far each score stands above the mean of its user's candidates, in their standard deviations; 0 where all are alike.

    Args:
        user: (N,), ascending.
        scores: (N, S), NaN where unknown, which it stays.
    """
    sizes = np.unique(user, return_counts=True)[1]
    starts = np.cumsum(sizes) - sizes
    known = np.isfinite(scores)
    above = np.where(known, scores, 0).astype(np.float64)
    count = np.maximum(np.add.reduceat(known, starts, axis=0, dtype=np.float64), 1)
    mean = np.add.reduceat(above, starts, axis=0) / count
    above -= np.repeat(mean, sizes, axis=0)
    above[~known] = 0
    deviation = np.sqrt(np.add.reduceat(above**2, starts, axis=0) / count)
    scale = np.where(deviation > 1e-6 * np.abs(mean), 1 / np.where(deviation > 0, deviation, 1), 0)
    above *= np.repeat(scale, sizes, axis=0)
    above[~known] = np.nan
    return above.astype(np.float32)


def _of_users(block: Histories) -> Floats:
    num_items = np.bincount(block.pairs.user, minlength=len(block.user_keys))
    users = block.users
    return np.column_stack([users.num_orders, users.silence_days, users.age_days, num_items]).astype(np.float32)


def _of_both(candidates: Candidates, block: Histories, catalogue: Catalogue) -> Floats:
    """How the item's price lies to what the user takes, and which share of that is of the item's category."""
    num_users = len(block.user_keys)
    user, item = block.pairs.user, block.pairs.item
    weight = block.pairs.weight.astype(np.float32)
    price = catalogue.log_price[item]
    priced = np.isfinite(price)
    total, sums = (
        np.bincount(user[priced], weights=part[priced], minlength=num_users) for part in (weight, weight * price)
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        usual = (sums / total).astype(np.float32)
    price_fit = catalogue.log_price[candidates.item] - usual[candidates.user]
    tag = catalogue.tag[candidates.item]
    share = block.tag_shares(weight, catalogue)[candidates.user, tag]
    return np.column_stack([price_fit, np.where(tag == catalogue.num_tags - 1, np.nan, share)]).astype(np.float32)
