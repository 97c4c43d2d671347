"""The online state: of each user the latest events and decisions, and the release that answers (docs/decisions/0036).

Redis holds it where there are several servers, a file of SQLite on one machine; both behave alike. A server that has lost it
still answers, from its release alone.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

DECISION_HOURS = 24.0  # for which a decision is kept
DECISIONS_KEPT = 1000  # of a user, at most: the latest


class StateUnavailableError(Exception):
    """The online state cannot be reached, or does not answer in time; names its address without credentials."""


class LiveEvent(NamedTuple):
    """What a user did. Two that are equal are one event, whichever way they come."""

    event_time: datetime  # UTC
    event_type: str  # one of silver/events
    item_id: str
    quantity: int | None = None
    request_id: str | None = None  # of the answer that led to it


class Decision(NamedTuple):
    """What a user was shown, and how likely that was."""

    request_id: str
    user_key: str | None
    decided_at: datetime  # UTC
    policy: str
    release: str
    items: tuple[str, ...]
    propensities: tuple[float, ...]
    candidates: tuple[str, ...]


class OnlineState(Protocol):
    """Every method raises StateUnavailableError where the state does not answer in time."""

    def add_events(self, events: Mapping[str, Iterable[LiveEvent]]) -> None:
        """Add events of users, by their keys; those that are known already change nothing.

        Of each user the latest are kept: as many, and as old ones, as the settings say.
        """
        ...

    def events(self, user_key: str, *, since: datetime | None = None) -> list[LiveEvent]:
        """A user's events from a time on, the oldest first."""
        ...

    def add_decision(self, decision: Decision) -> None:
        """Keep a decision for DECISION_HOURS."""
        ...

    def decision(self, request_id: str) -> Decision | None:
        """A decision that is kept."""
        ...

    def decisions(self, user_key: str) -> list[Decision]:
        """A user's decisions that are kept, the latest first."""
        ...

    def set_release(self, release: str, uri: str) -> None:
        """Let a release answer from now on: at once for every reader, who sees the one before or this one, whole."""
        ...

    def release(self) -> tuple[str, str] | None:
        """The release that answers, and where it lies."""
        ...

    def user_keys(self) -> Iterator[str]:
        """Every user of whom something is known, once each; one who expires or comes meanwhile may be missed."""
        ...

    def forget(self, user_keys: Sequence[str]) -> None:
        """Remove all that is known of users."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...
