import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lib.formats.mapping import parse_mapping
from lib.formats.writing import writer_of
from lib.live.kafka_broker import KafkaBroker
from lib.runs.errors import SettingError
from lib.serving.live_log import FileLog, KafkaLog
from lib.settings import LiveSettings
from tests.brokers import create_topic, records_in
from tests.lib.serving.served import MAPPING

AT = datetime(2026, 1, 1, tzinfo=UTC)


def event(number: int, user: str | None = "ann") -> dict[str, Any]:
    return {
        "user_id": user,
        "item_id": f"i{number}",
        "event_type": "view",
        "event_time": AT + timedelta(seconds=number),
    }


def log_in(folder: Path, files: str = "events/*.jsonl", seconds: float = 3600) -> FileLog:
    mapping = parse_mapping(MAPPING.replace("events/*.jsonl", files), "live.yaml")
    return FileLog(folder, mapping.sources["events"], writer_of(mapping), name="test", seconds=seconds)


@pytest.mark.parametrize(
    "files", ["events/*.jsonl", "**/*.jsonl", "{day}/events-*.json", "*", "logs/**/events_{day}.jsonl", "a?/*.x"]
)
def test_a_file_belongs_to_the_source_when_it_is_finished_and_not_before(tmp_path: Path, files: str) -> None:
    log = log_in(tmp_path, files)
    mapping = parse_mapping(MAPPING.replace("events/*.jsonl", files), "live.yaml")

    def found() -> list[str]:
        below = [file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*") if file.is_file()]
        return [path for path in below if mapping.source_of(path) and not Path(path).name.startswith(".")]

    log.write([event(1), event(2)])
    assert found() == [] and log.counts()["written"] == 2
    log.close()
    (path,) = found()
    assert [json.loads(line)["item"] for line in (tmp_path / path).read_text().splitlines()] == ["i1", "i2"]


def test_a_file_is_finished_when_its_time_is_over(tmp_path: Path) -> None:
    log = log_in(tmp_path, seconds=0)
    for number in range(3):
        log.write([event(number)])
    assert len(list((tmp_path / "events").glob("live-*.jsonl"))) == 2
    log.close()
    assert len(list((tmp_path / "events").glob("live-*.jsonl"))) == 3
    assert not list((tmp_path / "events").glob(".*"))


def test_what_a_server_that_was_killed_has_left_is_finished_by_the_next_and_what_another_writes_is_not(
    tmp_path: Path,
) -> None:
    writes = log_in(tmp_path)
    writes.write([event(1)])
    left = tmp_path / "events" / ".live-gone-1.jsonl.part"
    left.write_text('{"item": "i2"}\n')
    log_in(tmp_path).close()
    files = sorted(file.name for file in (tmp_path / "events").iterdir())
    assert len(files) == 2 and files[0].startswith(".live-test-") and files[1] == "live-gone-1.jsonl"
    writes.close()
    assert len(list((tmp_path / "events").glob("live-*.jsonl"))) == 2


def test_a_source_of_one_file_has_no_place_for_a_live_log(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"needs a pattern with \* in the name of its files.*not events.jsonl"):
        log_in(tmp_path, "events.jsonl")


@pytest.mark.slow
def test_kafka_has_each_event_once_keyed_by_its_user(kafka: KafkaBroker) -> None:
    mapping = parse_mapping(MAPPING, "live.yaml")
    create_topic(kafka.address, "serving.events")
    log = KafkaLog(LiveSettings(kafka=kafka.address, topic_prefix="serving."), writer_of(mapping))
    for number in range(50):
        log.write([event(number, "ann" if number % 2 else None)])
    log.close()
    assert log.counts() == {"written": 50, "lost": 0, "waiting": 0}
    found = records_in(kafka.address, "serving.events")
    assert sorted(json.loads(value)["item"] for *_, value in found) == sorted(f"i{number}" for number in range(50))
    assert {key for _, _, key, _ in found} == {b"ann", None}
