"""Records that are sent again with corrections: of those with the same key, the latest to arrive supersedes the others.

The mapping's `record_key` names the columns that make a record the same. A correction may name another user, so records
are brought together by their key, before they are brought together by user.
"""

import polars as pl

from lib.cleaning.fields import NUMBER, SUPERSEDED, column_texts, type_events
from lib.formats.mapping import LogMapping, Source

ARRIVAL = ("arrived_at", "source_file", "record_number")  # of two records with one key the greater stays


def record_keys(records: pl.DataFrame, source: Source) -> pl.Series:
    """The texts of the columns of the source's `record_key`, as one text; null where none of them is filled."""
    texts = column_texts(records, source.record_key)
    is_filled = pl.any_horizontal(pl.all().is_not_null())
    return texts.select(pl.when(is_filled).then(pl.struct(pl.all()).struct.json_encode())).to_series().alias("key")


def mark_superseded(records: pl.DataFrame, source_name: str, mapping: LogMapping) -> pl.DataFrame:
    """Add SUPERSEDED: whether a record with the same key arrived later, in the same batch in a later file or line.

    `records` hold all those of a key. A record that is refused supersedes none: what is known of the event stands.
    """
    numbered = records.with_row_index(NUMBER)
    typed = type_events(numbered, source_name, mapping)
    is_fit = pl.col(NUMBER).is_in(typed.filter(pl.col("refusal").is_null())["record"].implode())
    keyed = numbered.with_columns(key=record_keys(records, mapping.sources[source_name]))
    fit = keyed.filter(is_fit & pl.col("key").is_not_null()).sort(*ARRIVAL)
    older = fit.filter(~fit["key"].is_last_distinct())[NUMBER]
    return keyed.select(pl.exclude(NUMBER, "key"), pl.col(NUMBER).is_in(older.implode()).alias(SUPERSEDED))
