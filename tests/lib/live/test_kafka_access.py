"""A Kafka with users, passwords and TLS: every part gets in by the settings, and who does not is told why in one line."""

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from confluent_kafka.admin import (
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from lib.engines.ports import free_ports
from lib.formats.mapping import parse_mapping
from lib.formats.writing import writer_of
from lib.live.kafka_access import PASSWORD_VARIABLE, known_topics
from lib.live.kafka_broker import KafkaBroker, NoKafkaError, broker_in
from lib.live.kafka_log import create_topics
from lib.pipeline import ROOT
from lib.runs.errors import RetryableError
from lib.serving.live_log import KafkaLog
from lib.settings import LiveSettings
from tests.brokers import create_topic, records_in
from tests.certificates import Authority
from tests.live_logs import CLICKS, environment, stream_command
from tests.shops import Shop

PASSWORD = "pass with $blanks, ${env:HOME} & more"
JAAS = "org.apache.kafka.common.security"
LISTENERS = """
listeners=PLAINTEXT://127.0.0.1:{plain},CONTROLLER://127.0.0.1:{inner},SASL_SSL://127.0.0.1:{sasl},SSL://127.0.0.1:{ssl}
advertised.listeners=PLAINTEXT://127.0.0.1:{plain},SASL_SSL://127.0.0.1:{sasl},SSL://127.0.0.1:{ssl}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL
ssl.keystore.type=PEM
ssl.keystore.location={certificate}
ssl.truststore.type=PEM
ssl.truststore.location={ca}
listener.name.ssl.ssl.client.auth=required
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512
listener.name.sasl_ssl.plain.sasl.jaas.config={jaas}.plain.PlainLoginModule required user_ann="in the clear";
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={jaas}.scram.ScramLoginModule required;
"""


@dataclass
class GuardedKafka:
    """A broker that asks who one is at two of its ports, and nobody at the third, which is the tests' own."""

    broker: KafkaBroker
    sasl: str
    ssl: str
    authority: Authority
    unknown: Authority

    def flags(self, **settings: str) -> list[str]:
        """The settings of a client with a password, as flags, but for these."""
        given = {
            "kafka": self.sasl,
            "kafka_protocol": "SASL_SSL",
            "kafka_user": "ann",
            "kafka_ca": str(self.authority.ca),
        }
        return [
            word for name, value in (given | settings).items() for word in (f"--live.{name.replace('_', '-')}", value)
        ]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedKafka]:
    folder = tmp_path_factory.mktemp("guarded")
    try:
        broker = broker_in(folder / "kafka")
        broker.prepare()
    except NoKafkaError as reason:
        warnings.warn(f"NO TEST OF KAFKA RUNS: {reason}", stacklevel=1)
        pytest.skip(str(reason))
    sasl, ssl, inner = free_ports(3)
    authority = Authority(folder, "authority")
    properties = broker.folder / "server.properties"
    kept = [line for line in properties.read_text().splitlines() if "listener" not in line and "quorum" not in line]
    own = LISTENERS.format(
        plain=broker.port, inner=inner, sasl=sasl, ssl=ssl, certificate=authority.certificate("broker"), ca=authority.ca, jaas=JAAS
    )  # fmt: skip
    quorum = f"controller.listener.names=CONTROLLER\ncontroller.quorum.voters=1@127.0.0.1:{inner}\n"
    properties.write_text("\n".join(kept) + own + quorum)
    try:
        broker.start()
        how = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        asked = [UserScramCredentialUpsertion("ann", how, PASSWORD.encode())]
        admin = AdminClient({"bootstrap.servers": broker.address})
        for done in admin.alter_user_scram_credentials(asked).values():
            done.result(10)
        yield GuardedKafka(broker, f"127.0.0.1:{sasl}", f"127.0.0.1:{ssl}", authority, Authority(folder, "unknown"))
    finally:
        broker.stop()


