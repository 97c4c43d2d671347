"""The course of a session in the market: what is shown, how the shopper reacts, tires, changes mood and leaves.

Everything here works on m sessions at once, each of a different user of a block, with uniform random numbers that were drawn
beforehand. A click is a click-through (`rl/observation.py`). Times are milliseconds since the log's start.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rl.dataset.logged import REWARDS, RewardWeights
from rl.market.effects import PRICE_ELASTICITY, Blockbuster, on_day
from rl.market.memory import Journal, Memory
from rl.market.products import Hidden
from rl.market.shoppers import DAY_MS, Shoppers
from rl.observation import CART, IMPRESSION, MAX_STEPS, PURCHASE, VIEW, Catalogue, Counts, Floats, Ints, observe

NUM_CANDIDATES = 10
DISCOUNT = 0.9
EXPLORED_FRAC = 0.1  # of a logging strategy's decisions are uniformly random, so that every candidate may be shown

# Which of a session's uniform numbers decides what.
DRAWN = 24  # products drawn for a decision; the first NUM_CANDIDATES distinct ones are its candidates
WANTED = 4  # of these, drawn by the shopper's taste; the others are drawn from the shop's supply
ACTION, CLICK, ADD, BUY, LEAVE, GAP = DRAWN + np.arange(6)
DECISION_DRAWS = DRAWN + 9
GO_ON, WAY, SEARCH, ORGANIC_ADD, ORGANIC_BUY, ORGANIC_GAP = range(6)
ORGANIC_DRAWS = 8
PRELUDE, TAIL = 3, 6  # largest number of organic views before and after the decisions
SESSION_DRAWS = 1 + MAX_STEPS * DECISION_DRAWS + (PRELUDE + TAIL) * ORGANIC_DRAWS

# A policy maps states (m, S), candidate features (m, K, F) and the probabilities (m, K) of the user's logging strategy, which
# a served policy may mix in, to probabilities (m, K).
Policy = Callable[[Floats, Floats, Floats], Floats]
# What a shop shows in place of the logging strategies: the step, the sessions (l,) that go on and what happened in them so far
# -> the products (l,).
Shop = Callable[[int, Ints, "SessionSoFar"], Ints]


class World(NamedTuple):
    """The products with visible and hidden attributes, the shop's supply of candidates, and what moves all of it."""

    catalogue: Catalogue
    hidden: Hidden
    supply: Floats  # (I,) cumulative probabilities
    examined: Floats  # (MAX_STEPS,) chance that a shopper examines what is shown
    blockbuster: Blockbuster
    price_levels: Floats  # (days, I) in parts of the catalogue's prices; (1, I) where none changes

    def reluctance(self, clock: Ints, items: Ints) -> Floats:
        """How much less ready (m,) shoppers are to buy the items (m,) at their prices of the day, on the logit scale."""
        return PRICE_ELASTICITY * np.log(on_day(self.price_levels, clock // DAY_MS, items))


class ItemHistory(NamedTuple):
    """Counts of all users' events before each day of the log, as COUNTED."""

    counts: Floats  # (days + 1, I, 5)
    mean: Floats  # (days + 1, 5) of an average item


class Visits:
    """m running sessions: the user, the clock (ms) and the mood of each."""

    def __init__(self, number: int, users: Ints, clock: Ints, mood: Floats) -> None:
        """Begin session `number` of each user; `users` (m,) are rows of the block."""
        self.number, self.users = number, users
        self.clock, self.mood = clock.copy(), mood.copy()

    def take(self, rows: Ints) -> "Visits":
        """Copies of the sessions `rows` (r,), which may repeat."""
        return Visits(self.number, self.users[rows], self.clock[rows], self.mood[rows])


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x))."""
    result: Floats = 1 / (1 + np.exp(-x))
    return result


def draws_of(shoppers: Shoppers, users: Ints, number: int) -> tuple[Floats, Floats, Floats]:
    """The uniform random numbers for session `number` of each of m users.

    For the mood (m,), the decisions (m, MAX_STEPS, DECISION_DRAWS) and the organic steps (m, PRELUDE + TAIL, ORGANIC_DRAWS).
    """
    draws = shoppers.uniforms[shoppers.offset[users] + number]
    mood, decisions, organic = np.split(draws, [1, 1 + MAX_STEPS * DECISION_DRAWS], axis=1)
    shape = (len(users), MAX_STEPS, DECISION_DRAWS)
    return mood[:, 0], decisions.reshape(shape), organic.reshape(len(users), PRELUDE + TAIL, ORGANIC_DRAWS)


def draw_candidates(world: World, shoppers: Shoppers, users: Ints, draws: Floats) -> Ints:
    """Distinct candidates (m, K) for each of m users, ascending, from uniform numbers (m, DRAWN)."""
    num_items = len(world.supply)
    wanted = search(shoppers, users[:, None], draws[:, :WANTED])
    supplied = np.searchsorted(world.supply, draws[:, WANTED:])
    drawn = np.minimum(np.concatenate([wanted, supplied], axis=1), num_items - 1)
    earlier = np.tri(DRAWN, k=-1, dtype=bool)
    while True:
        is_new = ~((drawn[:, :, None] == drawn[:, None, :]) & earlier).any(axis=2)
        rank = np.cumsum(is_new, axis=1)
        short = rank[:, -1] < NUM_CANDIDATES
        if not short.any():
            break
        drawn[short] = np.where(is_new[short], drawn[short], (drawn[short] + 1) % num_items)
    kept = np.where(is_new & (rank <= NUM_CANDIDATES), drawn, num_items)
    return np.sort(kept, axis=1)[:, :NUM_CANDIDATES]


def search(shoppers: Shoppers, users: Ints, draws: Floats) -> Ints:
    """The product that each of the users searches for, by a uniform number; shapes broadcast."""
    num_items = shoppers.choice.shape[1]
    place = np.searchsorted(shoppers.choice.ravel(), users + draws)
    found: Ints = np.clip(place - users * num_items, 0, num_items - 1)
    return found


def logging_probabilities(world: World, shoppers: Shoppers, memory: Memory, users: Ints, candidates: Ints) -> Floats:
    """Probabilities (m, K): softmax of popularity; in the personal arm mostly of the match with the user's earlier events."""
    catalogue = world.catalogue
    popularity = np.clip(world.hidden.popularity[candidates], -1.5, 1.5)
    row, total = users[:, None], memory.weight[users][:, None] + 5.0
    category = memory.category[row, catalogue.category[candidates]] / total
    brand = memory.brand[row, catalogue.brand[candidates]] / total
    personal = 0.3 * popularity + 7.0 * np.minimum(category, 0.35) + 2.0 * np.minimum(brand, 0.35)
    logits = np.where(shoppers.is_personal[users][:, None], personal, 0.6 * popularity)
    weights = np.exp(logits)
    softmax = weights / weights.sum(axis=1, keepdims=True)
    probabilities: Floats = (1 - EXPLORED_FRAC) * softmax + EXPLORED_FRAC / candidates.shape[1]
    return probabilities


