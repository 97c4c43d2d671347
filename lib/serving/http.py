"""The server's HTTP side: typed requests, answers and errors of one shape, and what is refused before it is read."""

import asyncio
import math
import time
import uuid
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from fastapi import Body, FastAPI, Query
from fastapi.exceptions import RequestValidationError
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lib.serving.gate import Gate, Refused
from lib.serving.page import headers_of
from lib.serving.service import Event, Question, Service, UnusableError

MOST_EVENTS = 100  # in a request
MOST_K = 100
PUBLIC = ("/", "/healthz", "/openapi.json")  # what needs no token
Id = Annotated[str, Field(min_length=1, max_length=200, pattern=r"\S")]
Value = TypeVar("Value")


class In(BaseModel):
    """What a client sends; an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", strict=True)


class RecommendationsIn(In):
    """A question."""

    user_id: Id | None = Field(None, description="as the log names the user; nobody known without it")
    visit: list[Id] = Field(
        [], max_length=50, description="items of the present visit, the oldest first, where no user_id tells them"
    )
    category: list[Id] = Field([], max_length=10, description="the place in the shop, coarse to fine")
    k: int = Field(10, ge=1, le=MOST_K, description="items in the answer")
    exclude: list[Id] = Field([], max_length=1000, description="items that are not wanted")
    new_only: bool = Field(False, description="only items that the user has not had")
    preview: bool = Field(False, description="nobody is shown the answer: it is neither logged nor remembered")


class EventIn(In):
    """Something that a user did."""

    user_id: Id | None = None
    item_id: Id
    event_type: Literal["impression", "view", "cart", "favourite", "purchase", "return", "rating"]
    event_time: Annotated[AwareDatetime, Field(strict=False)] | None = Field(None, description="unset: now")
    quantity: int | None = Field(None, ge=1, le=1_000_000)
    price: float | None = Field(None, ge=0, le=1e9, allow_inf_nan=False)
    request_id: Annotated[str, Field(max_length=100)] | None = Field(None, description="of the answer that led to it")
    position: int | None = Field(None, ge=1, le=10_000)


class ItemOut(BaseModel):
    """An item of an answer."""

    item_id: str
    score: float
    reason: str
    rung: str
    propensity: float
    position: int
    title: str
    category: list[str]
    price: float | None


class RecommendationsOut(BaseModel):
    """An answer."""

    request_id: str
    release: str
    policy: str
    items: list[ItemOut]
    degraded: list[str]
    ms: float


class EventsOut(BaseModel):
    """What was taken."""

    taken: int
    degraded: list[str]


class AdvertsOut(BaseModel):
    """Adverts; each is generated, and says so."""

    release: str
    adverts: list[dict[str, str]]


class CategoryOut(BaseModel):
    """A place in the shop."""

    path: list[str]
    num_items: int


class CategoriesOut(BaseModel):
    """The places of the shop with the most items, by their paths."""

    release: str
    categories: list[CategoryOut]


class HealthOut(BaseModel):
    """Whether it answers."""

    status: Literal["ok", "no_release"]
    release: str | None
    degraded: list[str]


class ErrorText(BaseModel):
    """What went wrong."""

    code: str
    message: str


class ErrorOut(BaseModel):
    """Every error."""

    error: ErrorText
    request_id: str


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorOut} for status in (400, 401, 404, 405, 413, 422, 429, 500, 503)
}


class Desk:
    """Does a service's work in a thread of its own, one request after the other; too many that wait are refused."""

    def __init__(self, service: Service, *, max_waiting: int) -> None:
        self.service, self._max_waiting, self.waiting = service, max_waiting, 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="answers")

    async def do(self, work: Callable[[], Value]) -> Value:
        """The result of some work.

        Raises:
            UnusableError: too many wait.
        """
        if self.waiting >= self._max_waiting:
            raise UnusableError(503, "overloaded", "too many requests wait; ask again")
        self.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self.waiting -= 1


