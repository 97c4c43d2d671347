"""stream: the live log from Kafka -> bronze/<source>, the online state; and jobs ingest and clean, again and again.

A message is a record of its topic's source. Each batch of messages is appended to bronze in one transaction a table, which
names the stream and the batch: with Spark's checkpoint, that makes a batch that is read again, after a kill or an error, change
nothing. A second query of its own checkpoint keeps the online state, so that neither waits for the other. Every
`clean_seconds` the job `clean` makes silver of what came since, as it does of files. Events whose time lies before the watermark
are late: bronze has them, clean refuses them.

Without `live.kafka` it waits for files in the log folder, and runs the job `ingest` when there are new ones.

Runs until SIGTERM or Ctrl-C, or with `available_now` until it has read what is there. While Kafka does not answer, it waits.
"""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from types import FrameType
from typing import Any

from pydantic import Field
from pyspark import Broadcast
from pyspark.errors import StreamingQueryException
from pyspark.sql import DataFrame
from pyspark.sql.streaming.query import StreamingQuery

from lib.cleaning.erasures import erased_digests
from lib.cleaning.pseudonyms import load_key
from lib.cli.jobs import load_job, settings_class
from lib.engines.arrow_tasks import files_of
from lib.engines.spark import SparkParts, SparkRun, start_run
from lib.engines.spark_properties import address_for_spark
from lib.ingestion.messages import (
    FOUND,
    LAST_TIME,
    MESSAGES,
    MessageWork,
    TakenMessages,
    source_of_topics,
    stage_messages,
)
from lib.ingestion.own_columns import are_spelled_apart, own_columns
from lib.ingestion.tasks import IngestWork
from lib.lake.writes import commit_files, discard, num_rows, remove_files, transaction_id
from lib.live.kafka_access import refusal, require_access, spark_options
from lib.live.watermark import clocks_after, keep_clocks
from lib.online.from_messages import StateWork, add_to_state
from lib.online.state import StateUnavailableError
from lib.pipeline import JOBS
from lib.runs.errors import ExitCode, RetryableError, SettingError, ending_of
from lib.runs.freshness import outcome_if_unchanged
from lib.settings import JobSettings, LiveSettings
from lib.tables import contract

BRONZE, STATE, FILES = "bronze", "state", "files"  # the queries
KAFKA_IS_AWAY = ("TimeoutException", "DisconnectException", "NetworkException", "Failed to construct kafka consumer")
MOST_SECONDS_BETWEEN_TRIES = 30.0
SECONDS_BETWEEN_WORDS = 30.0
STEP_SECONDS = 0.5  # in which an end is noticed


class StreamSettings(JobSettings):
    """How often and how much it reads, when an event is late, and where it remembers what it has read."""

    available_now: bool = Field(False, description="read what is there, clean it, and end, in place of going on")
    trigger_seconds: float = Field(
        1, ge=0, description="seconds from the beginning of a batch to that of the next, at least"
    )
    max_records: int = Field(100_000, ge=1, description="records of a batch at most")
    tasks: int = Field(
        2, ge=1, le=1024, description="tasks that a batch is divided into at most; each writes a file for each table"
    )
    late_hours: float | None = Field(
        168,
        ge=0,
        description="hours by which an event may lie behind the latest of the partition that is furthest behind; a later one is "
        "refused as late. null: none is",
    )
    clean_seconds: float = Field(
        60, ge=0, description="seconds after which `clean` runs again; 0: it does not run here"
    )
    keep_state: bool = Field(True, description="keep the online state of users")
    starting_offsets: str = Field(
        "earliest",
        pattern="^(earliest|latest)$",
        description="where a stream without a checkpoint begins to read Kafka",
    )
    fail_on_data_loss: bool = Field(True, description="stop where Kafka has removed records before they were read")
    checkpoint: str = Field(
        "live/checkpoints", min_length=1, description="folder below the lake of the checkpoints of Spark"
    )