def decide(
    world: World,
    shoppers: Shoppers,
    memory: Memory,
    visits: Visits,
    draws: Floats,
    *,
    journal: Journal | None = None,
    policy: Policy | None = None,
    history: ItemHistory | None = None,
    shop: Shop | None = None,
    rewards: RewardWeights = REWARDS,
    discount: float = DISCOUNT,
) -> Floats:
    """The decisions of m sessions; `draws` (m, MAX_STEPS, DECISION_DRAWS). Returns the discounted returns (m,).

    The logging strategies decide, or `policy`, which then needs `history`, or a `shop` that may show any product. Events go into
    the journal, if there is one.

    What a shopper does not examine is not clicked and does not lower the mood (the examination hypothesis, Richardson et al.
    2007). One who examines a product is more likely to click on it when it is relevant and appealing and the mood is good, and less
    likely when its category was shown earlier in the session. A click on a good product lifts the mood; a bad product, or one that
    is not clicked, lowers it. The better the mood, the more likely the shopper buys, and stays for the next decision.
    """
    catalogue, hidden = world.catalogue, world.hidden
    returns = np.zeros(len(visits.users))
    so_far = SessionSoFar(len(visits.users), catalogue)
    live = np.arange(len(visits.users))
    for step in range(MAX_STEPS):
        if not len(live):
            break
        users, draw = visits.users[live], draws[live, step]
        visits.clock[live] += _gap(draw[:, GAP])
        if step == 0:
            so_far.begin_ms[:] = visits.clock
        if shop is None:
            candidates = draw_candidates(world, shoppers, users, draw[:, :DRAWN])
        else:
            candidates = shop(step, live, so_far)[:, None]
        probabilities = logging_probabilities(world, shoppers, memory, users, candidates)
        if policy is not None:
            assert history is not None, "a policy observes the items' history"
            counts = _counts(world, memory, visits, so_far, live=live, candidates=candidates, history=history)
            probabilities = policy(*observe(counts), probabilities)
        action = _drawn_index(probabilities, draw[:, ACTION])
        item = candidates[np.arange(len(live)), action]
        propensity = probabilities[np.arange(len(live)), action]
        if journal is not None:
            journal.add(visits, live, IMPRESSION, item, step, candidates=candidates, propensity=propensity)

        relevance, conversion, mood = shoppers.relevance[users, item], shoppers.conversion[users], visits.mood[live]
        attention = world.examined[step]
        examines = draw[:, CLICK] < attention
        tired = so_far.category[live, catalogue.category[item]] + 0.4 * so_far.group[live, catalogue.group[item]]
        appeal = sigmoid(-2.9 + 1.8 * relevance + 1.1 * hidden.appeal[item] + 0.6 * mood - 1.1 * tired)
        clicks = draw[:, CLICK] < attention * appeal
        ready = 0.35 * hidden.quality[item] + 0.7 * conversion + 1.1 * mood
        ready -= world.reluctance(visits.clock[live], item)
        adds = clicks & (draw[:, ADD] < sigmoid(-1.0 + 0.3 * relevance + ready))
        buys = adds & (draw[:, BUY] < sigmoid(-0.6 + ready))
        for k, (kind, happens) in enumerate(((VIEW, clicks), (CART, adds), (PURCHASE, buys))):
            who = live[happens]
            visits.clock[who] += _gap(draw[happens, GAP + 1 + k])
            if journal is not None:
                journal.add(visits, who, kind, item[happens], step)
            returns[who] += discount**step * rewards[k]
        if journal is not None:
            memory.buy(users[buys], item[buys], hidden)
        so_far.add(live, item, np.column_stack([clicks, adds, buys]))
        visits.mood[live] += np.where(clicks, 0.1 + 0.9 * hidden.quality[item], -0.25 * examines)
        stays = draw[:, LEAVE] >= sigmoid(-1.3 - 1.9 * visits.mood[live])
        live = live[stays]
    return returns


