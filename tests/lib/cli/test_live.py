"""What `cartwheel live` would start for a lake, and what it refuses before it starts anything."""

import http.server
import threading
from pathlib import Path
from typing import Any

import pytest

from lib.cli.live import live_stack
from lib.engines.ports import free_ports
from lib.formats.mapping import load_mapping
from lib.live.kafka_broker import KafkaBroker
from lib.live.stack import LivePart
from lib.runs.errors import RetryableError, SettingError


def parts_of(lake: Path, *arguments: str, **given: Any) -> dict[str, LivePart]:
    own = ("--serve.port", str(free_ports(1)[0]))
    stack = live_stack(lake, [*own, *arguments], tell=lambda line: None, **given)
    return {part.name: part for part in stack.parts}


def flag(part: LivePart, name: str) -> str | None:
    return part.command[part.command.index(name) + 1] if name in part.command else None


def test_a_lake_gets_a_broker_of_its_own_and_the_jobs_that_use_it(kafka: KafkaBroker, tmp_path: Path) -> None:
    parts = parts_of(tmp_path, "--stream.clean-seconds", "5", "--live.topic-prefix", "own.")

    assert list(parts) == ["kafka", "stream", "serve"]
    address = flag(parts["stream"], "--live.kafka")
    assert f"PLAINTEXT://{address}," in (tmp_path / "live" / "kafka" / "server.properties").read_text()
    assert flag(parts["serve"], "--live.kafka") == address
    assert [flag(part, "--stream.clean-seconds") for part in parts.values()] == [None, "5", None]
    assert [flag(part, "--lake.path") for part in parts.values()] == [None, str(tmp_path), str(tmp_path)]
    assert flag(parts["serve"], "--serve.allow-anonymous") == "true"
    assert flag(parts_of(tmp_path)["stream"], "--live.kafka") == address, "its address stays"


def test_a_kafka_that_runs_is_used_and_a_redis_is_started_where_wanted(kafka: KafkaBroker, tmp_path: Path) -> None:
    parts = parts_of(tmp_path, "--live.kafka", kafka.address, with_redis=True)
    assert list(parts) == ["redis", "stream", "serve"]
    state = f"redis://127.0.0.1:{flag(parts['redis'], '--port')}/0"
    assert [flag(parts[name], "--live.state") for name in ("stream", "serve")] == [state, state]


@pytest.mark.parametrize("given", [["--serve.token-variable", "TOKENS"], ["--serve.host", "0.0.0.0"]])
def test_a_server_with_tokens_or_for_other_machines_lets_in_nobody_without(
    kafka: KafkaBroker, tmp_path: Path, given: list[str]
) -> None:
    assert flag(parts_of(tmp_path, "--live.kafka", kafka.address, *given)["serve"], "--serve.allow-anonymous") is None


def test_what_is_wrong_is_told_before_anything_is_started(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"serve\.ports"):
        parts_of(tmp_path, "--serve.ports", "1")
    with pytest.raises(
        SettingError, match=r"live\.state is s\.sqlite; a Redis of this machine is started where it is unset"
    ):
        parts_of(tmp_path, "--live.state", "s.sqlite", with_redis=True)
    with pytest.raises(RetryableError, match=r"no Kafka answers at 127\.0\.0\.1:1"):
        parts_of(tmp_path, "--live.kafka", "127.0.0.1:1")
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        with pytest.raises(SettingError, match=f"something answers at http://127.0.0.1:{other.server_port}/ already"):
            parts_of(tmp_path, "--serve.port", str(other.server_port))
        other.shutdown()
    assert not (tmp_path / "live").exists()


def test_a_log_that_has_ended_goes_on_from_its_end(kafka: KafkaBroker, tmp_path: Path) -> None:
    parts = parts_of(tmp_path, "--live.kafka", kafka.address)
    mapping = tmp_path / "live" / "market.yaml"
    assert all(flag(parts[name], "--log.format") == str(mapping) for name in ("stream", "serve"))
    assert flag(parts["serve"], "--serve.starts-at") == "2026-07-01T00:00:00+00:00"
    shipped, own = load_mapping("market"), load_mapping(str(mapping))
    assert (own.times.end, own.sources, own.name) == (None, shipped.sources, "market")
    own_clock = parts_of(tmp_path, "--live.kafka", kafka.address, "--serve.starts-at", "2026-05-01T00:00:00Z")
    assert flag(own_clock["serve"], "--serve.starts-at") == "2026-05-01T00:00:00Z"
    without_end = parts_of(tmp_path, "--live.kafka", kafka.address, "--log.format", "rees46")
    assert flag(without_end["stream"], "--log.format") == "rees46"