@dataclass
class Stream:
    """What the batches of a run share."""

    run: SparkRun
    settings: StreamSettings
    source_of: dict[str, str]  # topic -> the mapping's source
    key: Broadcast[bytes]

    def checkpoint(self, query: str) -> str:
        return f"{self.settings.checkpoint}/{query}"

    def messages(self) -> DataFrame:
        """The records that Kafka has, as they come."""
        topics = "|".join(topic.replace(".", r"\.") for topic in sorted(self.source_of))
        options: dict[str, Any] = {
            **spark_options(self.settings.live),
            "subscribePattern": topics,
            "startingOffsets": self.settings.starting_offsets,
            "maxOffsetsPerTrigger": self.settings.max_records,
            "failOnDataLoss": str(self.settings.fail_on_data_loss).lower(),
        }
        return self.run.spark.readStream.format("kafka").options(**options).load()

    def files(self) -> DataFrame:
        """The files of the log, as they come."""
        place = address_for_spark(self.settings.log.path or self.run.lake.uri("raw/market"))
        reader = self.run.spark.readStream.format("binaryFile").option("recursiveFileLookup", "true")
        return reader.schema("path string, modificationTime timestamp, length long, content binary").load(place)

    def started(self, query: str, frame: DataFrame, take: Callable[[DataFrame, int], None]) -> StreamingQuery:
        """Start a query that gives each batch of a frame, with its number, to `take`."""
        every = (
            {"availableNow": True}
            if self.settings.available_now
            else {"processingTime": f"{self.settings.trigger_seconds} seconds"}
        )
        place = address_for_spark(self.run.lake.uri(self.checkpoint(query)))
        writer = frame.writeStream.queryName(query).foreachBatch(take).option("checkpointLocation", place)
        return writer.trigger(**every).start()

    def over(self, frame: DataFrame) -> SparkParts:
        """A batch of messages, as tasks take them."""
        return SparkParts(frame.select(*MESSAGES.names).coalesce(self.settings.tasks))


def to_bronze(stream: Stream) -> Callable[[DataFrame, int], None]:
    """What appends a batch of messages to the tables of their sources, once."""
    run, settings = stream.run, stream.settings
    clocks_folder = f"{stream.checkpoint(BRONZE)}/clocks"

    def take(frame: DataFrame, batch: int) -> None:
        query = str(frame.sparkSession.sparkContext.getLocalProperty("sql.streaming.queryId"))
        clocks = clocks_after(run.lake, clocks_folder, batch - 1)
        delay = None if settings.late_hours is None else timedelta(hours=settings.late_hours)
        work = MessageWork(
            IngestWork(
                run.lake.absolute(),
                run.mapping,
                f"{query[:8]}-{batch:08d}",
                datetime.now(UTC),
                {name: own_columns(run.lake, f"bronze/{name}") for name in stream.source_of.values()},
                None if delay is None else clocks.watermark(delay),
            ),
            stream.source_of,
            query,
        )
        found = staged(stream, frame, work)
        commit(stream, found, batch, work)
        told = [json.loads(content) for kind, content in found if kind == LAST_TIME]
        keep_clocks(
            run.lake, clocks_folder, batch, clocks.after({name: datetime.fromisoformat(at) for name, at in told})
        )

    return take


def taken(found: Sequence[tuple[str, bytes]]) -> dict[str, list[TakenMessages]]:
    """What tasks have read, by table."""
    by_table: dict[str, list[TakenMessages]] = {}
    for kind, content in found:
        if kind == FOUND:
            messages = TakenMessages(*json.loads(content))
            by_table.setdefault(f"bronze/{messages.source}", []).append(messages)
    return by_table


