"""The functions that clean's tasks run over Arrow batches.

Records go in; events, rejects, item descriptions, counts and forms of values come out. All are returned as rows of one
schema, distinguished by `kind`, so that one pass over bronze produces them. Does not import Spark.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa

from lib.cleaning.corrections import mark_superseded
from lib.cleaning.fields import SUPERSEDED, event_times
from lib.cleaning.parsing import to_arrow
from lib.cleaning.shard import CleanShard, clean_events, clean_items
from lib.cleaning.thresholds import Thresholds
from lib.cleaning.whole_log import WholeLog, coarsest_clocks
from lib.formats.mapping import LogMapping
from lib.formats.rules import Clock
from lib.tables.bronze import REJECTS, SOURCE
from lib.tables.silver import EVENTS, ITEMS

if TYPE_CHECKING:
    from lib.engines.arrow_tasks import Broadcast

SOURCE_NAME = "source_name"
EVENT, REJECT, COUNT, FORM = "event", "reject", "count", "form"
EVENT_ITEM, CATALOGUE_ITEM = "event_item", "catalogue_item"
ROWS_PER_BATCH = 20_000
DOT, DOT_SUBSTITUTE = ".", "\t"  # Spark reads a dot as a nested column; no column name in bronze contains a tab
CLOCK_COUNTS = pa.schema([pa.field("clock", pa.string()), pa.field("num_times", pa.int64())])
# A row of any kind: the columns of its kind are filled, the others are null.
CLEANED = pa.schema(
    {
        field.name: field.type
        for field in (
            pa.field("kind", pa.string()),
            *EVENTS.schema,
            *(field for field in REJECTS.schema if field.name != "stage"),
            *ITEMS.schema,
            *(pa.field(name, pa.string()) for name in ("described_by", "outcome", "form", "first_file", "last_file")),
            *(pa.field(name, pa.int64()) for name in ("num_records", "num_events")),
        )
    }.items()
)


def prefixed(source: str, column: str) -> str:
    """The name of a source's own column in a frame that holds several sources."""
    return f"{source}|{column}".replace(DOT, DOT_SUBSTITUTE)


def clean_event_batches(
    batches: Iterable[pa.RecordBatch],
    *,
    mapping: LogMapping,
    thresholds: Thresholds,
    key: "Broadcast[bytes]",
    log: WholeLog,
) -> Iterator[pa.RecordBatch]:
    """Clean a shard of whole users; see `lib.cleaning.shard.clean_events`."""
    records = _by_source(batches)
    if records:
        yield from _rows(clean_events(records, mapping, thresholds, key.value, log), item_kind=EVENT_ITEM)


def mark_superseded_batches(
    batches: Iterable[pa.RecordBatch], *, source: str, mapping: LogMapping, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Mark the superseded records of one source in a shard of whole keys; see `lib.cleaning.corrections`."""
    records = _received(batches)
    if records is not None:
        marked = mark_superseded(records, source, mapping)
        for part in marked.iter_slices(ROWS_PER_BATCH):
            yield from to_arrow(part, schema).combine_chunks().to_batches()


def clock_batches(batches: Iterable[pa.RecordBatch], *, source: str, mapping: LogMapping) -> Iterator[pa.RecordBatch]:
    """How many times of the source's records lie on which clock, in rows of CLOCK_COUNTS."""
    counts: Counter[Clock] = Counter()
    for batch in batches:
        records = _received([batch])
        if records is not None:
            counts.update(coarsest_clocks(event_times(records, source, mapping), mapping.timezone))
    yield pa.RecordBatch.from_pydict({"clock": [*counts], "num_times": [*counts.values()]}, schema=CLOCK_COUNTS)


def clean_item_batches(batches: Iterable[pa.RecordBatch], *, mapping: LogMapping) -> Iterator[pa.RecordBatch]:
    """Clean a shard of items; see `lib.cleaning.shard.clean_items`."""
    records = _by_source(batches)
    if records:
        yield from _rows(clean_items(records, mapping), item_kind=CATALOGUE_ITEM)


def _by_source(batches: Iterable[pa.RecordBatch]) -> dict[str, pl.DataFrame]:
    """A shard's records by source, each frame with the source's own columns under their bronze names."""
    shard = _received(batches)
    if shard is None:
        return {}
    declared = [*(column.name for column in SOURCE.columns), *({SUPERSEDED} & {*shard.columns})]
    records = {}
    for source in shard[SOURCE_NAME].unique().sort():
        start = prefixed(source, "")
        own = {
            column: column.removeprefix(start).replace(DOT_SUBSTITUTE, DOT)
            for column in shard.columns
            if column.startswith(start)
        }
        records[source] = shard.filter(pl.col(SOURCE_NAME) == source).select(*own, *declared).rename(own)
    return records


def _received(batches: Iterable[pa.RecordBatch]) -> pl.DataFrame | None:
    """The rows of the batches; None if there are none."""
    received = [batch for batch in batches if batch.num_rows]
    return pl.DataFrame(pa.Table.from_batches(received)) if received else None


def _rows(shard: CleanShard, *, item_kind: str) -> Iterator[pa.RecordBatch]:
    frames = {
        EVENT: shard.events,
        REJECT: shard.rejects,
        COUNT: shard.counts,
        FORM: shard.forms,
        item_kind: shard.items,
    }
    for kind, frame in frames.items():
        if frame is None or frame.is_empty():
            continue
        for part in frame.with_columns(kind=pl.lit(kind)).iter_slices(ROWS_PER_BATCH):
            own = pa.schema(field for field in CLEANED if field.name in part.columns)
            table = to_arrow(part, own)
            arrays = [
                table[field.name].combine_chunks() if field.name in part.columns else pa.nulls(len(table), field.type)
                for field in CLEANED
            ]
            yield pa.RecordBatch.from_arrays(arrays, schema=CLEANED)
