"""Users who sign in late: records that name only a visitor belong to the user whom the visitor's other records name.

The mapping's `visitor_id` names the column. Visitors are brought together before users are. A visitor of several users, as
on a device that is shared, is nobody's: which of them acted before a sign-in cannot be told.
"""

import polars as pl

from lib.cleaning.fields import SIGNED_IN, column_texts, field_texts
from lib.formats.columns import find_columns
from lib.formats.mapping import Source


def has_visitors(source: Source, own: list[str]) -> bool:
    """Whether records with these columns of their own name visitors."""
    return source.visitor_id is not None and bool(find_columns(own, source.visitor_id))


def visitors(records: pl.DataFrame, source: Source) -> pl.Series:
    """The visitor that each record names; null where it names none."""
    assert source.visitor_id is not None, "only a source with a visitor_id has visitors"
    text = column_texts(records, [source.visitor_id]).to_series().str.strip_chars()
    return text.replace("", None).alias("visitor")


def sign_in(records: pl.DataFrame, source: Source) -> pl.DataFrame:
    """Add SIGNED_IN: the user of each record's visitor. `records` hold all those of a visitor."""
    named = pl.DataFrame({"visitor": visitors(records, source), "user": field_texts(records, "user_id", source)})
    users = named.drop_nulls().unique().filter(pl.col("visitor").is_unique())
    joined = named.select("visitor").join(users, on="visitor", how="left", maintain_order="left")
    return records.with_columns(joined["user"].alias(SIGNED_IN))