def staged(stream: Stream, frame: DataFrame, work: MessageWork) -> list[tuple[str, bytes]]:
    """Write a batch into files that are not committed yet; once more where tasks spell a new column in different ways."""
    lake = stream.run.lake
    found = stream.over(frame).then(stage_messages, work=work).collected()
    columns = {table: [messages.columns for messages in of_table] for table, of_table in taken(found).items()}
    if any(are_spelled_apart(lake, table, of_table) for table, of_table in columns.items()):
        discard(lake, {table: files_of(found, table) for table in columns})
        spelled = {
            name: own_columns(lake, f"bronze/{name}", columns.get(f"bronze/{name}", ())) for name in work.ingest.columns
        }
        again = replace(work, ingest=replace(work.ingest, columns=spelled))
        found = stream.over(frame).then(stage_messages, work=again).collected()
    return found


def commit(stream: Stream, found: Sequence[tuple[str, bytes]], batch: int, work: MessageWork) -> None:
    """Append a batch to its tables, each in one transaction that names the stream and the batch."""
    lake, number = stream.run.lake, batch + 1
    for table, messages in taken(found).items():
        files, transaction = files_of(found, table), transaction_id(f"stream:{work.stream}", table)
        if lake.last_committed_run(table, transaction) >= number:
            remove_files(lake, table, files)
            continue
        own = own_columns(lake, table, [of_task.columns for of_task in messages])
        version = commit_files(
            lake,
            contract(table).with_source_columns(own),
            files,
            transaction=transaction,
            number=number,
            mode="append",
            run_id=work.ingest.batch_id,
        )
        stream.run.outputs[table] = version
        stream.run.rows_by_table[table] += num_rows(files)


def to_state(stream: Stream) -> Callable[[DataFrame, int], None]:
    """What adds the events of a batch of messages to the online state; once more changes nothing."""
    run = stream.run

    def take(frame: DataFrame, batch: int) -> None:
        work = StateWork(
            run.settings.live,
            run.lake.absolute().path,
            run.mapping,
            stream.source_of,
            datetime.now(UTC),
            erased_digests(run.lake),
        )
        stream.over(frame).then(add_to_state, work=work, key=stream.key).collected()

    return take


def run_job(stream: Stream, name: str) -> None:
    """Run another job, if there is something new for it, with its own settings and the shared ones of this run."""
    settings = stream.settings.of_job(settings_class(JOBS[name]))
    if JOBS[name].finds_new_files or outcome_if_unchanged(JOBS[name], settings) is None:
        load_job(JOBS[name]).main(settings)


def queries(stream: Stream) -> dict[str, Callable[[], StreamingQuery]]:
    """What starts each query."""
    if stream.settings.live.kafka is None:
        return {FILES: lambda: stream.started(FILES, stream.files(), lambda frame, batch: run_job(stream, "ingest"))}
    kept = {BRONZE: lambda: stream.started(BRONZE, stream.messages(), to_bronze(stream))}
    if stream.settings.keep_state:
        kept[STATE] = lambda: stream.started(STATE, stream.messages(), to_state(stream))
    return kept


