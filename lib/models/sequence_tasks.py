"""The functions that train_sequence's tasks run: they bring whole users together before the fits, and write vectors after them.

A task reads files of gold/sessions and packs the events by share of whole users, of which each training worker takes one; a
visit of nobody is a sequence of its own. Does not import Ray or torch.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from lib.engines.arrow_tasks import Broadcast, packed, rows_of, shards_by, table_rows, unpacked, write_rows
from lib.lake.lake import Lake
from lib.models.known_fits import COUNT, ITEM
from lib.models.sequence_weights import LATER, NEXT, Ints, SequenceWeights
from lib.statistics.bootstrap import Floats
from lib.tables.gold import SESSIONS, VECTORS_TABLE

NEXT_K = 20  # ranks that count
ROWS_AT_ONCE = 1024  # whose scores of all items are in memory
EVENT = "event"  # kind of a part
READ = pa.schema(
    [
        SESSIONS.schema.field(name)
        for name in ("session_id", "user_key", "started_at", "items", "event_types", "event_times")
    ]
)
# An event of a visit: whose, in which visit, when.
EVENTS: Mapping[str, pl.DataType] = {
    "owner": pl.String(),
    "is_user": pl.Boolean(),
    "started_at": pl.Datetime("us", "UTC"),
    "session_id": pl.String(),
    "place": pl.Int64(),
    "item_id": pl.String(),
    "event_time": pl.Datetime("us", "UTC"),
    "is_relevant": pl.Boolean(),
}
# The columns of those parts that the job gathers.
GATHERED: Mapping[str, Mapping[str, type[pl.DataType]]] = {
    COUNT: {"fit": pl.String, "num_sequences": pl.Int64, "num_events": pl.Int64},
    ITEM: {"fit": pl.String, "item_id": pl.String},
}


@dataclass(frozen=True)
class SequenceFit:
    """One fit of the sequence model: what it knows."""

    version: str
    as_of: datetime
    item_ids: tuple[str, ...]  # of the known events, sorted
    num_sequences: int  # of two events or more
    num_events: int  # in these


class Known(NamedTuple):
    """E events of S owners before a moment, as numbers."""

    owners: pl.DataFrame  # (S,) owner, is_user; sorted
    items: Ints  # (E,) item numbers from 1
    starts: Ints  # (S + 1,)
    visit_end: Ints  # (E,) the first event after the event's visit
    is_relevant: np.ndarray  # (E,)

    def sequences(self) -> list[Ints]:
        """The item numbers of each owner."""
        return np.split(self.items, self.starts[1:-1]) if len(self.owners) else []


def events_of(visits: pl.DataFrame, *, relevant: str) -> pl.DataFrame:
    """Rows of EVENTS, one for each event, from rows of gold/sessions."""
    named = visits.with_columns(
        owner=pl.coalesce("user_key", "session_id"),
        is_user=pl.col("user_key").is_not_null(),
        place=pl.int_ranges(pl.col("items").list.len()),
    ).explode("items", "event_types", "event_times", "place")
    return named.select(
        "owner",
        "is_user",
        "started_at",
        "session_id",
        "place",
        item_id="items",
        event_time="event_times",
        is_relevant=pl.col("event_types") == relevant,
    ).cast(pl.Schema(EVENTS))


def spread_events(
    files: Iterable[pa.RecordBatch], *, until: datetime, relevant: str, num_shards: int
) -> Iterator[pa.RecordBatch]:
    """Read files of gold/sessions (rows of TABLE_FILES), and pack the events before `until` by shard of whole owners."""
    for file in rows_of(files):
        for rows in table_rows(file["location"], READ):
            begun = rows.filter(pl.col("started_at") < until, pl.col("items").list.len() > 0)
            events = events_of(begun, relevant=relevant).filter(pl.col("event_time") < until)
            yield from packed(events, EVENT, shards_by(events["owner"], num_shards))


def count_known(parts: Iterable[pa.RecordBatch], *, moments: Mapping[str, datetime]) -> Iterator[pa.RecordBatch]:
    """Count the sequences of a share that each fit can learn from, those of two events or more; the items of all go on."""
    events = events_in(parts)
    for fit, as_of in moments.items():
        before = events.filter(pl.col("event_time") < as_of)
        lengths = before.group_by("owner").len().filter(pl.col("len") > 1)
        counts = lengths.select(
            fit=pl.lit(fit), num_sequences=pl.len().cast(pl.Int64), num_events=pl.sum("len").cast(pl.Int64)
        )
        yield from packed(counts, COUNT)
        yield from packed(before.select(pl.lit(fit).alias("fit"), "item_id").unique(), ITEM)


def known_of(events: pl.DataFrame, *, as_of: datetime, item_ids: tuple[str, ...]) -> Known:
    """The events before `as_of` with these items, by owner, in their order; others are left out."""
    numbers = pl.DataFrame({"item_id": pl.Series(item_ids, dtype=pl.String)}).with_row_index("number", offset=1)
    before = events.filter(pl.col("event_time") < as_of).join(numbers, on="item_id", how="inner")
    ordered = before.sort("owner", "started_at", "session_id", "place")
    owners = ordered.group_by("owner", maintain_order=True).agg(pl.first("is_user"), num_events=pl.len())
    num_events = owners["num_events"].to_numpy().astype(np.int64)
    is_last = pl.struct("owner", "session_id") != pl.struct("owner", "session_id").shift(-1)
    last = np.flatnonzero(ordered.select(is_last.fill_null(True)).to_series().to_numpy())
    places = np.arange(len(ordered))
    return Known(
        owners.drop("num_events"),
        ordered["number"].to_numpy().astype(np.int64),
        np.concatenate([[0], np.cumsum(num_events)]).astype(np.int64),
        (last[np.searchsorted(last, places)] + 1 if len(places) else places).astype(np.int64),
        ordered["is_relevant"].to_numpy(),
    )


def events_in(parts: Iterable[pa.RecordBatch]) -> pl.DataFrame:
    """The events of a share, rows of EVENTS."""
    return unpacked(parts).get(EVENT, pl.DataFrame(schema=pl.Schema(EVENTS)))


def user_vectors(weights: SequenceWeights, events: pl.DataFrame, fit: SequenceFit) -> pa.Table:
    """Rows of gold/vectors of the users among the owners, from their latest events before the fit's moment."""
    known = known_of(events.filter("is_user"), as_of=fit.as_of, item_ids=fit.item_ids)
    vectors = weights.vectors(known.sequences(), purpose=LATER)
    return vector_rows(vectors, known.owners["owner"].to_arrow().cast(pa.string()), kind="user", fit=fit)


