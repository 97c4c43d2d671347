"""The online state in a file of SQLite, for one machine: its threads and processes read while one of them writes.

The file is a local one: what SQLite shares between processes is not to be had over a network.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

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
from lib.runs.errors import SettingError
from lib.settings import LiveSettings

APPLICATION = 0x43576F53  # by which SQLite knows the file as ours
DAY_MICROSECONDS, HOUR_MICROSECONDS = 86_400_000_000, 3_600_000_000
EXPIRED_AT_ONCE = 100  # users and decisions that a write removes beside what it does
LET_OTHERS_SECONDS = 0.001  # between two writes of one call: who waits for the file looks again after milliseconds
TABLES = """
CREATE TABLE users (user_key TEXT PRIMARY KEY, expires_at INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX users_by_end ON users (expires_at);
CREATE TABLE events (
    user_key TEXT NOT NULL, event_time INTEGER NOT NULL, event TEXT NOT NULL, PRIMARY KEY (user_key, event_time, event)
) WITHOUT ROWID;
CREATE TABLE decisions (
    request_id TEXT PRIMARY KEY, user_key TEXT, decided_at INTEGER NOT NULL, expires_at INTEGER NOT NULL, decision TEXT NOT NULL
);
CREATE INDEX decisions_by_user ON decisions (user_key, decided_at, request_id);
CREATE INDEX decisions_by_end ON decisions (expires_at);
CREATE TABLE release (number INTEGER PRIMARY KEY CHECK (number = 1), release TEXT NOT NULL);
"""


class SqliteState:
    """An `OnlineState` in a file. Threads and forked processes may share it: each has a connection of its own.

    Raises:
        SettingError: the file is something else, or a state of another format.
    """

    def __init__(self, path: Path, settings: LiveSettings) -> None:
        self.path, self.events_kept = path, settings.events_kept
        self.kept_microseconds = max(1, round(settings.days_kept * DAY_MICROSECONDS))
        self.timeout_seconds = settings.state_timeout_ms / 1000
        self.own = threading.local()
        self.opened: list[sqlite3.Connection] = []
        self.lock = threading.Lock()
        self._prepare()

    def add_events(self, events: Mapping[str, Iterable[LiveEvent]]) -> None:
        texts = {
            user: {text_of_event(event): microseconds(event.event_time) for event in own}
            for user, own in events.items()
        }
        users = [user for user, own in texts.items() if own]
        for first in range(0, len(users), CHUNK_USERS):
            chunk = users[first : first + CHUNK_USERS]
            if first:
                time.sleep(LET_OTHERS_SECONDS)
            with self._writing() as file:
                self._remove_expired(file)
                rows = ((user, at, text) for user in chunk for text, at in texts[user].items())
                file.executemany("INSERT OR IGNORE INTO events VALUES (?, ?, ?)", rows)
                ends_at = _now() + self.kept_microseconds
                file.executemany("INSERT OR REPLACE INTO users VALUES (?, ?)", ((user, ends_at) for user in chunk))
                file.executemany(
                    "DELETE FROM events WHERE user_key = ?1 AND (event_time, event) <= (SELECT event_time, event "
                    "FROM events WHERE user_key = ?1 ORDER BY event_time DESC, event DESC LIMIT 1 OFFSET ?2)",
                    ((user, self.events_kept) for user in chunk),
                )

    def events(self, user_key: str, *, since: datetime | None = None) -> list[LiveEvent]:
        question = (
            "SELECT event FROM events JOIN users USING (user_key) WHERE user_key = ? AND expires_at > ? "
            "AND event_time >= ? ORDER BY event_time, event"
        )
        least = -(1 << 63) if since is None else microseconds(since)
        with self._reading() as file:
            return [event_of(text) for (text,) in file.execute(question, (user_key, _now(), least))]

    def add_decision(self, decision: Decision) -> None:
        row = (decision.request_id, decision.user_key, microseconds(decision.decided_at))
        with self._writing() as file:
            self._remove_expired(file)
            expires_at = _now() + round(DECISION_HOURS * HOUR_MICROSECONDS)
            values = (*row, expires_at, text_of_decision(decision))
            file.execute("INSERT OR REPLACE INTO decisions VALUES (?, ?, ?, ?, ?)", values)
            file.execute(
                "DELETE FROM decisions WHERE user_key = ?1 AND (decided_at, request_id) <= (SELECT decided_at, request_id "
                "FROM decisions WHERE user_key = ?1 ORDER BY decided_at DESC, request_id DESC LIMIT 1 OFFSET ?2)",
                (decision.user_key, DECISIONS_KEPT),
            )

    def decision(self, request_id: str) -> Decision | None:
        question = "SELECT decision FROM decisions WHERE request_id = ? AND expires_at > ?"
        with self._reading() as file:
            found = file.execute(question, (request_id, _now())).fetchone()
        return None if found is None else decision_of(found[0])

    def decisions(self, user_key: str) -> list[Decision]:
        question = "SELECT decision FROM decisions WHERE user_key = ? AND expires_at > ? ORDER BY decided_at DESC, request_id DESC"
        with self._reading() as file:
            return [decision_of(text) for (text,) in file.execute(question, (user_key, _now()))]

    def set_release(self, release: str, uri: str) -> None:
        with self._writing() as file:
            file.execute("INSERT OR REPLACE INTO release VALUES (1, ?)", (text_of_release(release, uri),))

    def release(self) -> tuple[str, str] | None:
        with self._reading() as file:
            found = file.execute("SELECT release FROM release").fetchone()
        return None if found is None else release_of(found[0])

    def user_keys(self) -> Iterator[str]:
        question = "SELECT user_key FROM users UNION SELECT user_key FROM decisions WHERE user_key IS NOT NULL"
        with self._reading() as file:
            found = file.execute(question).fetchall()
        yield from (user_key for (user_key,) in found)

    def forget(self, user_keys: Sequence[str]) -> None:
        for first in range(0, len(user_keys), CHUNK_USERS):
            chunk = [(user_key,) for user_key in user_keys[first : first + CHUNK_USERS]]
            with self._writing() as file:
                for table in ("events", "users", "decisions"):
                    file.executemany(f"DELETE FROM {table} WHERE user_key = ?", chunk)

    def close(self) -> None:
        with self.lock:
            for connection in self.opened:
                connection.close()
            self.opened.clear()
        self.own = threading.local()

    def _prepare(self) -> None:
        """Make the tables, or check that they are those of this format."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._writing() as file:
                known, number = _number(file, "application_id"), _number(file, "user_version")
                if known == 0 and number == 0 and not file.execute("SELECT * FROM sqlite_master").fetchall():
                    for statement in TABLES.split(";"):
                        file.execute(statement)
                    file.execute(f"PRAGMA application_id = {APPLICATION}")
                    file.execute(f"PRAGMA user_version = {FORMAT}")
                    return
        except StateUnavailableError as error:
            if isinstance(error.__context__, sqlite3.OperationalError):
                raise
            raise SettingError(f"{self.path} is no file of SQLite; give live.state another") from None
        except OSError as error:
            raise SettingError(f"the online state cannot be in {self.path}: {error.strerror}") from None
        if known != APPLICATION:
            raise SettingError(f"{self.path} is a file of SQLite, but no online state; give live.state another")
        if number != FORMAT:
            raise SettingError(
                f"the online state in {self.path} has format {number}, where this release has {FORMAT}: "
                "remove the file, and the stream fills it again"
            )

    def _remove_expired(self, file: sqlite3.Connection) -> None:
        """Remove some of what has expired; what it leaves, no reader is shown."""
        question = "SELECT user_key FROM users WHERE expires_at <= ? ORDER BY expires_at LIMIT ?"
        gone = file.execute(question, (_now(), EXPIRED_AT_ONCE)).fetchall()
        for table in ("events", "users"):
            file.executemany(f"DELETE FROM {table} WHERE user_key = ?", gone)
        question = "SELECT request_id FROM decisions WHERE expires_at <= ? ORDER BY expires_at LIMIT ?"
        ended = file.execute(question, (_now(), EXPIRED_AT_ONCE)).fetchall()
        file.executemany("DELETE FROM decisions WHERE request_id = ?", ended)

    def _connection(self) -> sqlite3.Connection:
        if getattr(self.own, "pid", None) != os.getpid():
            connection = sqlite3.connect(
                self.path, timeout=self.timeout_seconds, isolation_level=None, check_same_thread=False
            )
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            self.own.connection, self.own.pid = connection, os.getpid()
            with self.lock:
                self.opened.append(connection)
        found: sqlite3.Connection = self.own.connection
        return found

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        try:
            yield self._connection()
        except sqlite3.Error as error:
            raise StateUnavailableError(f"the online state in {self.path} does not answer: {error}") from None

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._reading() as file:
            file.execute("BEGIN IMMEDIATE")
            try:
                yield file
                file.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    file.execute("ROLLBACK")
                raise


def _now() -> int:
    return time.time_ns() // 1000


def _number(file: sqlite3.Connection, name: str) -> int:
    return int(file.execute(f"PRAGMA {name}").fetchone()[0])
