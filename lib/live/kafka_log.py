"""The live log in Kafka: a topic for each source of the mapping, and how records are written into it.

A record is keyed by its user, so that what a user did stays in its order, and its value is one line of JSON, as received.
"""

from collections.abc import Iterable
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from lib.live.kafka_access import ANSWER_SECONDS, client_properties, known_topics
from lib.runs.errors import SettingError
from lib.settings import LiveSettings

FILE_HEADER = "file"  # of the record's file below the log, whose parts a mapping may name
# Every acknowledged record is there once and in order, however often it had to be sent; keys are spread as Java's clients do.
PRODUCER: dict[str, Any] = {
    "enable.idempotence": True,
    "partitioner": "murmur2_random",
    "compression.type": "lz4",
    "linger.ms": 5,
    "log_level": 2,
}


def create_topics(live: LiveSettings, topics: Iterable[str], *, partitions: int) -> list[str]:
    """Create the topics that are missing; returns these.

    Raises:
        RetryableError: no Kafka answers there.
        SettingError: it refuses a topic, or this client.
    """
    known = known_topics(live)
    admin = AdminClient({**client_properties(live), "log_level": 0})
    missing = [topic for topic in topics if topic not in known]
    asked = [NewTopic(topic, num_partitions=partitions, replication_factor=-1) for topic in missing]
    for topic, made in admin.create_topics(asked).items() if asked else ():
        try:
            made.result(ANSWER_SECONDS)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise SettingError(
                    f"Kafka at {live.kafka} does not make topic {topic}: {error.args[0].str()}"
                ) from None
    return missing
