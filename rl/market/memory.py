"""What the market keeps while it simulates a block of users: the events, and counts of them by user."""

from typing import NamedTuple, Protocol

import numpy as np

from rl.market.products import Hidden
from rl.market.shoppers import BLOCK
from rl.observation import COUNTED, EVENT_WEIGHT, IMPRESSION, PURCHASE, VIEW, Catalogue, Floats, Ints


class Log(NamedTuple):
    """E events sorted by user and time, as arrays (E,); for the N impressions among them, in the same order, arrays (N, ...)."""

    user: Ints  # number in the market
    session: Ints  # of the user, from 0
    time_ms: Ints  # since the log's start
    kind: Ints  # code of KINDS
    item: Ints  # index into the catalogue
    step: Ints  # of the decision that the event is, or reacts to, from 0; -1 for none
    candidates: Ints  # (N, K)
    propensities: Floats  # (N,)


class Sessions(Protocol):
    """What a journal needs to know about running sessions."""

    number: int
    users: Ints
    clock: Ints


class Journal:
    """Collects events as they happen."""

    def __init__(self, num_candidates: int) -> None:
        self.num_candidates = num_candidates
        self.events: list[Ints] = []
        self.candidates: list[Ints] = []
        self.propensities: list[Floats] = []
        self.num_impressions = 0

    def add(
        self,
        visits: Sessions,
        rows: Ints,
        kind: int,
        item: Ints,
        step: int = -1,
        *,
        candidates: Ints | None = None,
        propensity: Floats | None = None,
    ) -> None:
        """Add an event of this kind on `item` (e,) to each of the sessions `rows` (e,), at its clock.

        An impression also has its `candidates` (e, K) and `propensity` (e,).
        """
        offer = np.full(len(rows), -1)
        if candidates is not None and propensity is not None:
            offer = self.num_impressions + np.arange(len(rows))
            self.num_impressions += len(rows)
            self.candidates.append(candidates)
            self.propensities.append(propensity)
        columns = [np.full(len(rows), value, dtype=np.int64) for value in (visits.number, kind, step)]
        self.events.append(np.stack([visits.users[rows], visits.clock[rows], item, *columns, offer]))

    def log(self, first_user: int) -> Log:
        """All events, sorted; `first_user` is the number of the block's first user."""
        user, time_ms, item, session, kind, step, offer = np.concatenate([np.zeros((7, 0), int), *self.events], axis=1)
        order = np.lexsort((time_ms, user))
        offer = offer[order][kind[order] == IMPRESSION]
        return Log(
            user=first_user + user[order],
            session=session[order],
            time_ms=time_ms[order],
            kind=kind[order],
            item=item[order],
            step=step[order],
            candidates=np.concatenate([np.zeros((0, self.num_candidates), int), *self.candidates])[offer],
            propensities=np.concatenate([np.zeros(0), *self.propensities])[offer],
        )


class Memory:
    """Running counts of the events of a block's n users, for observations, and what drives their next steps.

    Counts are (n, ...): `category`, `group` and `brand` sum EVENT_WEIGHT by code, `viewed` and `bought` count events by item.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        num_items = len(catalogue.category)
        self.past = np.zeros((BLOCK, len(COUNTED)))
        self.weight, self.price = np.zeros(BLOCK), np.zeros(BLOCK)
        self.category, self.group, self.brand = (
            np.zeros((BLOCK, int(codes.max()) + 1)) for codes in (catalogue.category, catalogue.group, catalogue.brand)
        )
        self.viewed, self.bought = np.zeros((BLOCK, num_items)), np.zeros((BLOCK, num_items))
        self.last_ms = np.full(BLOCK, -1, dtype=np.int64)  # last event of the earlier sessions; -1 without one
        self.last_bought = np.full(BLOCK, -1, dtype=np.int64)
        self.last_consumable = np.full(BLOCK, -1, dtype=np.int64)

    def buy(self, users: Ints, items: Ints, hidden: Hidden) -> None:
        """Note that the users bought these items, which influences what they browse next."""
        self.last_bought[users] = items
        used_up = hidden.is_consumable[items]
        self.last_consumable[users[used_up]] = items[used_up]

    def add(self, events: list[Ints]) -> None:
        """Count events of a journal."""
        users, _, items, _, kinds, step, _ = np.concatenate([np.zeros((7, 0), int), *events], axis=1)
        weight = EVENT_WEIGHT[kinds]
        np.add.at(self.past, (users, np.where(kinds == IMPRESSION, 0, kinds + 1)), 1)
        np.add.at(self.past, (users, np.ones_like(users)), (kinds == VIEW) & (step >= 0))
        np.add.at(self.weight, users, weight)
        np.add.at(self.price, users, weight * self.catalogue.price_position[items])
        np.add.at(self.category, (users, self.catalogue.category[items]), weight)
        np.add.at(self.group, (users, self.catalogue.group[items]), weight)
        np.add.at(self.brand, (users, self.catalogue.brand[items]), weight)
        np.add.at(self.viewed, (users, items), kinds == VIEW)
        np.add.at(self.bought, (users, items), kinds == PURCHASE)
