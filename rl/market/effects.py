"""What moves the market as a whole: seasons, position bias, a blockbuster, prices that change, and several currencies.

All are off by default. None draws a number that another part of the market draws: an effect has a stream of its own, a
hash, or bends numbers that are drawn anyway. So one that is off leaves the log as it is without it, to the last byte.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lib.statistics.bootstrap import splitmix64
from rl.observation import MAX_STEPS, Floats, Ints

WEEKDAYS = np.array([-0.25, -0.25, -0.2, -0.15, 0.0, 0.5, 0.35])  # more or fewer visits on each, from Monday
SALE_AT, SALE_WIDTH, SALE_SWELL = 0.6, 0.05, 1.5  # its middle and spread in parts of the log; more visits in its middle
HIT_FROM, HIT_DAYS = 0.3, 7  # begin of the blockbuster's time in parts of the log, and its length
LEAST_PRICE, MOST_PRICE = 0.7, 1.1  # a changed price in parts of the catalogue's
PRICE_ELASTICITY = 1.5  # how much less ready a shopper is to buy, on the logit scale, by the logarithm of that
PRICE_STREAM = 4  # after the seed, as the catalogue's streams (rl/market/products.py)
CURRENCY_STREAM = 0xC0FFEE  # shifts the users' numbers before they are hashed
RATES = {"EUR": 1.0, "USD": 0.9, "GBP": 1.15, "JPY": 0.0062}  # worth in euros, as conf/formats/market.yaml has it

World = Literal["plain", "full"]


@dataclass(frozen=True)
class Effects:
    """How strong each effect is; none by default."""

    seasonality: float = 0.0  # of weekdays, evenings and a sale, from 0 to 1
    position_bias: float = 0.0  # a shopper examines what is shown at position k with probability k ** -position_bias
    blockbuster: float = 0.0  # share of one product in the views that answer no decision, for HIT_DAYS
    price_changes: float = 0.0  # chance that a product has another price from a day on
    currencies: int = 1  # that shoppers pay in, up to len(RATES)

    @classmethod
    def of(cls, world: World) -> "Effects":
        """No effect, or all."""
        return NO_EFFECTS if world == "plain" else cls(1.0, 0.5, 0.15, 0.05, len(RATES))


NO_EFFECTS = Effects()


class Calendar(NamedTuple):
    """When visits happen."""

    visits: Floats | None  # (days + 1,) expected share of visits before each day, times days; None: all days are alike
    evening: float  # how much later in the day than without an effect

    @classmethod
    def of(cls, seasonality: float, start_day: int, days: int) -> "Calendar":
        """The calendar of a log of `days` that starts on `start_day` (since 1970)."""
        if not seasonality:
            return cls(None, 0.0)
        day = np.arange(days)
        weekday = WEEKDAYS[(start_day + day + 3) % 7]  # 1970 began on a Thursday
        swell = SALE_SWELL * np.exp(-0.5 * ((day / days - SALE_AT) / SALE_WIDTH) ** 2)
        weight = (1 + seasonality * weekday) * (1 + seasonality * swell)
        return cls(np.r_[0.0, np.cumsum(weight)] * days / weight.sum(), seasonality)

    def moments(self, start: float, stop: float, uniforms: Floats) -> Floats:
        """Moments (n,) between `start` and `stop`, in days since the log's start, by uniform numbers (n,)."""
        if self.visits is None:
            return start + (stop - start) * uniforms
        day = np.arange(len(self.visits))
        low, high = np.interp([start, stop], day, self.visits)
        moments: Floats = np.interp(low + (high - low) * uniforms, self.visits, day)
        return moments

    def preferred(self, peak: float) -> float:
        """A user's preferred time of the day, 0 (morning) to 1 (night), by a uniform number."""
        return float(peak ** (1 / (1 + self.evening)))


class Blockbuster(NamedTuple):
    """A product that takes a share of the views that answer no decision, on the days [first_day, last_day) of the log."""

    item: int
    share: float
    first_day: int
    last_day: int

    @classmethod
    def of(cls, share: float, popularity: Floats, days: int) -> "Blockbuster":
        """The most popular product, for a week; of a short log a quarter."""
        first = int(HIT_FROM * days)
        return cls(int(np.argmax(popularity)), share, first, first + max(1, min(HIT_DAYS, days // 4)))

    def takes(self, day: Ints, uniforms: Floats) -> tuple[NDArray[np.bool_], Floats]:
        """Which views (n,) are of it, by uniform numbers (n,), and uniform numbers for what the others are of."""
        share = np.where((day >= self.first_day) & (day < self.last_day), self.share, 0.0)
        is_taken = uniforms < share
        return is_taken, np.where(is_taken, uniforms, (uniforms - share) / (1 - share))


def examined(position_bias: float) -> Floats:
    """The chance (MAX_STEPS,) that a shopper examines what is shown at each position of a session."""
    chance: Floats = np.arange(1, MAX_STEPS + 1) ** -position_bias
    return chance


def price_levels(price_changes: float, *, seed: int, days: int, num_items: int) -> Floats:
    """Each product's price on each day, in parts of the catalogue's: (days, I), or (1, I) where no price changes.

    The catalogue has the price at which a product begins. A new one holds until the next.
    """
    if not price_changes:
        return np.ones((1, num_items))
    rng = np.random.default_rng([seed, PRICE_STREAM])
    is_new, level = (
        rng.random((days, num_items)) < price_changes,
        rng.uniform(LEAST_PRICE, MOST_PRICE, (days, num_items)),
    )
    is_new[0], level[0] = True, 1.0
    since = np.maximum.accumulate(np.where(is_new, np.arange(days)[:, None], 0))
    return np.take_along_axis(level, since, axis=0)


def on_day(levels: Floats, day: Ints, item: Ints) -> Floats:
    """The price levels of items on days of the log; shapes broadcast."""
    found: Floats = levels[np.minimum(day, len(levels) - 1), item]
    return found


def currencies_of(users: Ints, num_currencies: int) -> Ints:
    """The number, in RATES, of the currency that each user pays in: about half of them in the first, the others evenly."""
    hashes = splitmix64(users.astype(np.uint64) + np.uint64(CURRENCY_STREAM)) % np.uint64(2 * num_currencies - 1)
    return np.maximum(hashes.astype(np.int64) - (num_currencies - 1), 0)
