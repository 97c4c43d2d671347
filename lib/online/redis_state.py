"""The online state in Redis, for several servers: a sorted set of events a user, and keys that expire.

Every key begins with the topics' prefix and the format, so shops with prefixes of their own share a Redis, and a state of
another format is left alone until it expires.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from lib.online.records import (
    CHUNK_USERS,
    FORMAT,
    decision_of,
    event_of,
    microseconds,
    release_of,
    text_of_decision,
    text_of_event,
    text_of_release,
)
from lib.online.state import DECISION_HOURS, DECISIONS_KEPT, Decision, LiveEvent, StateUnavailableError
from lib.settings import LiveSettings

PASSWORD_VARIABLE = "CARTWHEEL_REDIS_PASSWORD"
DAY_MS, HOUR_MS = 86_400_000, 3_600_000
SCANNED = 1000  # keys that one question of a scan looks at


class RedisState:
    """An `OnlineState` in Redis. Threads and forked processes may share it; it connects when it is first used."""

    def __init__(self, address: str, settings: LiveSettings) -> None:
        self.address, self.events_kept = address, settings.events_kept
        self.kept_ms = max(1, round(settings.days_kept * DAY_MS))
        self.prefix = f"{settings.topic_prefix}{FORMAT}:"
        seconds = settings.state_timeout_ms / 1000
        self.pool = redis.ConnectionPool.from_url(
            address,
            password=os.environ.get(PASSWORD_VARIABLE) or None,
            socket_timeout=seconds,
            socket_connect_timeout=seconds,
            retry=Retry(NoBackoff(), 0),
        )
        self.redis: Any = redis.Redis(connection_pool=self.pool)

    def add_events(self, events: Mapping[str, Iterable[LiveEvent]]) -> None:
        scored = {
            user: {text_of_event(event): microseconds(event.event_time) for event in own}
            for user, own in events.items()
        }
        users = [user for user, own in scored.items() if own]
        for first in range(0, len(users), CHUNK_USERS):
            with self._asked(), self.redis.pipeline(transaction=True) as together:
                for user in users[first : first + CHUNK_USERS]:
                    key = self._key("events", user)
                    together.zadd(key, scored[user])
                    together.zremrangebyrank(key, 0, -self.events_kept - 1)
                    together.pexpire(key, self.kept_ms)
                together.execute()

    def events(self, user_key: str, *, since: datetime | None = None) -> list[LiveEvent]:
        least = "-inf" if since is None else microseconds(since)
        with self._asked():
            texts = self.redis.zrangebyscore(self._key("events", user_key), least, "+inf")
        return [event_of(text) for text in texts]

    def add_decision(self, decision: Decision) -> None:
        kept_ms = round(DECISION_HOURS * HOUR_MS)
        with self._asked(), self.redis.pipeline(transaction=True) as together:
            together.set(self._key("decision", decision.request_id), text_of_decision(decision), px=kept_ms)
            if decision.user_key is not None:
                key = self._key("decisions", decision.user_key)
                together.zadd(key, {decision.request_id: microseconds(decision.decided_at)})
                together.zremrangebyrank(key, 0, -DECISIONS_KEPT - 1)
                together.pexpire(key, kept_ms)
            together.execute()

    def decision(self, request_id: str) -> Decision | None:
        with self._asked():
            text = self.redis.get(self._key("decision", request_id))
        return None if text is None else decision_of(text)

    def decisions(self, user_key: str) -> list[Decision]:
        with self._asked():
            requests = self.redis.zrevrange(self._key("decisions", user_key), 0, -1)
            texts = self.redis.mget([self._key("decision", each.decode()) for each in requests]) if requests else []
        kept = [decision_of(text) for text in texts if text is not None]
        return [decision for decision in kept if decision.user_key == user_key]

    def set_release(self, release: str, uri: str) -> None:
        with self._asked():
            self.redis.set(self._key("release"), text_of_release(release, uri))

    def release(self) -> tuple[str, str] | None:
        with self._asked():
            text = self.redis.get(self._key("release"))
        return None if text is None else release_of(text)

    def user_keys(self) -> Iterator[str]:
        told = set()
        for kind in ("events", "decisions"):
            start = self._key(kind, "")
            with self._asked():
                for key in self.redis.scan_iter(match=f"{start}*", count=SCANNED):
                    user_key = key.decode().removeprefix(start)
                    if user_key not in told:
                        told.add(user_key)
                        yield user_key

    def forget(self, user_keys: Sequence[str]) -> None:
        for user_key in user_keys:
            made = [decision.request_id for decision in self.decisions(user_key)]
            with self._asked():
                kinds = [self._key("events", user_key), self._key("decisions", user_key)]
                self.redis.delete(*kinds, *(self._key("decision", request_id) for request_id in made))

    def close(self) -> None:
        self.pool.disconnect()

    def _key(self, kind: str, name: str = "") -> str:
        return f"{self.prefix}{kind}:{name}"

    @contextmanager
    def _asked(self) -> Iterator[None]:
        try:
            yield
        except redis.AuthenticationError:
            reason = f"it does not take the password that {PASSWORD_VARIABLE} holds, or wants one"
            raise StateUnavailableError(f"the online state at {self.address} is closed to us: {reason}") from None
        except (redis.RedisError, OSError) as error:
            raise StateUnavailableError(f"the online state at {self.address} does not answer: {error}") from None
