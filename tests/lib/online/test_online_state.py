"""What both online states do alike: the one in Redis and the one in a file of SQLite."""

import multiprocessing
import os
import signal
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lib.live.tied import descendants
from lib.online.open_state import has_state, open_state
from lib.online.records import FORMAT, text_of_event
from lib.online.state import DECISIONS_KEPT, Decision, LiveEvent, OnlineState, StateUnavailableError
from lib.runs.errors import SettingError
from lib.settings import LiveSettings
from tests.redis_servers import RedisServer
from tests.redis_servers import redis_server as started_redis

START = datetime(2011, 12, 1, 9, tzinfo=UTC)
VIEW = LiveEvent(START, "view", "kettle", 1, "r1")
DECISION = Decision("r1", "ann", START, "ranked", "rel-1", ("a", "b"), (0.75, 0.1), ("a", "b", "c"))

OpenState = Callable[..., OnlineState]


def at(minutes: float, item: str = "kettle", kind: str = "view", quantity: int | None = 1) -> LiveEvent:
    return LiveEvent(START + timedelta(minutes=minutes), kind, item, quantity)


@pytest.fixture(params=["redis", "sqlite"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenState]:
    """Opens states that are one, of each kind."""
    own = {"topic_prefix": f"{uuid.uuid4()}.", "state_timeout_ms": 5000}
    if request.param == "redis":
        own["state"] = request.getfixturevalue("redis_server").address
    states: list[OnlineState] = []

    def open_it(**given: Any) -> OnlineState:
        states.append(open_state(LiveSettings(**(own | given)), str(tmp_path)))
        return states[-1]

    yield open_it
    for state in states:
        state.close()


def test_a_users_events_are_told_from_a_time_on_the_oldest_first(opened: OpenState) -> None:
    state = opened()
    state.add_events({"ann": [at(2), at(0), at(1)], "ben": [at(5, "lamp", quantity=None)], "cem": []})

    assert state.events("ann") == [at(0), at(1), at(2)]
    assert state.events("ann", since=START + timedelta(minutes=1)) == [at(1), at(2)]
    assert state.events("ben") == [at(5, "lamp", quantity=None)]
    assert state.events("cem") == state.events("nobody") == []
    assert sorted(state.user_keys()) == ["ann", "ben"]


def test_what_is_known_changes_nothing_and_what_differs_in_anything_is_another_event(opened: OpenState) -> None:
    state = opened()
    others = [at(0), at(0, "lamp"), at(0, kind="cart"), at(0, quantity=2), at(0, quantity=None), at(1)]
    state.add_events({"ann": [*others, *others]})
    state.add_events({"ann": reversed(others)})

    assert sorted(state.events("ann"), key=text_of_event) == sorted(others, key=text_of_event)


ITEMS = st.sampled_from(["a", "é", '"', "a b", "\\", "\x00", "🛒", "]"])
EVENTS = st.builds(
    LiveEvent,
    st.integers(-3, 3).map(lambda number: START + timedelta(microseconds=number)),
    st.sampled_from(["view", "purchase"]),
    ITEMS,
    st.sampled_from([None, 1, 2]),
)


@given(
    batches=st.lists(st.dictionaries(st.sampled_from(["ann", "ben"]), st.lists(EVENTS, max_size=6)), max_size=6),
    kept=st.integers(1, 5),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_the_latest_events_are_kept_in_whatever_order_and_however_often_they_come(
    opened: OpenState, batches: list[dict[str, list[LiveEvent]]], kept: int
) -> None:
    state = opened(events_kept=kept)
    state.forget(["ann", "ben"])
    for batch in batches:
        state.add_events(batch)
    for user in ("ann", "ben"):
        # The model: of all that ever came, each once, the last in order of time and then of what they were.
        known = {event for batch in batches for event in batch.get(user, [])}
        wanted = sorted(known, key=lambda event: (event.event_time, text_of_event(event)))[-kept:]
        assert state.events(user) == wanted
        assert state.events(user, since=START) == [event for event in wanted if event.event_time >= START]


def test_a_user_who_does_nothing_is_forgotten(opened: OpenState) -> None:
    state = opened(days_kept=0.4 / 86_400)
    state.add_events({"ann": [VIEW]})
    state.add_events({"ben": [VIEW]})
    deadline = time.monotonic() + 10
    while state.events("ann") and time.monotonic() < deadline:
        state.add_events({"ben": [at(1)]})
        time.sleep(0.02)
    assert state.events("ann") == []
    assert state.events("ben") == [VIEW, at(1)]
    state.add_events({"ann": [at(2)]})
    assert state.events("ann") == [at(2)], "what was forgotten does not come back"


def test_a_decision_is_told_whole_and_a_users_the_latest_first(opened: OpenState) -> None:
    state = opened()
    later = DECISION._replace(
        request_id="r2", decided_at=START + timedelta(seconds=1), propensities=(0.1 + 0.2, 1e-300)
    )
    nobodys = DECISION._replace(request_id="r3", user_key=None, items=(), propensities=(), candidates=())
    for decision in (later, DECISION, nobodys, DECISION):
        state.add_decision(decision)

    assert state.decision("r1") == DECISION
    assert state.decision("r2") == later
    assert state.decision("r3") == nobodys
    assert state.decision("r4") is None
    assert state.decisions("ann") == [later, DECISION]
    assert state.decisions("ben") == []


def test_of_a_user_so_many_decisions_are_told(opened: OpenState) -> None:
    state = opened()
    for number in range(DECISIONS_KEPT + 2):
        moment = START + timedelta(seconds=number)
        state.add_decision(DECISION._replace(request_id=f"r{number}", decided_at=moment, candidates=()))
    told = state.decisions("ann")
    assert [decision.request_id for decision in told] == [f"r{number}" for number in range(DECISIONS_KEPT + 1, 1, -1)]


def test_a_user_is_forgotten_whole_and_nobody_else(opened: OpenState) -> None:
    state = opened()
    state.add_events({"ann": [VIEW], "ben": [VIEW]})
    bens = DECISION._replace(request_id="r2", user_key="ben")
    for decision in (DECISION, bens):
        state.add_decision(decision)
    state.set_release("rel-1", "runs:/1")
    state.forget(["ann", "nobody"])

    assert (state.events("ann"), state.decisions("ann"), state.decision("r1")) == ([], [], None)
    assert (state.events("ben"), state.decisions("ben"), state.decision("r2")) == ([VIEW], [bens], bens)
    assert list(state.user_keys()) == ["ben"]
    assert state.release() == ("rel-1", "runs:/1")


def test_another_reader_sees_a_release_at_once_and_whole(opened: OpenState) -> None:
    writer, reader = opened(), opened()
    assert reader.release() is None
    for number in range(50):
        writer.set_release(f"rel-{number}", f"/lake/releases/{number}")
        assert reader.release() == (f"rel-{number}", f"/lake/releases/{number}")


def write_events(given: LiveSettings, lake: str, first: int) -> None:
    state = open_state(given, lake)
    for number in range(first, first + 50):
        state.add_events({"ann": [at(number), at(number // 2, "lamp")], f"user {first}": [at(number)]})
    state.close()


def test_processes_that_write_at_once_lose_nothing(
    opened: OpenState, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    state: Any = opened(events_kept=1000)
    given = LiveSettings(events_kept=1000, state_timeout_ms=30_000)
    if hasattr(state, "prefix"):
        prefix = state.prefix.removesuffix(f"{FORMAT}:")
        given = given.model_copy(update={"topic_prefix": prefix, "state": state.address})
    work = multiprocessing.get_context("fork")
    writers = [work.Process(target=write_events, args=(given, str(tmp_path), 50 * number)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    wanted = [at(number) for number in range(200)] + [at(number, "lamp") for number in range(100)]
    assert set(state.events("ann")) == set(wanted)
    assert len(state.events("ann")) == 300
    for number in range(4):
        assert state.events(f"user {50 * number}") == [at(minute) for minute in range(50 * number, 50 * number + 50)]


@pytest.fixture
def own_redis(redis_server: RedisServer, tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that wants a password, keeps what it was told, and that no other test uses."""
    options = ("--requirepass", "of-the-shop", "--appendonly", "yes", "--appendfsync", "always")
    with started_redis(tmp_path / "redis", *options) as server:
        yield server


def every_question(state: OnlineState) -> list[Callable[[], object]]:
    return [
        lambda: state.add_events({"ann": [VIEW]}),
        lambda: state.events("ann"),
        lambda: state.add_decision(DECISION),
        lambda: state.decision("r1"),
        lambda: state.decisions("ann"),
        lambda: state.set_release("rel-1", "runs:/1"),
        state.release,
        lambda: list(state.user_keys()),
        lambda: state.forget(["ann"]),
    ]


def test_a_stopped_redis_is_told_in_time_whatever_is_asked_and_is_found_again(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CARTWHEEL_REDIS_PASSWORD", "of-the-shop")
    state = open_state(LiveSettings(state=own_redis.address, state_timeout_ms=300), "lake")
    state.add_events({"ann": [VIEW]})

    own_redis.kill()
    for ask in every_question(state):
        with pytest.raises(StateUnavailableError, match=f"the online state at {own_redis.address} does not answer"):
            ask()
    own_redis.start()
    assert state.events("ann") == [VIEW], "an append-only file keeps what was acknowledged"

    for server in descendants(own_redis.process.pid if own_redis.process else 0):
        os.kill(server, signal.SIGSTOP)  # it takes connections, and says nothing
    for ask in every_question(state):
        begun = time.monotonic()
        with pytest.raises(StateUnavailableError, match="Timeout"):
            ask()
        assert 0.25 < time.monotonic() - begun < 1
    state.close()


@pytest.mark.parametrize("password", [None, "another"])
def test_a_password_that_is_not_the_servers_is_told_and_not_shown(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch, password: str | None
) -> None:
    if password is not None:
        monkeypatch.setenv("CARTWHEEL_REDIS_PASSWORD", password)
    state = open_state(LiveSettings(state=own_redis.address), "lake")
    with pytest.raises(StateUnavailableError, match="password that CARTWHEEL_REDIS_PASSWORD holds") as error:
        state.events("ann")
    assert "another" not in str(error.value)


def test_two_shops_share_a_redis(redis_server: RedisServer) -> None:
    one, other = (
        open_state(LiveSettings(state=redis_server.address, topic_prefix=prefix), "lake")
        for prefix in ("one.", "another.")
    )
    one.add_events({"ann": [VIEW]})
    assert other.events("ann") == []
    other.add_events({"ben": [VIEW]})
    other.set_release("rel-9", "runs:/9")
    assert one.release() is None
    assert list(other.user_keys()) == ["ben"]
    other.forget(["ann"])
    assert one.events("ann") == [VIEW]


def test_a_state_of_another_format_is_left_alone(redis_server: RedisServer, tmp_path: Path) -> None:
    given = LiveSettings(state=redis_server.address, topic_prefix="format.")
    client = redis.Redis(port=redis_server.port)
    client.set("format.0:events:ann", b"of an earlier release")
    state = open_state(given, "lake")
    assert state.events("ann") == []
    state.forget(["ann"])
    assert client.get("format.0:events:ann") == b"of an earlier release"

    open_state(LiveSettings(), str(tmp_path)).close()
    file = tmp_path / "online.sqlite"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA user_version = 7")
    with pytest.raises(
        SettingError, match=f"has format 7, where this release has {FORMAT}: remove the file, and the stream fills"
    ):
        open_state(LiveSettings(), str(tmp_path))


def test_a_file_that_is_something_else_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no database, whatever its first lines say " * 100)
    with pytest.raises(SettingError, match=r"notes\.txt is no file of SQLite; give live\.state another"):
        open_state(LiveSettings(state=str(text)), "lake")
    assert text.read_text().startswith("no database")

    with closing(sqlite3.connect(tmp_path / "other.sqlite")) as connection:
        connection.execute("CREATE TABLE events (of TEXT)")
    with pytest.raises(SettingError, match=r"other\.sqlite is a file of SQLite, but no online state"):
        open_state(LiveSettings(state=str(tmp_path / "other.sqlite")), "lake")
    with pytest.raises(SettingError, match=r"the online state cannot be in .*: (Not a directory|File exists)"):
        open_state(LiveSettings(state=str(text / "online.sqlite")), "lake")


def test_a_file_that_another_holds_is_told_in_time_and_is_read_meanwhile(tmp_path: Path) -> None:
    state = open_state(LiveSettings(state_timeout_ms=200), str(tmp_path))
    state.add_events({"ann": [VIEW]})
    with closing(sqlite3.connect(tmp_path / "online.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        begun = time.monotonic()
        with pytest.raises(StateUnavailableError, match=r"online\.sqlite does not answer: database is locked"):
            state.add_events({"ann": [at(1)]})
        assert 0.1 < time.monotonic() - begun < 1
        assert state.events("ann") == [VIEW]
    state.add_events({"ann": [at(1)]})
    assert state.events("ann") == [VIEW, at(1)]
    state.close()


def test_where_the_state_is_stands_in_the_settings(tmp_path: Path) -> None:
    assert not has_state(LiveSettings(), str(tmp_path))
    open_state(LiveSettings(), str(tmp_path)).close()
    assert has_state(LiveSettings(), str(tmp_path))
    assert (tmp_path / "online.sqlite").is_file()
    assert has_state(LiveSettings(state="redis://host:6379/0"), str(tmp_path))
    assert not has_state(LiveSettings(), "s3://shop/lake")
    with pytest.raises(
        SettingError, match="the lake is on an object store, s3://shop/lake, where no online state can be"
    ):
        open_state(LiveSettings(), "s3://shop/lake")
    with pytest.raises(SettingError, match=r"live\.state is 'memcached://host'; it should be redis://host:6379/0"):
        open_state(LiveSettings(state="memcached://host"), str(tmp_path))
