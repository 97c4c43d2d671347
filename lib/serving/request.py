"""A question, as a release is asked it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from lib.online.state import Decision, LiveEvent


@dataclass(frozen=True)
class Request:
    """A question."""

    now: datetime
    user_key: str | None = None
    events: Sequence[LiveEvent] = ()  # of the user since the release, the oldest first
    decisions: Sequence[Decision] = ()  # what the user was shown since the release, in any order
    visit: Sequence[str] = ()  # items of the present visit as whoever asks knows them, the oldest first
    category: tuple[str, ...] = ()  # the place in the shop, coarse to fine
    k: int = 10
    exclude: frozenset[str] = frozenset()
    new_only: bool = False

    def told(self) -> list[LiveEvent]:
        """The events, and looks at now at the items of the visit that no event tells of."""
        known = {event.item_id for event in self.events}
        looks = [LiveEvent(self.now, "view", item) for item in dict.fromkeys(self.visit) if item not in known]
        return [*self.events, *looks]
