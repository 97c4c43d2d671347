"""`python -m benchmarks.streaming`: how fast the stream takes a log, and how far it lags behind a steady one, to docs/streaming.md.

Kafka, Redis and the log's sender share the machine's cores with the stream. The lag of a table is how long ago the newest event had
been made that it holds; of the online state, how long an event is on its way into it.
"""

import argparse
import signal
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from lib.cleaning.pseudonyms import load_key, pseudonyms
from lib.live.kafka_broker import KafkaBroker, kafka_broker
from lib.online.open_state import open_state
from lib.pipeline import ROOT
from lib.settings import LiveSettings, PrivacySettings
from tests.live_logs import CLICKS, SteadyLog, Stream, num_rows, topic_prefix
from tests.machine import machine
from tests.redis_servers import redis_server
from tests.shops import Shop

PAGE = ROOT / "docs" / "streaming.md"
PARTITIONS = 4
LOOK_SECONDS = 0.25
SETTLED_SECONDS = 20  # after the start, whose lag is that of Spark's own start
CAUGHT_UP_SECONDS = 5.0


@dataclass
class Lags:
    """Looks at how far a stream is behind a steady log, from a thread of its own, until it is ended."""

    shop: Shop
    log: SteadyLog
    live: LiveSettings
    of: dict[str, list[tuple[float, float]]] = field(
        default_factory=lambda: {"bronze/clicks": [], "silver/events": [], "state": []}
    )
    ended: threading.Event = field(default_factory=threading.Event)

    def tables(self) -> None:
        """The lag of the tables, a few times a second."""
        while not self.ended.wait(LOOK_SECONDS):
            for table in ("bronze/clicks", "silver/events"):
                held, now = num_rows(self.shop.lake, table), time.monotonic()
                self.of[table].append((now, max(0.0, now - self.log.made_at(held))))

    def state(self) -> None:
        """How long the newest event is on its way into the online state, event after event."""
        key = load_key(PrivacySettings(), self.shop.lake.path)
        state = open_state(self.live, self.shop.lake.path)
        while not self.ended.wait(LOOK_SECONDS):
            number = self.log.num_made - 1
            (user,) = pseudonyms(pl.Series([f"u{number % self.log.num_users}"]), key)
            while not self.ended.is_set() and f"i{number}" not in {event.item_id for event in state.events(user)}:
                time.sleep(0.02)
            self.of["state"].append((time.monotonic(), time.monotonic() - self.log.made_at(number)))

    def figures(self, name: str, since: float, until: float) -> tuple[float, float, float]:
        """The median, the 95th percentile and the greatest of the lags of a while."""
        lags = np.array([lag for at, lag in self.of[name] if since <= at < until])
        return float(np.median(lags)), float(np.percentile(lags, 95)), float(lags.max())

    def caught_up(self, since: float) -> float:
        """How long after a moment bronze lagged by as much as CAUGHT_UP_SECONDS for the last time."""
        return (
            max([at for at, lag in self.of["bronze/clicks"] if at > since and lag >= CAUGHT_UP_SECONDS], default=since)
            - since
        )


def main() -> int:
    """Measure, and write the page; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streaming", description=__doc__)
    parser.add_argument("--per-second", type=int, default=2000, help="events a second of the steady log")
    parser.add_argument("--seconds", type=int, default=300, help="how long it is watched")
    parser.add_argument("--backlog", type=int, default=1_000_000, help="events that wait in Kafka, for the throughput")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        kafka_broker(Path(folder) / "kafka") as kafka,
        redis_server(Path(folder) / "redis") as redis,
    ):
        lines = throughput(Path(folder), kafka, redis.address, options.backlog)
        lines += steady(Path(folder), kafka, redis.address, options.per_second, options.seconds)
    PAGE.write_text(page(lines))
    print(PAGE.read_text())
    return 0


def throughput(folder: Path, kafka: KafkaBroker, redis: str, backlog: int) -> list[str]:
    """Seconds from a started stream's first batch to its last, for what waits in Kafka."""
    shop, prefix = Shop.with_key(folder / "backlog", CLICKS), topic_prefix(kafka, clicks=PARTITIONS)
    log = SteadyLog(kafka.address, f"{prefix}clicks", per_second=1)
    for number in range(backlog):
        log.make(number)
        log.producer.poll(0)
    log.producer.flush()
    stream = Stream(shop, kafka.address, prefix, "--live.state", redis, "--stream.clean-seconds", "0")
    stream.until(lambda: num_rows(shop.lake, "bronze/clicks") > 0, seconds=300)
    first, began = num_rows(shop.lake, "bronze/clicks"), time.monotonic()
    stream.until(lambda: num_rows(shop.lake, "bronze/clicks") >= backlog, seconds=600)
    rate = (backlog - first) / (time.monotonic() - began)
    stream.end()
    return [
        f"- A backlog of {backlog:,} events: {rate:,.0f} events a second into bronze, while the online state is kept too."
    ]


def steady(folder: Path, kafka: KafkaBroker, redis: str, per_second: int, seconds: int) -> list[str]:
    """The lags behind a steady log, and how long after a kill -9 bronze has caught up."""
    shop, prefix = Shop.with_key(folder / "steady", CLICKS), topic_prefix(kafka, clicks=PARTITIONS)
    live = LiveSettings(state=redis, topic_prefix=prefix)
    flags = ("--live.state", redis)
    stream = Stream(shop, kafka.address, prefix, *flags)
    log = SteadyLog(kafka.address, f"{prefix}clicks", per_second=per_second)
    log.start()
    stream.until(lambda: num_rows(shop.lake, "bronze/clicks") > 0)
    time.sleep(SETTLED_SECONDS)
    lags, since = Lags(shop, log, live), time.monotonic()
    watchers = [threading.Thread(target=look, daemon=True) for look in (lags.tables, lags.state)]
    for watcher in watchers:
        watcher.start()
    time.sleep(seconds)
    until = time.monotonic()
    stream.end(signal.SIGKILL)
    stream = Stream(shop, kafka.address, prefix, *flags)
    time.sleep(60)
    sent = log.end()
    stream.until(lambda: num_rows(shop.lake, "bronze/clicks") >= sent, seconds=300)
    lags.ended.set()
    stream.end()
    table = ["| | median s | 95 % s | greatest s |", "| --- | --- | --- | --- |"]
    table += [
        "| " + " | ".join([name, *(f"{value:.1f}" for value in lags.figures(name, since, until))]) + " |"
        for name in lags.of
    ]
    held, true = num_rows(shop.lake, "bronze/clicks"), num_rows(shop.lake, "silver/events")
    return [
        f"- A steady log of {per_second:,} events a second for {seconds} s, with the default settings:",
        "",
        *table,
        "",
        f"- After a kill -9 of the driver and a start at once, bronze was less than {CAUGHT_UP_SECONDS:.0f} s behind again after "
        f"{lags.caught_up(until):.0f} s. Of {sent:,} acknowledged events bronze had {held:,} in the end, silver {true:,}.",
    ]


def page(lines: Sequence[str]) -> str:
    """The page."""
    head = ["# How fast the stream is", "", "Made by `python -m benchmarks.streaming`, on", "", machine(), ""]
    return "\n".join([*head, *lines, ""])


if __name__ == "__main__":
    raise SystemExit(main())
