"""A Kafka of this machine: one broker that is its own controller (KRaft), from its jars; for `cartwheel live` and for tests.

The jars of conf/kafka are fetched once by the Ivy that Spark brings, from wherever Ivy's settings say, and kept outside the
checkout. It is no Kafka for a cluster: it has one copy of everything and no passwords, and answers this machine alone.
"""

import hashlib
import importlib.util
import os
import re
import secrets
import shutil
import socket
import subprocess
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from lib.engines.ports import free_ports
from lib.live.tied import kill, start_tied, stop
from lib.pipeline import ROOT

FILES = ROOT / "conf" / "kafka"
VERSION = "4.1.0"
HEAP = ("-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
FETCH_SECONDS, START_SECONDS, STOP_SECONDS = 600, 60, 20
PROPERTIES = """\
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{inner_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
controller.quorum.voters=1@127.0.0.1:{inner_port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
num.partitions=4
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=3000
group.initial.rebalance.delay.ms=0
num.network.threads=2
num.io.threads=2
log.cleaner.dedupe.buffer.size=16777216
"""


class NoKafkaError(Exception):
    """There is no Kafka on this machine; the message says why."""


@dataclass
class KafkaBroker:
    """A broker whose data lies in a folder; it can be stopped and started again, at the same address."""

    folder: Path
    port: int
    jars: Path
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def address(self) -> str:
        """What clients are given as bootstrap servers."""
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        """What the broker says."""
        return self.folder / "broker.log"

    def start(self) -> None:
        """Start it, and wait until it answers.

        Raises:
            NoKafkaError: its port is taken, it ended, or it did not answer in time.
        """
        self.prepare()
        self.process = start_tied(self.command, log=self.folder / "output.log", stop_seconds=STOP_SECONDS)
        if not answers(self.address, seconds=START_SECONDS, process=self.process):
            self.kill()
            raise NoKafkaError(f"Kafka did not start: {self._last_words()}; its log is {self.log}")

    def stop(self) -> None:
        """Stop it in order, as an operator does."""
        if self.process is not None:
            stop(self.process)

    def kill(self) -> None:
        """End it at once, as kill -9 does."""
        if self.process is not None:
            kill(self.process)

    @property
    def command(self) -> list[str]:
        """What runs it, once it was prepared."""
        return [*self._java(*HEAP), "kafka.Kafka", str(self.folder / "server.properties")]

    def _java(self, *options: str) -> list[str]:
        classes, logging = str(self.jars / "*"), FILES / "log4j2.properties"
        return [java(), *options, f"-Dlog4j2.configurationFile={logging}", f"-Dbroker.log={self.log}", "-cp", classes]

    def prepare(self) -> None:
        """Check that its port is free, and the first time write its settings and its storage.

        Raises:
            NoKafkaError: the port is taken, or the storage cannot be made.
        """
        try:
            socket.create_server(("127.0.0.1", self.port)).close()
        except OSError as error:
            raise NoKafkaError(f"Kafka cannot listen on {self.address}: {error.strerror}") from None
        data, properties = self.folder / "data", self.folder / "server.properties"
        if (data / "meta.properties").is_file():
            return
        data.mkdir(parents=True, exist_ok=True)
        (inner_port,) = free_ports(1)
        properties.write_text(PROPERTIES.format(port=self.port, inner_port=inner_port, data=data))
        cluster = urlsafe_b64encode(secrets.token_bytes(15) + b"\0").decode().rstrip("=")  # begins with no hyphen
        command = [*self._java(), "kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "-c", str(properties)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NoKafkaError(f"Kafka's storage in {data} cannot be made: {(done.stderr or done.stdout).strip()}")

    def _last_words(self) -> str:
        for file in (self.folder / "output.log", self.log):
            lines = file.read_text(errors="replace").splitlines() if file.is_file() else []
            if lines:
                return lines[-1].strip()
        return "it wrote nothing"


def broker_in(folder: Path, *, port: int = 0) -> KafkaBroker:
    """The broker of a folder, not started yet: with the port that it had before, else with this one, or any that is free.

    Raises:
        NoKafkaError: its jars or Java are not to be had here, or it has another port.
    """
    jars = kafka_jars()
    folder = folder.absolute()
    known = folder / "server.properties"
    if known.is_file() and (before := re.search(r"PLAINTEXT://127\.0\.0\.1:(\d+)", known.read_text())):
        if port not in (0, int(before[1])):
            raise NoKafkaError(f"the Kafka in {folder} has port {before[1]}, not {port}")
        port = int(before[1])
    return KafkaBroker(folder, port or free_ports(1)[0], jars)


@contextmanager
def kafka_broker(folder: Path, *, port: int = 0) -> Iterator[KafkaBroker]:
    """A broker that answers and ends with the block; one on a folder that held one before finds its topics, and its port.

    Raises:
        NoKafkaError: its jars or Java are not to be had here, or it did not start.
    """
    broker = broker_in(folder, port=port)
    try:
        broker.start()
        yield broker
    finally:
        broker.stop()


def answers(address: str, *, seconds: float, process: "subprocess.Popen[bytes] | None" = None) -> bool:
    """Whether a Kafka answers at an address within so many seconds, while the process that is to run it does."""
    deadline = time.monotonic() + seconds
    admin = AdminClient({"bootstrap.servers": address, "log_level": 0, "reconnect.backoff.max.ms": 200})
    while time.monotonic() < deadline and (process is None or process.poll() is None):
        try:
            if admin.list_topics(timeout=1).brokers:
                return True
        except KafkaException:
            continue
    return False


def kafka_jars() -> Path:
    """The folder of Kafka's jars, each of which is the one that conf/kafka lists; the first time they are fetched.

    Raises:
        NoKafkaError: they cannot be fetched, or are others.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cartwheel" / f"kafka-{VERSION}"
    if not folder.is_dir():
        made = folder.with_name(f".{folder.name}-{os.getpid()}")
        try:
            _fetch(made)
            require_listed(made)
            made.replace(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
        finally:
            shutil.rmtree(made, ignore_errors=True)
    return folder


def _fetch(folder: Path) -> None:
    spark = importlib.util.find_spec("pyspark")
    places = list(spark.submodule_search_locations or ()) if spark is not None else []
    ivy = next((jar for place in places for jar in Path(place).glob("jars/ivy-*.jar")), None)
    if ivy is None:
        raise NoKafkaError("Kafka's jars are fetched by the Ivy that pyspark brings, which is not installed")
    folder.mkdir(parents=True)
    command = [java(), "-jar", str(ivy), "-ivy", str(FILES / "ivy.xml"), "-confs", "default", "-warn"]
    command += ["-cache", str(folder / "cache"), "-types", "jar", "bundle"]
    command += ["-retrieve", f"{folder}/[artifact]-[revision].[ext]"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=FETCH_SECONDS)
    except subprocess.TimeoutExpired:
        raise NoKafkaError(f"Kafka's jars were not fetched in {FETCH_SECONDS} s") from None
    shutil.rmtree(folder / "cache", ignore_errors=True)
    if done.returncode:
        raise NoKafkaError(f"Kafka's jars cannot be fetched: {(done.stderr or done.stdout).strip()[-500:]}")


def require_listed(folder: Path) -> None:
    """Check that a folder holds the jars that conf/kafka lists, byte for byte, and no others.

    Raises:
        NoKafkaError: it does not.
    """
    wanted = dict(line.split()[::-1] for line in (FILES / "SHA256SUMS").read_text().splitlines())
    given = {jar.name: hashlib.sha256(jar.read_bytes()).hexdigest() for jar in folder.glob("*.jar")}
    others = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
    if others:
        raise NoKafkaError(f"jars of Kafka were fetched that are not those of conf/kafka/SHA256SUMS: {others}")


def java() -> str:
    """The Java that runs Kafka and Spark.

    Raises:
        NoKafkaError: there is none.
    """
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=f"{home}/bin") if home else shutil.which("java")
    if found is None:
        raise NoKafkaError("Kafka needs Java 17: install it, or set JAVA_HOME to its folder")
    return found
