"""What a mapping makes of the first rows of a log's files: read, typed and cleaned as by the jobs, and nothing written."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa

from lib.cleaning.fields import event_times
from lib.cleaning.forms import remarks
from lib.cleaning.notices import about_clocks
from lib.cleaning.shard import clean_events, clean_items
from lib.cleaning.thresholds import Thresholds
from lib.cleaning.whole_log import WholeLog, clock_of, coarsest_clocks
from lib.formats.files import find_files
from lib.formats.log_files import LogFile
from lib.formats.mapping import LogMapping, Source
from lib.formats.reading import Reading, missing_columns

SHOWN_EVENTS = 5
SHOWN_FIELDS = ("event_time", "event_type", "user_key", "item_id", "quantity", "price", "currency")
KEY = b"a trial"  # pseudonyms of a trial are shown and not kept


class Outcome(NamedTuple):
    """What became of the first rows of one source's first file."""

    source: str
    path: str
    num_rows: int
    is_whole: bool  # the file holds no more rows
    num_by_outcome: dict[str, int]  # accepted, or why not
    num_by_type: dict[str, int]  # accepted events
    facts: dict[str, str]  # what a person would check
    remarks: list[str]
    sample: pl.DataFrame  # the first accepted events, or items

    @property
    def accepted_frac(self) -> float:
        """The share of the rows that were accepted, of those that are wanted."""
        wanted = self.num_rows - self.num_by_outcome.get("ignored", 0)
        return self.num_by_outcome.get("accepted", 0) / wanted if wanted else 0.0


def outcomes(log: str, mapping: LogMapping, *, max_rows: int) -> list[Outcome]:
    """Try the mapping on the first file of each source of a log, which may be a single file.

    Raises:
        ValueError: there is no log, no file of it belongs to a source, or one cannot be read.
    """
    files, _ = find_files(log, mapping)
    if not files:
        patterns = ", ".join(mapping.file_patterns)
        raise ValueError(f"{log}: no file matches a pattern of {mapping.name}: {patterns}")
    first: dict[str, LogFile] = {}
    for file in files:
        first.setdefault(file.source, file)
    return [_outcome(file, mapping, max_rows) for file in first.values()]


def _outcome(file: LogFile, mapping: LogMapping, max_rows: int) -> Outcome:
    source = mapping.sources[file.source]
    batches, is_whole = first_batches(file, source, max_rows)
    rows = pa.concat_tables((pa.Table.from_batches([batch]) for batch in batches), promote_options="default")
    if source.kind == "images":
        pictures = pl.DataFrame(rows.slice(0, max_rows).drop_columns("bytes"))
        shown = pictures.head(SHOWN_EVENTS).select("item_id", "uri", "width", "height")
        read = {"accepted": pictures.height}
        return Outcome(file.source, file.path, pictures.height, is_whole, read, {}, {}, [], shown)
    frame = pl.DataFrame(rows.slice(0, max_rows)).with_columns(
        source_file=pl.lit(file.path),
        source_file_sha256=pl.lit("0" * 64),
        batch_id=pl.lit("trial"),
        arrived_at=pl.lit(datetime.now(UTC)).cast(pl.Datetime("us", "UTC")),
    )
    clean = _items if source.kind == "items" else _events
    return clean(frame, file, mapping, is_whole and frame.height == rows.num_rows)


def first_batches(file: LogFile, source: Source, max_rows: int) -> tuple[list[pa.RecordBatch], bool]:
    """The first rows of a file, at least `max_rows` of them if it has so many, and whether these are all.

    Raises:
        ValueError: it cannot be read by the source.
    """
    reading, batches = Reading(file, source), list[pa.RecordBatch]()
    for batch in reading:
        batches.append(batch)
        if sum(map(len, batches)) >= max_rows:
            names = batch.schema.names
            missing = missing_columns(names, source) if source.kind != "images" else []
            if missing:
                raise ValueError(f"{file.path} has no column {missing[0]!r}; it has {', '.join(names[:-2])}")
            return batches, False
    if reading.inspection.problem:
        raise ValueError(f"{file.path} {reading.inspection.problem}")
    return batches, True


def _events(frame: pl.DataFrame, file: LogFile, mapping: LogMapping, is_whole: bool) -> Outcome:
    name = file.source
    clock = mapping.sources[name].clock or clock_of(
        coarsest_clocks(event_times(frame, name, mapping), mapping.timezone)
    )
    clocks = {name: clock} if clock else {}
    cleaned = clean_events({name: frame}, mapping, Thresholds(), KEY, WholeLog(clocks=clocks))
    assert cleaned.events is not None
    events = cleaned.events.sort("event_time", "event_id")
    counts = cleaned.counts.to_dicts()
    return Outcome(
        *(name, file.path, frame.height, is_whole),
        {row["outcome"]: row["num_records"] for row in counts if row["num_records"]},
        dict(events["event_type"].value_counts().sort("count", descending=True).iter_rows()),
        dict(_facts(events, clock, mapping)),
        [*about_clocks(clocks, mapping), *remarks(counts, cleaned.forms.to_dicts(), mapping)],
        events.head(SHOWN_EVENTS).select(
            column for column in SHOWN_FIELDS if events[column].null_count() < events.height
        ),
    )


def _items(frame: pl.DataFrame, file: LogFile, mapping: LogMapping, is_whole: bool) -> Outcome:
    cleaned = clean_items({file.source: frame}, mapping)
    counts = cleaned.counts.to_dicts()
    items = cleaned.items.unique("item_id", keep="last", maintain_order=True)
    fields = ("item_id", "title", "category", "brand", "price", "currency")
    shown = [column for column in fields if items[column].null_count() < items.height]
    return Outcome(
        *(file.source, file.path, frame.height, is_whole),
        {row["outcome"]: row["num_records"] for row in counts if row["num_records"]},
        {},
        {"items": f"{items.height:,} different"},
        remarks(counts, cleaned.forms.to_dicts(), mapping),
        items.head(SHOWN_EVENTS).select(shown),
    )


def _facts(events: pl.DataFrame, clock: str | None, mapping: LogMapping) -> Iterator[tuple[str, str]]:
    """What a person would check of the accepted events."""
    if events.is_empty():
        return
    times: Any = events["event_time"]
    yield "times", f"{times.min():%Y-%m-%d %H:%M} to {times.max():%Y-%m-%d %H:%M} UTC, clock: {clock}"
    known = events.filter(pl.col("user_key").is_not_null())
    users, sessions = known["user_key"].n_unique(), known.select("user_key", "session_id").n_unique()
    yield "users", f"{users:,} different, {_share(known.height, events.height)} of the events; {sessions:,} sessions"
    yield "items", f"{events['item_id'].n_unique():,} different"
    priced = events.filter(pl.col("price").is_not_null())
    if priced.height:
        currencies = ", ".join(sorted(priced["currency"].fill_null("none given").unique()))
        middle: Any = priced["price"].cast(pl.Float64).median()
        yield (
            "prices",
            f"{_share(priced.height, events.height)} of the events, median {middle:.2f}; currency: {currencies}",
        )
    elif mapping.currency is None:
        yield "prices", "none"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %"