def browse(
    world: World,
    shoppers: Shoppers,
    memory: Memory,
    visits: Visits,
    rows: Ints,
    *,
    draws: Floats,
    journal: Journal,
) -> Ints:
    """One organic step of the sessions `rows` (r,), with `draws` (r, ORGANIC_DRAWS); returns the rows that took it.

    A shopper looks at the blockbuster, or for a companion of the last purchase, returns to a consumable bought earlier, or
    searches by taste.
    """
    mood = visits.mood[rows]
    goes_on = draws[:, GO_ON] < sigmoid(0.1 + 0.5 * mood)
    rows, draws, mood = rows[goes_on], draws[goes_on], mood[goes_on]
    users = visits.users[rows]
    last, consumed = memory.last_bought[users], memory.last_consumable[users]
    companions = world.hidden.companions
    is_hit, place = world.blockbuster.takes(visits.clock[rows] // DAY_MS, draws[:, SEARCH])
    companion = companions[last, (place * companions.shape[1]).astype(np.int64)]
    is_companion = ~is_hit & (last >= 0) & (draws[:, WAY] < 0.3)
    is_rebuy = ~is_hit & ~is_companion & (consumed >= 0) & (draws[:, WAY] > 0.88)
    ways = (is_hit, is_companion, is_rebuy)
    item = np.select(ways, (world.blockbuster.item, companion, consumed), search(shoppers, users, place))
    ready = (
        0.5 * world.hidden.quality[item] + 0.8 * shoppers.conversion[users] + 0.4 * mood + 1.2 * is_companion + is_rebuy
    )
    ready -= world.reluctance(visits.clock[rows], item)
    adds = draws[:, ORGANIC_ADD] < sigmoid(-1.6 + 0.3 * shoppers.relevance[users, item] + ready)
    buys = adds & (draws[:, ORGANIC_BUY] < sigmoid(-0.5 + ready))
    for k, (kind, happens) in enumerate(((VIEW, np.ones(len(rows), dtype=bool)), (CART, adds), (PURCHASE, buys))):
        who = rows[happens]
        visits.clock[who] += _gap(draws[happens, ORGANIC_GAP + k])
        journal.add(visits, who, kind, item[happens])
    memory.buy(users[buys], item[buys], world.hidden)
    return rows


class SessionSoFar:
    """Counts of what happened in the decisions of m sessions so far."""

    def __init__(self, size: int, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.step = 0
        self.begin_ms = np.zeros(size, dtype=np.int64)  # when the first was made
        self.items = np.full((size, MAX_STEPS), -1, dtype=np.int64)
        self.reactions = np.zeros((size, 3))
        self.last_clicked = np.zeros(size)
        self.category, self.clicked = (np.zeros((size, int(catalogue.category.max()) + 1)) for _ in range(2))
        self.group = np.zeros((size, int(catalogue.group.max()) + 1))

    def add(self, rows: Ints, item: Ints, reactions: NDArray[np.bool_]) -> None:
        """Count a decision: the items (r,) that the sessions `rows` (r,) were shown, and their reactions (r, 3)."""
        self.items[rows, self.step] = item
        self.reactions[rows] += reactions
        self.last_clicked[rows] = reactions[:, 0]
        self.category[rows, self.catalogue.category[item]] += 1
        self.clicked[rows, self.catalogue.category[item]] += reactions[:, 0]
        self.group[rows, self.catalogue.group[item]] += 1
        self.step += 1


def _counts(
    world: World,
    memory: Memory,
    visits: Visits,
    so_far: SessionSoFar,
    *,
    live: Ints,
    candidates: Ints,
    history: ItemHistory,
) -> Counts:
    """The raw counts of the observations of the sessions `live` (l,) with `candidates` (l, K)."""
    users, row, catalogue = visits.users[live], visits.users[live][:, None], world.catalogue
    category, group = catalogue.category[candidates], catalogue.group[candidates]
    last = so_far.items[live, so_far.step - 1]
    away = np.where(memory.last_ms[users] >= 0, so_far.begin_ms[live] - memory.last_ms[users], np.inf)
    day = visits.clock[live] // DAY_MS
    return Counts(
        past=memory.past[users],
        past_weight=memory.weight[users],
        past_price=memory.price[users],
        hours_away=away / (DAY_MS / 24),
        hour=(visits.clock[live] % DAY_MS) / (DAY_MS / 24),
        step=np.full(len(live), float(so_far.step)),
        reactions=so_far.reactions[live],
        last_clicked=so_far.last_clicked[live],
        category_weight=memory.category[row, category],
        group_weight=memory.group[row, group],
        brand_weight=memory.brand[row, catalogue.brand[candidates]],
        price_position=catalogue.price_position[candidates],
        item_viewed=memory.viewed[row, candidates],
        item_bought=memory.bought[row, candidates],
        item_counts=history.counts[day[:, None], candidates],
        mean_counts=history.mean[day],
        shown_item=(so_far.items[live][:, None, :] == candidates[:, :, None]).sum(axis=2).astype(float),
        shown_category=so_far.category[live[:, None], category],
        shown_group=so_far.group[live[:, None], group],
        clicked_category=so_far.clicked[live[:, None], category],
        last_category=((last >= 0)[:, None] & (catalogue.category[last][:, None] == category)).astype(float),
    )


def _drawn_index(probabilities: Floats, draws: Floats) -> Ints:
    """An index for each row, drawn by the row's probabilities (m, K) with a uniform number (m,)."""
    cumulative = np.cumsum(probabilities, axis=1)
    index: Ints = np.minimum((draws[:, None] * cumulative[:, -1:] >= cumulative).sum(axis=1), cumulative.shape[1] - 1)
    return index


def _gap(draws: Floats) -> Ints:
    """Milliseconds to the next event: 6 to 96 seconds, mostly short."""
    gap: Ints = (6_000 + 90_000 * draws**3).astype(np.int64)
    return gap
