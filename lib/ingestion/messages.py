"""Records that come as messages of Kafka: the stream's tasks write them into bronze as ingest's do the records of files.

A message is one record of its topic's source, as JSON with the source's own column names, whatever type of file the mapping
names. Its place is its topic's partition and its offset. Does not import Spark.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from lib.cleaning.fields import event_times
from lib.engines.arrow_tasks import part, written_part
from lib.formats.columns import ambiguous_column, locate, stored_names
from lib.formats.json_lines import JsonLines, kept_whole, parse_json
from lib.formats.mapping import LogMapping, Source
from lib.formats.rules import placeholders
from lib.ingestion.tasks import IngestWork, TableFiles
from lib.runs.errors import SettingError
from lib.settings import LiveSettings

MESSAGES = pa.schema(
    [("topic", pa.string()), ("partition", pa.int32()), ("offset", pa.int64()), ("value", pa.binary())]
)
FOUND, LAST_TIME = "found", "last time"  # kinds of parts; the others are named after the table of a written file
BREAKS = (b"\n", b"\r")


class TakenMessages(NamedTuple):
    """What one task read of the messages of a source."""

    source: str
    columns: tuple[str, ...]  # of bronze
    num_records: int
    num_malformed: int


@dataclass(frozen=True)
class MessageWork:
    """What the tasks of one batch need to know."""

    ingest: IngestWork
    source_of: Mapping[str, str]  # topic -> the mapping's source
    stream: str  # whose offsets these are


def source_of_topics(mapping: LogMapping, live: LiveSettings) -> dict[str, str]:
    """The source of each topic whose messages are records: those of events and items.

    Raises:
        SettingError: a source takes something from the path of its files, which a message has not.
    """
    found = {live.topic_of(name): name for name in mapping.live_sources}
    for name in found.values():
        parts = [part for pattern in mapping.sources[name].files for part in placeholders(pattern)]
        if parts:
            raise SettingError(
                f"the source {name} of {mapping.name} takes {parts[0]!r} from the paths of its files, so its records cannot "
                "come from Kafka; leave live.kafka unset, and the stream takes new files"
            )
    return found


def stage_messages(batches: Iterable[pa.RecordBatch], *, work: MessageWork) -> Iterator[pa.RecordBatch]:
    """Write the records of messages (rows of MESSAGES) into files of their sources' tables.

    Yields a part for each source and for each file that was written, and of each partition of events the latest time that it has
    told, as far as that is not in the future.
    """
    messages = pl.DataFrame(pa.Table.from_batches(batches, MESSAGES))
    tables: dict[str, TableFiles] = {}
    for (topic, partition), of_partition in messages.group_by("topic", "partition", maintain_order=True):
        name = work.source_of[str(topic)]
        table = tables.setdefault(name, TableFiles(work.ingest, name))
        rows = placed_records(of_partition.sort("offset"), table.source)
        place, stream = f"kafka/{topic}/{partition}", f"{work.stream}/{topic}/{partition}"
        kept = table.conforming(rows, place, hashlib.sha256(stream.encode()).hexdigest())
        table.keep([kept])
        own = tuple(column for column in rows.schema.names if column not in ("malformed", "record_number"))
        taken = TakenMessages(name, own, len(rows), len(rows) - rows["malformed"].null_count)
        yield part(FOUND, json.dumps(taken).encode())
        if table.source.kind == "events":
            last = last_time(pl.DataFrame(kept), name, work.ingest.mapping, until=work.ingest.arrived_at)
            if last is not None:
                yield part(LAST_TIME, json.dumps([f"{topic}/{partition}", last.isoformat()]).encode())
    for table in tables.values():
        yield from (written_part(table.contract.name, file) for file in table.closed())


def last_time(records: pl.DataFrame, source: str, mapping: LogMapping, *, until: datetime) -> datetime | None:
    """The latest time of the events of some records up to a moment; None where there is none."""
    times = event_times(records, source, mapping)
    end = mapping.times.end
    found = times.filter((times <= until) & ((times < end) if end else True)).max()
    assert found is None or isinstance(found, datetime)
    return found


def placed_records(messages: pl.DataFrame, source: Source) -> pa.RecordBatch:
    """The records of messages, rows of `offset` and `value`, one for each: columns of bronze as text, malformed, record_number."""
    records = records_of(messages["value"].to_list(), source)
    return records.append_column("record_number", messages["offset"].cast(pl.Int64).to_arrow())


def records_of(values: Sequence[bytes | None], source: Source) -> pa.RecordBatch:
    """The records of messages, one for each: columns of bronze as text, those that the mapping needs among them, and malformed.

    What is no JSON object is malformed, and so is an object of which two keys may be meant by one name of the mapping.
    """
    lines = [_in_one_line(value or b"") for value in values]
    records, names = _read(lines)
    if ambiguous_column(names, source.mapped_columns):
        lines = [None if line is None or _is_ambiguous(line, source) else line for line in lines]
        records, names = _read(lines)
    stored = stored_names(names)
    place = np.cumsum([line is not None for line in lines]) - 1
    taken = pa.array(place, pa.int64(), mask=np.array([line is None for line in lines], dtype=bool))
    whole = [kept_whole(value or b"") if line is None else None for value, line in zip(values, lines, strict=True)]
    malformed = records["malformed"].take(taken).to_pylist()
    columns = dict(zip(stored, (records.column(at).take(taken) for at in range(len(names))), strict=True))
    for name in source.needed_columns:
        if locate([*columns], name) is None and "*" not in name:
            columns[stored_names((*columns, name.split(".")[0]))[-1]] = pa.nulls(len(values), pa.string())
    columns["malformed"] = pa.array(
        [one if one is not None else other for one, other in zip(whole, malformed, strict=True)], pa.string()
    )
    return pa.RecordBatch.from_pydict(columns)


def _read(lines: Sequence[bytes | None]) -> tuple[pa.RecordBatch, list[str]]:
    """The records of those lines that there are, columns by position, and the names of the columns."""
    reader = JsonLines()
    records = reader.read(b"\n".join(line for line in lines if line is not None))
    return records, reader.keys


def _in_one_line(value: bytes) -> bytes | None:
    """A message as one line; None where it is blank, or no JSON object over several lines."""
    if not value.strip():
        return None
    if not any(mark in value for mark in BREAKS):
        return value
    try:
        is_object = isinstance(parse_json(value.decode()), dict)
    except ValueError:
        return None
    return value.replace(b"\r", b" ").replace(b"\n", b" ") if is_object else None  # such a break is never in a text


def _is_ambiguous(line: bytes, source: Source) -> bool:
    try:
        record = parse_json(line.decode())
    except ValueError:
        return False
    return isinstance(record, dict) and ambiguous_column([*record], source.mapped_columns) is not None
