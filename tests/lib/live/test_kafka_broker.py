import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lib.live.kafka_broker import KafkaBroker, NoKafkaError, answers, kafka_broker, require_listed
from lib.live.tied import descendants
from lib.pipeline import ROOT
from tests.brokers import create_topic, records_in, send
from tests.processes import await_end


def test_a_broker_keeps_a_users_records_in_their_order(kafka: KafkaBroker) -> None:
    create_topic(kafka.address, "order", partitions=3)
    send(kafka.address, "order", [(f"u{number % 5}", f"{number}") for number in range(100)])

    found = records_in(kafka.address, "order")

    assert len(found) == 100
    for user in range(5):
        own = [int(value or b"") for _, _, key, value in found if key == f"u{user}".encode()]
        assert own == list(range(user, 100, 5))


@pytest.mark.slow
def test_a_broker_that_was_stopped_or_killed_finds_its_records_at_its_address_again(tmp_path: Path) -> None:
    with kafka_broker(tmp_path) as broker:
        address = broker.address
        create_topic(address, "kept")
        send(address, "kept", [("u1", b"before the stop")])
        broker.stop()
        assert not answers(address, seconds=0.5)
        broker.start()
        send(address, "kept", [("u1", b"before the kill")])
        broker.kill()
        broker.start()
    with kafka_broker(tmp_path) as again:
        assert again.address == address
        assert [value for *_, value in records_in(address, "kept")] == [b"before the stop", b"before the kill"]
    assert not answers(address, seconds=0.5)


def test_a_broker_ends_with_the_process_that_started_it_even_where_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom lib.live.kafka_broker import kafka_broker\n"
        f"with kafka_broker(Path({str(tmp_path)!r})) as broker:\n    print(broker.address, flush=True)\n    time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        address = owner.stdout.readline().strip()
        started = descendants(owner.pid)
        assert answers(address, seconds=1)
        assert len(started) == 2
        os.kill(owner.pid, signal.SIGKILL)
    assert await_end(started, seconds=30)


def test_a_port_that_is_taken_is_said(kafka: KafkaBroker, tmp_path: Path) -> None:
    said = f"cannot listen on {kafka.address}: Address already in use"
    with pytest.raises(NoKafkaError, match=said), kafka_broker(tmp_path, port=kafka.port):
        pass


def test_jars_other_than_the_listed_are_refused(kafka: KafkaBroker, tmp_path: Path) -> None:
    shutil.copytree(kafka.jars, tmp_path / "jars")
    require_listed(tmp_path / "jars")
    with (tmp_path / "jars" / "kafka-clients-4.1.0.jar").open("ab") as jar:
        jar.write(b"another")
    with pytest.raises(NoKafkaError, match=r"not those of conf/kafka/SHA256SUMS: \['kafka-clients-4.1.0.jar'\]"):
        require_listed(tmp_path / "jars")
