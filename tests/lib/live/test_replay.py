"""What `cartwheel replay` writes into a real Kafka, whatever the log is."""

import gzip
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from confluent_kafka import KafkaException
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.engines.ports import free_ports
from lib.formats.json_lines import JsonLines, received_lines
from lib.formats.mapping import load_mapping
from lib.live.kafka_broker import KafkaBroker, kafka_broker
from lib.live.replay import LogRecords, Pace, Replayed, replay
from lib.pipeline import ROOT
from lib.settings import LiveSettings
from tests.brokers import records_in

MAPPING = """
name: own
sources:
  clicks:
    files: "clicks/*.jsonl*"
    reader: {type: json_lines}
    names: {user_id: who.id, item_id: item, event_time: at}
    optional: [user_id]
    visitor_id: cookie
    events: [{type: view}]
  lines:
    files: "{shop}/*.csv"
    names: {user_id: Who, item_id: Item No., event_time: at}
    constants: {context: "{shop}"}
    events: [{type: purchase}]
  orders:
    files: "orders/*.parquet"
    reader: {type: parquet}
    names: {user_id: who, item_id: basket.item, event_time: basket.at}
    explode: basket
    events: [{type: purchase}]
  items:
    kind: items
    files: "items.csv"
    names: {item_id: id, title: title}
  images:
    kind: images
    files: "pictures.csv"
    names: {item_id: id, uri: uri}
"""
CLICKS = """
name: clicks
sources:
  clicks:
    files: "*.jsonl"
    reader: {type: json_lines}
    names: {user_id: who, item_id: item, event_time: at}
    events: [{type: view}]
"""
LINE_1 = b'{"who": {"id": 7},  "item":"mug","at":"2024-01-01T10:00:00Z"}'
LINE_2 = b'{"item":"\xc3\xa9","at":"2024-01-01T10:00:04Z","cookie":"c1"}'
BROKEN = b'{"who": \xff no json'


@pytest.fixture
def log(tmp_path: Path) -> Path:
    log = tmp_path / "log"
    for folder in ("clicks", "berlin", "orders"):
        (log / folder).mkdir(parents=True)
    (log / "clicks" / "1.jsonl").write_bytes(b"\n".join([LINE_1, b"", BROKEN, b'["no object"]']) + b"\n")
    (log / "clicks" / "2.jsonl.gz").write_bytes(gzip.compress(LINE_2))
    (log / "berlin" / "1.csv").write_text(
        'Who,Item No.,at,note\n8,"a ""big"" lamp",2024-01-01T10:00:02Z,\n8,mug,2024-01-01 10:00:03,ok,too many\n9,mug,never,\n'
    )
    basket = [{"item": "mug", "at": "2024-01-01T10:00:01Z"}, {"item": "lamp", "at": "2024-01-01T10:00:09Z"}]
    pl.DataFrame({"who": [8, None], "basket": [basket, basket[1:]]}).write_parquet(log / "orders" / "1.parquet")
    (log / "items.csv").write_text("id,title\nmug,A mug\nlamp,\n")
    (log / "pictures.csv").write_text("id,uri\nmug,mug.png\n")
    return log


@pytest.fixture
def played(kafka: KafkaBroker, log: Path, tmp_path: Path) -> Callable[..., Replayed]:
    (tmp_path / "map.yaml").write_text(MAPPING)
    mapping = load_mapping(str(tmp_path / "map.yaml"))

    def play(prefix: str, **given: object) -> Replayed:
        return replay(LogRecords(str(log), mapping), LiveSettings(kafka=kafka.address, topic_prefix=prefix), **given)  # type: ignore[arg-type]

    return play


def values_in(kafka: KafkaBroker, topic: str) -> list[tuple[bytes | None, bytes | None]]:
    return [(key, value) for *_, key, value in records_in(kafka.address, topic)]


def test_every_record_is_in_its_sources_topic_by_its_user_and_as_it_was_received(
    kafka: KafkaBroker, played: Callable[..., Replayed]
) -> None:
    done = played("all.", partitions=1)

    assert values_in(kafka, "all.clicks") == [
        (b"7", LINE_1),
        (None, BROKEN),
        (None, b'["no object"]'),
        (b"c1", LINE_2),
    ]
    lamp, too_many, never = values_in(kafka, "all.lines")
    assert lamp[0] == b"8"
    assert json.loads(lamp[1] or b"") == {
        "Who": "8",
        "Item No.": 'a "big" lamp',
        "at": "2024-01-01T10:00:02Z",
        "note": None,
    }
    assert too_many == (None, b"8,mug,2024-01-01 10:00:03,ok,too many")
    assert never[0] == b"9"
    first, second = values_in(kafka, "all.orders")
    assert (first[0], second[0]) == (b"8", None)
    assert [basket["item"] for basket in json.loads(json.loads(first[1] or b"")["basket"])] == ["mug", "lamp"]
    assert values_in(kafka, "all.items") == [
        (b"mug", b'{"id":"mug","title":"A mug"}'),
        (b"lamp", b'{"id":"lamp","title":null}'),
    ]
    assert done.num_sent == {"all.clicks": 4, "all.lines": 3, "all.orders": 2, "all.items": 2}
    assert done.num_acknowledged == 11
    assert done.problems == []


