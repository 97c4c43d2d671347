"""`cartwheel live`: all live parts of one lake on one machine; a Kafka, a Redis if wanted, the jobs stream and serve."""

import shutil
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import redis
import yaml
from redis.backoff import NoBackoff
from redis.retry import Retry

from lib.cli.jobs import arguments_of, settings_class
from lib.engines.ports import free_ports
from lib.formats.mapping import load_mapping, mapping_text
from lib.live.kafka_broker import NoKafkaError, answers, broker_in
from lib.live.kafka_log import create_topics
from lib.live.stack import ANSWER_SECONDS, LivePart, Stack, answers_http
from lib.pipeline import JOBS, ROOT
from lib.runs.errors import SettingError
from lib.settings import LiveSettings

FOLDER = "live"  # below the lake
START_SECONDS = 300.0
STOP_SECONDS = 180.0  # the stream's last clean, and the answers that are under way, are waited for


def live_stack(
    lake: Path,
    arguments: Sequence[str],
    *,
    with_redis: bool = False,
    partitions: int = 4,
    tell: Callable[[str], object],
) -> Stack:
    """The parts for a lake: a broker unless `live.kafka` names one, a Redis if wanted, then the jobs stream and serve.

    Raises:
        ValueError: a setting is wrong, or something that a part needs is missing; nothing was started.
    """
    given = [*arguments, "--lake.path", str(lake)]
    if not any(word.startswith(("--serve.token", "--serve.host", "--serve.allow-anonymous")) for word in arguments):
        given += ["--serve.allow-anonymous", "true"]  # it answers this machine alone
    settings = {name: settings_class(JOBS[name]).load(arguments_of(JOBS[name], given)) for name in ("stream", "serve")}
    live, page = settings["stream"].live, page_of(settings["serve"])
    mapping = load_mapping(settings["stream"].log.format)
    topics = [live.topic_of(name) for name in mapping.live_sources]
    folder, parts = lake / FOLDER, list[LivePart]()
    if answers_http(page):
        raise SettingError(f"something answers at {page} already; stop it, or set serve.port")
    if with_redis and live.state is not None:
        raise SettingError(f"live.state is {live.state}; a Redis of this machine is started where it is unset")
    if live.kafka is None and live.kafka_protocol != "PLAINTEXT":
        raise SettingError(
            f"live.kafka_protocol is {live.kafka_protocol}, of a Kafka that live.kafka names; it names none"
        )
    if live.kafka is None:
        part, address = _kafka(folder / "kafka", topics, partitions)
        parts.append(part)
        given += ["--live.kafka", address]
    else:
        create_topics(live, topics, partitions=partitions)
    given += _going_on(settings["stream"].log.format, folder, given)
    if with_redis:
        part, address = _redis(folder / "redis")
        parts.append(part)
        given += ["--live.state", address]
    parts.append(_job("stream", given))
    parts.append(_job("serve", given, is_ready=lambda: answers_http(f"{page}healthz", holds='"status"')))
    return Stack(parts, folder, tell, f"the shop is live: {page}; Ctrl-C stops it")


def page_of(serve: Any) -> str:
    """The address at which this machine asks the server, by its settings."""
    host = "127.0.0.1" if serve.host == "0.0.0.0" else serve.host
    return f"http://{host}:{serve.port}/"


def _going_on(format: str, folder: Path, arguments: Sequence[str]) -> list[str]:
    """Flags for a log that has ended, such as the simulated market's: time goes on from its end, and its mapping lets it."""
    end = load_mapping(format).times.end
    if end is None or end > datetime.now(UTC):
        return []
    content = yaml.safe_load(mapping_text(format))
    del content["times"]["end"]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{content['name']}.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    told = any(word.startswith("--serve.starts-at") for word in arguments)
    return ["--log.format", str(file.absolute()), *([] if told else ["--serve.starts-at", end.isoformat()])]


def _job(name: str, arguments: Sequence[str], is_ready: Callable[[], bool] = lambda: True) -> LivePart:
    """A job as a part; one that reads Kafka needs no readiness, since what is sent before waits for it."""
    command = [sys.executable, str(ROOT / JOBS[name].path), *arguments_of(JOBS[name], arguments)]
    return LivePart(name, command, is_ready, start_seconds=START_SECONDS, stop_seconds=STOP_SECONDS)


def _kafka(folder: Path, topics: Sequence[str], partitions: int) -> tuple[LivePart, str]:
    """A broker of this machine, and its address."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        broker = broker_in(folder)
        broker.prepare()
    except NoKafkaError as error:
        raise SettingError(f"{error}; or set live.kafka to a Kafka that runs") from None
    address = broker.address
    part = LivePart(
        "kafka",
        broker.command,
        lambda: answers(address, seconds=ANSWER_SECONDS),
        then=lambda: create_topics(LiveSettings(kafka=address), topics, partitions=partitions),
    )
    return part, address


def _redis(folder: Path) -> tuple[LivePart, str]:
    """A Redis of this machine that keeps what it was told, and its address."""
    server, port = shutil.which("redis-server"), free_ports(1)[0]
    if server is None:
        raise SettingError("redis-server is not installed; without --redis the online state is a file of SQLite")
    folder.mkdir(parents=True, exist_ok=True)
    where = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)]
    part = LivePart("redis", [server, *where, "--appendonly", "yes", "--save", ""], lambda: _redis_answers(port))
    return part, f"redis://127.0.0.1:{port}/0"


def _redis_answers(port: int) -> bool:
    try:
        return bool(redis.Redis(port=port, socket_timeout=ANSWER_SECONDS, retry=Retry(NoBackoff(), 0)).ping())
    except redis.RedisError:
        return False
