"""A real Redis of this machine, from Debian's package, that tests stop and start again."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from lib.engines.ports import free_ports
from lib.live.tied import kill, start_tied

START_SECONDS = 20


class NoRedisError(Exception):
    """There is no Redis on this machine; the message says why."""


@dataclass
class RedisServer:
    """A server that answers, and how to reach it."""

    folder: Path
    port: int
    program: str
    options: tuple[str, ...] = ()
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def address(self) -> str:
        """What the setting `live.state` is given."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, and wait until it answers or refuses for want of a password."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [
            self.program,
            "--bind",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--dir",
            str(self.folder),
            "--save",
            "",
        ]
        self.process = start_tied([*command, *self.options], log=self.folder / "redis.log")
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                redis.Redis(port=self.port, retry=Retry(NoBackoff(), 0)).ping()
            except redis.AuthenticationError:
                return
            except redis.ConnectionError:
                time.sleep(0.02)
            else:
                return
        raise RuntimeError(f"Redis did not start: {(self.folder / 'redis.log').read_text()[-500:]}")

    def kill(self) -> None:
        """End it at once; what it held only in memory is gone."""
        if self.process is not None:
            kill(self.process)


@contextmanager
def redis_server(folder: Path, *options: str) -> Iterator[RedisServer]:
    """A server that ends with the block.

    Raises:
        NoRedisError: it is not installed.
    """
    program = shutil.which("redis-server")
    if program is None:
        raise NoRedisError("redis-server is not installed")
    server = RedisServer(folder, free_ports(1)[0], program, options)
    try:
        server.start()
        yield server
    finally:
        server.kill()