def test_sources_are_brought_together_by_time_and_each_keeps_its_order(log: Path, tmp_path: Path) -> None:
    (tmp_path / "map.yaml").write_text(MAPPING)
    records = list(LogRecords(str(log), load_mapping(str(tmp_path / "map.yaml"))))

    # Broken records are of the time of the one before; a basket is of that of its first line.
    assert [(record.source, record.file, record.number, record.at.second) for record in records] == [
        ("items", "items.csv", 1, 0),
        ("items", "items.csv", 2, 0),
        ("clicks", "clicks/1.jsonl", 1, 0),
        ("clicks", "clicks/1.jsonl", 2, 0),
        ("clicks", "clicks/1.jsonl", 3, 0),
        ("orders", "orders/1.parquet", 1, 1),
        ("lines", "berlin/1.csv", 1, 2),
        ("lines", "berlin/1.csv", 2, 2),
        ("lines", "berlin/1.csv", 3, 2),
        ("clicks", "clicks/2.jsonl.gz", 1, 4),
        ("orders", "orders/1.parquet", 2, 9),
    ]


def test_a_record_of_a_wrong_clock_holds_up_no_other(tmp_path: Path) -> None:
    (tmp_path / "map.yaml").write_text(CLICKS)
    times = [f"2024-01-01T10:{minute:02d}:00Z" for minute in range(30)]
    times[4], times[5], times[20] = "2024-01-09T10:00:00Z", "1970-01-01T00:00:00Z", "2999-01-01T10:00:00Z"
    for part in (0, 1):
        lines = [json.dumps({"item": "mug", "at": at}) + "\n" for at in times[part::2]]
        (tmp_path / f"{part}.jsonl").write_text("".join(lines))
    mapping = load_mapping(str(tmp_path / "map.yaml"))

    minutes = [record.at.minute for record in LogRecords(str(tmp_path), mapping, by_time=True)]
    # Records 4 and 20 are ahead of their clock, so due with the next of their file; 5 has none, and is due with the one before.
    assert sorted(minutes) == minutes
    assert sorted(minutes) == sorted([*{*range(30)} - {4, 5, 20}, 6, 3, 18])
    one_by_one = [record.at.minute for record in LogRecords(str(tmp_path), mapping)]
    assert one_by_one[15:] == [28] * 14 + [29]


def test_records_of_a_time_and_so_many_of_them_are_sent(kafka: KafkaBroker, played: Callable[..., Replayed]) -> None:
    moment = datetime(2024, 1, 1, 10, 0, 1, tzinfo=UTC)
    assert played("since.", since=moment).num_sent == {"since.orders": 2, "since.lines": 3, "since.clicks": 1}
    assert played("until.", until=moment).num_sent == {"until.clicks": 3, "until.items": 2}
    assert played("limit.", limit=3).num_sent == {"limit.items": 2, "limit.clicks": 1}


@pytest.mark.parametrize(("pace", "seconds"), [(Pace(events_per_second=12), 0.75), (Pace(speed=10), 0.9), (Pace(), 0)])
def test_a_log_is_played_at_its_pace(played: Callable[..., Replayed], pace: Pace, seconds: float) -> None:
    done = played(f"pace.{seconds}.", pace=pace)  # 11 records of 9 seconds
    assert seconds <= done.seconds < seconds + 5
    assert done.num_acknowledged == 11