class Runner:
    """Keeps the queries running, each by itself, and cleans between."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.starts = queries(stream)
        self.running: dict[str, StreamingQuery] = {}
        self.next_try = dict.fromkeys(self.starts, 0.0)
        self.tries = dict.fromkeys(self.starts, 0)
        self.next_clean = time.monotonic() + stream.settings.clean_seconds
        self.next_word = time.monotonic() + SECONDS_BETWEEN_WORDS
        self.code = ExitCode.DONE

    def look(self) -> bool:
        """Start what does not run, see what has ended, clean when it is time; returns whether anything is still to be done."""
        for name in [*self.starts]:
            query = self.running.get(name)
            if query is None:
                if time.monotonic() >= self.next_try[name]:
                    self.running[name] = self.starts[name]()
            elif not query.isActive:
                self.ended(name, query)
            elif query.lastProgress is not None:
                self.tries[name] = 0
        if time.monotonic() >= self.next_word:
            self.tell()
        if self.stream.settings.clean_seconds and time.monotonic() >= self.next_clean:
            self.clean()
        return bool(self.starts)

    def tell(self) -> None:
        """Say how the queries go that have read something: records of the latest batch, and how many wait in a partition."""
        for name, query in self.running.items():
            progress = query.lastProgress
            if progress is not None and progress.numInputRows:
                figures: dict[str, float] = {
                    "records": progress.numInputRows,
                    "per_second": progress.processedRowsPerSecond,
                }
                behind = progress.sources[0].metrics.get("maxOffsetsBehindLatest")
                if behind is not None:
                    figures["waiting"] = int(behind)
                self.stream.run.log(name, **figures)
        self.next_word = time.monotonic() + SECONDS_BETWEEN_WORDS

    def ended(self, name: str, query: StreamingQuery) -> None:
        """A query that has read what is there is done; one whose servers are away is tried again.

        Raises:
            StreamingQueryException: it has failed for another reason.
            SettingError: Kafka refuses it.
            RetryableError: it is to end with what is there now, and a server is away.
        """
        error = query.exception()
        del self.running[name]
        if error is None:
            del self.starts[name]
            return
        who = away(error, self.stream.settings.live)
        if who is None and (told := refusal(self.stream.settings.live, str(error))) is not None:
            raise SettingError(told)
        if who is None:
            raise error
        if self.stream.settings.available_now:
            raise RetryableError(f"{who} does not answer")
        self.tries[name] += 1
        seconds = min(MOST_SECONDS_BETWEEN_TRIES, 2.0 ** (self.tries[name] - 1))
        self.next_try[name] = time.monotonic() + seconds
        self.stream.run.log(f"{name} waits: {who} does not answer", tries_again_in=f"{seconds:.0f} s")

    def clean(self) -> None:
        """Make silver of what came since; an error stops no stream, but is its exit code where it is the last.

        New records, or another mapping, may end it.
        """
        try:
            if self.stream.run.lake.sources():
                run_job(self.stream, "clean")
            self.code = ExitCode.DONE
        except Exception as error:
            ending = ending_of(error)
            self.code = ExitCode(ending.code)
            self.stream.run.log(f"clean has failed, and runs again later: {ending.told}")
        self.next_clean = time.monotonic() + self.stream.settings.clean_seconds

    def stop(self) -> None:
        """Let the batches of now end, and stop the queries."""
        end = time.monotonic() + MOST_SECONDS_BETWEEN_TRIES
        for query in self.running.values():
            while query.isActive and query.status["isTriggerActive"] and time.monotonic() < end:
                time.sleep(STEP_SECONDS / 5)
            with suppress(StreamingQueryException):
                query.stop()


def away(error: StreamingQueryException, live: LiveSettings) -> str | None:
    """Who does not answer, if that is why a query has failed: it is worth another try."""
    text = str(error)
    if StateUnavailableError.__name__ in text:
        return "the online state"
    return f"Kafka at {live.kafka}" if any(name in text for name in KAFKA_IS_AWAY) else None


@contextmanager
def stopped_by_signals(stopped: threading.Event) -> Iterator[threading.Event]:
    """An event that SIGTERM and Ctrl-C set; they end nothing by themselves while this lasts."""

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()

    before: dict[int, Any] = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(settings: StreamSettings) -> None:
    with start_run("stream", settings) as run, stopped_by_signals(threading.Event()) as stopped:
        if settings.live.kafka is not None:
            require_access(settings.live)
        key = run.spark.sparkContext.broadcast(load_key(settings.privacy, settings.lake.path))
        topics = source_of_topics(run.mapping, settings.live) if settings.live.kafka else {}
        stream = Stream(run, settings, topics, key)
        runner = Runner(stream)
        try:
            while not stopped.wait(STEP_SECONDS) and runner.look():
                pass
        finally:
            runner.stop()
        if settings.clean_seconds:
            runner.clean()
        run.log("ends", records=run.rows)
    if runner.code:
        raise SystemExit(runner.code)


if __name__ == "__main__":
    main(StreamSettings.from_command_line())
