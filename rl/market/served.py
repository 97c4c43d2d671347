"""What shoppers are worth who are shown something else than the log's strategies show: any product, chosen anew at each step.

The sessions of the log from a moment on are forked at their first decision, with the shoppers' logged past and what they looked at
in this visit. A shop sees what a server sees: who asks, and what they did in this visit.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from rl.market.market import Market
from rl.market.memory import Journal
from rl.market.sessions import DECISION_DRAWS, NUM_CANDIDATES, SessionSoFar, decide
from rl.market.shoppers import BLOCK
from rl.observation import CART, MAX_STEPS, PURCHASE, VIEW, Floats, Ints

REACTIONS = (VIEW, CART, PURCHASE)


@dataclass
class Visit:
    """One visit, as a server knows it; what is new in it since the last question is asked for by `news`."""

    user_id: str
    events: list[tuple[int, int]] = field(default_factory=list)  # kinds and products, the oldest first
    shown: list[int] = field(default_factory=list)
    num_told: int = 0

    def news(self) -> list[tuple[int, int]]:
        """What happened since this was asked last."""
        new, self.num_told = self.events[self.num_told :], len(self.events)
        return new


Answers = Callable[[list[Visit]], list[int]]  # the product that each of some visits is shown next


class Served(NamedTuple):
    """What sessions were worth, of each the same under every shop that the same draws are given to."""

    users: list[str]  # (n,)
    returns: Floats  # (n,) discounted
    num_purchases: Ints  # (n,)


def served(
    market: Market, answers: Answers, *, since_ms: int, until_ms: int, num_sessions: int, seed: int = 0
) -> Served:
    """The first session in [since_ms, until_ms) of each of some shoppers, ms since 1970, in a shop that answers.

    Blocks of users are taken in an order drawn by `seed`, until there are `num_sessions`; so are the shoppers' own draws.
    """
    since, until = since_ms - market.start_ms, until_ms - market.start_ms
    rng = np.random.default_rng([seed, 5])
    users, returns, purchases = list[str](), list[Floats](), list[Ints]()
    for block in rng.permutation(np.arange(0, market.num_users, BLOCK)):
        journal = Journal(NUM_CANDIDATES)
        for shoppers, memory, visits in market.simulate(int(block), journal):
            is_first = (visits.clock >= since) & (visits.clock < until) & (memory.last_ms[visits.users] < since)
            fork = visits.take(np.flatnonzero(is_first & (block + visits.users < market.num_users)))
            if not len(fork.users):
                continue
            shop = _Shop(_begun(market, int(block), journal, fork.number, fork.users), answers)
            users += [visit.user_id for visit in shop.visits]
            draws = rng.random((len(fork.users), MAX_STEPS, DECISION_DRAWS))
            returns.append(decide(market.world, shoppers, memory, fork, draws, shop=shop))
            purchases.append(shop.reactions[:, REACTIONS.index(PURCHASE)].astype(np.int64))
        if sum(map(len, returns)) >= num_sessions:
            break
    return Served(
        users[:num_sessions], np.concatenate(returns)[:num_sessions], np.concatenate(purchases)[:num_sessions]
    )


def _begun(market: Market, block: int, journal: Journal, number: int, users: Ints) -> list[Visit]:
    """What users have looked at in the visit of this number."""
    rows = np.concatenate([np.zeros((7, 0), np.int64), *journal.events], axis=1)
    rows = rows[:, rows[3] == number]
    found = []
    for user in users:
        own = rows[:, rows[0] == user]
        own = own[:, np.argsort(own[1], kind="stable")]
        found.append(Visit(market.user_id(block + int(user)), list(zip(own[4].tolist(), own[2].tolist(), strict=True))))
    return found


class _Shop:
    """The shop that shows what answers say; `reactions` (n, len(REACTIONS)) are those of the visits so far."""

    def __init__(self, visits: list[Visit], answers: Answers) -> None:
        self.visits, self.answers = visits, answers
        self.told = np.zeros((len(visits), len(REACTIONS)))
        self.reactions = self.told  # before the first question

    def __call__(self, step: int, live: Ints, so_far: SessionSoFar) -> Ints:
        self.reactions = so_far.reactions
        for row in live:
            visit, reacted = self.visits[row], so_far.reactions[row] - self.told[row]
            visit.events += [
                (kind, visit.shown[-1]) for kind, happens in zip(REACTIONS, reacted, strict=True) if happens
            ]
        self.told[live] = so_far.reactions[live]
        asked = [self.visits[row] for row in live]
        items = self.answers(asked)
        for visit, item in zip(asked, items, strict=True):
            visit.shown.append(item)
        return np.array(items, dtype=np.int64)
