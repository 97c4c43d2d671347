"""Plays the files of a log into Kafka, as if its records came now: as fast as may be, or at a chosen speed.

Records keep the order of their files, and sources, or all files, are brought together by the times of their records. A line of
JSON goes as it was received, sound or not; other records as one object of texts under the file's own names.
"""

import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Any, NamedTuple

import msgspec
import polars as pl
import pyarrow as pa
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from lib.cleaning.fields import EARLIEST, LATEST_AFTER_ARRIVAL, column_texts, event_times, field_texts
from lib.formats.columns import stored_names
from lib.formats.csv_lines import csv_header
from lib.formats.files import find_files
from lib.formats.json_lines import JsonLines, received_lines
from lib.formats.log_files import LogFile, UnreadableError, text_blocks
from lib.formats.mapping import LogMapping, Source
from lib.formats.parquet_rows import parquet_names
from lib.formats.reading import Reading, unreadable
from lib.live.kafka_access import client_properties
from lib.live.kafka_log import FILE_HEADER, PRODUCER, create_topics
from lib.runs.errors import RetryableError
from lib.settings import LiveSettings

BEFORE_ALL = datetime.min.replace(tzinfo=UTC)  # of records without a time, before the first that has one
FLUSH_SECONDS, TELL_SECONDS, WAIT_SECONDS = 120.0, 5.0, 0.2
POLL_EVERY = 500  # records
AHEAD_OF = 10  # records after it with which a time is compared that may be ahead of them

Show = Callable[[str], object]


class LogRecord(NamedTuple):
    """A record of the log, as it is sent."""

    at: datetime  # when it was due in its log; see `_due`
    source: str
    file: str
    number: int  # in its file, from 1
    key: str | None
    value: bytes


@dataclass(frozen=True)
class Pace:
    """How fast records go: so many a second, so many times faster than they happened, or as fast as may be."""

    events_per_second: float | None = None
    speed: float | None = None

    def due_seconds(self, num_sent: int, record: LogRecord, first: datetime | None) -> float:
        """When a record is due, after the first."""
        if self.events_per_second is not None:
            return num_sent / self.events_per_second
        if self.speed is not None and first is not None:
            return (record.at - first).total_seconds() / self.speed
        return 0.0


@dataclass
class Replayed:
    """What came of a replay."""

    num_sent: Counter[str] = field(default_factory=Counter)  # by topic
    num_acknowledged: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)  # of files and records that were left out


class LogRecords:
    """The records of a log's events and items in the order in which they are sent, and what was wrong with its files."""

    def __init__(self, log: str, mapping: LogMapping, *, by_time: bool = False) -> None:
        """`by_time`: the files of a source cover the same time, as parts do, and are brought together."""
        self.mapping, self.by_time = mapping, by_time
        self.problems: list[str] = []
        files, _ = find_files(log, mapping)
        self.files = {name: [file for file in files if file.source == name] for name in mapping.live_sources}

    def __iter__(self) -> Iterator[LogRecord]:
        streams = [files for files in self.files.values() if not self.by_time]
        streams += [[file] for files in self.files.values() for file in files if self.by_time]
        return heapq.merge(*map(self._of_files, streams), key=lambda record: record.at)

    def _of_files(self, files: Sequence[LogFile]) -> Iterator[LogRecord]:
        """The records of files of one source, one file after the other."""
        latest = BEFORE_ALL
        for file in files:
            name, number = file.source, 0
            source = self.mapping.sources[name]
            whole = _as_a_whole(source)
            mapping = self.mapping.model_copy(update={"sources": {name: whole}})
            for rows, values in self._read(file, source):
                frame = pl.DataFrame(rows).with_columns(source_file=pl.lit(file.path))
                times = _in_each(event_times(frame, name, mapping), frame)
                for key, at, value in zip(_keys(frame, whole), _due(times, mapping), values, strict=True):
                    latest = max(latest, at or latest)
                    number += 1
                    yield LogRecord(latest, name, file.path, number, key, value)

    def _read(self, file: LogFile, source: Source) -> Iterator[tuple[pa.RecordBatch, Sequence[bytes]]]:
        """A file's records, in columns of bronze, and what is sent of each."""
        try:
            if source.reader.type == "json_lines":
                lines = JsonLines()
                for block in text_blocks(file, source.reader.encoding):
                    batch = lines.read(block)
                    yield batch.rename_columns([*stored_names(lines.keys), "malformed"]), received_lines(block)
                return
            reading, names = Reading(file, source), _names(file, source)
            for batch in reading:
                yield batch, _as_json(batch, names)
        except (UnreadableError, OSError) as error:
            self.problems.append(f"{file.path} {unreadable(error).problem}")
        else:
            if reading.inspection.problem:
                self.problems.append(f"{file.path} {reading.inspection.problem}")


