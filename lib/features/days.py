"""What happened on each UTC day: by user and item (gold/daily), by user (gold/user_days), by item (gold/item_days).

Everything that is known of users and items is summed from these rows, so a day of new events costs a day's work, and another
`as_of` costs no reading of events. A row holds counts, sums, first and last times. A day that a moment cuts is divided there
into parts, so that every row lies on one side of every moment: what was known before it are the rows that begin before it.
Sums of fractions are made of whole numbers of STEP, so that the order of events does not change their last digit.

An *action* is what a shopper does with an item: a view, a cart, a favourite, a purchase or a rating. An impression is the
shop's doing, and a return takes back an earlier purchase; both are events of the user, but not actions. A *click* is a view
with a request_id, which answers an impression.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from math import ceil
from typing import NamedTuple

import polars as pl

ACTIONS = ("view", "cart", "favourite", "purchase", "rating")
COUNTS = {
    "num_views": "view",
    "num_carts": "cart",
    "num_favourites": "favourite",
    "num_purchases": "purchase",
    "num_returns": "return",
    "num_ratings": "rating",
}
NUM_HOURS = 24
DAY, DAY_SECONDS = timedelta(days=1), 86_400.0
MONEY = pl.Decimal(18, 4)
STEP = 2.0**-36  # sums of so coarse numbers are exact up to 131,072, in whatever order
PART = "part"


class Days(NamedTuple):
    """What happened on some days."""

    user_items: pl.DataFrame  # the columns of gold/daily, and PART
    users: pl.DataFrame  # those of gold/user_days, and PART
    items: pl.DataFrame  # those of gold/item_days, and PART

    def of_users_since(self, day: date | None) -> "Days":
        """Without what users did before a day."""
        return self._replace(user_items=since(self.user_items, day), users=since(self.users, day))


def days_of(
    events: pl.DataFrame,
    *,
    event_weights: Mapping[str, float],
    half_life_days: float,
    moments: Sequence[datetime] = (),
    open_sessions: pl.DataFrame | None = None,
) -> Days:
    """The rows of the days of `events`, which hold all events of some users on these days, and any of nobody.

    Args:
        events: columns user_key, item_id, event_type, event_time, session_id, quantity, request_id as in silver/events;
            price in the currency of sums, and is_unconverted, whether there is one only without a rate to it; has_hour,
            whether the clock of the event's source tells the hour of day.
        event_weights: by event type; others weigh nothing.
        half_life_days: age at which an event counts half.
        moments: where days are divided.
        open_sessions: user_key, session_id and event_date: the sessions that began before this date, and are counted there.
    """
    part = pl.sum_horizontal(
        pl.lit(0, pl.Int32), *((pl.col("event_time") >= pl.lit(moment)).cast(pl.Int32) for moment in moments)
    )
    dated = events.with_columns(part.alias(PART), event_date=pl.col("event_time").dt.date())
    known = dated.filter(pl.col("user_key").is_not_null())
    return Days(
        user_item_days(known, event_weights=event_weights, half_life_days=half_life_days),
        user_days(known, open_sessions),
        item_days(dated),
    )


def user_item_days(events: pl.DataFrame, *, event_weights: Mapping[str, float], half_life_days: float) -> pl.DataFrame:
    """The rows of gold/daily, from events of known users: one for each user, item, day and part that is more than shown."""
    weight = pl.col("event_type").replace_strict(event_weights, default=0.0, return_dtype=pl.Float64)
    age = days_before(end_of(pl.col("event_date")), pl.col("event_time"))
    is_bought, time = of_type("purchase"), pl.col("event_time")
    quantity = pl.col("quantity").fill_null(1)
    return (
        events.filter(~of_type("impression"))
        .with_columns(weight=in_steps(weight * 0.5 ** (age / half_life_days)))
        .group_by("user_key", "item_id", "event_date", PART)
        .agg(
            *(of_type(kind).sum().cast(pl.Int64).alias(name) for name, kind in COUNTS.items()),
            pl.col("weight").sum(),
            quantity=quantity.filter(is_bought).sum().cast(pl.Int64),
            amount=pl.when(~(is_bought & pl.col("is_unconverted")).any()).then(
                (pl.col("price") * quantity).filter(is_bought).sum().cast(MONEY)
            ),
            first_at=time.min(),
            last_at=time.max(),
            last_cart_at=time.filter(of_type("cart")).max(),
            last_purchase_at=time.filter(is_bought).max(),
        )
    )


def user_days(events: pl.DataFrame, open_sessions: pl.DataFrame | None = None) -> pl.DataFrame:
    """The rows of gold/user_days, from events of known users.

    A session counts where it begins, and a clicked request once a day, at its first click.
    """
    time, price, is_action = pl.col("event_time"), pl.col("price"), of_type(*ACTIONS)
    is_bought, is_timed = of_type("purchase"), is_action & pl.col("has_hour")
    angle = hour_angle(time)
    days = events.group_by("user_key", "event_date", PART).agg(
        first_event_at=time.min(),
        last_event_at=time.max(),
        last_action_at=time.filter(is_action).max(),
        last_timed_at=time.filter(is_timed).max(),
        num_impressions=of_type("impression").sum().cast(pl.Int64),
        hours=time.dt.hour().cast(pl.Int32).filter(is_timed).sort(),
        hour_sin=in_steps(angle.sin()).filter(is_timed).sum(),
        hour_cos=in_steps(angle.cos()).filter(is_timed).sum(),
        bought_prices=price.filter(is_bought).sum().cast(MONEY),
        num_bought_prices=price.filter(is_bought).count().cast(pl.Int64),
        prices=price.filter(is_action).sum().cast(MONEY),
        num_prices=price.filter(is_action).count().cast(pl.Int64),
        has_unconverted_purchase=(is_bought & pl.col("is_unconverted")).any(),
        has_unconverted=(is_action & pl.col("is_unconverted")).any(),
    )
    sessions = events.filter(pl.col("session_id").is_not_null())
    begun = sessions.group_by("user_key", "event_date", "session_id").agg(pl.col(PART).min())
    if open_sessions is not None:
        begun = begun.join(open_sessions, on=["user_key", "event_date", "session_id"], how="anti")
    clicks = events.filter(of_type("view") & pl.col("request_id").is_not_null())
    clicked = clicks.group_by("user_key", "event_date", "request_id").agg(pl.col(PART).min())
    for name, found in {"num_sessions": begun, "num_clicked_requests": clicked}.items():
        counts = found.group_by("user_key", "event_date", PART).agg(pl.len().cast(pl.Int64).alias(name))
        days = days.join(counts, on=["user_key", "event_date", PART], how="left").with_columns(
            pl.col(name).fill_null(0)
        )
    return days


def item_days(events: pl.DataFrame) -> pl.DataFrame:
    """The rows of gold/item_days, from events of known users and of nobody."""
    time, price, is_click = pl.col("event_time"), pl.col("price"), pl.col("request_id").is_not_null()
    is_priced = price.is_not_null()
    return events.group_by("item_id", "event_date", PART).agg(
        num_impressions=of_type("impression").sum().cast(pl.Int64),
        num_touches=(~of_type("impression")).sum().cast(pl.Int64),
        num_views=of_type("view").sum().cast(pl.Int64),
        num_clicks=(of_type("view") & is_click).sum().cast(pl.Int64),
        num_carts=of_type("cart").sum().cast(pl.Int64),
        num_purchases=of_type("purchase").sum().cast(pl.Int64),
        num_returns=of_type("return").sum().cast(pl.Int64),
        first_seen_at=time.min(),
        last_priced_at=time.filter(is_priced).max(),
        last_price=price.filter(is_priced & (time == time.filter(is_priced).max())).max(),
    )


def item_days_together(days: pl.DataFrame) -> pl.DataFrame:
    """One row per item and day, of rows that were made of several shares of their events."""
    return days.group_by("item_id", "event_date").agg(of_items_together())


def of_items_together() -> list[pl.Expr]:
    """What rows about one item say together, of gold/item_days or of what was summed from it: counts, first event, last price."""
    is_last = pl.col("last_priced_at") == pl.col("last_priced_at").max()
    return [
        pl.col("^num_.*$").sum(),
        pl.col("first_seen_at").min(),
        pl.col("last_priced_at").max(),
        pl.col("last_price").filter(is_last).max(),
    ]


def open_sessions_of(events: pl.DataFrame) -> pl.DataFrame:
    """The sessions of each day as those that were open before the next: user_key, session_id, event_date."""
    dated = events.filter(pl.col("session_id").is_not_null()).select(
        "user_key", "session_id", event_date=pl.col("event_time").dt.date() + DAY
    )
    return dated.unique()


def coded(user_items: pl.DataFrame, users: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows of gold/daily and gold/user_days with codes of users and items, which group and join several times faster than texts."""
    user, item = codes_of(user_items["user_key"], users["user_key"]), codes_of(user_items["item_id"])
    of_user = pl.col("user_key").cast(user)
    return user_items.rechunk().with_columns(of_user, pl.col("item_id").cast(item)), users.rechunk().with_columns(
        of_user
    )


