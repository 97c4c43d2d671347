"""The stream: records from Kafka become the same tables as those of files, once each, whatever stops it."""

import csv
import io
import json
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lib.formats.mapping import parse_mapping
from lib.formats.writing import writer_of
from lib.live.kafka_broker import KafkaBroker
from lib.live.replay import LogRecords, replay
from lib.pipeline import ROOT
from lib.runs import history
from lib.serving.live_log import KafkaLog
from lib.settings import LiveSettings
from tests.brokers import send
from tests.jobs.spark.test_clean_new import MAPPING, files_of
from tests.live_logs import CLICKS, Stream, environment, minutes_from, state_items, stream_command, topic_prefix
from tests.redis_servers import RedisServer
from tests.shops import Shop

QUICK = ("--stream.trigger-seconds", "0.1")
PLACE = ("source_record", "source_file", "described_by", "batch_id", "arrived_at")  # what says how a record came


@pytest.fixture
def start() -> Iterator[Callable[..., Stream]]:
    """Starts streams, and ends those that a test has left running."""
    started: list[Stream] = []

    def stream(shop: Shop, kafka: KafkaBroker, prefix: str, *flags: str) -> Stream:
        started.append(Stream(shop, kafka.address, prefix, *QUICK, *flags))
        return started[-1]

    yield stream
    for stream_ in started:
        stream_.process.kill()


def read_what_is_there(shop: Shop, kafka: str | None, prefix: str, *flags: str) -> None:
    """Stream what is there now, and clean it."""
    done = subprocess.run(
        stream_command(shop, kafka, prefix, *QUICK, "--stream.available-now", "true", *flags),
        cwd=ROOT, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def send_csv(kafka: KafkaBroker, topic: str, text: str) -> None:
    """Send the records of a CSV file as JSON by its header; a line that does not fit is sent as it is."""
    header, *lines = text.splitlines()
    names = header.split(",")
    fields = [next(csv.reader(io.StringIO(line))) for line in lines]
    records = [
        (values[0], dict(zip(names, values, strict=True)) if len(values) == len(names) else line)
        for line, values in zip(lines, fields, strict=True)
    ]
    send(kafka.address, topic, records)


def silver(shop: Shop) -> dict[str, list[str]]:
    """Every row of silver and of the refused records, but for what says how a record came."""
    tables = ("silver/events", "silver/items", "silver/descriptions", "bronze/rejects")
    return {
        table: sorted(str({name: row[name] for name in row if name not in PLACE}) for row in shop.read(table))
        for table in tables
    }


def test_a_streamed_log_gives_the_tables_of_the_same_log_in_files(tmp_path: Path, kafka: KafkaBroker) -> None:
    files = files_of(random.Random(7), num_days=5)
    batch, streamed = (Shop.with_key(tmp_path / name, MAPPING) for name in ("batch", "streamed"))
    for name, text in files.items():
        batch.put(name, text)
    assert batch.run("--clean.max-reject-frac=1").code == 0
    prefix = topic_prefix(kafka, lines=3, products=1)
    names = sorted(files, key=lambda name: name.removeprefix("products/"))
    for part in (names[:2], names[2:]):
        for name in part:
            send_csv(kafka, prefix + ("products" if "/" in name else "lines"), files[name])
        config = streamed.folder / "settings.yaml"
        config.write_text("clean: {max_reject_frac: 1}\n")
        flags = (
            "--config",
            str(config),
            "--stream.max-records",
            "50",
            "--stream.late-hours",
            "null",
            "--stream.keep-state",
            "false",
        )
        read_what_is_there(streamed, kafka.address, prefix, *flags)
    assert streamed.lake.num_rows("bronze/lines") == batch.lake.num_rows("bronze/lines")
    assert len({row["batch_id"] for row in streamed.read("bronze/lines", "batch_id")}) > 2, "several batches"
    assert silver(streamed) == silver(batch)


NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)