def replay(
    records: LogRecords,
    live: LiveSettings,
    *,
    partitions: int = 4,
    pace: Pace = Pace(),
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int | None = None,
    tell: Show | None = None,
) -> Replayed:
    """Send records whose time is from `since` to before `until`, `limit` at most, and wait until all are acknowledged.

    A record without a time counts as of the time of the one before it.

    Raises:
        RetryableError: no Kafka answers, or it did not acknowledge all; the message says how many.
        SettingError: Kafka does not make a topic, or refuses this client.
    """
    create_topics(live, [live.topic_of(name) for name in records.files], partitions=partitions)
    sending = _Sending(live, tell)
    chosen = (
        record for record in records if (since is None or record.at >= since) and (until is None or record.at < until)
    )
    first: datetime | None = None
    for number, record in enumerate(islice(chosen, limit)):
        if first is None and record.at > BEFORE_ALL:
            first = record.at
        sending.wait_until(pace.due_seconds(number, record, first))
        sending.send(record)
    done = sending.finish()
    done.problems = records.problems + done.problems
    return done


class _Sending:
    """A producer, and what has become of what it was given."""

    def __init__(self, live: LiveSettings, tell: Show | None) -> None:
        self.live, self.address, self.tell = live, live.kafka, tell
        self.producer = Producer({**PRODUCER, **client_properties(live), "error_cb": self._failed})
        self.done = Replayed()
        self.first_error: KafkaError | None = None
        self.begun = self.told_at = time.monotonic()
        self.at = BEFORE_ALL

    def wait_until(self, due_seconds: float) -> None:
        while (left := self.begun + due_seconds - time.monotonic()) > 0:
            self.producer.poll(min(left, WAIT_SECONDS))
            self._tell()

    def send(self, record: LogRecord) -> None:
        topic = self.live.topic_of(record.source)
        headers = {FILE_HEADER: record.file}
        while True:
            try:
                self.producer.produce(topic, record.value, record.key, headers=headers, on_delivery=self._delivered)  # type: ignore[arg-type]
            except BufferError:  # as much is under way as may be
                self.producer.poll(WAIT_SECONDS)
                self._tell()
                self._require_no_error()
                continue
            except KafkaException as error:
                if error.args[0].code() != KafkaError.MSG_SIZE_TOO_LARGE:
                    raise RetryableError(f"Kafka at {self.address}: {error.args[0].str()}") from None
                place = f"record {record.number} of {record.file}"
                self.done.problems.append(f"{place} is larger than Kafka takes: {len(record.value):,} bytes")
                return
            break
        self.at = record.at
        self.done.num_sent[topic] += 1
        if self.done.num_sent.total() % POLL_EVERY == 0:
            self.producer.poll(0)
            self._tell()
            self._require_no_error()

    def finish(self) -> Replayed:
        """Wait until all that was sent is acknowledged."""
        deadline = time.monotonic() + FLUSH_SECONDS
        while self.producer.flush(WAIT_SECONDS) and time.monotonic() < deadline:
            self._tell()
        self.done.seconds = time.monotonic() - self.begun
        self._require_no_error()
        if self.done.num_acknowledged < self.done.num_sent.total():
            raise self._not_all("Kafka does not answer any more")
        return self.done

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        if error is None:
            self.done.num_acknowledged += 1
        else:
            self.first_error = self.first_error or error

    def _failed(self, error: KafkaError) -> None:
        if error.fatal():
            self.first_error = self.first_error or error

    def _require_no_error(self) -> None:
        if self.first_error is not None:
            raise self._not_all(self.first_error.str())

    def _not_all(self, reason: str) -> RetryableError:
        numbers = f"{self.done.num_acknowledged:,} of {self.done.num_sent.total():,} records were acknowledged"
        return RetryableError(f"Kafka at {self.address}: {numbers}: {reason}")

    def _tell(self) -> None:
        now = time.monotonic()
        if self.tell is not None and now - self.told_at >= TELL_SECONDS:
            self.told_at = now
            sent, at = self.done.num_sent.total(), "" if self.at == BEFORE_ALL else f"; at {self.at:%Y-%m-%d %H:%M:%S}"
            rate = f"{sent / (now - self.begun):,.0f} a second"
            self.tell(f"{sent:,} records sent, {self.done.num_acknowledged:,} acknowledged, {rate}{at}")