def codes_of(*texts: pl.Series) -> pl.Enum:
    """Codes of some texts, in their order; null has none."""
    return pl.Enum(pl.concat([some.unique() for some in texts]).drop_nulls().unique().sort())


def before(rows: pl.DataFrame, begin: str, as_of: datetime) -> pl.DataFrame:
    """The rows, which begin at the time in the column `begin`, of what was known before `as_of`."""
    return rows.filter(pl.col(begin) < pl.lit(as_of))


def since(rows: pl.DataFrame, day: date | None) -> pl.DataFrame:
    """The rows of this day and of later ones; of all without a day."""
    return rows if day is None else rows.filter(pl.col("event_date") >= day)


def first_day_of(as_of: datetime, history_days: int | None) -> date | None:
    """The first UTC day that counts at a moment, of a history of so many days; None: all count."""
    return None if history_days is None else as_of.astimezone(UTC).date() - history_days * DAY


def num_actions() -> pl.Expr:
    """The actions of a row of gold/daily."""
    return pl.sum_horizontal(name for name, kind in COUNTS.items() if kind in ACTIONS)


def days_before(moment: pl.Expr, time: pl.Expr) -> pl.Expr:
    """Days from `time` to `moment`, fractions included; below zero where it is later."""
    return (moment - time).dt.total_microseconds() / (DAY_SECONDS * 1e6)


