"""Clients of a server, in a process of their own: `python -m benchmarks.serving_load PORT TOKEN CLIENTS SECONDS USERS ITEMS`.

Each client sends its next request when it has the answer to the last, over a connection that stays open. Prints one JSON object: latencies in
milliseconds of questions and of events, the statuses, and the time from sending an event to having an answer that it has changed.
"""

import asyncio
import json
import random
import sys
import time
from collections import Counter

ASK, SEND = "/recommendations", "/events"


class Client:
    """One connection."""

    def __init__(self, port: int, token: str) -> None:
        self._port, self._token = port, token

    async def open(self) -> None:
        """Connect."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)

    async def post(self, path: str, body: object) -> tuple[int, bytes, float]:
        """Status, body and milliseconds of an answer."""
        content, began = json.dumps(body).encode(), time.perf_counter()
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self._token}\r\nContent-Type: application/json\r\n"
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


async def run(port: int, token: str, clients: int, seconds: float, users: int, items: int) -> dict[str, object]:
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
            status, before, took = await client.post(ASK, {"user_id": user})
            asked.append(took)
            statuses[str(status)] += 1
            if draw.random() < 0.2:
                event = {"user_id": user, "item_id": f"i{draw.randrange(items):08d}", "event_type": "view"}
                status, _, took = await client.post(SEND, event)
                sent.append(took)
                statuses[str(status)] += 1
                status, answer, again = await client.post(ASK, {"user_id": user})
                asked.append(again)
                statuses[str(status)] += 1
                if status == 200 and _items(answer) != _items(before):
                    effects.append(took + again)

    began = time.perf_counter()
    await asyncio.gather(*(one(number) for number in range(clients)))
    took = time.perf_counter() - began
    return {"asked": asked, "sent": sent, "effects": effects, "statuses": dict(statuses), "seconds": took}


def _items(answer: bytes) -> list[str]:
    """The items of an answer; none of a refusal."""
    return [item["item_id"] for item in json.loads(answer).get("items", [])]


if __name__ == "__main__":
    given = sys.argv[1:]
    found = asyncio.run(run(int(given[0]), given[1], int(given[2]), float(given[3]), int(given[4]), int(given[5])))
    print(json.dumps(found))
