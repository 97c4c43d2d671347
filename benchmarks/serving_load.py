"""Clients of a server, in a process of their own: `python -m benchmarks.serving_load SERVER PORT TOKEN CLIENTS SECONDS USERS ITEMS`.

SERVER is `cartwheel` or `gorse`.
Each client sends its next request when it has the answer to the last, over a connection that stays open. Prints one JSON object: latencies in
milliseconds of questions and of events, the statuses, and the time from sending an event to having an answer that it has changed.
"""

import asyncio
import json
import random
import sys
import time
from collections import Counter

Request = tuple[str, str, object]  # method, path, body


class Cartwheel:
    """How questions and events are sent to the job serve."""

    def ask(self, user: str) -> Request:
        """A question for ten items."""
        return "POST", "/recommendations", {"user_id": user}

    def send(self, user: str, item: str) -> Request:
        """A view."""
        return "POST", "/events", {"user_id": user, "item_id": item, "event_type": "view"}

    def items(self, answer: bytes) -> list[str]:
        """The items of an answer; none of a refusal."""
        return [item["item_id"] for item in json.loads(answer).get("items", [])]


class Gorse:
    """The same of Gorse."""

    def ask(self, user: str) -> Request:
        """A question for ten items."""
        return "GET", f"/api/recommend/{user}?n=10", None

    def send(self, user: str, item: str) -> Request:
        """A view."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return "POST", "/api/feedback", [{"FeedbackType": "view", "UserId": user, "ItemId": item, "Timestamp": now}]

    def items(self, answer: bytes) -> list[str]:
        """The items of an answer."""
        return list(json.loads(answer))


SERVERS: dict[str, Cartwheel | Gorse] = {"cartwheel": Cartwheel(), "gorse": Gorse()}


class Client:
    """One connection."""

    def __init__(self, port: int, token: str) -> None:
        self._port, self._token = port, token

    async def open(self) -> None:
        """Connect."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)

    async def call(self, asked: Request) -> tuple[int, bytes, float]:
        """Status, body and milliseconds of an answer."""
        method, path, body = asked
        content, began = b"" if body is None else json.dumps(body).encode(), time.perf_counter()
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self._token}\r\nContent-Type: application/json\r\n"
        request = f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content
        self._writer.write(request)
        try:
            headers = await self._reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionResetError):  # HAProxy has closed the idle connection, as it may
            await self.open()
            self._writer.write(request)
            headers = await self._reader.readuntil(b"\r\n\r\n")
        length = int(headers.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        answer = await self._reader.readexactly(length)
        return int(headers[9:12]), answer, (time.perf_counter() - began) * 1e3


async def run(
    server: Cartwheel | Gorse, port: int, token: str, clients: int, seconds: float, users: int, items: int
) -> dict[str, object]:
    """What so many clients measure."""
    asked: list[float] = []
    sent: list[float] = []
    effects: list[float] = []
    statuses: Counter[str] = Counter()
    until = time.perf_counter() + seconds

    async def one(number: int) -> None:
        draw, client = random.Random(number), Client(port, token)
        await client.open()
        while time.perf_counter() < until:
            user = f"u{draw.randrange(users)}"
            status, before, took = await client.call(server.ask(user))
            asked.append(took)
            statuses[str(status)] += 1
            if draw.random() < 0.2:
                status, _, took = await client.call(server.send(user, f"i{draw.randrange(items):08d}"))
                sent.append(took)
                statuses[str(status)] += 1
                status, answer, again = await client.call(server.ask(user))
                asked.append(again)
                statuses[str(status)] += 1
                if status == 200 and server.items(answer) != server.items(before):
                    effects.append(took + again)

    began = time.perf_counter()
    await asyncio.gather(*(one(number) for number in range(clients)))
    took = time.perf_counter() - began
    return {"asked": asked, "sent": sent, "effects": effects, "statuses": dict(statuses), "seconds": took}


if __name__ == "__main__":
    server, *given = sys.argv[1:]
    port, token, clients, seconds, users, items = given
    found = asyncio.run(run(SERVERS[server], int(port), token, int(clients), float(seconds), int(users), int(items)))
    print(json.dumps(found))