def clicks(first: int, number: int, *, hours: float = 0, **more: str) -> list[tuple[str | None, Any]]:
    """So many records, each an event of its own, some hours from NOON."""
    return minutes_from(NOON, range(first, first + number), hours=hours, **more)


def items(shop: Shop, table: str) -> list[str]:
    """The items of the records of a table; a malformed one has none."""
    column = "item_id" if table == "silver/events" else "item"
    return sorted(row[column] or "" for row in shop.read(table, column))


def test_kills_an_outage_a_poisoned_message_and_a_new_column_lose_and_double_nothing(
    tmp_path: Path, kafka: KafkaBroker, start: Callable[..., Stream]
) -> None:
    shop = Shop.with_key(tmp_path / "shop", CLICKS)
    prefix = topic_prefix(kafka, clicks=2)
    topic, flags = f"{prefix}clicks", ("--stream.clean-seconds", "2")
    send(kafka.address, topic, clicks(0, 100))
    stream = start(shop, kafka, prefix, *flags)
    stream.until(lambda: len(items(shop, "bronze/clicks")) == 100)
    send(kafka.address, topic, clicks(100, 100))
    assert stream.end(signal.SIGKILL) == -signal.SIGKILL
    stream = start(shop, kafka, prefix, *flags)
    stream.until(lambda: len(items(shop, "bronze/clicks")) == 200)
    kafka.stop()
    stream.until(lambda: f"bronze waits: Kafka at {kafka.address} does not answer" in stream.log.read_text())
    kafka.start()
    send(kafka.address, topic, [("u1", b"\xff{poison"), ("u2", None), *clicks(200, 50), *clicks(250, 50, page="home")])
    stream.until(lambda: len(items(shop, "silver/events")) == 300)
    stream.until(lambda: len(state_items(shop)) == 300)
    assert stream.end() == 0, stream.log.read_text()
    every = sorted(f"i{n}" for n in range(300))
    assert items(shop, "bronze/clicks") == sorted([*every, "", ""])
    assert items(shop, "silver/events") == every
    assert state_items(shop) == every
    assert shop.reasons() == {"malformed": 2}
    assert [row["page"] for row in shop.read("bronze/clicks", "page")].count("home") == 50
    last = history.last_run(shop.lake, "stream")
    assert last is not None
    assert last["status"] == "done"


def test_while_redis_is_away_bronze_goes_on_and_the_state_catches_up(
    tmp_path: Path, kafka: KafkaBroker, redis_server: RedisServer, start: Callable[..., Stream]
) -> None:
    shop = Shop.with_key(tmp_path / "shop", CLICKS)
    prefix = topic_prefix(kafka, clicks=2)
    live = {"state": redis_server.address, "topic_prefix": prefix}
    send(kafka.address, f"{prefix}clicks", clicks(0, 50))
    stream = start(shop, kafka, prefix, "--stream.clean-seconds", "2", "--live.state", redis_server.address)
    stream.until(lambda: len(state_items(shop, **live)) == 50)
    redis_server.kill()
    send(kafka.address, f"{prefix}clicks", clicks(50, 50))
    stream.until(lambda: "state waits: the online state does not answer" in stream.log.read_text())
    stream.until(lambda: len(items(shop, "silver/events")) == 100)
    redis_server.start()
    send(kafka.address, f"{prefix}clicks", clicks(100, 1))
    stream.until(lambda: {f"i{n}" for n in range(50, 101)} <= {*state_items(shop, **live)})
    assert stream.end() == 0, stream.log.read_text()


