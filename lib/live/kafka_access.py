"""How the project's parts reach Kafka: what its clients and Spark are given, by the same settings, and why it refuses them.

The password is in a variable alone. Python's clients are given its value; Spark is given the variable's name, so that it stands in
no plan, no log of events and no page of Spark's, and each of its processes reads its own environment.
"""

import os
import time
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from lib.runs.errors import RetryableError, SettingError
from lib.settings import LiveSettings

PASSWORD_VARIABLE = "CARTWHEEL_KAFKA_PASSWORD"
ANSWER_SECONDS = 5.0
STEP_SECONDS = 0.5  # after which it is looked whether Kafka has refused the client, which then goes on to try
SPARK_SECONDS = {"default.api.timeout.ms": "10000", "request.timeout.ms": "8000"}
LOGIN_MODULES = {"PLAIN": "plain.PlainLoginModule", "SCRAM": "scram.ScramLoginModule"}
# Errors of Java's clients that no further try mends.
REFUSED_BY_KAFKA = ("SaslAuthenticationException", "SslAuthenticationException", "AuthorizationException")


def client_properties(live: LiveSettings) -> dict[str, Any]:
    """What a client of librdkafka is given: the address, and how it proves who it is.

    Raises:
        SettingError: a file or the password is missing.
    """
    given: dict[str, Any] = {"bootstrap.servers": live.kafka, "security.protocol": live.kafka_protocol}
    if uses_tls(live):
        given |= {"ssl.ca.location": _file("ca", live.kafka_ca)} if live.kafka_ca else {}
        if live.kafka_certificate:
            own = _file("certificate", live.kafka_certificate)
            given |= {"ssl.certificate.location": own, "ssl.key.location": own}
    if uses_password(live):
        given |= {
            "sasl.mechanism": live.kafka_mechanism,
            "sasl.username": live.kafka_user,
            "sasl.password": _password(live),
        }
    return given


def spark_options(live: LiveSettings) -> dict[str, str]:
    """The same for Spark's source of Kafka: its options `kafka.*`.

    Raises:
        SettingError: a file or the password is missing.
    """
    client_properties(live)  # the same is missing here
    given = {"bootstrap.servers": str(live.kafka), "security.protocol": live.kafka_protocol, **SPARK_SECONDS}
    if uses_tls(live):
        if live.kafka_ca:
            given |= {"ssl.truststore.type": "PEM", "ssl.truststore.location": _absolute(live.kafka_ca)}
        if live.kafka_certificate:
            given |= {"ssl.keystore.type": "PEM", "ssl.keystore.location": _absolute(live.kafka_certificate)}
    if uses_password(live):
        module = f"org.apache.kafka.common.security.{LOGIN_MODULES[live.kafka_mechanism.partition('-')[0]]}"
        who = f'username="{live.kafka_user}" password="${{env:{PASSWORD_VARIABLE}}}"'
        provider = "org.apache.kafka.common.config.provider.EnvVarConfigProvider"
        given |= {"sasl.mechanism": live.kafka_mechanism, "sasl.jaas.config": f"{module} required {who};"}
        given |= {"config.providers": "env", "config.providers.env.class": provider}
    return {f"kafka.{name}": value for name, value in given.items()}


def uses_tls(live: LiveSettings) -> bool:
    """Whether Kafka is spoken to over TLS."""
    return live.kafka_protocol.endswith("SSL")


def uses_password(live: LiveSettings) -> bool:
    """Whether Kafka asks for a user and a password."""
    return live.kafka_protocol.startswith("SASL")


def known_topics(live: LiveSettings) -> set[str]:
    """The topics that Kafka names to a client of these settings.

    Raises:
        RetryableError: no Kafka answers there.
        SettingError: one does, but refuses this client, or is refused by it; or what the settings name is missing.
    """
    said: list[KafkaError] = []
    asking: dict[str, Any] = {**client_properties(live), "log_level": 0, "error_cb": said.append}
    admin = AdminClient(asking)
    deadline = time.monotonic() + ANSWER_SECONDS
    while True:
        try:
            return {*admin.list_topics(timeout=STEP_SECONDS).topics}
        except KafkaException:
            admin.poll(0)
        for error in said:
            _require_no_refusal(live, error)
        if time.monotonic() > deadline:
            raise RetryableError(
                f"no Kafka answers at {live.kafka} by {live.kafka_protocol}: is the address right, is it up, and does it want "
                "another live.kafka_protocol, or a live.kafka_certificate?"
            )


def require_access(live: LiveSettings) -> None:
    """Check that Kafka does not refuse a client of these settings; one that is away refuses nobody.

    Raises:
        SettingError: it does.
    """
    try:
        known_topics(live)
    except RetryableError:
        return


def refusal(live: LiveSettings, text: str) -> str | None:
    """What to tell where an error of Java's clients says that Kafka refuses them; None where it says something else."""
    if any(name in text for name in REFUSED_BY_KAFKA):
        return f"Kafka at {live.kafka} refuses the stream: are live.kafka_user, its password and the certificates right still?"
    return None


def _require_no_refusal(live: LiveSettings, error: KafkaError) -> None:
    text = error.str().rpartition(": ")[2] if error.code() == KafkaError._AUTHENTICATION else error.str()
    place = f"Kafka at {live.kafka}"
    if error.code() == KafkaError._AUTHENTICATION:
        raise SettingError(
            f"{place} does not take the user {live.kafka_user} with the password that {PASSWORD_VARIABLE} holds, by "
            f"{live.kafka_mechanism}: {text.partition(' (after')[0]}"
        )
    if error.code() == KafkaError._SSL and "verify failed" in text:
        raise SettingError(
            f"the certificate of {place} is of none of the authorities of {live.kafka_ca or 'this machine'}, or of another host: "
            "set live.kafka_ca to the file of its authority"
        )
    if error.code() == KafkaError._SSL:
        raise SettingError(f"{place} and this client do not agree on TLS: {text.partition(' (after')[0]}")


def _password(live: LiveSettings) -> str:
    """The password of the user.

    Raises:
        SettingError: there is none, or one that Java's clients cannot be given.
    """
    password = os.environ.get(PASSWORD_VARIABLE)
    if not password:
        raise SettingError(
            f"live.kafka_user is {live.kafka_user}, but {PASSWORD_VARIABLE} is not set: it holds the password"
        )
    if any(mark in password for mark in ('"', "\\", "\n", "\r")):
        raise SettingError(
            f"{PASSWORD_VARIABLE} holds a double quote, a backslash or a line's end, which Kafka's clients of Java cannot be "
            "given in a variable: use another password"
        )
    return password


def _file(what: str, path: str) -> str:
    """A file that the settings name, as it is found from everywhere.

    Raises:
        SettingError: it cannot be read.
    """
    try:
        with Path(_absolute(path)).open("rb"):
            return _absolute(path)
    except OSError as error:
        raise SettingError(f"live.kafka_{what} = {path!r}: {(error.strerror or str(error)).lower()}") from None


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())
