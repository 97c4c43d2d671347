"""What the online state takes from the live log: the events of messages, as the tasks of the stream read them. Does not import Spark."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa

from lib.cleaning.erasures import are_erased
from lib.cleaning.fields import NUMBER, type_events
from lib.cleaning.pseudonyms import pseudonyms
from lib.engines.arrow_tasks import part
from lib.formats.mapping import LogMapping
from lib.ingestion.messages import MESSAGES, placed_records
from lib.online.open_state import open_state
from lib.online.state import LiveEvent
from lib.settings import LiveSettings

if TYPE_CHECKING:
    from datetime import datetime

    from lib.engines.arrow_tasks import Broadcast

ADDED = "added"  # the kind of the parts, each with a number of events
NO_INTEREST = "impression"  # what a user was shown says nothing of what they like


@dataclass(frozen=True)
class StateWork:
    """What the tasks of one batch need to know."""

    live: LiveSettings
    lake_path: str
    mapping: LogMapping
    source_of: dict[str, str]  # topic -> the mapping's source
    arrived_at: "datetime"
    erased: frozenset[str] = field(default_factory=frozenset)  # digests of who asked to be forgotten


def add_to_state(
    batches: Iterable[pa.RecordBatch], *, work: StateWork, key: "Broadcast[bytes]"
) -> Iterator[pa.RecordBatch]:
    """Add the events of messages (rows of MESSAGES) to the online state; yields how many."""
    messages = pl.DataFrame(pa.Table.from_batches(batches, MESSAGES))
    events: dict[str, list[LiveEvent]] = {}
    for (topic,), of_topic in messages.group_by("topic", maintain_order=True):
        name = work.source_of[str(topic)]
        if work.mapping.sources[name].kind == "events":
            for user_key, event in live_events(of_topic, name, work, key.value):
                events.setdefault(user_key, []).append(event)
    if events:
        state = open_state(work.live, work.lake_path)
        try:
            state.add_events(events)
        finally:
            state.close()
    yield part(ADDED, str(sum(map(len, events.values()))).encode())


def live_events(messages: pl.DataFrame, source: str, work: StateWork, key: bytes) -> Iterator[tuple[str, LiveEvent]]:
    """The events of known users with products, each with its user's key; what clean refuses of a record by itself is not among them."""
    records = pl.DataFrame(placed_records(messages, work.mapping.sources[source])).with_row_index(NUMBER)
    constants = {"source_file": "kafka", "source_file_sha256": "", "batch_id": ""}
    placed = records.with_columns(
        *(pl.lit(value).alias(name) for name, value in constants.items()),
        arrived_at=pl.lit(work.arrived_at).cast(pl.Datetime("us", "UTC")),
    )
    typed = type_events(placed, source, work.mapping)
    fit = pl.col("refusal").is_null() & pl.col("is_product") & (pl.col("event_type") != NO_INTEREST)
    known = typed.filter(fit & pl.col("user_id").is_not_null())
    keys = pseudonyms(known["user_id"], key)
    kept = known.with_columns(user_key=keys).filter(~are_erased(keys, work.erased, key))
    for user_key, *event in kept.select("user_key", *LiveEvent._fields).iter_rows():
        yield user_key, LiveEvent(*event)
