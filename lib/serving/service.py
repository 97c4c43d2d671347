"""What a server does, whatever carries its requests: answers from the current release, takes events, changes releases."""

import hashlib
import hmac
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np

from lib.cleaning.fields import form_of_id
from lib.cleaning.pseudonyms import LENGTH
from lib.formats.mapping import LogMapping
from lib.formats.writing import RecordWriter
from lib.lake.lake import Lake
from lib.online.state import Decision, LiveEvent, OnlineState, StateUnavailableError
from lib.runs.logs import job_logger
from lib.runs.model_registry import RELEASE, current_model
from lib.serving import release as releases
from lib.serving.answering import Answer, answer
from lib.serving.live_log import LiveLog, LogUnavailableError
from lib.serving.metrics import Metrics
from lib.serving.release import ReadPolicy, Release
from lib.serving.request import Request

STATE, LOG = "state", "log"
PICTURE_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
USERS_KNOWN = 10_000  # whose keys are kept in memory
STATE_PAUSE_SECONDS = 1.0  # for which a state that was lost is not asked again


class UnusableError(Exception):
    """What a client asked cannot be done; `status` says whose fault it is."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Event(NamedTuple):
    """An event as a client sends it."""

    user_id: str | None
    item_id: str
    event_type: str
    event_time: datetime | None = None  # None: now
    quantity: int | None = None
    price: float | None = None
    request_id: str | None = None
    position: int | None = None


class Question(NamedTuple):
    """A question as a client asks it."""

    user_id: str | None = None
    visit: tuple[str, ...] = ()
    category: tuple[str, ...] = ()
    k: int = 10
    exclude: tuple[str, ...] = ()
    new_only: bool = False
    preview: bool = False  # nobody is shown the answer


@dataclass
class Service:
    """One server's replica. Its methods may be called from several threads."""

    lake: Lake
    mapping: LogMapping
    key: bytes
    writer: RecordWriter
    state: OnlineState | None
    log: LiveLog
    epsilon: float = 0.0
    ahead_seconds: float = 60.0  # that a client's clock may be ahead
    clock: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))
    metrics: Metrics = field(default_factory=Metrics)
    read_policy: ReadPolicy | None = None
    release: Release | None = None
    _state_lost_until: float = 0.0
    _refused: str = ""  # the release that could not be loaded

    def __post_init__(self) -> None:
        self._draw = np.random.default_rng()
        self._loading = threading.Lock()
        self._key_of = lru_cache(USERS_KNOWN)(self._pseudonym)  # a visit asks for one user's again and again

    def user_key(self, user_id: str) -> str | None:
        """The pseudonym that clean gives a user; None where the id stands for nobody."""
        return self._key_of(user_id)

    def _pseudonym(self, user_id: str) -> str | None:
        form = form_of_id(user_id, "user_id", self.mapping.sources[self.writer.source])
        return None if form is None else hmac.digest(self.key, form.encode(), "sha256").hex()[:LENGTH]

    def look_for_release(self) -> bool:
        """Load the release that should answer, if it is another; returns whether it was exchanged.

        Requests are answered from the release before until the new one is whole in memory.
        """
        with self._loading:
            wanted = self._wanted()
            if wanted is None or wanted[0] == self._refused or (self.release and self.release.version == wanted[0]):
                return False
            try:
                loaded = releases.load(self.lake.local(wanted[1]), self.read_policy)
            except (ValueError, OSError) as error:
                self._refused = wanted[0]
                job_logger("serve").warning("goes on without release %s: %s", wanted[0], error)
                return False
            self.release = loaded
            self.metrics.loaded(loaded.version, loaded.facts.as_of)
            job_logger("serve").info("answers from %s", loaded.version)
            return True

    def _wanted(self) -> tuple[str, str] | None:
        found: tuple[str, str] | None = self._ask_state(lambda state: state.release(), [])
        if found is None:
            row = current_model(self.lake, RELEASE)
            found = None if row is None else (row["version"], row["uri"])
        return found

    def recommend(self, question: Question) -> dict[str, Any]:
        """The answer to a question, which is logged with its propensities unless it is a preview.

        Raises:
            UnusableError: there is no release.
        """
        began = time.perf_counter()
        release = self.release
        if release is None:
            raise UnusableError(503, "no_release", "no release is loaded yet: run publish, or wait")
        degraded: list[str] = []
        user_key, now = self.user_key(question.user_id) if question.user_id else None, self.clock()
        events, decisions = self._since(release, user_key, degraded) if user_key else ((), ())
        request = Request(
            now=now,
            user_key=user_key,
            events=events,
            decisions=decisions,
            visit=question.visit,
            category=question.category,
            k=question.k,
            exclude=frozenset(question.exclude),
            new_only=question.new_only,
        )
        found = answer(release, request, epsilon=self.epsilon, draw=self._draw)
        degraded += found.degraded
        request_id = uuid.uuid4().hex
        if not question.preview:
            self._decided(question, user_key, request_id, now, release, found, degraded)
        self.metrics.answered(found.policy, degraded)
        return {
            "request_id": request_id,
            "release": release.version,
            "policy": found.policy,
            "items": [
                {**one._asdict(), "position": place, **_described(release, one.item_id)}
                for place, one in enumerate(found.shown, start=1)
            ],
            "degraded": degraded,
            "ms": round((time.perf_counter() - began) * 1e3, 3),
        }

    def _since(
        self, release: Release, user_key: str, degraded: list[str]
    ) -> tuple[Sequence[LiveEvent], Sequence[Decision]]:
        """What a user did since the release, and where a policy wants to know, what they were shown."""
        since = release.facts.as_of
        events = self._ask_state(lambda state: state.events(user_key, since=since), degraded) or ()
        if release.policy is None or degraded:
            return events, ()
        decisions = self._ask_state(lambda state: state.decisions(user_key), degraded) or ()
        return events, [decision for decision in decisions if decision.decided_at >= since]

    def _decided(
        self,
        question: Question,
        user_key: str | None,
        request_id: str,
        now: datetime,
        release: Release,
        found: Answer,
        degraded: list[str],
    ) -> None:
        """Keep the decision, and write its impressions to the log."""
        impressions = [
            {
                "user_id": question.user_id,
                "item_id": one.item_id,
                "event_type": "impression",
                "event_time": now,
                "request_id": request_id,
                "position": place,
                "propensity": one.propensity,
                "policy": found.policy,
                "candidates": list(found.candidates),
            }
            for place, one in enumerate(found.shown, start=1)
        ]
        if "impression" in self.writer.types and impressions:
            try:
                self.log.write(impressions)
            except LogUnavailableError:
                degraded.append(LOG)
        decision = Decision(
            request_id=request_id,
            user_key=user_key,
            decided_at=now,
            policy=found.policy,
            release=release.version,
            items=tuple(one.item_id for one in found.shown),
            propensities=tuple(one.propensity for one in found.shown),
            candidates=found.candidates,
        )
        self._ask_state(lambda state: state.add_decision(decision), degraded)

    def take(self, events: Sequence[Event]) -> dict[str, Any]:
        """Take events: each counts for the next answer to its user, and is written to the log. All of them, or none.

        Raises:
            UnusableError: one of them cannot be taken, or the log takes nothing.
        """
        now = self.clock()
        rows = [self._checked(event, place, now) for place, event in enumerate(events)]
        try:
            self.log.write(rows)
        except LogUnavailableError as error:
            raise UnusableError(503, "log_unavailable", f"no event was taken: {error}") from None
        by_user: dict[str, list[LiveEvent]] = {}
        for row in rows:
            user_key = None if row["user_id"] is None else self.user_key(row["user_id"])
            if user_key is not None:
                live = LiveEvent(
                    row["event_time"], row["event_type"], row["item_id"], row["quantity"], row["request_id"]
                )
                by_user.setdefault(user_key, []).append(live)
        degraded: list[str] = []
        if by_user:
            self._ask_state(lambda state: state.add_events(by_user), degraded)
        self.metrics.took([row["event_type"] for row in rows], degraded)
        return {"taken": len(rows), "degraded": degraded}

    def _checked(self, event: Event, place: int, now: datetime) -> dict[str, Any]:
        """The event as it is written.

        Raises:
            UnusableError: it cannot be taken.
        """
        if event.event_type not in self.writer.types:
            raise UnusableError(
                422,
                "unknown_event_type",
                f"event {place}: this log has no {event.event_type}; it has {', '.join(self.writer.types)}",
            )
        release = self.release
        if release is not None and event.item_id.strip() not in release.catalogue.place_of:
            raise UnusableError(404, "unknown_item", f"event {place}: no item of the release has this item_id")
        moment = event.event_time or now
        if moment > now + timedelta(seconds=self.ahead_seconds):
            raise UnusableError(
                422, "event_in_future", f"event {place}: its event_time is in the future; is the clock right?"
            )
        end = self.mapping.times.end
        if end is not None and moment >= end:
            raise UnusableError(
                422,
                "after_the_end",
                f"event {place}: the log ends at {end:%Y-%m-%d %H:%M} UTC by its mapping (times.end)",
            )
        request_id = event.request_id if "request_id" in self.writer.columns else None  # else the log tells of none
        return event._asdict() | {"event_time": moment, "item_id": event.item_id.strip(), "request_id": request_id}

    def adverts(self, items: Sequence[str], *, at_most: int) -> dict[str, Any]:
        """Adverts of some items in their order, or of any; all are generated, and say so."""
        release = self.release
        if release is None:
            raise UnusableError(503, "no_release", "no release is loaded yet: run publish, or wait")
        found = list(release.creatives)
        if items:
            order = {item: place for place, item in reversed([*enumerate(items)])}
            found = sorted((one for one in found if one["item_id"] in order), key=lambda one: order[one["item_id"]])
        return {"release": release.version, "adverts": found[:at_most]}

    def picture(self, creative_id: str) -> tuple[bytes, str]:
        """The picture of an advert of the release, and its type.

        Raises:
            UnusableError: there is none, or it is not as it was made.
        """
        known = self.release.creatives if self.release else ()
        found = next((one for one in known if one["creative_id"] == creative_id), None)
        kind = PICTURE_TYPES.get(PurePath(found["uri"]).suffix.lower()) if found else None
        if found is None or kind is None:
            raise UnusableError(404, "unknown_advert", "the release has no picture of an advert with this id")
        try:
            content = self.lake.local(found["uri"]).read_bytes()
        except OSError:
            raise UnusableError(404, "picture_lost", "the picture of this advert is not where it was made") from None
        if hashlib.sha256(content).hexdigest() != found["sha256"]:
            raise UnusableError(404, "picture_changed", "the picture of this advert is not as it was made")
        return content, kind

    def categories(self, *, at_most: int) -> dict[str, Any]:
        """The places of the shop with the most items, by their paths; a place's items are also those of places below it.

        Raises:
            UnusableError: there is no release.
        """
        release = self.release
        if release is None:
            raise UnusableError(503, "no_release", "no release is loaded yet: run publish, or wait")
        catalogue, counts = release.catalogue, Counter[tuple[str, ...]]()
        for path, num_items in zip(catalogue.tag_paths, np.bincount(catalogue.tag).tolist(), strict=False):
            counts.update({path[:depth]: num_items for depth in range(1, len(path) + 1)})
        most = sorted(counts.most_common(at_most))
        return {"release": release.version, "categories": [{"path": list(p), "num_items": n} for p, n in most]}

    def health(self) -> dict[str, Any]:
        """Whether it answers, and what it lacks."""
        lost: list[str] = []
        self._ask_state(lambda state: state.release(), lost)
        return {
            "status": "ok" if self.release else "no_release",
            "release": self.release.version if self.release else None,
            "degraded": lost,
        }

    def close(self) -> None:
        """Write what is held back, and let go of connections."""
        self.log.close()
        if self.state is not None:
            self.state.close()

    def _ask_state(self, ask: Callable[[OnlineState], Any], degraded: list[str]) -> Any:
        """What the state says; None where it is lost, which is noted. It is not asked again at once, or each answer would wait."""
        if self.state is None or time.monotonic() < self._state_lost_until:
            degraded.append(STATE)
            return None
        try:
            return ask(self.state)
        except StateUnavailableError:
            self._state_lost_until = time.monotonic() + STATE_PAUSE_SECONDS
            degraded.append(STATE)
            return None


def _described(release: Release, item_id: str) -> Mapping[str, Any]:
    """What a page shows of an item."""
    place = release.catalogue.place_of[item_id]
    price, tag = float(release.prices[place]), int(release.catalogue.tag[place])
    paths = release.catalogue.tag_paths
    return {
        "title": release.catalogue.names[place].as_py(),
        "category": list(paths[tag]) if tag < len(paths) else [],
        "price": None if np.isnan(price) else round(price, 4),
    }