def reciprocal_ranks(weights: SequenceWeights, visits: pl.Series) -> Floats:
    """One number for each event after the first of each visit: 1 / its item's rank given the events so far, 0 beyond NEXT_K.

    Zero too where the item, or all items so far, are unknown: these events are asked for all the same.

    Args:
        weights: of a fit that knows nothing of the visits.
        visits: lists of items.
    """
    number_of = {item: number for number, item in enumerate(weights.item_ids, start=1)}
    prefixes, answers, asked, num_asked = [], [], [], 0
    for items in visits.to_list():
        numbers = [number_of.get(item, 0) for item in items]
        for place in range(1, len(numbers)):
            so_far = [number for number in numbers[:place] if number]
            if so_far and numbers[place]:
                prefixes.append(np.array(so_far[-weights.length :], np.int64))
                answers.append(numbers[place] - 1)
                asked.append(num_asked)
            num_asked += 1
    found = np.zeros(num_asked)
    vectors = weights.vectors(prefixes, purpose=NEXT)
    for begin in range(0, len(prefixes), ROWS_AT_ONCE):
        rows = slice(begin, begin + ROWS_AT_ONCE)
        scores = vectors[rows] @ weights.item_vectors.T
        own = scores[np.arange(len(scores)), answers[rows]]
        ranks = (scores >= own[:, None]).sum(axis=1)  # of equal scores it is the last
        found[asked[rows]] = np.where(ranks <= NEXT_K, 1 / ranks, 0.0)
    return found


def item_vectors(weights: SequenceWeights, fit: SequenceFit) -> pa.Table:
    """Rows of gold/vectors of the items."""
    return vector_rows(weights.item_vectors, pa.array(fit.item_ids, pa.string()), kind="item", fit=fit)


def vector_rows(vectors: np.ndarray, ids: pa.Array, *, kind: str, fit: SequenceFit) -> pa.Table:
    """Rows of gold/vectors, one an id, from vectors (N, D)."""
    size, width = vectors.shape
    flat = pa.array(np.ascontiguousarray(vectors, np.float32).ravel(), pa.float32())
    values = pa.FixedSizeListArray.from_arrays(flat, width).cast(pa.list_(pa.float32()))
    named = {"model": "sequence", "version": fit.version, "kind": kind}
    return pa.table(
        {
            **{column: pa.repeat(value, size) for column, value in named.items()},
            "id": ids,
            "values": values,
            "as_of": pa.repeat(pa.scalar(fit.as_of, pa.timestamp("us", tz="UTC")), size),
        }
    )


def write_user_vectors(
    parts: Iterable[pa.RecordBatch], *, lake: Lake, weights: Broadcast[SequenceWeights], fit: SequenceFit
) -> Iterator[pa.RecordBatch]:
    """Write the vectors of a share's users."""
    found = user_vectors(weights.value, events_in(parts), fit)
    yield from write_rows(found.cast(VECTORS_TABLE.schema).to_batches(), lake=lake, table=VECTORS_TABLE)