def test_what_lies_before_the_watermark_is_late_and_bronze_has_it(tmp_path: Path, kafka: KafkaBroker) -> None:
    shop = Shop.with_key(tmp_path / "shop", CLICKS)
    prefix = topic_prefix(kafka, clicks=1)
    flags = ("--stream.late-hours", "2", "--stream.keep-state", "false", "--stream.clean-seconds", "0")
    send(kafka.address, f"{prefix}clicks", [*clicks(0, 3, hours=-5), *clicks(3, 3)])
    read_what_is_there(shop, kafka.address, prefix, *flags)
    send(
        kafka.address,
        f"{prefix}clicks",
        [*clicks(6, 3, hours=-1), *clicks(9, 3, hours=-4), *clicks(12, 3, hours=50 * 24)],
    )
    read_what_is_there(shop, kafka.address, prefix, *flags, "--stream.clean-seconds", "60")
    assert len(items(shop, "bronze/clicks")) == 15
    assert shop.reasons() == {"late": 3}
    late = [json.loads(row["raw"])["item"] for row in shop.read("bronze/rejects", "raw")]
    assert sorted(late) == ["i10", "i11", "i9"]
    assert shop.run("--clean.rebuild=true", first="clean").code == 0
    assert shop.reasons() == {"late": 3}, "whenever it is cleaned"


def test_without_kafka_it_takes_new_files_of_the_log_folder(tmp_path: Path) -> None:
    shop = Shop.with_key(tmp_path / "shop", CLICKS)
    shop.put("a.jsonl", "\n".join(json.dumps(record) for _, record in clicks(0, 20)))
    for name, first in (("b.jsonl", 20), ("c.jsonl", 40)):
        shop.put(name, "\n".join(json.dumps(record) for _, record in clicks(first, 20)))
        read_what_is_there(shop, None, "")
        assert items(shop, "silver/events") == sorted(f"i{n}" for n in range(first + 20))


@pytest.mark.bad_input("a Kafka that does not answer")
def test_a_kafka_that_does_not_answer_is_told_in_one_line(tmp_path: Path) -> None:
    shop = Shop.with_key(tmp_path / "shop", CLICKS)
    done = subprocess.run(
        stream_command(shop, "127.0.0.1:1", "t.", "--stream.available-now", "true"), cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 1
    assert "error: Kafka at 127.0.0.1:1 does not answer" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_a_server_writes_for_a_shop_whose_log_is_csv_is_streamed_beside_its_lines_but_no_event_of_the_future(
    tmp_path: Path, kafka: KafkaBroker
) -> None:
    text = (ROOT / "conf" / "formats" / "online_retail.yaml").read_text()
    shop, prefix = Shop.with_key(tmp_path / "shop", text), topic_prefix(kafka, lines=1)
    live, mapping = LiveSettings(kafka=kafka.address, topic_prefix=prefix), parse_mapping(text, "online_retail.yaml")
    now = datetime.now(UTC).replace(microsecond=123_000)
    log = KafkaLog(live, writer_of(mapping, as_messages=True))
    bought = {"event_type": "purchase", "user_id": "17850.0", "quantity": 3, "price": 2.55}
    for item, ahead in (("22111", timedelta()), ("22112", timedelta(days=365 * 73))):
        log.write([bought | {"item_id": item, "event_time": now + ahead}])
    log.close()
    shop.put(
        "2011-12-09.csv",
        "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
        "536365,85123A,LANTERN,6,2011-12-09 08:26:00,2.55,17850.0,United Kingdom\n",
    )
    replay(LogRecords(str(shop.log), mapping), live)
    flags = ("--stream.late-hours", "null", "--clean.max-reject-frac", "1")
    read_what_is_there(shop, kafka.address, prefix, *flags)
    names = ("user_key", "item_id", "event_type", "event_time", "quantity", "order_id")
    events = {row["item_id"]: row for row in shop.read("silver/events", *names)}
    assert {*events} == {"22111", "85123A"}, "an event of 2099 is refused"
    assert events["22111"]["user_key"] == events["85123A"]["user_key"]
    assert (events["22111"]["event_time"], events["22111"]["quantity"]) == (now, 3)
    assert {row["event_type"] for row in events.values()} == {"purchase"}
    assert events["85123A"]["order_id"] is not None and events["22111"]["order_id"] is None
    assert shop.reasons() == {"bad_value:event_time": 1}
    assert state_items(shop) == ["22111", "85123A"]
