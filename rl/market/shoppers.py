"""The market's shoppers: hidden tastes, habits and planned visits. Each user has a random number generator of their own.

Users are always simulated in whole blocks of BLOCK users. So every array has the same shape whichever users are asked for, and a
user's records are the same to the last bit whatever the partitioning and the number of users.
"""

import hashlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rl.market.effects import Calendar
from rl.market.products import LATENT, Hidden
from rl.observation import Catalogue, Floats, Ints

BLOCK = 256
MAX_SESSIONS = 60  # of one user in one log
DAY_MS = 86_400_000
CLOSING_MS = 90 * 60_000  # no session starts in the log's last 90 minutes, so that all end before it does
# Added to the seed, for a user's further generators.
BOT_STREAM, FARM_STREAM, DIRT_STREAM, DEVICE_STREAM, SIGN_IN_STREAM = 2**62, 2**61, 2**63, 2**60, 2**59


class Shoppers(NamedTuple):
    """One block of n users: traits (n,) or (n, ...), and uniform random numbers for their sessions."""

    relevance: Floats  # (n, I) how much the user wants each product: mean 0 and standard deviation 1 over products
    choice: Floats  # (n, I) cumulative probabilities of searching for each product, plus the row's number
    conversion: Floats  # (n,) standard normal: readiness to buy
    mood: Floats  # (n,) usual engagement at the start of a session
    is_personal: NDArray[np.bool_]  # (n,) in the arm of the personal strategy
    num_sessions: Ints  # (n,)
    planned_ms: Ints  # (n, MAX_SESSIONS) starts since the log's start, ascending
    uniforms: Floats  # (sum of num_sessions, draws of a session)
    offset: Ints  # (n,) the first row of each user in `uniforms`


def user_generator(seed: int, user: int) -> np.random.Generator:
    """The user's own generator: counter-based, with the key (seed, user)."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, user], dtype=np.uint64)))


def is_personal(experiment: str, user_id: str) -> bool:
    """Whether the user is in the personal arm, by a hash of experiment and user; half of the users are."""
    return hashlib.sha256(f"{experiment}:{user_id}".encode()).digest()[0] % 2 == 1


def draw_shoppers(
    first: int,
    *,
    seed: int,
    days: int,
    calendar: Calendar,
    sessions_per_user: float,
    num_draws: int,
    arms: NDArray[np.bool_],
    catalogue: Catalogue,
    hidden: Hidden,
) -> Shoppers:
    """The block of users from number `first` on, with `num_draws` uniform numbers for each session."""
    num_categories, num_groups, num_brands = (
        int(codes.max()) + 1 for codes in (catalogue.category, catalogue.group, catalogue.brand)
    )
    normals = np.empty((BLOCK, LATENT + num_categories + num_groups + num_brands + 3))
    planned = np.full((BLOCK, MAX_SESSIONS), 2**62, dtype=np.int64)
    num_sessions = np.zeros(BLOCK, dtype=np.int64)
    uniforms = []
    for row in range(BLOCK):
        rng = user_generator(seed, first + row)
        normals[row] = rng.standard_normal(normals.shape[1])
        starts = _planned_visits(rng, days, calendar, sessions_per_user)
        num_sessions[row] = len(starts)
        planned[row, : len(starts)] = starts
        uniforms.append(rng.random((len(starts), num_draws)))
    ends = LATENT + np.cumsum([0, num_categories, num_groups, num_brands])
    taste, of_category, of_group, of_brand, traits = np.split(normals, ends, axis=1)
    relevance = _relevance(
        taste, of_category, of_group, of_brand, price=traits[:, 2], catalogue=catalogue, hidden=hidden
    )
    wish = np.exp(1.5 * relevance + 0.6 * hidden.popularity)
    wish /= wish.sum(axis=1, keepdims=True)
    choice = np.minimum(np.cumsum(wish, axis=1), 1 - 1e-9) + np.arange(BLOCK)[:, None]
    return Shoppers(
        relevance,
        choice,
        traits[:, 0],
        0.4 * traits[:, 1],
        arms,
        num_sessions,
        planned,
        np.concatenate(uniforms),
        np.cumsum(num_sessions) - num_sessions,
    )


def _planned_visits(rng: np.random.Generator, days: int, calendar: Calendar, sessions_per_user: float) -> Ints:
    """Starts of one user's sessions in ms since the log's start, ascending.

    Activity is gamma distributed. Some users first come after the log's start, some stop before its end; each has a preferred
    hour of the day.
    """
    activity, (joins, leaves, peak) = rng.gamma(1.2, 1 / 1.2), rng.random(3)
    start = 0.7 * days * max(joins - 0.7, 0.0) / 0.3
    stop = days if leaves < 0.75 else start + (days - start) * (leaves - 0.75) / 0.25
    rate = sessions_per_user / 0.8 * activity * (stop - start) / days  # a user is active for 0.8 of the span on average
    count = min(int(rng.poisson(rate)), MAX_SESSIONS)
    day = np.floor(calendar.moments(start, stop, rng.random(count)))
    hour = (8 + 14 * calendar.preferred(peak) + 2.5 * rng.standard_normal(count)) % 24
    visits = np.sort((day * DAY_MS + hour * (DAY_MS / 24)).astype(np.int64))
    return visits[visits < days * DAY_MS - CLOSING_MS]


def _relevance(
    taste: Floats,
    of_category: Floats,
    of_group: Floats,
    of_brand: Floats,
    *,
    price: Floats,
    catalogue: Catalogue,
    hidden: Hidden,
) -> Floats:
    """How much each user wants each product (n, I): latent taste, category, brand and price, standardised by user."""
    level = 0.5 + 0.35 * np.tanh(price)
    wanted: Floats = (
        np.einsum("nd,id->ni", taste, hidden.latent) / np.sqrt(LATENT) * 1.3
        + (1.2 * of_category)[:, catalogue.category]
        + (0.6 * of_group)[:, catalogue.group]
        + (0.5 * of_brand)[:, catalogue.brand]
        - 3.0 * np.square(catalogue.price_position - level[:, None])
    )
    wanted -= wanted.mean(axis=1, keepdims=True)
    wanted /= wanted.std(axis=1, keepdims=True)
    return wanted