def app_of(desk: Desk, gate: Gate, *, max_body_bytes: int, page: bytes | None = None, lifespan: Any = None) -> FastAPI:
    """The application of one replica."""
    app = FastAPI(title="Cartwheel", version="1", docs_url=None, redoc_url=None, responses=ERRORS, lifespan=lifespan)
    service, page_headers = desk.service, headers_of(page or b"")

    @app.post("/recommendations", response_model=RecommendationsOut)
    async def recommendations(body: RecommendationsIn) -> Response:
        """Items for a user, best first, each with its reason and the chance with which it was shown."""
        asked = body.model_dump()
        asked |= {name: tuple(asked[name]) for name in ("visit", "category", "exclude")}
        return _json(await desk.do(partial(service.recommend, Question(**asked))))

    @app.post("/events", response_model=EventsOut)
    async def events(
        body: Annotated[EventIn | Annotated[list[EventIn], Field(min_length=1, max_length=MOST_EVENTS)], Body()],
    ) -> Response:
        """Something that users did: it changes the next answer, and is written to the log."""
        given = body if isinstance(body, list) else [body]
        return _json(await desk.do(partial(service.take, [Event(**one.model_dump()) for one in given])))

    @app.get("/ads", response_model=AdvertsOut)
    async def ads(
        item_id: Annotated[list[Id], Query(max_length=100, description="of these items, in this order")] = [],  # noqa: B006
        at_most: Annotated[int, Query(ge=1, le=100)] = 10,
    ) -> Response:
        """Adverts with generated pictures, labelled as such."""
        return _json(service.adverts(item_id, at_most=at_most))

    @app.get("/ads/{creative_id}/picture", response_class=Response, responses={200: {"content": {"image/png": {}}}})
    async def picture(creative_id: Id) -> Response:
        """The picture of an advert of the release."""
        content, kind = await asyncio.to_thread(service.picture, creative_id)
        return Response(content, media_type=kind, headers={"X-Content-Type-Options": "nosniff"})

    @app.get("/categories", response_model=CategoriesOut)
    async def categories(at_most: Annotated[int, Query(ge=1, le=1000)] = 300) -> Response:
        """Places of the shop that a question can name."""
        return _json(service.categories(at_most=at_most))

    @app.get("/healthz", response_model=HealthOut)
    async def healthz() -> Response:
        """Whether it answers; 503 without a release."""
        told = service.health()
        return _json(told, status=200 if told["status"] == "ok" else 503)

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """What this replica counts, for Prometheus."""
        told = service.metrics.text(waiting=desk.waiting, log=service.log.counts())
        return Response(told, media_type="text/plain; version=0.0.4")

    @app.get("/", response_class=Response, responses={200: {"content": {"text/html": {}}}})
    async def index() -> Response:
        """The live page."""
        if page is None:
            raise HTTPException(404, "this server has no page")
        return Response(page, media_type="text/html; charset=utf-8", headers=page_headers)

    app.add_exception_handler(RequestValidationError, _invalid)  # type: ignore[arg-type]
    app.add_exception_handler(UnusableError, _unusable)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, _http_error)  # type: ignore[arg-type]
    app.add_exception_handler(Exception, _broken)
    app.add_middleware(Door, gate=gate, service=service, max_body_bytes=max_body_bytes)
    return app


class Door:
    """Refuses what has no token, comes too often or is too large, before it is parsed; counts what was answered."""

    def __init__(self, app: ASGIApp, *, gate: Gate, service: Service, max_body_bytes: int) -> None:
        self._app, self._gate, self._metrics, self._most = app, gate, service.metrics, max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                took = f"app;dur={(time.perf_counter() - began) * 1e3:.1f}"
                message["headers"] = [*message["headers"], (b"server-timing", took.encode())]
            await send(message)

        try:
            await self._answer(scope, receive, told)
        finally:
            path = scope["path"] if scope["path"] in KNOWN_PATHS else "other"
            self._metrics.requested(path, status, time.perf_counter() - began)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        refused = None if scope["path"] in PUBLIC else self._gate.admit(headers.get(b"authorization"))
        if refused is None:
            body = await self._read(headers, receive)
            if body is not None:
                await self._app(scope, _again(body), send)
                return
            refused = Refused(413, "too_large", f"a request has at most {self._most} bytes")
        await _refusal(refused)(scope, receive, send)

    async def _read(self, headers: dict[bytes, bytes], receive: Receive) -> bytes | None:
        """The body; None where it is too large."""
        stated = headers.get(b"content-length", b"0")
        if stated.isdigit() and int(stated) > self._most:
            return None
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            more = message.get("more_body", False)
            if size > self._most:
                return None
        return b"".join(parts)


KNOWN_PATHS = ("/recommendations", "/events", "/ads", "/categories", "/healthz", "/metrics", "/", "/openapi.json")


def _again(body: bytes) -> Receive:
    """Gives a body that was read already."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return messages.pop() if messages else {"type": "http.disconnect"}

    return receive


def _json(content: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(content), status, headers, media_type="application/json")


def _error(status: int, code: str, message: str, retry_after: float | None = None) -> Response:
    headers = {} if retry_after is None else {"Retry-After": str(max(1, math.ceil(retry_after)))}
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return _json(
        {"error": {"code": code, "message": message}, "request_id": uuid.uuid4().hex}, status=status, headers=headers
    )


def _refusal(refused: Refused) -> Response:
    return _error(refused.status, refused.code, refused.message, refused.retry_after)


Handler = Callable[[HttpRequest, Any], Awaitable[Response]]


async def _invalid(request: HttpRequest, error: RequestValidationError) -> Response:
    """What is wrong and where, without the value: it may be of a person."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if part != "body")
    return _error(422, "invalid", f"{place}: {first['msg']}" if place else str(first["msg"]))


async def _unusable(request: HttpRequest, error: UnusableError) -> Response:
    retry = 1.0 if error.status == HTTPStatus.SERVICE_UNAVAILABLE else None
    return _error(error.status, error.code, str(error), retry)


async def _http_error(request: HttpRequest, error: HTTPException) -> Response:
    status = HTTPStatus(error.status_code)
    told = (
        str(error.detail) if error.detail != status.phrase else f"{status.phrase}: /openapi.json tells what is answered"
    )
    return _error(status, status.phrase.lower().replace(" ", "_"), told)


async def _broken(request: HttpRequest, error: Exception) -> Response:
    return _error(500, "broken", f"the server could not answer ({type(error).__name__})")
