"""A simulated market with known truth: shoppers with hidden tastes, two logging strategies, and the true value of any policy.

The shop shows one product at a time, one of 10 candidates, at most 5 times in a session; `rl/market/sessions.py` says how a
shopper reacts. The two logging strategies, `popularity_softmax` (the control) and `personal`, are the arms of an experiment.
NumPy only. A user's records depend on the seed, the catalogue and the user's number alone (`rl/market/shoppers.py`).
"""

import csv
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rl.dataset.decisions import Decisions
from rl.dataset.logged import REWARDS, Events, ItemDays, LoggedDecisions, RewardWeights, count_columns, read_decisions
from rl.market.effects import NO_EFFECTS, Blockbuster, Calendar, Effects, examined, price_levels
from rl.market.memory import Journal, Log, Memory
from rl.market.products import Attributes, drawn_attributes, hide
from rl.market.sessions import (
    DECISION_DRAWS,
    DISCOUNT,
    NUM_CANDIDATES,
    PRELUDE,
    SESSION_DRAWS,
    ItemHistory,
    Policy,
    Visits,
    World,
    browse,
    decide,
    draws_of,
)
from rl.market.shoppers import BLOCK, CLOSING_MS, DAY_MS, Shoppers, draw_shoppers, is_personal
from rl.observation import IMPRESSION, MAX_STEPS, Floats, Ints

PAUSE_MS = 35 * 60_000  # least time between two sessions of a user; after 30 minutes cleaning starts another
NUM_ITEMS = 800
MANIFEST = "_SUCCESS"  # written last, beside the log
CATALOGUE_FILE = "items/items.csv"
STRATEGIES = ("popularity_softmax", "personal")  # the arms; the first is the control


class TrueValue(NamedTuple):
    """Mean discounted return of a session, with its standard error over the simulated sessions."""

    value: float
    standard_error: float
    num_sessions: int


