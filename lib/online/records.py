"""The texts that events and decisions are kept as in the online state, whichever holds it.

An event's text begins with its time and is the same for equal events, so texts tell known events and break ties of time.
"""

import json
from datetime import UTC, datetime, timedelta

from lib.online.state import Decision, LiveEvent

FORMAT = 2  # of these texts and of how they are kept; a state of another format is not read
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CHUNK_USERS = 100  # whose events are added at once: while it lasts, other writers wait


def microseconds(moment: datetime) -> int:
    """Microseconds from 1970 in UTC."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def text_of_event(event: LiveEvent) -> str:
    """The text of an event."""
    return _text([microseconds(event.event_time), *event[1:]])


def event_of(text: str | bytes) -> LiveEvent:
    """The event of a text."""
    time, *others = json.loads(text)
    return LiveEvent(EPOCH + timedelta(microseconds=time), *others)


def text_of_decision(decision: Decision) -> str:
    """The text of a decision."""
    return _text(decision._replace(decided_at=microseconds(decision.decided_at)))  # type: ignore[arg-type]


def decision_of(text: str | bytes) -> Decision:
    """The decision of a text."""
    request_id, user_key, decided_at, policy, release, *lists = json.loads(text)
    moment = EPOCH + timedelta(microseconds=decided_at)
    items, propensities, candidates = (tuple(values) for values in lists)
    return Decision(request_id, user_key, moment, policy, release, items, propensities, candidates)


def text_of_release(release: str, uri: str) -> str:
    """The text of which release answers, and where it lies."""
    return _text([release, uri])


def release_of(text: str | bytes) -> tuple[str, str]:
    """The release of a text."""
    release, uri = json.loads(text)
    return release, uri


def _text(values: object) -> str:
    return json.dumps(values, separators=(",", ":"))
