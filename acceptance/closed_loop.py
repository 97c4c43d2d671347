"""The market in a closed loop: shoppers who are answered by the server within their visit, and those who get last night's lists.

Each shopper's first visit of the market's last day is forked at its first decision and goes on in three shops, with the same
draws, several times. One shows the server's first item at each step, after it was told what has just happened; another what
the server says when the visit begins, item by item; the third last night's list. The server's release has a policy that was promoted
by what the log says of two weeks that it did not learn from. What visits are worth is the simulator's truth. Most shoppers of these
markets are rare or new.
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
from lib.runs.model_registry import current_model
from lib.settings import LiveSettings, PrivacySettings
from rl.market.market import Market
from rl.market.served import Served, Visit, served
from rl.observation import CART, MAX_STEPS, PURCHASE, VIEW

SEEDS = (12, 13, 14)  # others were looked at when it was chosen how the server answers (docs/decisions/0037)
LAST_DAY = datetime(2026, 6, 30, tzinfo=UTC)
NOON = LAST_DAY + timedelta(hours=12)
SMALL = ("--simulate.num-users", "4000", "--simulate.num-items", "400")
POLICY_AS_OF = LAST_DAY - timedelta(days=14)  # what a policy learned from; it is promoted, or not, by what came then
TIMES = 5  # that the visits are sent through all shops
LIST_LENGTH = 10  # of which is asked whether a click changes it
CLIENTS = 4
TYPES = {VIEW: "view", CART: "cart", PURCHASE: "purchase"}
VALUE, BOUGHT = "returns", "num_purchases"  # figures of a shop
SERVER, BEGIN, LISTS = "server", "begin", "lists"  # the shops
INTERVAL = 1.96  # standard errors


@dataclass
class Compared:
    """What one market's visits were worth in each shop, time after time."""

    shops: dict[str, list[Served]]  # SERVER, BEGIN and LISTS
    num_clicks: int
    num_changed: int  # clicks after which the next answer was another
    num_same: int  # questions that were asked again without anything between, with the same answer
    num_again: int  # all of these
    seconds: list[float]  # that an answer took

    def by_user(self, figure: str, other: str) -> pl.DataFrame:
        """Columns user and difference: the mean, over the times, of a figure in the server's shop less that in the other."""
        rows = [
            pl.DataFrame({"user": one.users, "difference": getattr(one, figure).astype(float) - getattr(same, figure)})
            for one, same in zip(self.shops[SERVER], self.shops[other], strict=True)
        ]
        return pl.concat(rows).group_by("user").agg(pl.col("difference").mean())

    def mean(self, figure: str, shop: str) -> float:
        """Of all visits."""
        return float(np.concatenate([getattr(one, figure) for one in self.shops[shop]]).mean())


def check() -> list[Claim]:
    """A market for each seed, up to its release; a server of it; all shops."""
    found = {seed: compared(seed) for seed in SEEDS}

    def over_all(figure: str, other: str) -> Difference:
        return difference(pl.concat([one.by_user(figure, other) for one in found.values()]))

    value, bought, within = over_all(VALUE, LISTS), over_all(BOUGHT, LISTS), over_all(VALUE, BEGIN)
    return [
        Claim(
            "over all markets a visit that the server answers is worth more than one with last night's list",
            f"difference {value}",
            value.low > 0,
        ),
        Claim("and has more purchases", f"difference {bought}", bought.low > 0),
        Claim(
            "and is worth more than one with what the server said when it began: what happens in a visit counts",
            f"difference {within}; in purchases {over_all(BOUGHT, BEGIN)}",
            within.low > 0,
        ),
        *(claim for seed, one in found.items() for claim in claims_of(seed, one)),
    ]


