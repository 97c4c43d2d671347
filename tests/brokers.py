"""What tests do with a Kafka: topics of their own, and all that a topic holds."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic


def create_topic(address: str, topic: str, *, partitions: int = 4) -> None:
    """Create a topic, and wait until it is there."""
    admin = AdminClient({"bootstrap.servers": address})
    for made in admin.create_topics([NewTopic(topic, num_partitions=partitions, replication_factor=1)]).values():
        made.result()


def send(address: str, topic: str, records: Iterable[tuple[str | None, bytes | str | dict[str, Any] | None]]) -> None:
    """Send records, each a key and a value; a dict is sent as one line of JSON. Returns when all are acknowledged."""
    producer = Producer({"bootstrap.servers": address, "enable.idempotence": True})
    for key, value in records:
        producer.produce(topic, json.dumps(value) if isinstance(value, dict) else value, key=key)
    assert producer.flush(30) == 0


def records_in(address: str, topic: str) -> Sequence[tuple[int, int, bytes | None, bytes | None]]:
    """All that a topic holds, by partition and offset: partition, offset, key, value."""
    consumer = Consumer({"bootstrap.servers": address, "group.id": "tests", "enable.auto.commit": False})
    found: list[tuple[int, int, bytes | None, bytes | None]] = []
    try:
        for number in consumer.list_topics(topic, timeout=10).topics[topic].partitions:
            first, end = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=10)
            consumer.assign([TopicPartition(topic, number, first)])
            while end and (not found or found[-1][:2] < (number, end - 1)):
                for message in consumer.consume(min(1000, end), timeout=10):
                    assert message.error() is None, message.error()
                    found.append((number, message.offset() or 0, message.key(), message.value()))
    finally:
        consumer.close()
    return found