def end_of(day: pl.Expr) -> pl.Expr:
    """The first moment after a date, in UTC."""
    return day.cast(pl.Datetime("us")).dt.replace_time_zone("UTC") + DAY


def hour_angle(time: pl.Expr) -> pl.Expr:
    """The time of day, to the minute, as the angle of an hour hand that goes round once a day."""
    return (time.dt.hour() + time.dt.minute() / 60) * (2 * math.pi / NUM_HOURS)


def in_steps(number: pl.Expr) -> pl.Expr:
    """A number rounded to whole STEPs."""
    return (number / STEP).round() * STEP


def of_type(*event_types: str) -> pl.Expr:
    """Whether the event is of one of `event_types`."""
    return pl.col("event_type").is_in(event_types)


@dataclass(frozen=True)
class DayShards:
    """Which shard the events of a day are in: one for several days, one for a day, or several for one of many events."""

    first: Mapping[date, int]
    number: Mapping[date, int]  # of shards of the day

    @classmethod
    def of(cls, num_events: Mapping[date, int], *, num_shards: int) -> "DayShards":
        """Shards of about equally many events, from the events of each day."""
        size = max(1, ceil(sum(num_events.values()) / num_shards))
        first, number, shard, held = dict[date, int](), dict[date, int](), 0, 0
        for day, events in sorted(num_events.items()):
            if held and held + events > size:
                shard, held = shard + 1, 0
            first[day], number[day] = shard, max(1, ceil(events / size))
            shard, held = shard + number[day] - 1, (size if number[day] > 1 else held + events)
        return cls(first, number)

    @property
    def num_shards(self) -> int:
        """All shards."""
        return max((self.first[day] + self.number[day] for day in self.first), default=0)

    def of_rows(self, dates: pl.Series, whole: pl.Series) -> pl.Series:
        """The shard of each row of these dates; those of a date with the same key `whole` are in one."""
        number = dates.replace_strict(list(self.number), [*self.number.values()], return_dtype=pl.UInt64)
        return self.of_days(dates) + (whole.hash() % number).cast(pl.Int32)

    def of_days(self, days: pl.Series) -> pl.Series:
        """The shard in which a day's rows of all users are brought together."""
        return days.replace_strict(list(self.first), [*self.first.values()], return_dtype=pl.Int32)