@dataclass(frozen=True, eq=False)
class Market:
    """`num_users` shoppers over `days` days up to `end_ms` (ms since 1970, midnight UTC, exclusive)."""

    attributes: Attributes = field(repr=False)
    seed: int = 0
    num_users: int = 8000
    days: int = 45
    sessions_per_user: float = 11.0
    end_ms: int = 1_782_864_000_000  # 2026-07-01T00:00:00Z
    experiment: str = "logging_strategy"
    effects: Effects = NO_EFFECTS

    @classmethod
    def generate(cls, seed: int = 0, *, num_items: int = NUM_ITEMS, **settings: float | str | Effects) -> "Market":
        """A market with a drawn catalogue of `num_items` products; `settings` are further fields."""
        return cls(drawn_attributes(seed, num_items), seed, **settings)  # type: ignore[arg-type]

    @classmethod
    def read(cls, folder: Path) -> "Market":
        """The market whose finished log lies in `folder`, from the log's manifest and catalogue.

        Raises:
            ValueError: the folder holds no finished log of the simulator.
        """
        manifest = folder / MANIFEST
        if not manifest.is_file():
            raise ValueError(
                f"{folder}: no finished log of the simulator; expected {MANIFEST} there, run simulate first"
            )
        with (folder / CATALOGUE_FILE).open(newline="", encoding="utf-8") as file:
            attributes = Attributes.from_rows(csv.DictReader(file))
        settings = json.loads(manifest.read_text(encoding="utf-8"))["market"]
        return cls(attributes, **settings | {"effects": Effects(**settings.get("effects", {}))})

    @property
    def settings(self) -> dict[str, Any]:
        """All fields but the catalogue, for the manifest."""
        named = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "attributes"}
        return named | {"effects": asdict(self.effects)}

    @property
    def start_ms(self) -> int:
        """The log's start, ms since 1970."""
        return self.end_ms - self.days * DAY_MS

    @cached_property
    def world(self) -> World:
        """The products with their hidden attributes."""
        catalogue = self.attributes.catalogue
        hidden = hide(self.seed, catalogue)
        popular = np.exp(hidden.popularity)
        supply = 0.5 * popular / popular.sum() + 0.5 / len(popular)
        return World(
            catalogue,
            hidden,
            np.minimum(np.cumsum(supply), 1 - 1e-9),
            examined(self.effects.position_bias),
            Blockbuster.of(self.effects.blockbuster, hidden.popularity, self.days),
            price_levels(self.effects.price_changes, seed=self.seed, days=self.days, num_items=len(popular)),
        )

    def user_id(self, user: int) -> str:
        """The user's id in the log."""
        return f"u{user:08d}"

    def strategy(self, user: int) -> str:
        """The user's arm: the strategy that chooses what is shown."""
        return STRATEGIES[is_personal(self.experiment, self.user_id(user))]

    def log(self, first: int = 0, last: int | None = None) -> Log:
        """All events of the users [first, last), by default of all users, without dirty records."""
        last = self.num_users if last is None else min(last, self.num_users)
        logs = []
        for block in range(first - first % BLOCK, last, BLOCK):
            journal = Journal(NUM_CANDIDATES)
            for _ in self.simulate(block, journal):
                pass
            logs.append(_of_users(journal.log(block), first, last))
        return Log(*(np.concatenate(columns) for columns in zip(*logs, strict=True)))

    @cached_property
    def _whole_log(self) -> Log:
        return self.log()

    def _shoppers(self, block: int) -> Shoppers:
        arms = np.array([is_personal(self.experiment, self.user_id(user)) for user in range(block, block + BLOCK)])
        return draw_shoppers(
            block,
            seed=self.seed,
            days=self.days,
            calendar=Calendar.of(self.effects.seasonality, self.start_ms // DAY_MS, self.days),
            sessions_per_user=self.sessions_per_user,
            num_draws=SESSION_DRAWS,
            arms=arms,
            catalogue=self.world.catalogue,
            hidden=self.world.hidden,
        )

    def simulate(self, block: int, journal: Journal) -> Iterator[tuple[Shoppers, Memory, Visits]]:
        """Simulate a block of users into the journal; yields its sessions when they reach their first decision."""
        shoppers, memory = self._shoppers(block), Memory(self.world.catalogue)
        free_from = np.zeros(BLOCK, dtype=np.int64)
        for number in range(int(shoppers.num_sessions.max())):
            start = np.maximum(shoppers.planned_ms[:, number], free_from)
            users = np.flatnonzero((number < shoppers.num_sessions) & (start < self.days * DAY_MS - CLOSING_MS))
            mood, decisions, organic = draws_of(shoppers, users, number)
            visits = Visits(number, users, start[users], shoppers.mood[users] + mood - 0.5)
            written = len(journal.events)
            self._browse(shoppers, memory, visits, organic[:, :PRELUDE], journal)
            memory.add(journal.events[written:])
            yield shoppers, memory, visits
            written = len(journal.events)
            decide(self.world, shoppers, memory, visits, decisions, journal=journal)
            self._browse(shoppers, memory, visits, organic[:, PRELUDE:], journal)
            memory.add(journal.events[written:])
            memory.last_ms[users] = visits.clock
            free_from[users] = visits.clock + PAUSE_MS

    def _browse(self, shoppers: Shoppers, memory: Memory, visits: Visits, draws: Floats, journal: Journal) -> None:
        rows: Ints = np.arange(len(visits.users))
        for step in range(draws.shape[1]):
            rows = browse(self.world, shoppers, memory, visits, rows, draws=draws[rows, step], journal=journal)

    @cached_property
    def item_days(self) -> ItemDays:
        """Every item's counts by UTC date, over all users."""
        log = self._whole_log
        day, num_items = log.time_ms // DAY_MS, len(self.world.catalogue.category)
        keys, place = np.unique(day * num_items + log.item, return_inverse=True)
        counts = np.zeros((len(keys), 5))
        np.add.at(counts, place, count_columns(log.kind, log.step))
        return ItemDays(keys % num_items, keys // num_items + self.start_ms // DAY_MS, counts)

    @cached_property
    def _item_history(self) -> ItemHistory:
        counts = np.zeros((self.days + 1, len(self.world.catalogue.category), 5))
        counts[self.item_days.day - self.start_ms // DAY_MS + 1, self.item_days.item] = self.item_days.counts
        counts = np.cumsum(counts, axis=0)
        return ItemHistory(counts, counts.mean(axis=1))

    def logged_decisions(self, rewards: RewardWeights = REWARDS) -> tuple[LoggedDecisions, Log]:
        """Every logged decision as the decisions job reads it, and the log; `row` is the index of the impression in the log."""
        log = self._whole_log
        return read_decisions(
            as_events(log, self.start_ms),
            log.candidates,
            log.propensities,
            catalogue=self.world.catalogue,
            item_days=self.item_days,
            rewards=rewards,
        ), log

    def decisions(self) -> Decisions:
        """The logged decisions as `gold/decisions` would hold them; users and episodes are renumbered from 0."""
        logged, _ = self.logged_decisions()
        policies = np.array([self.strategy(user) for user in range(self.num_users)], dtype=object)
        return Decisions(
            episodes=np.unique(logged.episode, return_inverse=True)[1],
            steps=logged.step,
            states=logged.states,
            candidates=logged.candidate_features,
            mask=np.ones(logged.candidates.shape, dtype=bool),
            actions=logged.actions,
            propensities=logged.propensities,
            rewards=logged.rewards,
            is_last=logged.is_last,
            policies=policies[logged.user],
            users=np.unique(logged.user, return_inverse=True)[1],
        )

    def true_value(
        self,
        policy: Policy,
        *,
        num_sessions: int = 20_000,
        seed: int = 0,
        since_ms: int | None = None,
        until_ms: int | None = None,
        strategy: str | None = None,
        rewards: RewardWeights = REWARDS,
        discount: float = DISCOUNT,
    ) -> TrueValue:
        """The value of `policy`: the mean discounted return of a session in which it makes all decisions.

        Every session of the log that starts in [since_ms, until_ms) (ms since 1970; default all), of the users of one logging
        strategy where one is named, is forked at its first decision, with the user's logged past. The fork continues under `policy`, while the log itself is simulated as before.
        Blocks of users are taken in an order drawn by `seed` until `num_sessions` are simulated; where the log has fewer,
        each session is forked several times.

        Raises:
            ValueError: no session starts in that time.
        """
        log = self._whole_log
        since = 0 if since_ms is None else since_ms - self.start_ms
        until = self.days * DAY_MS if until_ms is None else until_ms - self.start_ms
        is_start = (log.kind == IMPRESSION) & (log.step == 0)
        if strategy is not None:
            is_start &= np.array([self.strategy(user) == strategy for user in range(self.num_users)])[log.user]
        starts = log.time_ms[is_start]
        available = int(((starts >= since) & (starts < until)).sum())
        if not available:
            raise ValueError(f"no session of the market starts from {since_ms} to {until_ms} (ms since 1970)")
        times = -(-num_sessions // available)
        rng = np.random.default_rng([seed, 3])
        returns: list[Floats] = []
        for block in rng.permutation(np.arange(0, self.num_users, BLOCK)):
            for shoppers, memory, visits in self.simulate(int(block), Journal(NUM_CANDIDATES)):
                is_asked = (visits.clock >= since) & (visits.clock < until) & (block + visits.users < self.num_users)
                if strategy is not None:
                    is_asked &= shoppers.is_personal[visits.users] == (strategy == STRATEGIES[1])
                fork = visits.take(np.tile(np.flatnonzero(is_asked), times))
                draws = rng.random((len(fork.users), MAX_STEPS, DECISION_DRAWS))
                returns.append(
                    decide(
                        self.world,
                        shoppers,
                        memory,
                        fork,
                        draws,
                        policy=policy,
                        history=self._item_history,
                        rewards=rewards,
                        discount=discount,
                    )
                )
            if sum(map(len, returns)) >= num_sessions:
                break
        all_returns = np.concatenate(returns)
        error = float(all_returns.std() / np.sqrt(len(all_returns)))
        return TrueValue(float(all_returns.mean()), error, len(all_returns))


def as_events(log: Log, start_ms: int) -> Events:
    """A log in the form that `rl/dataset/logged.py` reads, with sessions and requests numbered over all users."""
    session = np.cumsum(np.r_[True, np.diff(log.user * 64 + log.session) != 0][: len(log.user)]) - 1
    request = np.where(log.step >= 0, session * MAX_STEPS + log.step, -1)
    return Events(log.user, session, (start_ms + log.time_ms) * 1000, log.kind, log.item, request)


def _of_users(log: Log, first: int, last: int) -> Log:
    """The events of the users [first, last)."""
    is_kept = (log.user >= first) & (log.user < last)
    offers = is_kept[log.kind == IMPRESSION]
    return Log(
        user=log.user[is_kept],
        session=log.session[is_kept],
        time_ms=log.time_ms[is_kept],
        kind=log.kind[is_kept],
        item=log.item[is_kept],
        step=log.step[is_kept],
        candidates=log.candidates[offers],
        propensities=log.propensities[offers],
    )
