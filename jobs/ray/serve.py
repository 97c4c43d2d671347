"""serve: the current release, the online state -> answers over HTTP; events and impressions into the live log.

Runs until SIGTERM or SIGINT, then ends what it has begun. `POST /recommendations`, `POST /events`, `GET /ads`, `GET /healthz`,
`GET /metrics`, `GET /openapi.json`, `GET /`: the live page (lib/serving/http.py). Each replica holds the release whole, and looks every few seconds whether another
should answer. An event counts for the next answer as soon as it was taken: it is in the online state, and in the log that
ingest or the stream reads, as the shop's own records are. Reads no table; publish makes what it answers from.

Ray Serve keeps the replicas; HAProxy, which Ray brings, passes requests straight to them (docs/decisions/0037).
"""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from lib.cleaning.pseudonyms import load_key
from lib.engines import ray_serve
from lib.formats.mapping import load_mapping
from lib.formats.writing import RecordWriter, writer_of
from lib.lake.lake import Lake
from lib.lake.places import is_address
from lib.live.kafka_access import require_access
from lib.online.open_state import open_state
from lib.runs.errors import SettingError
from lib.runs.logs import job_logger
from lib.serving.gate import Gate, load_tokens
from lib.serving.http import Desk, app_of
from lib.serving.live_log import FileLog, KafkaLog, LiveLog
from lib.serving.page import read_page
from lib.serving.service import Service
from lib.settings import JobSettings
from rl.serving import read

NAME = "cartwheel"  # of the application in Ray Serve


class ServeSettings(JobSettings):
    """Where it listens, who may ask and how often, and what it explores."""

    host: str = Field("127.0.0.1", description="address that it listens at; 0.0.0.0: all of the machine")
    port: int = Field(8080, ge=1, le=65_535, description="its port")
    num_replicas: int = Field(1, ge=1, le=1024, description="processes that answer; each holds the release in memory")
    cpus_per_replica: float = Field(1.0, gt=0, le=64, description="logical CPUs that Ray sets aside for each")
    token_variable: str | None = Field(
        None,
        description="variable of the bearer tokens that clients may send, divided by blanks; read where it is started",
    )
    token_file: str | None = Field(None, description="file of such tokens, one a line")
    allow_anonymous: bool = Field(False, description="answer everyone, where no tokens are given")
    requests_per_second: float = Field(500, gt=0, description="requests of one token, on average, for each replica")
    burst: float = Field(1000, ge=1, description="requests of one token at once, for each replica")
    max_body_bytes: int = Field(65_536, ge=1024, le=16 << 20, description="size up to which a request is read")
    max_waiting: int = Field(
        64, ge=1, le=100_000, description="requests of a replica that wait or are answered; more are refused with 503"
    )
    exploration_frac: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.0, description="chance of each place of a list to be given to an item that is drawn; logged as its propensity"
    )
    ahead_seconds: float = Field(60, ge=0, description="seconds by which a client's clock may be ahead")
    look_seconds: float = Field(2, gt=0, le=3600, description="after which it is looked for another release")
    starts_at: datetime | None = Field(
        None, description="what time it is when the server starts, for a log of the past; unset: what it is"
    )
    rotate_seconds: float = Field(
        3600, gt=0, description="after which a file of the live log is finished, without Kafka"
    )


def clock_of(settings: ServeSettings) -> Callable[[], datetime]:
    """The server's clock."""
    if settings.starts_at is None:
        return lambda: datetime.now(UTC)
    start = settings.starts_at if settings.starts_at.tzinfo else settings.starts_at.replace(tzinfo=UTC)
    offset: timedelta = start - datetime.now(UTC)
    return lambda: datetime.now(UTC) + offset


def writer_in(settings: ServeSettings) -> RecordWriter:
    """What writes events as records of the log.

    Raises:
        ValueError: the mapping's records cannot be written where the live log is.
    """
    return writer_of(load_mapping(settings.log.format), as_messages=settings.live.kafka is not None)


