"""The decisions of a draw of users, read by tasks (lib/engines/arrow_tasks.py): no more of them than one process can hold."""

from collections.abc import Iterable, Iterator
from typing import Any

import polars as pl
import pyarrow as pa

from lib.engines.arrow_tasks import gathered, packed, rows_of, table_rows
from lib.tables.gold import DECISIONS
from rl.dataset.decisions import COLUMNS

DECISION = "decision"  # kind of parts
PARTS = 1 << 32  # into which users are divided by hash, to draw some of them
SCHEMA = pa.schema([DECISIONS.schema.field(name) for name in (*COLUMNS, "split")])


def decisions_of_some(files: Iterable[pa.RecordBatch], *, user_frac: float) -> Iterator[pa.RecordBatch]:
    """Read files of gold/decisions (rows of TABLE_FILES, whose kind is their split), and pack those of a share of the users.

    Whole users are drawn, by a hash of their keys and in a log without users of their episodes', whatever file they are in.
    """
    for file in rows_of(files):
        for rows in table_rows(file["location"], SCHEMA):
            place = pl.coalesce("user_key", "episode_id").hash() % PARTS
            found = rows.filter(place < round(user_frac * PARTS))
            yield from packed(found.with_columns(split=pl.lit(file["kind"])), DECISION)


def drawn(parts: Iterable[tuple[str, bytes]]) -> pa.Table:
    """The decisions that tasks gave, sorted by episode and step: COLUMNS of gold/decisions, and the split."""
    columns: Any = {DECISION: pl.DataFrame(SCHEMA.empty_table()).schema}
    return gathered(parts, DECISION, columns).sort("episode_id", "step").to_arrow().cast(SCHEMA)
