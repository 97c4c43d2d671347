"""The market's log as a shop would write it, in JSON lines, with dirty records whose faults are known.

Dirty records are added to the true ones: each is a copy of a true record with a fault. So a perfect cleaning leaves exactly the
true events, plus three kinds that it keeps: records without a user, and those of bots and of a bot farm, which it flags.
Some visitors' true records are themselves at fault (rl/market/visitors.py); cleaning mends them.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, fields
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lib.statistics.bootstrap import splitmix64
from rl.market.effects import RATES, currencies_of, on_day
from rl.market.market import Market
from rl.market.memory import Log
from rl.market.sessions import NUM_CANDIDATES
from rl.market.shoppers import BOT_STREAM, DAY_MS, DIRT_STREAM, FARM_STREAM, user_generator
from rl.market.visitors import KINDS_OF_VISITORS, LATE_SIGN_IN, Visitors, signed_in_late, stamps
from rl.observation import CART, IMPRESSION, KINDS, PURCHASE, VIEW, Ints

EVENT_TIME = '{"event_time":"'  # how each line begins
GOLDEN_GAMMA = 0x9E3779B97F4A7C15  # the step of SplitMix64
BOT_USERS, FARM_USERS = 50_000_000, 60_000_000  # a bot's number is this plus its host's; its id looks like any other
UNKNOWN_TYPES = ("hover", "zoom", "compare", "newsletter")
UNPARSABLE_TIMES = ("2026-13-41T25:61:00.000Z", "yesterday", "31/02/2026 10:00", "2026-06-00T00:00:00.000Z")
NOT_NUMBERS = ("free", "twelve", "19,9O EUR", "see label")
LATIN_1 = b"\xe9".decode(errors="surrogateescape")  # a byte that no UTF-8 text holds
Dirt = Literal["none", "plain", "full"]


@dataclass(frozen=True)
class DirtRates:
    """How many dirty records of each kind are added, as a share of the true records that can be copied for it."""

    null_field: float = 0.0015  # event_time, event_type or item_id is null or missing
    unparsable_time: float = 0.0015
    after_end: float = 0.0015  # the time is one day to a year after the log's end
    unknown_type: float = 0.0015
    negative_price: float = 0.0015
    text_for_number: float = 0.0015  # in price or quantity
    duplicate: float = 0.01  # the same bytes again
    double_click: float = 0.015  # a view repeated within a second
    no_user: float = 0.02  # a view without a user id
    resent: float = 0.003  # the same bytes again, in another file
    rewritten: float = 0.003  # the same event again, its fields in another order
    broken_text: float = 0.0015  # a byte of the item's id is not UTF-8
    clock_reset: float = 0.0015  # the time is that of a clock that began with 1970
    removed: float = 0.05  # what was put into the cart is taken out again: a type that no strategy asks for

    @classmethod
    def of(cls, dirt: Dirt) -> "DirtRates":
        """No dirt, that which programs of few lines can tell (the first nine kinds), or all of it."""
        num_kept = {"none": 0, "plain": NUM_PLAIN, "full": len(fields(cls))}[dirt]
        return cls(*astuple(cls())[:num_kept], *[0.0] * (len(fields(cls)) - num_kept))


NUM_PLAIN = 9
KINDS_OF_DIRT = (*(field.name for field in fields(DirtRates)), "bot", "bot_farm", *KINDS_OF_VISITORS)


class Record(NamedTuple):
    """One record of the log, and the truth about it."""

    time_ms: int  # true time since the log's start, whatever the record says
    user: int  # true user, whatever the record says
    line: str  # JSON, without the newline
    kind: str | None = None  # one of KINDS_OF_DIRT; None for a true record
    column: str | None = None  # with the fault


def records(market: Market, first: int, last: int, rates: DirtRates, visitors: Visitors) -> list[Record]:
    """All records of the users [first, last) and of the bots that belong to them, by time, then user.

    A user has a bot with probability `visitors.bots_per_user`. A bot has one or two days with 300 to 800 views of one product after
    the other, at a steady pace of 1.5 to 4 seconds, give or take 2 %. A shopper's day has less than a third as many, irregularly.
    With probability `visitors.farmed_per_user` an account of the farm belongs to a user: on one to three days it views one product,
    the same for all accounts, 25 to 60 times, and puts it into the cart, at a shopper's pace.
    """
    log = market.log(first, last)
    true = list(map(Record, log.time_ms.tolist(), log.user.tolist(), _lines(market, log)))
    if visitors.app_frac or visitors.late_sign_in_frac:
        others = _by_app(true, market, log, visitors.app_frac)
        _by_visitor(true, market, log, others, visitors.late_sign_in_frac)
    dirty = [_spoil(true[row], kind, detail, market) for row, kind, detail in _dirt(market.seed, log, rates)]
    of_bots = [
        record
        for user in range(first, last)
        for record in (*_bot(market, user, visitors.bots_per_user), *_farmed(market, user, visitors.farmed_per_user))
    ]
    return sorted(true + dirty + of_bots, key=lambda record: record[:2])


def _by_app(true: list[Record], market: Market, log: Log, app_frac: float) -> list[int]:
    """Write the records of users who come by the app as their devices stamp them; returns the other users."""
    others = []
    for user in np.unique(log.user).tolist():
        rows = slice(*np.searchsorted(log.user, [user, user + 1]))
        stamped = stamps(market.seed, user, log.time_ms[rows], app_frac)
        if stamped is None:
            others.append(user)
            continue
        texts = zip(*(time_text(market, times) for times in stamped[1:]), strict=True)
        for row, (event, sent, received) in enumerate(texts, rows.start):
            rest = true[row].line[len(EVENT_TIME) + len(event) : -1]
            line = f'{EVENT_TIME}{event}{rest},"sent_at":"{sent}","received_at":"{received}"}}'
            true[row] = true[row]._replace(line=line, kind=stamped.kind)
    return others


def _by_visitor(true: list[Record], market: Market, log: Log, users: list[int], late_sign_in_frac: float) -> None:
    """Write the records of visits in which `users` sign in late: all with a visitor's id, the first ones without a user's."""
    visits, before = signed_in_late(market.seed, log, users, late_sign_in_frac)
    visitor = hashed(log.user[visits] * 64 + log.session[visits], market.seed + 1)
    for row, number in zip(visits.tolist(), visitor.tolist(), strict=True):
        true[row] = true[row]._replace(line=f'{true[row].line[:-1]},"visitor_id":"v{number:016x}"}}')
    for row in before.tolist():
        anonymous = true[row].line.replace(f'"{market.user_id(true[row].user)}"', "null", 1)
        true[row] = true[row]._replace(line=anonymous, kind=LATE_SIGN_IN)


def farmed_item(market: Market) -> int:
    """The product that the bot farm lifts: the least popular one."""
    return int(np.argmin(market.world.hidden.popularity))


def time_text(market: Market, time_ms: Ints) -> list[str]:
    """Times (ms since the log's start) as the log writes them: ISO 8601, UTC, milliseconds."""
    moments = (market.start_ms + np.asarray(time_ms)).astype("datetime64[ms]")
    return [f"{text}Z" for text in np.datetime_as_string(moments).tolist()]


def _lines(market: Market, log: Log) -> Iterator[str]:
    """Each event as a JSON line. Ids of sessions, requests and orders are hashes, which reveal nothing about the user."""
    items = [json.dumps(item) for item in market.attributes.item_id]
    who = {user: (market.user_id(user), market.strategy(user)) for user in np.unique(log.user).tolist()}
    session = (log.user * 64 + log.session) * 8
    offers = zip(log.candidates.tolist(), log.propensities.tolist(), strict=True)
    columns = (
        log.kind,
        log.user,
        log.item,
        log.step,
        hashed(session, market.seed),
        hashed(session + log.step + 1, market.seed),
    )
    for time, price, kind, user, item, step, session_hash, request_hash in zip(
        time_text(market, log.time_ms), _prices(market, log), *(column.tolist() for column in columns), strict=True
    ):
        user_id, strategy = who[user]
        yield (
            f'{EVENT_TIME}{time}","event_type":"{KINDS[kind]}","user_id":"{user_id}","item_id":{items[item]}'
            f',"session":"s{session_hash:016x}"'
            + (f',"request_id":"r{request_hash:016x}"' if step >= 0 else "")
            + (_offer(step, next(offers), items, strategy, market.experiment) if kind == IMPRESSION else price)
            + (f',"quantity":1,"order_id":"o{session_hash:016x}"}}' if kind == PURCHASE else "}")
        )


def _prices(market: Market, log: Log) -> Iterator[str]:
    """What each event says of its product's price: that of its day, in the currency in which its user pays."""
    euros = market.attributes.price[log.item] * on_day(market.world.price_levels, log.time_ms // DAY_MS, log.item)
    if market.effects.currencies == 1:
        yield from (f',"price":{price:.2f}' for price in euros.tolist())
        return
    names, worth = [*RATES], np.array([*RATES.values()])
    currency = currencies_of(log.user, market.effects.currencies)
    for price, number in zip((euros / worth[currency]).tolist(), currency.tolist(), strict=True):
        yield f',"price":{price:.2f},"currency":"{names[number]}"'


def _offer(step: int, offer: tuple[list[int], float], items: list[str], strategy: str, experiment: str) -> str:
    candidates, propensity = offer
    return (
        f',"position":{step + 1},"candidates":[{",".join([items[c] for c in candidates])}],"propensity":{propensity:.6f}'
        f',"policy":"{strategy}","experiment":"{experiment}","arm":"{strategy}"'
    )


def hashed(numbers: Ints, seed: int) -> NDArray[np.uint64]:
    """Distinct 64-bit hashes of distinct numbers; the seed shifts the sequence of SplitMix64."""
    offset = np.uint64(seed % 2**32 * GOLDEN_GAMMA % 2**64)
    return splitmix64(numbers.astype(np.uint64) + offset)


def _dirt(seed: int, log: Log, rates: DirtRates) -> Iterator[tuple[int, str, float]]:
    """The events that get a dirty copy: row, kind of dirt, and a uniform number that decides the details."""
    users, counts = np.unique(log.user, return_counts=True)
    draws = np.empty((len(log.user), 2))
    begin = 0
    for user, count in zip(users.tolist(), counts.tolist(), strict=True):
        draws[begin : begin + count] = user_generator(seed + DIRT_STREAM, user).random((count, 2))
        begin += count
    has_price, anything = log.kind != IMPRESSION, np.ones(len(log.kind), dtype=bool)
    can_be = {
        "negative_price": has_price,
        "text_for_number": has_price,
        "double_click": log.kind == VIEW,
        "no_user": (log.kind == VIEW) & (log.step < 0),
        "removed": log.kind == CART,
    }
    which = np.searchsorted(np.cumsum(astuple(rates)), draws[:, 0], side="right")
    for number, field in enumerate(fields(rates)):
        for row in np.flatnonzero((which == number) & can_be.get(field.name, anything)).tolist():
            yield row, field.name, float(draws[row, 1])


def _spoil(true: Record, kind: str, detail: float, market: Market) -> Record:
    """A copy of a true record with one fault; `detail` in [0, 1) decides how."""
    content, column, delay_ms = json.loads(true.line), None, 0
    if kind in ("duplicate", "resent"):
        return true._replace(kind=kind)
    if kind == "rewritten":
        head, tail = true.line[1:-1].split(',"session"', 1)
        return true._replace(kind=kind, line=f'{{"session"{tail},{head}}}')
    if kind == "double_click":
        delay_ms = 200 + int(detail * 750)
        stated = np.datetime64(content["event_time"][:-1]) + delay_ms
        content["event_time"] = f"{np.datetime_as_string(stated)}Z"
    elif kind == "no_user":
        content["user_id"] = None
        content.pop("visitor_id", None)
    else:
        column, value = _fault(kind, content, detail, market)
        content[column] = value
        if kind == "null_field" and detail * 3 % 1 < 0.5:
            del content[column]
    line = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    return Record(true.time_ms + delay_ms, true.user, line, kind, column)


def _fault(kind: str, content: Mapping[str, Any], detail: float, market: Market) -> tuple[str, Any]:
    """The column of a record that a kind of dirt spoils, and what it holds then."""

    def one_of(choices: tuple[str, ...]) -> str:
        return choices[int(detail * len(choices))]

    def time(time_ms: int) -> str:
        return time_text(market, np.array([time_ms]))[0]

    faults: dict[str, tuple[str, Any]] = {
        "null_field": (one_of(("event_time", "event_type", "item_id")), None),
        "unparsable_time": ("event_time", one_of(UNPARSABLE_TIMES)),
        "after_end": ("event_time", time((market.days + 1) * DAY_MS + int(detail * 364 * DAY_MS))),
        "unknown_type": ("event_type", one_of(UNKNOWN_TYPES)),
        "negative_price": ("price", -content.get("price", 0)),
        "text_for_number": ("quantity" if "quantity" in content and detail < 0.5 else "price", one_of(NOT_NUMBERS)),
        "broken_text": ("item_id", content["item_id"] + LATIN_1),
        "clock_reset": ("event_time", time(int(detail * DAY_MS) - market.start_ms)),
        "removed": ("event_type", "remove_from_cart"),
    }
    return faults[kind]


def _bot(market: Market, host: int, bots_per_user: float) -> list[Record]:
    """The records of the bot that belongs to user `host`, if there is one."""
    rng = user_generator(market.seed + BOT_STREAM, host)
    if rng.random() >= bots_per_user:
        return []
    num_items = len(market.attributes.item_id)
    times, items, sessions = [], [], []
    for session, day in enumerate(np.sort(rng.permutation(market.days)[: rng.integers(1, 3)]).tolist()):
        count, pace_ms = int(rng.integers(300, 800)), rng.uniform(1_500, 4_000)
        gaps = pace_ms * rng.uniform(0.98, 1.02, size=count)
        times.append(day * DAY_MS + int(rng.integers(1, 22)) * (DAY_MS // 24) + np.cumsum(gaps).astype(np.int64))
        items.append((rng.integers(num_items) + np.arange(count)) % num_items)
        sessions.append(np.full(count, session))
    columns = np.concatenate(sessions), np.concatenate(times), VIEW, np.concatenate(items)
    return _organic(market, BOT_USERS + host, *columns, dirt="bot")


def _farmed(market: Market, host: int, farmed_per_user: float) -> list[Record]:
    """The records of the farm's account that belongs to user `host`, if there is one."""
    rng = user_generator(market.seed + FARM_STREAM, host)
    if rng.random() >= farmed_per_user:
        return []
    times, kinds, sessions = [], [], []
    for session, day in enumerate(np.sort(rng.permutation(market.days)[: rng.integers(1, 4)]).tolist()):
        count = int(rng.integers(25, 61))
        gaps = 6_000 + rng.exponential(45_000, size=count)
        times.append(day * DAY_MS + int(rng.integers(1, 20)) * (DAY_MS // 24) + np.cumsum(gaps).astype(np.int64))
        kinds.append(np.where(np.arange(count) % 5 == 4, CART, VIEW))
        sessions.append(np.full(count, session))
    item = np.full(sum(map(len, times)), farmed_item(market))
    columns = np.concatenate(sessions), np.concatenate(times), np.concatenate(kinds), item
    return _organic(market, FARM_USERS + host, *columns, dirt="bot_farm")


def _organic(
    market: Market, user: int, session: Ints, time_ms: Ints, kind: Ints | int, item: Ints, *, dirt: str
) -> list[Record]:
    """Records of events (e,) of one user that answer no decision."""
    users, kinds, step = (np.full(len(time_ms), value) for value in (user, kind, -1))
    no_offers = (np.zeros((0, NUM_CANDIDATES), dtype=np.int64), np.zeros(0))
    log = Log(users, session, time_ms, kinds, item, step, *no_offers)
    return [Record(*row, dirt) for row in zip(time_ms.tolist(), users.tolist(), _lines(market, log), strict=True)]