def test_what_cannot_be_read_or_sent_is_told_and_the_rest_is_sent(
    kafka: KafkaBroker, log: Path, played: Callable[..., Replayed]
) -> None:
    whole = (log / "clicks" / "2.jsonl.gz").read_bytes()
    (log / "clicks" / "2.jsonl.gz").write_bytes(whole[:-9])
    (log / "clicks" / "3.jsonl").write_bytes(LINE_1.replace(b"mug", b"x" * 2_000_000) + b"\n" + LINE_2)
    (log / "berlin" / "2.csv").write_text("Who,at\n1,2024-01-01T10:00:00Z\n")
    done = played("problems.", partitions=1)
    assert sorted(done.problems) == [
        "berlin/2.csv has no column 'Item No.'; it has Who, at",
        "clicks/2.jsonl.gz is a gzip file that was cut off",
        "record 1 of clicks/3.jsonl is larger than Kafka takes: 2,000,058 bytes",
    ]
    assert [value for _, value in values_in(kafka, "problems.clicks")][-1] == LINE_2
    assert done.num_acknowledged == done.num_sent.total() == 11


@pytest.mark.slow
def test_a_kafka_that_is_killed_meanwhile_loses_and_doubles_nothing(tmp_path: Path) -> None:
    (tmp_path / "map.yaml").write_text(CLICKS)
    lines = [json.dumps({"who": n % 7, "item": f"i{n}", "at": "2024-01-01T10:00:00Z"}).encode() for n in range(3000)]
    (tmp_path / "1.jsonl").write_bytes(b"\n".join(lines))
    records = LogRecords(str(tmp_path), load_mapping(str(tmp_path / "map.yaml")))
    with kafka_broker(tmp_path / "kafka") as broker:
        done: list[Replayed] = []
        pace = Pace(events_per_second=1500)
        work = threading.Thread(
            target=lambda: done.append(replay(records, LiveSettings(kafka=broker.address, topic_prefix=""), pace=pace))
        )
        work.start()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and not work_has_begun(broker):
            time.sleep(0.02)
        broker.kill()
        broker.start()
        work.join(60)
        found = records_in(broker.address, "clicks")
    assert done[0].num_acknowledged == 3000
    for user in range(7):
        own = [value for _, _, key, value in found if key == str(user).encode()]
        assert own == lines[user::7]


def work_has_begun(broker: KafkaBroker) -> bool:
    try:
        return len(records_in(broker.address, "clicks")) > 0
    except (KeyError, KafkaException):
        return False


def test_no_kafka_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "map.yaml").write_text(CLICKS)
    (tmp_path / "1.jsonl").write_bytes(LINE_1)
    address = f"127.0.0.1:{free_ports(1)[0]}"
    mapping = str(tmp_path / "map.yaml")
    told = command("replay", str(tmp_path), "--format", mapping, "--kafka", address)
    assert told == (
        1,
        f"error  no Kafka answers at {address} by PLAINTEXT: is the address right, is it up, and does it want another live.kafka_protocol, or a live.kafka_certificate?\n",
    )
    assert command("replay", str(tmp_path), "--format", mapping)[1].startswith("error  --kafka is needed, such as")
    assert command("replay", str(tmp_path / "none"), "--kafka", address)[0] == 2
    (tmp_path / "1.jsonl").unlink()
    code, text = command("replay", str(tmp_path), "--format", mapping, "--kafka", address)
    assert (code, "holds no file of events or items that the mapping clicks knows" in text) == (2, True)


def test_the_command_tells_what_it_sent(kafka: KafkaBroker, tmp_path: Path) -> None:
    (tmp_path / "map.yaml").write_text(CLICKS)
    (tmp_path / "1.jsonl").write_bytes(LINE_1 + b"\n" + LINE_1)
    given = ("--format", str(tmp_path / "map.yaml"), "--kafka", kafka.address, "--live.topic-prefix", "told.")
    code, text = command("replay", str(tmp_path), *given)
    assert code == 0
    assert re.fullmatch(r"told.clicks: 2 records\n2 sent, 2 acknowledged in \d+\.\d s, [\d,]+ a second\n", text)
    (tmp_path / "0.jsonl").touch()
    (tmp_path / "2.jsonl").write_bytes(LINE_1.replace(b"mug", b"x" * 2_000_000))
    assert command("replay", str(tmp_path), *given)[0] == 3, "a record was left out"


def command(*words: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "lib.cli", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout


@given(
    st.lists(st.sampled_from([b"{}", b'{"a":1}', b'{"a":', b"1}", b"\n", b"\r", b"\r\n", b" ", b"x", b"\xff", b"[]"]))
)
@settings(max_examples=300, deadline=None)
def test_what_is_sent_of_a_block_are_the_lines_that_are_read_of_it(pieces: list[bytes]) -> None:
    block = b"".join(pieces)
    batch, lines = JsonLines().read(block), received_lines(block)
    assert len(lines) == len(batch)
    for line, malformed in zip(lines, batch.column("malformed").to_pylist(), strict=True):
        assert JsonLines().read(line).column("malformed").to_pylist() == [malformed]
