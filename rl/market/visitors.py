"""How some visitors come: with a device whose clock is wrong, or signed in only later. Their true records say it, none is added.

The server stamps most events. Those of an app are stamped by its device, which also says when it sent them; the server adds
when they came. Who signs in late is known by a visitor's id alone before that, and by both ids from then on.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rl.market.memory import Log
from rl.market.shoppers import DEVICE_STREAM, SIGN_IN_STREAM, user_generator
from rl.observation import Ints

CLOCK_SKEW, ZONE_MISTAKE, LATE_SIGN_IN = "clock_skew", "zone_mistake", "late_sign_in"
KINDS_OF_VISITORS = (CLOCK_SKEW, ZONE_MISTAKE, LATE_SIGN_IN)
HOUR_MS, MINUTE_MS = 3_600_000, 60_000
SKEWED_FRAC, OTHER_ZONE_FRAC = 0.3, 0.2  # of the apps' clocks: minutes off, or right but said to be UTC
LEAST_SKEW_MS, MOST_SKEW_MS = 2 * MINUTE_MS, 50 * MINUTE_MS
ZONES = (-8, -5, 1, 2, 3, 9)  # hours that clocks are ahead of UTC
OFFLINE_FRAC, LONGEST_OFFLINE_MS, LONGEST_WAY_MS = 0.1, 8 * HOUR_MS, 1_500  # between event, sending and arrival


class Visitors(NamedTuple):
    """How many users are not plain shoppers who sign in first."""

    bots_per_user: float  # that view the whole shop
    farmed_per_user: float  # accounts of the bot farm
    app_frac: float = 0.0  # of users who come by the app
    late_sign_in_frac: float = 0.0  # of sessions, without the app's


class Stamps(NamedTuple):
    """What the app's records say of time, in ms since the log's start, for the n events of a user."""

    kind: str | None  # of the clock's fault
    event_ms: Ints  # (n,) by the device's clock
    sent_ms: Ints  # (n,) by the device's clock
    received_ms: Ints  # (n,) true


def stamps(seed: int, user: int, time_ms: Ints, app_frac: float) -> Stamps | None:
    """The stamps of a user's events; None without the app. The clock is off by the same time in all of them."""
    rng = user_generator(seed + DEVICE_STREAM, user)
    has_app, fault, size, sign = rng.random(4)
    if has_app >= app_frac:
        return None
    kind, ahead = None, 0
    if fault < SKEWED_FRAC:
        kind, ahead = CLOCK_SKEW, int(LEAST_SKEW_MS + size * (MOST_SKEW_MS - LEAST_SKEW_MS)) * (1 if sign < 0.5 else -1)
    elif fault < SKEWED_FRAC + OTHER_ZONE_FRAC:
        kind, ahead = ZONE_MISTAKE, ZONES[int(size * len(ZONES))] * HOUR_MS
    late, wait, way = rng.random((3, len(time_ms)))
    waited = np.where(late < OFFLINE_FRAC, wait * LONGEST_OFFLINE_MS, wait * LONGEST_WAY_MS).astype(np.int64)
    sent = time_ms + waited
    return Stamps(kind, time_ms + ahead, sent + ahead, sent + (way * LONGEST_WAY_MS).astype(np.int64))


def signed_in_late(seed: int, log: Log, users: Sequence[int], late_sign_in_frac: float) -> tuple[Ints, Ints]:
    """The rows of `users` in the log with a visitor's id, and those before the sign-in, which have no user's.

    A session in which a user signs in late has at least one row of each kind, and a visitor's id of its own.
    """
    visits, before = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for user in users:
        rng, (low, high) = user_generator(seed + SIGN_IN_STREAM, user), np.searchsorted(log.user, [user, user + 1])
        first = low + np.flatnonzero(np.diff(log.session[low:high], prepend=-1))
        for begin, end in zip(first, [*first[1:], high], strict=True):
            is_late, part = rng.random(2)
            if is_late < late_sign_in_frac and end - begin > 1:
                visits.append(np.arange(begin, end))
                before.append(np.arange(begin, begin + 1 + int(part * (end - begin - 1))))
    return np.concatenate(visits), np.concatenate(before)
