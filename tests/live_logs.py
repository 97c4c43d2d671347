"""A live log in a real Kafka, and the stream that reads it, for tests, acceptance and benchmarks."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from confluent_kafka import Producer

from lib.lake.lake import Lake
from lib.live.kafka_broker import KafkaBroker
from lib.online.open_state import open_state
from lib.pipeline import ROOT
from lib.settings import LiveSettings
from tests.brokers import create_topic
from tests.shops import Shop

CLICKS = """
name: clicks
sources:
  clicks:
    files: "*.jsonl"
    reader: {type: json_lines}
    names: {user_id: user, item_id: item, event_time: time}
    events: [{type: view}]
"""
SLICE_SECONDS = 0.02  # in which a steady log is sent


def topic_prefix(kafka: KafkaBroker, **sources: int) -> str:
    """A prefix of its own, with a topic for each source of so many partitions."""
    prefix = f"t{uuid4().hex[:8]}."
    for source, partitions in sources.items():
        create_topic(kafka.address, f"{prefix}{source}", partitions=partitions)
    return prefix


def stream_command(shop: Shop, kafka: str | None, prefix: str, *flags: str) -> list[str]:
    """The stream of a shop, as a user starts it."""
    return [
        *(sys.executable, "jobs/spark/stream.py", "--lake.path", shop.lake.path, "--log.path", str(shop.log)),
        *("--log.format", str(shop.mapping), "--live.topic-prefix", prefix, "--cluster.driver-memory", "1g"),
        *(("--live.kafka", kafka) if kafka else ()),
        *flags,
    ]


def environment() -> dict[str, str]:
    """What a stream's process is given."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


class Stream:
    """A stream that goes on, in a process of its own."""

    def __init__(self, shop: Shop, kafka: str, prefix: str, *flags: str) -> None:
        self.log = shop.folder / f"stream-{uuid4().hex[:6]}.log"
        with self.log.open("wb") as log:
            command = stream_command(shop, kafka, prefix, *flags)
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=log, stderr=log)

    def until(self, holds: Callable[[], bool], *, seconds: float = 90) -> None:
        """Wait until something holds, while the stream runs."""
        end = time.monotonic() + seconds
        while not holds():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.2)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send it a signal, and wait for its end; its exit code."""
        self.process.send_signal(number)
        return self.process.wait(120)


class SteadyLog(threading.Thread):
    """Sends events of now to a topic, so many a second, each with a number of its own, until it is told to end.

    While the broker is away they wait in this process; `num_sent` are acknowledged.
    """

    def __init__(self, kafka: str, topic: str, *, per_second: float, num_users: int = 1000) -> None:
        super().__init__(daemon=True)
        self.topic, self.per_second, self.num_users = topic, per_second, num_users
        self.producer = Producer(
            {
                **{"bootstrap.servers": kafka, "enable.idempotence": True, "linger.ms": 5, "log_level": 0},
                **{"queue.buffering.max.messages": 2_000_000, "message.timeout.ms": 600_000},
            }
        )
        self.began, self.num_made, self.num_sent = time.monotonic(), 0, 0
        self.more: dict[str, Any] = {}  # further fields of the records from now on
        self.ended = threading.Event()

    def run(self) -> None:
        self.began = time.monotonic()
        while not self.ended.wait(SLICE_SECONDS):
            for number in range(self.num_made, int((time.monotonic() - self.began) * self.per_second)):
                self.make(number)
            self.producer.poll(0)

    def make(self, number: int) -> None:
        """Send one event."""
        user = f"u{number % self.num_users}"
        record = {"user": user, "item": f"i{number}", "time": datetime.now(UTC).isoformat(), **self.more}
        self.producer.produce(self.topic, json.dumps(record), key=user, on_delivery=self.acknowledged)
        self.num_made = number + 1

    def acknowledged(self, error: object, message: object) -> None:
        self.num_sent += error is None

    def end(self) -> int:
        """Send what waits, and end; how many events were acknowledged."""
        self.ended.set()
        self.join()
        self.producer.flush(120)
        return self.num_sent

    def made_at(self, number: int) -> float:
        """The time, by time.monotonic, at which so many events had been made."""
        return self.began + number / self.per_second


def state_items(shop: Shop, **live: Any) -> list[str]:
    """The items of the events of all users of silver in the online state."""
    state = open_state(LiveSettings(**live), shop.lake.path)
    try:
        keys = {row["user_key"] for row in shop.read("silver/events", "user_key")}
        return sorted(event.item_id for key in keys for event in state.events(key))
    finally:
        state.close()


def num_rows(lake: Lake, table: str) -> int:
    """The rows of a table by its log alone, which is cheap."""
    return sum(lake.actions(table)["num_records"].to_pylist()) if lake.exists(table) else 0


def minutes_from(
    moment: datetime, numbers: Sequence[int], *, hours: float = 0, **more: str
) -> list[tuple[str | None, Any]]:
    """Keys and records of events of five users, each with the number as its item, a tenth of a minute apart."""
    return [
        (
            f"u{n % 5}",
            {
                "user": f"u{n % 5}",
                "item": f"i{n}",
                "time": (moment + timedelta(hours=hours, minutes=n / 10)).isoformat(),
                **more,
            },
        )
        for n in numbers
    ]
