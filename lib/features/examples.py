"""Labelled examples: each user at three dates, with what was known then and whether a purchase followed."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import polars as pl

from lib.features.days import COUNTS, Days, first_day_of
from lib.features.user_features import FEATURES, user_features


class ExampleDate(NamedTuple):
    """One of the three dates at which gold/examples describes a user."""

    split: str
    as_of: datetime
    label_until: datetime | None  # exclusive end of the label window; None where it reaches past the log's end


def example_dates(*, valid_from: datetime, test_from: datetime, end: datetime, as_of: datetime) -> list[ExampleDate]:
    """The three dates, counted back from the run's `as_of`, and their label windows.

    With the default `as_of` = test_from they are valid_from - w, valid_from and test_from, where w = end - test_from is
    the length of a label window. Another `as_of` shifts all three by the same time: a production run (`as_of` = end)
    describes its users at the end, where labels are not known yet, and trains on the windows before it. No label window
    reaches past the next `as_of`.
    """
    window = end - test_from
    valid = as_of - (test_from - valid_from)
    train = valid - window
    return [
        ExampleDate("train", train, valid),
        ExampleDate("valid", valid, min(valid + window, as_of)),
        ExampleDate("test", as_of, as_of + window if as_of + window <= end else None),
    ]


def examples(
    days: Days, *, dates: Sequence[ExampleDate], relevant: str, history_days: int | None = None
) -> pl.DataFrame:
    """One row per user and date with an event before it: user_key, as_of, split, label (null: unknown), features.

    Of a history of so many days before each date, or of all.
    """
    found = []
    for date in dates:
        known = user_features(days.of_users_since(first_day_of(date.as_of, history_days)), as_of=date.as_of)
        label = pl.lit(None, pl.Int32)
        if date.label_until is not None:
            buyers = relevant_users(days, start=date.as_of, end=date.label_until, relevant=relevant)
            label = pl.col("user_key").is_in(buyers.implode()).cast(pl.Int32)
        found.append(
            known.select(
                pl.col("user_key").cast(pl.String),
                pl.lit(date.as_of).alias("as_of"),
                pl.lit(date.split).alias("split"),
                label.alias("label"),
                *FEATURES,
            )
        )
    return pl.concat(found)


def relevant_users(days: Days, *, start: datetime, end: datetime, relevant: str) -> pl.Series:
    """The users with an event of type `relevant` in [start, end), moments that divide days."""
    rows, begin, number = days.users, "first_event_at", "num_impressions"
    for name, kind in COUNTS.items():
        if kind == relevant:
            rows, begin, number = days.user_items, "first_at", name
    in_window = (pl.col(begin) >= pl.lit(start)) & (pl.col(begin) < pl.lit(end))
    return rows.filter(in_window & (pl.col(number) > 0))["user_key"].unique()


def moments_of(dates: Sequence[ExampleDate], as_of: datetime) -> list[datetime]:
    """The moments that divide days: what is known before one of them, or happens in a window, is counted apart."""
    ends = [date.label_until for date in dates if date.label_until is not None]
    return sorted({as_of, *(date.as_of for date in dates), *ends})
