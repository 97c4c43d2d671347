"""The live page in a headless Chromium, from a server that answers on a port: what a click changes, and what is told."""

import hashlib
import json
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import uvicorn
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright
from starlette.testclient import TestClient

from lib.serving.gate import Gate
from lib.serving.http import Desk, app_of
from lib.serving.page import headers_of, read_page
from lib.serving.service import Service
from tests.lib.serving.served import service_in

TOKEN = "a-token-of-a-test-0001"
HOSTILE = "<img src=x onerror=\"document.title='broken into'\"><b>Lamp</b> & 'co'"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: .ci/setup tells how it is installed")  # fmt: skip


@contextmanager
def answering(service: Service, *tokens: str, burst: float = 1e6) -> Iterator[str]:
    """The server on a port of its own; gives its address."""
    gate = Gate(tokens, per_second=1e6 if burst > 10 else 0.01, burst=burst)
    app = app_of(Desk(service, max_waiting=64), gate, max_body_bytes=20_000, page=read_page())
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    made = service_in(tmp_path_factory.mktemp("page"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def url(service: Service) -> Iterator[str]:
    with answering(service) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as play:
        started = play.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield started
        started.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A new visitor's page; a test fails of any error in the script, or of any that the content policy stopped."""
    context = browser.new_context()
    context.set_default_timeout(10_000)
    made, wrong = context.new_page(), list[str]()
    made.on("pageerror", lambda error: wrong.append(str(error)))
    made.on("console", lambda said: wrong.append(said.text) if "Content Security Policy" in said.text else None)
    yield made
    context.close()
    assert wrong == []


def ids(page: Page) -> list[str]:
    return page.locator(".product").evaluate_all("all => all.map(one => one.dataset.item)")  # type: ignore[no-any-return]


def marks(page: Page) -> list[str]:
    """The mark of each product; nothing where it has none."""
    return [
        " ".join(one.locator(".move [aria-hidden]").all_inner_texts()) for one in page.locator(".product").all()
    ]  # fmt: skip


def opened(page: Page, url: str) -> Page:
    page.goto(url)
    expect(page.locator(".product")).to_have_count(12)
    return page


def marks_by_hand(before: list[str], after: list[str]) -> list[str]:
    made = []
    for place, item in enumerate(after):
        by = before.index(item) - place if item in before else None
        made.append("new" if by is None else f"▲ {by}" if by > 0 else f"▼ {-by}" if by < 0 else "")
    return made


@needs_browser
def test_a_click_changes_the_list_and_what_moved_is_marked(page: Page, url: str, service: Service) -> None:
    before = ids(opened(page, url))
    assert marks(page) == [""] * 12
    expect(page.locator("#policy")).to_have_text("popular")
    page.locator(".product").nth(6).get_by_role("button", name="Look").click()
    expect(page.locator("#policy")).to_have_text("ranked+visit")
    after = ids(page)
    assert after != before and marks(page) == marks_by_hand(before, after)
    assert set(marks(page)) > {"new"}
    expect(page.locator("#told")).to_contain_text(re.compile(r"^\d+ new.* Answered in [\d.]+ ms, [\d.]+ ms of them"))
    expect(page.locator("#visit li")).to_have_count(1)
    expect(page.locator("#visit li")).to_contain_text("Looked at")
    user = page.locator("#user").input_value()
    assert service.state is not None and re.fullmatch(r"visitor-[0-9a-f]{12}", user)
    (event,) = service.state.events(service.user_key(user))
    assert (event.event_type, event.item_id) == ("view", before[6])


@needs_browser
def test_each_product_says_why_it_is_there_and_each_call_how_long_it_took(page: Page, url: str) -> None:
    first = opened(page, url).locator(".product").first
    expect(first.locator(".reason")).to_have_text("Popular lately")
    expect(first.locator(".how")).to_have_text("by “popular”, chance 100 %")
    expect(first.locator(".category")).to_contain_text("›")
    expect(first.locator(".price")).to_have_text(re.compile(r"^[\d,]+\.\d\d$"))
    first.get_by_role("button", name="Buy").click()
    expect(page.locator("#visit li")).to_contain_text("Bought")
    for row in page.locator("#latency tbody tr").all():
        assert all(float(cell) > 0 for cell in row.locator("td").all_inner_texts())
    assert page.locator("#line path").first.get_attribute("d", timeout=5000)
    expect(page.locator("#release")).to_have_text("first")


@needs_browser
def test_forget_me_begins_a_new_shopper_and_a_reload_keeps_the_one(page: Page, url: str) -> None:
    opened(page, url).get_by_role("button", name="Look").first.click()
    expect(page.locator("#visit li")).to_have_count(1)
    user = page.locator("#user").input_value()
    page.reload()
    expect(page.locator("#policy")).to_have_text("ranked+visit")
    assert page.locator("#user").input_value() == user
    page.get_by_role("button", name="Forget me").click()
    expect(page.locator("#policy")).to_have_text("popular")
    assert page.locator("#user").input_value() != user
    expect(page.locator("#visit li")).to_have_count(0)
    page.get_by_label("You are the shopper").fill(user)
    page.get_by_role("button", name="Be this shopper").click()
    expect(page.locator("#policy")).to_have_text("ranked+visit")


@needs_browser
def test_a_place_in_the_shop_can_be_chosen(page: Page, url: str) -> None:
    select = opened(page, url).get_by_label("Where in the shop")
    expect(select.locator("option", has_text="c1 ›").first).to_be_attached()
    text = next(one for one in select.locator("option").all_inner_texts() if re.match(r"c1 \(", one))
    select.select_option(label=text)
    expect(page.locator("#policy")).to_have_text("category")
    num_items = int(re.findall(r"\((\d+)\)", text)[0])
    shown = page.locator(".product .category").all_inner_texts()
    assert 0 < num_items < 12 and sum(one.startswith("c1 ›") for one in shown) == num_items


@needs_browser
def test_with_the_keyboard_alone_a_product_is_bought_and_the_focus_is_not_lost(page: Page, url: str) -> None:
    opened(page, url)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the products"
    page.keyboard.press("Enter")
    for _ in range(3):
        page.keyboard.press("Tab")
    focused = page.evaluate("({...document.activeElement.dataset})")
    assert focused == {"item": ids(page)[0], "does": "purchase"}
    page.keyboard.press("Enter")
    expect(page.locator("#visit li")).to_contain_text("Bought")
    expect(page.locator("#policy")).to_have_text("ranked+visit")
    kept = page.evaluate("({...document.activeElement.dataset, id: document.activeElement.id})")
    where = {**focused, "id": ""} if focused["item"] in ids(page) else {"id": "products-title"}
    assert kept == where


@needs_browser
def test_markup_in_a_log_is_shown_as_text(browser: Browser, page: Page, tmp_path: Path) -> None:
    service = service_in(tmp_path)
    release = service.release
    assert release is not None
    catalogue = replace(
        release.catalogue,
        names=pa.array([HOSTILE] * len(release.catalogue), pa.string()),
        tag_paths=tuple((HOSTILE, *path) for path in release.catalogue.tag_paths),
    )
    facts = replace(release.facts, version=HOSTILE)
    service.release = replace(release, facts=facts, retrieval=replace(release.retrieval, catalogue=catalogue))
    with answering(service) as url:
        opened(page, url).get_by_label("You are the shopper").fill(HOSTILE)
        page.get_by_role("button", name="Be this shopper").click()
        page.get_by_role("button", name="Look").first.click()
        expect(page.locator("#visit li")).to_contain_text(HOSTILE)
        assert page.locator(".product h3").first.inner_text() == HOSTILE
        assert page.locator("#release").inner_text() == HOSTILE
        expect(page.locator("#category option").nth(1)).to_contain_text(HOSTILE)
        assert page.locator("b:not(.key b), img").count() == 0 and page.title() == "Live shop: Cartwheel"
    service.close()


@needs_browser
def test_a_missing_token_is_asked_for_a_wrong_one_told_and_a_right_one_kept_for_the_tab(
    page: Page, service: Service
) -> None:
    with answering(service, TOKEN) as url:
        page.goto(url)
        trouble, field = page.get_by_role("alert"), page.get_by_label("Token")
        expect(trouble).to_contain_text("The server asks for a token.")
        expect(field).to_be_focused()
        field.fill("a-token-that-is-not-right")
        page.keyboard.press("Enter")
        expect(trouble).to_contain_text("The server does not know this token. Check it")
        field.fill(TOKEN)
        page.keyboard.press("Enter")
        expect(page.locator(".product")).to_have_count(12)
        expect(trouble).to_be_hidden()
        page.reload()
        expect(page.locator(".product")).to_have_count(12)
        assert page.evaluate("localStorage.length + document.cookie.length") == 0


@needs_browser
def test_one_who_asks_too_often_is_told_how_long_to_wait(page: Page, service: Service) -> None:
    with answering(service, burst=5) as url:
        opened(page, url)
        for _ in range(5):
            page.get_by_role("button", name="Forget me").click()
        expect(page.get_by_role("alert")).to_contain_text(
            re.compile(r"more often than the server allows\. Wait \d+ seconds, then press “Try again”")
        )
        assert len(ids(page)) == 12


@needs_browser
def test_a_server_that_cannot_answer_is_told_and_tried_again(page: Page, tmp_path: Path) -> None:
    service = service_in(tmp_path)
    with answering(service) as url:
        opened(page, url)
        release, service.release = service.release, None
        page.get_by_role("button", name="Forget me").click()
        expect(page.get_by_role("alert")).to_contain_text("The server cannot answer now. It says: no release is loaded")
        service.release = release
        page.get_by_role("button", name="Try again").click()
        expect(page.get_by_role("alert")).to_be_hidden()
    page.get_by_role("button", name="Forget me").click()
    expect(page.get_by_role("alert")).to_contain_text("The server cannot be reached.")
    service.close()


@needs_browser
def test_a_server_without_its_state_says_so_in_a_banner(page: Page, tmp_path: Path) -> None:
    service = service_in(tmp_path)
    with answering(service) as url:
        expect(opened(page, url).locator("#degraded")).to_be_hidden()
        state, service.state = service.state, None
        page.get_by_role("button", name="Look").first.click()
        expect(page.locator("#degraded")).to_contain_text("cannot reach what it keeps of visits")
        service.state = state
        page.get_by_role("button", name="Look").first.click()
        expect(page.locator("#degraded")).to_be_hidden()
    service.close()


def with_advert(service: Service, item: str) -> None:
    """Give the release an advert, whose picture lies in the lake."""
    from PIL import Image

    file = service.lake.folder / "files" / "creatives" / "one.png"
    file.parent.mkdir(parents=True)
    Image.new("RGB", (30, 20), "red").save(file)
    told = {"creative_id": "one", "item_id": item, "kind": "advert_30x20", "uri": "files/creatives/one.png"}
    told |= {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "label": "synthetic"}
    assert service.release is not None
    service.release = replace(service.release, creatives=(told,))


@needs_browser
def test_an_advert_is_labelled_and_its_picture_shown_from_behind_the_token(page: Page, tmp_path: Path) -> None:
    service = service_in(tmp_path)
    client = TestClient(app_of(Desk(service, max_waiting=9), Gate((), per_second=99, burst=99), max_body_bytes=9999))
    with_advert(service, client.post("/recommendations", json={}).json()["items"][2]["item_id"])
    with answering(service, TOKEN) as url:
        page.goto(url)
        page.get_by_label("Token").fill(TOKEN)
        page.keyboard.press("Enter")
        expect(page.locator("#advert .generated")).to_have_text("Advert · synthetic")
        picture = page.locator("#advert img")
        expect(picture).to_be_visible()
        assert picture.evaluate("one => one.decode().then(() => one.naturalWidth)") == 30
    service.close()


def test_a_picture_that_is_not_as_it_was_made_is_not_served(tmp_path: Path) -> None:
    service = service_in(tmp_path)
    with_advert(service, "i00000001")
    client = TestClient(app_of(Desk(service, max_waiting=9), Gate((), per_second=99, burst=99), max_body_bytes=9999))
    found = client.get("/ads/one/picture")
    assert (found.status_code, found.headers["content-type"]) == (200, "image/png")
    assert client.get("/ads/two/picture").json()["error"]["code"] == "unknown_advert"
    (service.lake.folder / "files" / "creatives" / "one.png").write_bytes(b"else")
    assert client.get("/ads/one/picture").json()["error"]["code"] == "picture_changed"
    (service.lake.folder / "files" / "creatives" / "one.png").unlink()
    assert client.get("/ads/one/picture").json()["error"]["code"] == "picture_lost"
    service.close()


def test_categories_count_the_items_below_them(service: Service) -> None:
    release = service.release
    assert release is not None
    paths = [release.catalogue.tag_paths[tag] for tag in release.catalogue.tag.tolist()]
    told = {tuple(one["path"]): one["num_items"] for one in service.categories(at_most=1000)["categories"]}
    assert told[("c1",)] == sum(path[0] == "c1" for path in paths) > 0
    assert told[paths[0]] == paths.count(paths[0]) and list(told) == sorted(told)
    assert len(service.categories(at_most=3)["categories"]) == 3


def test_the_page_loads_nothing_from_elsewhere_and_no_other_script_runs_on_it() -> None:
    page = read_page()
    rules = headers_of(page)["Content-Security-Policy"]
    assert "default-src 'none'" in rules and "unsafe" not in rules and rules.count("sha256-") == 2
    text = page.decode()
    assert not re.search(r"https?://|\bsrc=|@import|url\(|innerHTML|\son\w+=|\sstyle=", text)


@needs_browser
def test_on_a_phone_nothing_is_wider_than_the_screen(browser: Browser, url: str) -> None:
    context = browser.new_context(viewport={"width": 400, "height": 800})
    page = opened(context.new_page(), url)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert min(one["height"] for one in boxes(page, "button:visible")) >= 36
    context.close()


def boxes(page: Page, selector: str) -> list[dict[str, Any]]:
    return [dict(box) for one in page.locator(selector).all() if (box := one.bounding_box()) is not None]


@needs_browser
def test_an_answer_to_an_earlier_question_is_not_shown(page: Page, url: str) -> None:
    held: list[Route] = []

    def hold(route: Route) -> None:
        if json.loads(route.request.post_data or "{}")["user_id"] == "slow":
            held.append(route)
        else:
            route.continue_()

    page.route("**/recommendations", hold)
    opened(page, url)
    for user in ("slow", "fast"):
        page.get_by_label("You are the shopper").fill(user)
        page.get_by_role("button", name="Be this shopper").click()
    expect(page.locator("#products")).not_to_have_attribute("aria-busy", "true")
    shown = ids(page)
    held[0].fulfill(json={"items": [], "degraded": ["late"], "release": "late", "policy": "late", "ms": 1})
    page.wait_for_timeout(100)
    assert ids(page) == shown and page.locator("#release").inner_text() == "first"
