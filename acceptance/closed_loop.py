"""The market in a closed loop: shoppers who are answered by the server within their visit, and those who get last night's lists.

Each shopper's first visit of the market's last day is forked at its first decision and goes on in two shops, with the same
draws, several times. One shows the server's first item at each step, after it was told what has just happened; the other shows last
night's list, item by item. What visits are worth is the simulator's truth. Most shoppers of these markets are rare or new.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.compute as pc
import urllib3

from acceptance import lakes
from acceptance.claims import Claim, environment, run_pipeline
from lib.cleaning.pseudonyms import load_key, pseudonyms
from lib.engines.ports import free_ports
from lib.lake.lake import Lake
from lib.online.open_state import open_state
from lib.pipeline import ROOT
from lib.settings import LiveSettings, PrivacySettings
from rl.market.market import Market
from rl.market.served import Served, Visit, served
from rl.observation import CART, PURCHASE, VIEW

SEEDS = (12, 13, 14)  # others were looked at when it was chosen how the server answers (docs/decisions/0037)
LAST_DAY = datetime(2026, 6, 30, tzinfo=UTC)
NOON = LAST_DAY + timedelta(hours=12)
SMALL = (*("--simulate.num-users", "4000", "--simulate.num-items", "400", "--as-of", LAST_DAY.isoformat()),)
TIMES = 10  # that the visits are sent through both shops
LIST_LENGTH = 10  # of last night's lists; a visit shows five at most
CLIENTS = 4
TYPES = {VIEW: "view", CART: "cart", PURCHASE: "purchase"}
FIGURES = ("returns", "num_purchases")
INTERVAL = 1.96  # standard errors


@dataclass
class Compared:
    """What one market's visits were worth in both shops, time after time."""

    server: list[Served]
    lists: list[Served]
    num_clicks: int
    num_changed: int  # clicks after which the next answer was another
    seconds: list[float]  # that an answer took

    def by_user(self, figure: str) -> pl.DataFrame:
        """Columns user and difference: the mean, over the times, of a figure in the server's shop less that in the other."""
        rows = [
            pl.DataFrame({"user": one.users, "difference": getattr(one, figure).astype(float) - getattr(other, figure)})
            for one, other in zip(self.server, self.lists, strict=True)
        ]
        return pl.concat(rows).group_by("user").agg(pl.col("difference").mean())


def check() -> list[Claim]:
    """A market for each seed, up to its release; a server of it; both shops."""
    found = {seed: compared(seed) for seed in SEEDS}
    value = difference(pl.concat([one.by_user("returns") for one in found.values()]))
    bought = difference(pl.concat([one.by_user("num_purchases") for one in found.values()]))
    return [
        Claim(
            "over all markets a visit that the server answers is worth more than one with last night's list",
            f"difference {value}",
            value.low > 0,
        ),
        Claim("and has more purchases", f"difference {bought}", bought.low > 0),
        *(claim for seed, one in found.items() for claim in claims_of(seed, one)),
    ]


def claims_of(seed: int, found: Compared) -> list[Claim]:
    """What one market shows."""
    value, bought = difference(found.by_user("returns")), difference(found.by_user("num_purchases"))
    server, lists = (
        [np.concatenate([getattr(one, name) for one in shop]).mean() for name in FIGURES]
        for shop in (found.server, found.lists)
    )
    return [
        Claim(
            f"market {seed}: both are more in the server's shop",
            f"value {server[0]:.3f} against {lists[0]:.3f}, difference {value}; purchases {server[1]:.4f} against {lists[1]:.4f}, "
            f"difference {bought}; {value.num_users} shoppers, {TIMES} times each",
            value.mean > 0 and bought.mean > 0,
        ),
        Claim(
            f"market {seed}: a click changes the next answer",
            f"after {found.num_changed} of {found.num_clicks} clicks; an answer took {1000 * float(np.median(found.seconds)):.0f} ms "
            f"(median), {1000 * float(np.percentile(found.seconds, 99)):.0f} ms (99 %), with {CLIENTS} clients and the simulator on the same cores",
            found.num_changed > 0.8 * found.num_clicks > 0,
        ),
    ]


@dataclass(frozen=True)
class Difference:
    """A mean difference of paired visits over shoppers, with its 95 % interval."""

    mean: float
    low: float
    high: float
    num_users: int

    def __str__(self) -> str:
        return f"{self.mean:+.4f} ({self.low:+.4f} to {self.high:+.4f})"


def difference(by_user: pl.DataFrame) -> Difference:
    """Of the same visits in two shops, given the mean of each shopper's: so that one who is asked again counts once."""
    apart = by_user["difference"].to_numpy()
    half = INTERVAL * float(apart.std() / np.sqrt(len(apart)))
    return Difference(float(apart.mean()), float(apart.mean()) - half, float(apart.mean()) + half, len(apart))


def compared(seed: int) -> Compared:
    """Make the market's lake up to its release, and send the same visits through both shops."""
    lake = lakes.empty(f"closed_loop_{seed}")
    flags = (*SMALL, "--simulate.seed", str(seed))
    run_pipeline(lake, *flags, "--to", "recommend")
    run_pipeline(lake, *flags, "--from", "publish", "--to", "publish")
    market = Market.read(lake / "raw" / "market")
    day = {"since_ms": int(LAST_DAY.timestamp() * 1000), "until_ms": market.end_ms, "num_sessions": market.num_users}
    ids, of_server = market.attributes.item_id, list[Served]()
    with serving(lake) as address, ThreadPoolExecutor(CLIENTS) as pool:
        shop = ServerShop(address, ids, pool)
        for time_ in range(TIMES):
            of_server.append(served(market, shop, **day, seed=time_))
            forget(lake, of_server[-1].users)
            shop.answers.clear()
    lists = nightly(Lake(str(lake)), ids)
    of_lists = [served(market, lists, **day, seed=time_) for time_ in range(TIMES)]
    return Compared(of_server, of_lists, shop.num_clicks, shop.num_changed, shop.seconds)