def log_of(settings: ServeSettings, name: str) -> LiveLog:
    """The live log: Kafka where the settings name it, else files in the log folder.

    Raises:
        ValueError: the mapping's records cannot be written, or its files not be placed.
    """
    mapping = load_mapping(settings.log.format)
    writer = writer_in(settings)
    if settings.live.kafka is not None:
        return KafkaLog(settings.live, writer)
    folder = settings.log.path or f"{settings.lake.path}/raw/market"
    if is_address(str(folder)):
        raise SettingError(
            f"log.path is {folder}: without live.kafka the live log is files in a folder of this machine"
        )
    source = mapping.sources[writer.source]
    return FileLog(Path(folder), source, writer, name=name, seconds=settings.rotate_seconds)


def service_of(settings: ServeSettings, key: bytes, clock: Callable[[], datetime], name: str) -> Service:
    """What a replica answers with."""
    mapping = load_mapping(settings.log.format)
    return Service(
        lake=Lake(settings.lake.path),
        mapping=mapping,
        key=key,
        writer=writer_in(settings),
        state=open_state(settings.live, settings.lake.path),
        log=log_of(settings, name),
        epsilon=settings.exploration_frac,
        ahead_seconds=settings.ahead_seconds,
        clock=clock,
        read_policy=read,
    )


@contextmanager
def looking(service: Service, *, seconds: float) -> Iterator[None]:
    """Look for another release every few seconds, in a thread."""
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(seconds):
            service.look_for_release()

    service.look_for_release()
    thread = threading.Thread(target=look, name="looks for releases", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def app_builder(settings: ServeSettings, tokens: tuple[str, ...], key: bytes) -> Callable[[], Any]:
    """What builds the application in each replica."""
    clock = clock_of(settings)

    def build() -> Any:
        os.environ["OMP_NUM_THREADS"] = os.environ["POLARS_MAX_THREADS"] = "1"
        service = service_of(settings, key, clock, f"{socket.gethostname()}-{os.getpid()}")
        gate = Gate(tokens, per_second=settings.requests_per_second, burst=settings.burst)

        @asynccontextmanager
        async def living(app: Any) -> Any:
            with looking(service, seconds=settings.look_seconds):
                yield
            service.close()

        desk = Desk(service, max_waiting=settings.max_waiting)
        return app_of(desk, gate, max_body_bytes=settings.max_body_bytes, page=read_page(), lifespan=living)

    return build


def builder_of(settings: ServeSettings) -> Callable[[], Any]:
    """What builds the application in each replica, with the tokens and the key of this process.

    Raises:
        SettingError: something that it needs is missing.
    """
    tokens = load_tokens(settings.token_variable, settings.token_file)
    if not tokens and not settings.allow_anonymous:
        raise SettingError(
            "serve answers nobody without tokens: set serve.token_variable or serve.token_file, or serve.allow_anonymous"
        )
    writer_in(settings)
    if settings.live.kafka is not None:
        require_access(settings.live)
    return app_builder(settings, tokens, load_key(settings.privacy, settings.lake.path))


def size_of(settings: ServeSettings) -> dict[str, Any]:
    """Ray Serve's name of the application, and how large it is."""
    return {
        "name": NAME,
        "num_replicas": settings.num_replicas,
        "cpus_per_replica": settings.cpus_per_replica,
        "max_ongoing": settings.max_waiting * 2,
    }


def application(args: dict[str, list[str]]) -> Any:
    """The application for a configuration of Ray Serve (lib/kubernetes/ray_service.py): `arguments` are the job's flags."""
    settings = ServeSettings.load(args["arguments"])
    return ray_serve.application(builder_of(settings), **size_of(settings))


@contextmanager
def serving(settings: ServeSettings, before: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Serve until the block ends; `before` is called when Ray has begun, before the server answers.

    Raises:
        SettingError: something that it needs is missing; nothing was started.
    """
    build = builder_of(settings)
    size = size_of(settings)
    with ray_serve.served(build, settings.cluster, host=settings.host, port=settings.port, before=before, **size):
        job_logger("serve").info("answers at http://%s:%s", settings.host, settings.port)
        yield


def main(settings: ServeSettings) -> None:
    ended = threading.Event()

    def end_in_order() -> None:
        """From now on a signal ends the server in order; Ray's own handlers abort it."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ended.set())

    with serving(settings, before=end_in_order):
        while not ended.wait(1):
            pass
    job_logger("serve").info("has ended")


if __name__ == "__main__":
    main(ServeSettings.from_command_line())