def replayed(log: Path, *flags: str, password: str | None = PASSWORD) -> tuple[int, str]:
    """What the command tells that plays a log of clicks."""
    (log.parent / "clicks.yaml").write_text(CLICKS)
    command = [sys.executable, "-m", "lib.cli", "replay", str(log), "--format", str(log.parent / "clicks.yaml"), *flags]
    given = {name: value for name, value in environment().items() if name != PASSWORD_VARIABLE}
    if password is not None:
        given[PASSWORD_VARIABLE] = password
    done = subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def a_log(folder: Path) -> Path:
    log = folder / "log"
    log.mkdir()
    moment = datetime.now(UTC).isoformat()
    records = [{"user": "u1", "item": f"i{number}", "time": moment} for number in range(3)]
    (log / "1.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return log


@pytest.mark.slow
def test_a_log_is_played_and_streamed_with_a_password_over_tls_and_the_password_is_nowhere(
    guarded: GuardedKafka, tmp_path: Path
) -> None:
    shop = Shop.with_key(tmp_path / "shop", CLICKS)
    flags = guarded.flags(topic_prefix="whole.")
    code, told = replayed(a_log(tmp_path), *flags)
    assert code == 0, told
    settings = ("--stream.available-now", "true", "--stream.trigger-seconds", "0.1")
    streaming = [*stream_command(shop, None, "whole."), *flags, *settings]
    for password, wanted in (("wrong", 2), (PASSWORD, 0)):
        given = {**environment(), PASSWORD_VARIABLE: password}
        done = subprocess.run(streaming, cwd=ROOT, env=given, capture_output=True, text=True, check=False)
        assert done.returncode == wanted, done.stdout + done.stderr
        if wanted:
            said = (
                f"Kafka at {guarded.sasl} does not take the user ann with the password that {PASSWORD_VARIABLE} holds"
            )
            assert said in done.stdout + done.stderr
            assert not shop.lake.exists("bronze/clicks")
    assert sorted(row["item"] for row in shop.read("bronze/clicks", "item")) == ["i0", "i1", "i2"]
    assert len(shop.read("silver/events")) == 3
    assert PASSWORD not in told + done.stdout + done.stderr
    holding = [file for file in shop.folder.rglob("*") if file.is_file() and PASSWORD.encode() in file.read_bytes()]
    assert holding == []


@pytest.mark.bad_input("a Kafka that refuses us")
def test_who_does_not_get_in_is_told_why_in_one_line_and_nothing_is_sent(guarded: GuardedKafka, tmp_path: Path) -> None:
    log = a_log(tmp_path)
    at = f"Kafka at {guarded.sasl}"
    by_another = {"kafka_ca": str(guarded.unknown.ca)}
    cases: list[tuple[dict[str, str], str | None, str]] = [
        (
            {},
            "wrong",
            f"{at} does not take the user ann with the password that {PASSWORD_VARIABLE} holds, by SCRAM-SHA-512",
        ),
        (by_another, PASSWORD, f"the certificate of {at} is of none of the authorities of {guarded.unknown.ca}"),
        ({}, None, f"live.kafka_user is ann, but {PASSWORD_VARIABLE} is not set: it holds the password"),
        ({}, 'a "quote"', f"{PASSWORD_VARIABLE} holds a double quote"),
        ({"kafka_ca": "/none.pem"}, PASSWORD, "live.kafka_ca = '/none.pem': no such file or directory"),
        ({"kafka_mechanism": "SCRAM-SHA-256"}, PASSWORD, f"{at} does not take the user ann"),
    ]
    for settings, password, wanted in cases:
        code, told = replayed(log, *guarded.flags(topic_prefix="refused.", **settings), password=password)
        assert (code, told.count("\n")) == (2, 1), told
        assert told.startswith(f"error  {wanted}"), told
    code, told = replayed(log, "--kafka", guarded.sasl)
    assert (code, told.count("\n")) == (1, 1), told
    assert f"no Kafka answers at {guarded.sasl} by PLAINTEXT" in told
    assert "does it want another live.kafka_protocol" in told
    with pytest.raises(RetryableError, match=r"by SSL.*or a live.kafka_certificate\?"):
        known_topics(LiveSettings(kafka=guarded.ssl, kafka_protocol="SSL", kafka_ca=str(guarded.authority.ca)))
    assert not {topic for topic in known_topics(LiveSettings(kafka=guarded.broker.address)) if "refused" in topic}


def test_the_servers_log_gets_in_with_a_plain_password_and_a_client_with_a_certificate(
    guarded: GuardedKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PASSWORD_VARIABLE, "in the clear")
    create_topic(guarded.broker.address, "served.clicks")
    ca = str(guarded.authority.ca)
    plain = LiveSettings(
        kafka=guarded.sasl, topic_prefix="served.", kafka_protocol="SASL_SSL", kafka_mechanism="PLAIN", kafka_user="ann", kafka_ca=ca
    )  # fmt: skip
    log = KafkaLog(plain, writer_of(parse_mapping(CLICKS, "clicks.yaml")))
    log.write(
        [{"user_id": "u1", "item_id": "mug", "event_type": "view", "event_time": datetime(2026, 1, 1, tzinfo=UTC)}]
    )
    log.close()
    ((*_, value),) = records_in(guarded.broker.address, "served.clicks")
    assert json.loads(value or b"")["item"] == "mug"

    own = guarded.authority.certificate("client")
    by_certificate = LiveSettings(
        kafka=guarded.ssl, kafka_protocol="SSL", kafka_ca=ca, kafka_certificate=os.path.relpath(own)
    )
    assert create_topics(by_certificate, ["by_certificate"], partitions=1) == ["by_certificate"]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"kafka_protocol": "SASL_SSL"}, "kafka_protocol SASL_SSL needs a user"),
        ({"kafka_user": "ann"}, "a user needs kafka_protocol SASL_SSL, or SASL_PLAINTEXT"),
        ({"kafka_user": 'a"b', "kafka_protocol": "SASL_SSL"}, "should match pattern"),
        ({"kafka_ca": "ca.pem"}, "certificates need kafka_protocol SSL or SASL_SSL"),
        ({"kafka_protocol": "TLS"}, "should be 'PLAINTEXT', 'SSL', 'SASL_PLAINTEXT' or 'SASL_SSL'"),
    ],
)
def test_settings_that_do_not_fit_one_another_are_refused(given: dict[str, str], wanted: str) -> None:
    with pytest.raises(ValueError, match=wanted):
        LiveSettings.model_validate(given)
