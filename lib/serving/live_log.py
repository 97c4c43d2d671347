"""The live log: events as records of the shop's own log, to Kafka or into files where ingest finds them."""

import fcntl
import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from confluent_kafka import Producer

from lib.formats.mapping import Source
from lib.formats.writing import RecordWriter
from lib.live.kafka_access import client_properties
from lib.live.kafka_log import PRODUCER
from lib.runs.errors import SettingError
from lib.settings import LiveSettings

FLUSH_SECONDS = 10.0  # for what Kafka has not taken when a server ends


class LogUnavailableError(Exception):
    """The live log takes nothing more."""


class LiveLog(Protocol):
    """Takes events."""

    def write(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Write events, with `user_id` as the source has it; they are of the log when Kafka or the file has them.

        Raises:
            LogUnavailableError: nothing more can be taken.
        """
        ...

    def counts(self) -> dict[str, int]:
        """How many records were written, and how many were lost."""
        ...

    def close(self) -> None:
        """Write what is held back."""
        ...


class KafkaLog:
    """Records to a topic: each written once, in the order of a user's (idempotent producer)."""

    def __init__(self, live: LiveSettings, writer: RecordWriter) -> None:
        self._topic, self._writer = live.topic_of(writer.source), writer
        self._producer = Producer({**PRODUCER, **client_properties(live), "message.timeout.ms": 300_000})
        self._delivered = self._lost = 0

    def write(self, events: Sequence[Mapping[str, Any]]) -> None:
        for event in events:
            try:
                self._producer.produce(
                    self._topic, self._writer.line_of(event), key=event.get("user_id"), on_delivery=self._told
                )
            except BufferError:
                raise LogUnavailableError("the queue to Kafka is full") from None
        self._producer.poll(0)

    def _told(self, error: Any, message: Any) -> None:
        if error is None:
            self._delivered += 1
        else:
            self._lost += 1

    def counts(self) -> dict[str, int]:
        self._producer.poll(0)
        return {"written": self._delivered, "lost": self._lost, "waiting": len(self._producer)}

    def close(self) -> None:
        self._producer.flush(FLUSH_SECONDS)


class FileLog:
    """Records as JSON lines in a file for every hour. A file gets its name when it is finished: until then ingest does not see it."""

    def __init__(self, folder: Path, source: Source, writer: RecordWriter, *, name: str, seconds: float = 3600) -> None:
        self._writer, self._seconds = writer, seconds
        self._pattern = _place(source)
        self._folder, self._name = folder, name
        self._lock = threading.Lock()
        self._written = 0
        self._file: Any = None
        self._path = Path()
        self._began = 0.0
        _finish_left(folder / Path(self._pattern).parent)

    def write(self, events: Sequence[Mapping[str, Any]]) -> None:
        lines = b"".join(self._writer.line_of(event) + b"\n" for event in events)
        with self._lock:
            try:
                if self._file is None or time.monotonic() - self._began > self._seconds:
                    self._rotate()
                self._file.write(lines)
                self._file.flush()
            except OSError as error:
                raise LogUnavailableError(f"the log folder takes nothing more ({error.strerror})") from None
            self._written += len(events)

    def _rotate(self) -> None:
        self._finish()
        path = self._folder / self._pattern.replace("\0", f"live-{self._name}-{time.time_ns()}")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._began = path, time.monotonic()
        self._file = path.with_name(f".{path.name}.part").open("ab")
        fcntl.flock(self._file, fcntl.LOCK_EX)  # until it ends, however: by that others know whether it is written

    def _finish(self) -> None:
        if self._file is not None:
            os.fsync(self._file.fileno())
            self._path.with_name(f".{self._path.name}.part").rename(self._path)
            self._file.close()
            self._file = None

    def counts(self) -> dict[str, int]:
        return {"written": self._written, "lost": 0, "waiting": 0}

    def close(self) -> None:
        with self._lock:
            self._finish()


def _place(source: Source) -> str:
    r"""A path of a live file below the log folder that belongs to the source; \\0 stands where its name goes.

    Raises:
        SettingError: no pattern of the source can be filled in.
    """
    for pattern in source.files:
        folders = re.sub(r"\*\*/", "", pattern)
        head, _, name = folders.rpartition("/")
        filled = re.sub(r"\{\w+\}|\*+", "live", head).replace("?", "0")
        named = re.sub(r"\*+|\{\w+\}", "\0", name, count=1)
        named = re.sub(r"\{\w+\}|\*+", "", named).replace("?", "0")
        path = f"{filled}/{named}" if filled else named
        if "\0" in path and source.path_values(path.replace("\0", "live-0-0")) is not None:
            return path
    raise SettingError(
        f"the live log needs a pattern with * in the name of its files, such as events/*.jsonl, not {', '.join(source.files)}"
    )


def _finish_left(folder: Path) -> None:
    """Give their names to files that a server which was killed has left: nobody holds them any more."""
    for file in folder.glob(".live-*.part") if folder.is_dir() else ():
        with suppress(OSError), file.open("ab") as held:  # another server may be as quick
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.rename(file.with_name(file.name.removeprefix(".").removesuffix(".part")))