def _as_a_whole(source: Source) -> Source:
    """A source whose record is not parted into those of its array: its time is that of the first."""
    if source.explode is None:
        return source
    names, inside = dict(source.names), f"{source.explode}."
    time_column = names["event_time"].column if "event_time" in names else None
    if time_column is not None and time_column.startswith(inside):
        first = f"{source.explode}.0.{time_column.removeprefix(inside)}"
        names["event_time"] = names["event_time"].model_copy(update={"column": first})
    return source.model_copy(update={"explode": None, "names": names})


def _due(times: pl.Series, mapping: LogMapping) -> pl.Series:
    """When records were due by their times, some of which are of wrong clocks; null where nothing tells.

    One that is ahead of those after it was due with these, and in the log none before the one before it.
    """
    end = mapping.times.end or datetime.now(UTC) + LATEST_AFTER_ARRIVAL
    known = pl.DataFrame({"at": times.dt.replace_time_zone("UTC")}).select(
        pl.when(pl.col("at").is_between(EARLIEST, end, closed="left")).then("at").dt.epoch("us")
    )
    first_of_next = pl.col("at").reverse().rolling_min(AHEAD_OF + 1, min_samples=1).reverse()
    due = known.select(pl.when(pl.col("at").is_not_null()).then(first_of_next)).to_series()
    return due.cast(pl.Datetime("us", "UTC"))


def _keys(frame: pl.DataFrame, source: Source) -> pl.Series:
    """What keeps records in their order: of events the user, or else the visitor; of items the item."""
    if source.kind == "items":
        return _in_each(field_texts(frame, "item_id", source), frame)
    users = _in_each(field_texts(frame, "user_id", source), frame)
    if source.visitor_id is None:
        return users
    visitors = _in_each(column_texts(frame, [source.visitor_id]).to_series(), frame)
    return pl.select(pl.coalesce(users, visitors)).to_series()


def _in_each(values: pl.Series, frame: pl.DataFrame) -> pl.Series:
    """One value a record, where a column that no record has gave one for all."""
    return values if len(values) == frame.height else values.new_from_index(0, frame.height)


def _names(file: LogFile, source: Source) -> tuple[str, ...]:
    """A file's own names of its columns."""
    if source.reader.type == "parquet":
        names = parquet_names(file)
    else:
        names = tuple(csv_header(text_blocks(file, source.reader.encoding), source.reader)[0])
    return names if len({*names}) == len(names) else stored_names(names)


def _as_json(batch: pa.RecordBatch, names: Sequence[str]) -> list[bytes]:
    """The records of a batch, each as an object under these names; of one that does not fit the text as received."""
    columns: list[list[Any]] = [column.to_pylist() for column in batch.columns[: len(names)]]
    malformed = batch.column("malformed").to_pylist()
    encode = msgspec.json.Encoder().encode
    return [
        encode(dict(zip(names, row, strict=True))) if whole is None else whole.encode()
        for whole, row in zip(malformed, zip(*columns, strict=True), strict=True)
    ]
