"""Labelled examples: each user at three dates, with what was known then and whether a purchase followed."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import polars as pl

from lib.features.profiles import of_type
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


def examples(events: pl.DataFrame, *, dates: Sequence[ExampleDate], relevant: str) -> pl.DataFrame:
    """One row per user and date with an event before it: user_key, as_of, split, label (null: unknown), features."""
    found = []
    for date in dates:
        known = user_features(events, as_of=date.as_of)
        label = pl.lit(None, pl.Int32)
        if date.label_until is not None:
            buyers = relevant_users(events, start=date.as_of, end=date.label_until, relevant=relevant)
            label = pl.col("user_key").is_in(buyers.implode()).cast(pl.Int32)
        found.append(
            known.select(
                "user_key",
                pl.lit(date.as_of).alias("as_of"),
                pl.lit(date.split).alias("split"),
                label.alias("label"),
                *FEATURES,
            )
        )
    return pl.concat(found)


def relevant_users(events: pl.DataFrame, *, start: datetime, end: datetime, relevant: str) -> pl.Series:
    """The users with an event of type `relevant` in [start, end)."""
    in_window = (pl.col("event_time") >= pl.lit(start)) & (pl.col("event_time") < pl.lit(end))
    return events.filter(in_window & of_type(relevant))["user_key"].unique()
