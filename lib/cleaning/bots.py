"""Bot detection: compares each user's activity on one day with fixed thresholds of rate, regularity and variety."""

import polars as pl

from lib.cleaning.sessions import starts_anew
from lib.cleaning.thresholds import Thresholds
from lib.formats.rules import CLOCKS

USER_DAY = ("user_key", "event_date")


def flag_bots(events: pl.DataFrame, thresholds: Thresholds) -> pl.DataFrame:
    """Add is_bot and bot_reason to events, judging each user's UTC day by the thresholds.

    `events` must be sorted as number_sessions sorts them. Events at the same moment count as one action, so that an
    order of many lines does not look fast. Actions are regular when the gaps between them, within a session, hardly
    differ: the standard deviation of the gaps is a small fraction of their mean. A clock of whole minutes or coarser
    makes all gaps alike, so its gaps say nothing. Who acts again and again on one item, and hardly on another, lifts it.
    """
    gap = pl.when(~starts_anew()).then(pl.col("event_time").diff().dt.total_microseconds() / 1e6)
    clock = pl.max_horizontal(pl.col("clock_seconds"), pl.col("clock_seconds").shift())  # of a gap: of both its ends
    is_short = pl.col("gap").is_between(0, thresholds.session_gap_minutes * 60, closed="right") & pl.col("is_timed")
    short_gaps = pl.col("gap").filter(is_short)
    time, day = pl.col("event_time"), pl.col("event_time").dt.date()
    hours = (
        events.select("user_key", event_date=day, hour=time.dt.hour(), gap=gap, is_timed=clock < CLOCKS["minute"])
        .group_by(*USER_DAY, "hour")
        .agg(
            num_actions=(pl.col("gap").is_null() | (pl.col("gap") > 0)).sum(),
            num_gaps=is_short.sum(),
            sum_gaps=short_gaps.sum(),
            sum_squares=(short_gaps**2).sum(),
        )
    )
    totals = pl.col("num_gaps", "sum_gaps", "sum_squares").sum()
    days = hours.group_by(USER_DAY).agg(totals, in_day=pl.col("num_actions").sum(), in_hour=pl.col("num_actions").max())
    mean = pl.col("sum_gaps") / pl.col("num_gaps")
    variance = pl.col("sum_squares") / pl.col("num_gaps") - mean**2
    is_regular = (pl.col("num_gaps") >= thresholds.bot_regular_actions) & (
        variance <= (thresholds.bot_gap_variation * mean) ** 2
    )
    bots = (
        days.join(_lifting(events, days, thresholds), on=USER_DAY, how="left")
        .select(
            "user_key",
            "event_date",
            bot_reason=pl.when(pl.col("in_day") > thresholds.bot_actions_per_day)
            .then(pl.lit(f"more than {thresholds.bot_actions_per_day} actions a day"))
            .when(pl.col("in_hour") > thresholds.bot_actions_per_hour)
            .then(pl.lit(f"more than {thresholds.bot_actions_per_hour} actions an hour"))
            .when(is_regular)
            .then(pl.lit("regular gaps between actions"))
            .when(pl.col("is_lifting"))
            .then(pl.lit("hardly anything but one item")),
        )
        .filter(pl.col("bot_reason").is_not_null())
    )
    dated = events.with_columns(event_date=day)
    flagged = dated.join(bots, on=USER_DAY, how="left", maintain_order="left")
    return flagged.with_columns(is_bot=pl.col("bot_reason").is_not_null())


def _lifting(events: pl.DataFrame, days: pl.DataFrame, thresholds: Thresholds) -> pl.DataFrame:
    """The days of users who hardly do anything but act on one item: USER_DAY, is_lifting."""
    busy = days.filter(pl.col("in_day") >= thresholds.bot_item_actions).select(USER_DAY)
    dated = events.select("user_key", "item_id", "event_time", event_date=pl.col("event_time").dt.date())
    of_items = (
        dated.join(busy, on=USER_DAY, how="semi")
        .group_by(*USER_DAY, "item_id")
        .agg(num_moments=pl.col("event_time").n_unique(), num_events=pl.len())
    )
    of_days = of_items.group_by(USER_DAY).agg(
        pl.col("num_moments").max(), frac=pl.col("num_events").max() / pl.col("num_events").sum()
    )
    is_lifting = (pl.col("num_moments") >= thresholds.bot_item_actions) & (pl.col("frac") >= thresholds.bot_item_frac)
    return of_days.filter(is_lifting).select(*USER_DAY, is_lifting=pl.lit(True))