def forget(lake: Path, users: Sequence[str]) -> None:
    """Let the server know of nobody's visit, so that the same visits may begin again."""
    keys = pseudonyms(pl.Series(users), load_key(PrivacySettings(), str(lake)))
    state = open_state(LiveSettings(), str(lake))
    state.forget(keys.to_list())
    state.close()


class ServerShop:
    """Shows the server's first item, told what has happened; an item is shown once in a visit."""

    def __init__(self, address: str, ids: Sequence[str], pool: ThreadPoolExecutor) -> None:
        self.ids, self.pool = [str(one) for one in ids], pool
        self.place = {name: place for place, name in enumerate(self.ids)}
        self.address, self.client = address, urllib3.PoolManager(maxsize=CLIENTS, timeout=30, retries=False)
        self.answers: dict[str, list[str]] = {}  # the last of each user
        self.num_clicks = self.num_changed = 0
        self.seconds: list[float] = []

    def __call__(self, visits: list[Visit]) -> list[int]:
        return list(self.pool.map(self.next_item, visits))

    def next_item(self, visit: Visit) -> int:
        """Tell the server the news of a visit, and ask."""
        news = [
            {"user_id": visit.user_id, "item_id": self.ids[item], "event_type": TYPES[kind]}
            for kind, item in visit.news()
        ]
        before = self.answers.get(visit.user_id)
        if news:
            self.post("/events", news)
        shown = [self.ids[item] for item in visit.shown]
        began = time.monotonic()
        asked = {"user_id": visit.user_id, "k": LIST_LENGTH, "exclude": shown}
        items = [item["item_id"] for item in self.post("/recommendations", asked)["items"]]
        self.seconds.append(time.monotonic() - began)
        if before is not None and any(event["event_type"] == "view" for event in news):
            self.num_clicks += 1
            self.num_changed += [item for item in before if item not in shown] != items[: len(before) - 1]
        self.answers[visit.user_id] = items
        return self.place[items[0]]

    def post(self, path: str, content: Any) -> Any:
        """The server's answer.

        Raises:
            RuntimeError: it refuses.
        """
        answer = self.client.request("POST", self.address + path, json=content)
        if answer.status != HTTPStatus.OK:
            raise RuntimeError(f"{path}: {answer.status} {answer.data.decode()}")
        return answer.json()


def nightly(lake: Lake, ids: Sequence[str]) -> Callable[[list[Visit]], list[int]]:
    """Shows last night's list of `ranked`; to who had none, that of what is popular."""
    place = {str(name): at for at, name in enumerate(ids)}
    of_user: dict[str, list[int]] = {}
    popular: list[int] = []
    wanted = (pc.field("question") == "all") & pc.field("strategy").isin(["ranked", "popularity"])
    rows = lake.dataset("gold/recommendations").to_table(["user_key", "item_id", "strategy", "rank"], filter=wanted)
    for row in rows.sort_by([("user_key", "ascending"), ("rank", "ascending")]).to_pylist():
        if row["strategy"] == "ranked":
            of_user.setdefault(row["user_key"], []).append(place[row["item_id"]])
        elif place[row["item_id"]] not in popular:
            popular.append(place[row["item_id"]])
    key = load_key(PrivacySettings(), lake.path)

    def answers(visits: list[Visit]) -> list[int]:
        keys = pseudonyms(pl.Series([visit.user_id for visit in visits]), key)
        lists = [[*of_user.get(user, []), *popular] for user in keys]
        return [next(item for item in own if item not in visit.shown) for own, visit in zip(lists, visits, strict=True)]

    return answers


@contextmanager
def serving(lake: Path) -> Iterator[str]:
    """A server of a lake, whose clock begins at noon of the last day; its address."""
    (port,) = free_ports(1)
    command = [
        sys.executable,
        "jobs/ray/serve.py",
        "--lake.path",
        str(lake),
        "--serve.port",
        str(port),
        "--serve.allow-anonymous",
        "true",
    ]
    command += [
        "--serve.starts-at",
        NOON.isoformat(),
        "--serve.max-waiting",
        "64",
        "--log.path",
        str(lake / "live-log"),
    ]
    log = lake.parent / f"{lake.name}-serve.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment() | {"PYTHONPATH": str(ROOT)}, stdout=output, stderr=output
        )
    address = f"http://127.0.0.1:{port}"
    try:
        until_it_answers(address, process, log)
        yield address
    finally:
        process.terminate()
        process.wait(60)


def until_it_answers(address: str, process: "subprocess.Popen[Any]", log: Path) -> None:
    """Wait for a release behind /healthz.

    Raises:
        RuntimeError: the server has ended, or does not answer in time.
    """
    end = time.monotonic() + 180
    while time.monotonic() < end and process.poll() is None:
        try:
            if urllib3.request("GET", f"{address}/healthz", timeout=2, retries=False).json().get("status") == "ok":
                return
        except (urllib3.exceptions.HTTPError, ValueError):
            time.sleep(0.5)
    raise RuntimeError(f"the server does not answer: {log.read_text()[-1000:]}")
