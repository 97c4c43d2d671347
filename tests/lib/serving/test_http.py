"""The HTTP side, asked without a network: what it refuses and how, what it writes, and that no request breaks it."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from starlette.testclient import TestClient

from benchmarks.synthetic_release import AS_OF, user_key
from lib.cleaning.pseudonyms import pseudonyms
from lib.runs.errors import SettingError
from lib.serving.gate import Gate, load_tokens
from lib.serving.http import Desk, app_of
from lib.serving.service import Event, Service
from tests.lib.serving.served import KEY, NOW, publish, service_in, small_release

TOKEN = "a-token-of-a-test-0001"
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
ASK, SEND = "/recommendations", "/events"
VIEW = {"user_id": "ann", "item_id": "i00000007", "event_type": "view"}
INJECTION = "'; DROP TABLE users; -- <script>${jndi:ldap://x}</script>\u0000\r\nX: y %00 ../../etc/passwd"


def client_of(service: Service, *, per_second: float = 1e6, burst: float = 1e6, max_waiting: int = 64) -> TestClient:
    gate = Gate((TOKEN, "another-token-of-a-test"), per_second=per_second, burst=burst)
    app = app_of(Desk(service, max_waiting=max_waiting), gate, max_body_bytes=20_000)
    return TestClient(app, headers=AUTHORIZED, raise_server_exceptions=False)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    made = service_in(tmp_path_factory.mktemp("served"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def client(service: Service) -> TestClient:
    return client_of(service)


def log_of(service: Service) -> list[dict[str, Any]]:
    folder: Path = service.log._folder  # type: ignore[attr-defined]
    files = sorted(folder.rglob("*live-*")) if folder.is_dir() else []
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def state_of(service: Service, user: str) -> list[Any]:
    assert service.state is not None
    return service.state.events(service.user_key(user))


def test_an_event_changes_the_next_answer_and_decision_and_impressions_are_logged_with_their_chances(
    tmp_path: Path,
) -> None:
    service = service_in(tmp_path, epsilon=0.3)
    client = client_of(service)
    before = client.post(ASK, json={"user_id": "eve", "k": 3}).json()
    assert (before["policy"], before["release"], before["degraded"]) == ("popular", "first", [])
    assert client.post(SEND, json=VIEW | {"user_id": "eve"}).json() == {"taken": 1, "degraded": []}
    after = client.post(ASK, json={"user_id": "eve", "k": 3}).json()
    assert after["policy"] == "ranked+visit"
    assert [one["item_id"] for one in after["items"]] != [one["item_id"] for one in before["items"]]
    assert all(one["reason"] and one["title"].startswith("Item ") for one in after["items"])
    assert service.state is not None
    decision = service.state.decision(after["request_id"])
    assert decision is not None and decision.items == tuple(one["item_id"] for one in after["items"])
    assert decision.propensities == tuple(one["propensity"] for one in after["items"])
    shown = [row for row in log_of(service) if row.get("request") == after["request_id"]]
    assert [(row["kind"], row["user"], row["position"]) for row in shown] == [
        ("impression", "eve", p) for p in (1, 2, 3)
    ]
    assert [row["propensity"] for row in shown] == list(decision.propensities)
    assert all(tuple(row["candidates"]) == decision.candidates and row["item"] in decision.candidates for row in shown)
    assert decision.user_key == pseudonyms(pl.Series(["eve"]), KEY)[0] != "eve"
    service.close()


def test_a_preview_is_the_answer_that_would_be_given_and_nothing_is_kept_of_it(tmp_path: Path) -> None:
    service = service_in(tmp_path)
    client = client_of(service)
    asked = {"user_id": "eve", "k": 3}
    seen = client.post(ASK, json=asked | {"preview": True}).json()
    assert service.state is not None and service.state.decision(seen["request_id"]) is None
    assert log_of(service) == []
    given = client.post(ASK, json=asked).json()
    assert given["items"] == seen["items"] and len(log_of(service)) == 3


def test_an_event_is_kept_with_the_answer_that_led_to_it_where_the_log_can_tell_it(tmp_path: Path) -> None:
    service = service_in(tmp_path)
    sent = [Event("ann", "i00000007", "view", request_id="r1"), Event("ann", "i00000008", "view")]
    service.take(sent)
    assert [event.request_id for event in state_of(service, "ann")] == ["r1", None]
    columns = {name: column for name, column in service.writer.columns.items() if name != "request_id"}
    service.writer = replace(service.writer, columns=columns)
    service.take([Event("bob", "i00000007", "view", request_id="r1")])
    assert state_of(service, "bob")[0].request_id is None  # as the stream will read it from the log


def test_a_list_of_events_is_taken_whole_or_not_at_all(service: Service, client: TestClient) -> None:
    good = VIEW | {"user_id": "whole"}
    found = client.post(SEND, json=[good, good | {"item_id": "nothing like it"}])
    assert found.status_code == 404 and "event 1" in found.json()["error"]["message"]
    assert state_of(service, "whole") == [] and not [row for row in log_of(service) if row.get("user") == "whole"]
    assert client.post(SEND, json=[good, good | {"event_type": "cart", "quantity": 2}]).json()["taken"] == 2
    assert [(one.event_type, one.quantity) for one in state_of(service, "whole")] == [("cart", 2), ("view", None)]


BAD: dict[str, tuple[str, Any, int]] = {
    "malformed JSON": (SEND, b'{"user_id": "ann", ', 422),
    "no JSON at all": (SEND, b"\xff\xfe\x00", 400),
    "an empty body": (SEND, b"", 422),
    "half a surrogate pair": (SEND, b'{"user_id": "\\ud800", "item_id": "i00000007", "event_type": "view"}', 422),
    "an array of arrays": (SEND, [[]], 422),
    "no event": (SEND, [], 422),
    "more events than are taken": (SEND, [VIEW] * 101, 422),
    "a number for a user": (SEND, VIEW | {"user_id": 7}, 422),
    "a user of blanks": (SEND, VIEW | {"user_id": "  "}, 422),
    "an unknown type": (SEND, VIEW | {"event_type": "stare"}, 422),
    "an unknown field": (SEND, VIEW | {"colour": "red"}, 422),
    "an unknown item": (SEND, VIEW | {"item_id": "nothing like it"}, 404),
    "an injection in an item": (SEND, VIEW | {"item_id": INJECTION}, 404),
    "an event from the future": (SEND, VIEW | {"event_time": (NOW + timedelta(minutes=2)).isoformat()}, 422),
    "a time without a zone": (SEND, VIEW | {"event_time": "2026-01-01T00:00:00"}, 422),
    "no time": (SEND, VIEW | {"event_time": "yesterday"}, 422),
    "a quantity of none": (SEND, VIEW | {"quantity": 0}, 422),
    "a price that is no number": (SEND, b'{"item_id": "i00000007", "event_type": "view", "price": NaN}', 422),
    "k of 0": (ASK, {"k": 0}, 422),
    "k of a million": (ASK, {"k": 1_000_000}, 422),
    "k as a text": (ASK, {"k": "10"}, 422),
    "a visit that is too long": (ASK, {"visit": ["i00000007"] * 51}, 422),
    "a user of a megabyte": (ASK, {"user_id": "u" * 10_000}, 422),
    "a body that is too large": (SEND, [VIEW] * 1_000, 413),
    "another method": ("/healthz", VIEW, 405),
    "another path": ("/nothing", VIEW, 404),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.bad_input("a request that a server cannot answer")
def test_a_bad_request_is_refused_with_what_is_wrong_and_nothing_is_written(
    name: str, service: Service, client: TestClient
) -> None:
    path, body, status = BAD[name]
    rows, events = len(log_of(service)), state_of(service, "ann")
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    found = client.post(path, content=content, headers={"Content-Type": "application/json"})
    told = found.json()
    assert found.status_code == status, told
    assert set(told) == {"error", "request_id"} and len(told["error"]["message"]) > 10
    assert "ann" not in found.text and "DROP" not in found.text
    assert len(log_of(service)) == rows and state_of(service, "ann") == events


@pytest.mark.parametrize("user", ["nobody knows me", INJECTION, "ünïcödé 日本 🛒"])
def test_an_unknown_user_of_any_text_gets_an_answer(client: TestClient, user: str) -> None:
    found = client.post(ASK, json={"user_id": user, "category": [user], "exclude": [user], "visit": [user]})
    assert found.status_code == 200 and len(found.json()["items"]) == 10


@pytest.mark.parametrize(
    "header", [None, "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \xff"]
)
@pytest.mark.bad_input("a missing or wrong token")
def test_without_its_token_nobody_is_answered(client: TestClient, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    bare = TestClient(client.app, raise_server_exceptions=False)
    for path in (ASK, SEND):
        found = bare.post(path, json=VIEW, headers=headers)  # type: ignore[arg-type]
        assert found.status_code == 401 and found.headers["WWW-Authenticate"] == "Bearer"
    assert bare.get("/metrics", headers=headers).status_code == 401  # type: ignore[arg-type]
    assert bare.get("/healthz", headers=headers).json()["status"] == "ok"  # type: ignore[arg-type]


def test_a_token_that_comes_too_often_waits_and_another_need_not(service: Service) -> None:
    client = client_of(service, per_second=0.5, burst=2)
    found = [client.post(ASK, json={}) for _ in range(4)]
    assert [one.status_code for one in found] == [200, 200, 429, 429]
    assert found[2].headers["Retry-After"] == "2"
    other = client.post(ASK, json={}, headers={"Authorization": "Bearer another-token-of-a-test"})
    assert other.status_code == 200


def test_more_requests_than_may_wait_are_refused_and_the_others_are_answered(service: Service) -> None:
    client, statuses = client_of(service, max_waiting=2), list[int]()
    with client:

        def ask() -> None:
            statuses.append(client.post(ASK, json={"visit": ["i00000007", "i00000008"], "k": 100}).status_code)

        threads = [threading.Thread(target=ask) for _ in range(12)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    assert set(statuses) == {200, 503} and statuses.count(200) >= 2


def test_without_its_state_it_answers_from_the_release_and_says_so(tmp_path: Path) -> None:
    service = service_in(tmp_path)
    client = client_of(service)
    assert service.state is not None
    service.state.close()
    for file in tmp_path.glob("online.sqlite*"):
        file.unlink()
    (tmp_path / "online.sqlite").mkdir()
    service._state_lost_until = 0
    found = client.post(ASK, json={"user_id": "ann"}).json()
    assert found["degraded"].count("state") >= 1 and len(found["items"]) == 10
    sent = client.post(SEND, json=VIEW)
    assert sent.status_code == 200 and sent.json() == {"taken": 1, "degraded": ["state"]}
    assert [row["kind"] for row in log_of(service)].count("view") == 1  # the log has it, so no event is lost
    assert 'cartwheel_serve_degraded_total{part="state"}' in client.get("/metrics").text


def test_without_a_log_no_event_is_taken_and_lists_are_still_made(tmp_path: Path) -> None:
    service = service_in(tmp_path)
    client = client_of(service)
    (tmp_path / "log").write_text("a file where a folder should be")
    sent = client.post(SEND, json=VIEW)
    assert sent.status_code == 503 and sent.json()["error"]["code"] == "log_unavailable"
    assert state_of(service, "ann") == []
    assert client.post(ASK, json={"user_id": "ann"}).json()["degraded"] == ["log"]


def test_a_server_without_a_release_says_so_and_one_that_finds_a_broken_release_goes_on_with_the_one_before(
    tmp_path: Path,
) -> None:
    service = service_in(tmp_path)
    client = client_of(service)
    uri = publish(service.lake, small_release("second", 1))
    (service.lake.local(uri) / "ease.npy").write_bytes(b"")
    assert not service.look_for_release() and client.get("/healthz").json()["release"] == "first"
    publish(service.lake, small_release("third", 1))
    assert service.look_for_release() and client.post(ASK, json={}).json()["release"] == "third"
    service.release = None
    assert client.get("/healthz").status_code == client.post(ASK, json={}).status_code == 503


def test_adverts_are_labelled_and_in_the_order_of_the_items(tmp_path: Path) -> None:
    service = service_in(tmp_path)
    own = [{"item_id": f"i0000000{n}", "uri": f"{n}.png", "label": "synthetic"} for n in range(4)]
    assert service.release is not None
    object.__setattr__(service.release, "creatives", tuple(own))
    found = client_of(service).get("/ads", params={"item_id": ["i00000003", "i00000001", "i00000099"]}).json()
    assert found == {"release": "first", "adverts": [own[3], own[1]]}


def test_no_user_is_named_in_metrics(client: TestClient) -> None:
    client.post(ASK, json={"user_id": "a-very-secret-person"})
    client.get("/a-very-secret-person")
    text = client.get("/metrics").text
    assert "secret" not in text and 'cartwheel_serve_requests_total{path="/recommendations",status="200"}' in text


def test_a_known_user_is_found_by_the_id_of_the_log(tmp_path: Path) -> None:
    service = service_in(tmp_path)
    assert service.release is not None
    known = user_key(service.release.users, 0)
    assert service.user_key("ann") == pseudonyms(pl.Series(["ann"]), KEY)[0] != known
    assert service.release.users.place(known) == 0 and service.release.facts.as_of == AS_OF
    source = service.mapping.sources["events"].model_copy(update={"guests": ("0",), "whole_number_ids": ("user_id",)})
    service.mapping = service.mapping.model_copy(update={"sources": {"events": source}})
    assert service.user_key(" 17850.0 ") == pseudonyms(pl.Series(["17850"]), KEY)[0], "in the form that clean gives it"
    assert service.user_key("0") is None
    assert service.take([Event("0", "i00000001", "view")])["taken"] == 1


def test_tokens_come_from_a_variable_and_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "tokens"
    file.write_text("first-token-0123456789\nsecond-token-012345678\n")
    monkeypatch.setenv("TOKENS", "third-token-0123456789")
    assert load_tokens("TOKENS", str(file)) == (
        "third-token-0123456789",
        "first-token-0123456789",
        "second-token-012345678",
    )
    assert load_tokens(None, None) == ()
    monkeypatch.setenv("TOKENS", "short")
    for given, why in (
        (("TOKENS", None), "fewer than 16"),
        (("NONE", None), "not set"),
        ((None, "/none"), "No such file"),
    ):
        with pytest.raises(SettingError, match=why):
            load_tokens(*given)


def test_no_request_that_the_interface_allows_or_nearly_allows_breaks_the_server(client: TestClient) -> None:
    import schemathesis  # seconds that the other tests need not wait for
    from hypothesis import HealthCheck, Phase, given, settings

    schema = schemathesis.openapi.from_asgi("/openapi.json", client.app)
    chosen = settings(
        max_examples=40, deadline=None, derandomize=True, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )  # fmt: skip
    operations = [found.ok() for found in schema.get_all_operations()]
    assert {operation.path for operation in operations} == {
        *(ASK, SEND, "/ads", "/ads/{creative_id}/picture", "/categories", "/healthz", "/metrics", "/")
    }
    for operation in operations:
        has_input = operation.path in (ASK, SEND, "/ads", "/categories")  # else there is nothing to be wrong
        for mode in schemathesis.GenerationMode if has_input else [schemathesis.GenerationMode.POSITIVE]:

            @given(case=operation.as_strategy(generation_mode=mode))
            @chosen
            def holds(case: Any) -> None:
                answered = case.call(headers=AUTHORIZED)
                assert answered.status_code < 500, answered.text
                if answered.status_code >= 400 and case.path != "/":
                    assert set(answered.json()) == {"error", "request_id"}

            holds()