def claims_of(seed: int, found: Compared) -> list[Claim]:
    """What one market shows."""
    value, bought = (difference(found.by_user(figure, LISTS)) for figure in (VALUE, BOUGHT))
    return [
        Claim(
            f"market {seed}: both are more in the server's shop",
            f"value {found.mean(VALUE, SERVER):.3f} against {found.mean(VALUE, LISTS):.3f} ({found.mean(VALUE, BEGIN):.3f} with what "
            f"the server said at the begin), difference {value}; purchases {found.mean(BOUGHT, SERVER):.4f} against "
            f"{found.mean(BOUGHT, LISTS):.4f}, difference {bought}; {value.num_users} shoppers, {TIMES} times each",
            value.mean > 0 and bought.mean > 0,
        ),
        Claim(
            f"market {seed}: a click changes the next answer, and without one it stays",
            f"after {found.num_changed} of {found.num_clicks} clicks; asked again, {found.num_same} of {found.num_again} were the same; "
            f"an answer took {1000 * float(np.median(found.seconds)):.0f} ms (median), "
            f"{1000 * float(np.percentile(found.seconds, 99)):.0f} ms (99 %), with {CLIENTS} clients and the simulator on the same cores",
            found.num_changed > 0.8 * found.num_clicks > 0 and found.num_same == found.num_again > 0,
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
    """Make the market's lake up to its release, and send the same visits through all shops."""
    lake = released(seed)
    market = Market.read(lake / "raw" / "market")
    day = {"since_ms": int(LAST_DAY.timestamp() * 1000), "until_ms": market.end_ms, "num_sessions": market.num_users}
    ids = market.attributes.item_id
    shops: dict[str, list[Served]] = {SERVER: [], BEGIN: [], LISTS: []}
    with serving(lake) as address, ThreadPoolExecutor(CLIENTS) as pool:
        server = ServerShop(address, ids, pool)
        for time_ in range(TIMES):
            for shop, answers in ((SERVER, server), (BEGIN, server.of_begin)):
                shops[shop].append(served(market, answers, **day, seed=time_))
                forget(lake, shops[shop][-1].users)
    lists = nightly(Lake(str(lake)), ids)
    shops[LISTS] = [served(market, lists, **day, seed=time_) for time_ in range(TIMES)]
    return Compared(shops, server.num_clicks, server.num_changed, server.num_same, server.num_again, server.seconds)


def released(seed: int) -> Path:
    """A market's lake with a release as of its last day.

    Raises:
        RuntimeError: no policy was promoted.
    """
    lake = lakes.empty(f"closed_loop_{seed}")
    flags = (*SMALL, "--simulate.seed", str(seed))
    last_day = (*flags, "--as-of", LAST_DAY.isoformat())
    run_pipeline(lake, *last_day, "--to", "recommend")
    run_pipeline(lake, *flags, "--as-of", POLICY_AS_OF.isoformat(), "--from", "decisions", "--to", "train_policy")
    if current_model(Lake(str(lake)), "policy") is None:
        raise RuntimeError(f"the policy of market {seed} was not promoted")
    run_pipeline(lake, *last_day, "--from", "publish", "--to", "publish")
    return lake


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
        self.request_of: dict[tuple[str, int], str] = {}  # the answer by which an item was shown to a user
        self.begun: dict[str, list[int]] = {}  # what was said to a user when the visit began
        self.num_clicks = self.num_changed = self.num_same = self.num_again = 0
        self.seconds: list[float] = []

    def __call__(self, visits: list[Visit]) -> list[int]:
        return list(self.pool.map(self.next_item, visits))

    def of_begin(self, visits: list[Visit]) -> list[int]:
        """Shows what the server says when a visit begins, item by item."""
        return list(self.pool.map(self.next_of_begin, visits))

    def next_item(self, visit: Visit) -> int:
        """Tell the server the news of a visit, and ask."""
        news = visit.news()
        is_clicked = bool(visit.shown) and any(kind == VIEW for kind, _ in news)
        before = self.preview(visit) if is_clicked else []
        self.tell(visit, news)
        if is_clicked:
            after, again = self.preview(visit), self.preview(visit)
            self.num_clicks += 1
            self.num_changed += before != after
            self.num_again += 1
            self.num_same += after == again
        began = time.monotonic()
        found = self.post("/recommendations", {"user_id": visit.user_id, "k": 1, "exclude": self.shown(visit)})
        self.seconds.append(time.monotonic() - began)
        item = self.place[found["items"][0]["item_id"]]
        self.request_of[visit.user_id, item] = found["request_id"]
        return item

    def next_of_begin(self, visit: Visit) -> int:
        """The next item of the list that was asked for when the visit began."""
        if not visit.shown:
            self.tell(visit, visit.news())
            found = self.post("/recommendations", {"user_id": visit.user_id, "k": MAX_STEPS})
            self.begun[visit.user_id] = [self.place[item["item_id"]] for item in found["items"]]
        return self.begun[visit.user_id][len(visit.shown)]

    def tell(self, visit: Visit, news: Sequence[tuple[int, int]]) -> None:
        """Post events, those on a shown item with the answer that led to it."""
        events = [
            {"user_id": visit.user_id, "item_id": self.ids[item], "event_type": TYPES[kind]}
            | ({"request_id": self.request_of[visit.user_id, item]} if item in visit.shown else {})
            for kind, item in news
        ]
        if events:
            self.post("/events", events)

    def preview(self, visit: Visit) -> list[str]:
        """The list that would be shown."""
        asked = {"user_id": visit.user_id, "k": LIST_LENGTH, "exclude": self.shown(visit), "preview": True}
        return [item["item_id"] for item in self.post("/recommendations", asked)["items"]]

    def shown(self, visit: Visit) -> list[str]:
        """What the visit has been shown."""
        return [self.ids[item] for item in visit.shown]

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
