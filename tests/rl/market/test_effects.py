"""What moves the market as a whole: an effect that is off changes nothing, one that is on does what it says."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from lib.formats.mapping import load_mapping
from rl.market.effects import HIT_DAYS, NO_EFFECTS, RATES, Effects, on_day
from rl.market.market import Market
from rl.market.memory import Log
from rl.market.records import Dirt, DirtRates, records
from rl.market.sessions import NUM_CANDIDATES
from rl.market.shoppers import DAY_MS
from rl.market.truth import logging_itself
from rl.market.visitors import Visitors
from rl.observation import IMPRESSION, PURCHASE, VIEW, Floats

SIZE: Mapping[str, Any] = {"num_users": 500, "num_items": 60, "days": 40, "sessions_per_user": 15.0}
NO_BOTS = Visitors(0, 0)


def market(**effects: Any) -> Market:
    return Market.generate(3, effects=Effects(**effects), **SIZE)


@pytest.mark.parametrize(("dirt", "expected"), [("none", "58fce19c0749b983"), ("plain", "075a755647a1d6a8")])
def test_without_effects_the_log_is_to_the_byte_what_it_was_before_there_were_any(dirt: Dirt, expected: str) -> None:
    plain = Market.generate(3, num_users=120, num_items=60, days=12)
    made = records(plain, 0, 120, DirtRates.of(dirt), Visitors(0.05, 0.05))
    assert hashlib.sha256("\n".join(record.line for record in made).encode()).hexdigest()[:16] == expected


def test_visits_follow_the_week_the_sale_and_the_evening() -> None:
    seasonal, even = market(seasonality=1.0), market()
    logs = {one: one.log() for one in (seasonal, even)}
    starts = {one: log.time_ms[(log.kind == IMPRESSION) & (log.step == 0)] for one, log in logs.items()}
    assert len(starts[seasonal]) == pytest.approx(len(starts[even]), rel=0.02)

    def share(one: Market, is_meant: Floats) -> float:
        return float(is_meant[starts[one] // DAY_MS].mean())

    day = np.arange(SIZE["days"])
    weekend = ((seasonal.start_ms // DAY_MS + day + 3) % 7 >= 5).astype(float)
    sale = (np.abs(day - 24) <= 2).astype(float)
    for meant in (weekend, sale):
        assert share(seasonal, meant) > 1.3 * share(even, meant)
    hours = {one: (times % DAY_MS / (DAY_MS / 24)).mean() for one, times in starts.items()}
    assert hours[seasonal] > hours[even] + 1


def test_what_is_shown_later_is_examined_less_often() -> None:
    # Those who go on are in a better mood, so that only the same positions of two markets compare.
    def click_rates(one: Market) -> Floats:
        log = one.log()
        shown, clicked = (
            np.bincount(log.step[(log.kind == kind) & (log.step >= 0)], minlength=5) for kind in (IMPRESSION, VIEW)
        )
        return clicked / shown

    biased, even = (click_rates(market(position_bias=bias)) for bias in (1.0, 0.0))
    np.testing.assert_allclose(biased / even, 1 / np.arange(1, 6), rtol=0.3)


def test_a_blockbuster_takes_its_share_of_the_views_in_its_week_alone() -> None:
    hit = market(blockbuster=0.3)
    log, (item, _, first_day, last_day) = hit.log(), hit.world.blockbuster
    is_search = (log.kind == VIEW) & (log.step < 0)
    is_week = (log.time_ms // DAY_MS >= first_day) & (log.time_ms // DAY_MS < last_day)
    in_week, else_when = ((log.item == item)[is_search & when].mean() for when in (is_week, ~is_week))
    assert last_day - first_day == HIT_DAYS
    assert in_week - else_when == pytest.approx(0.3 * (1 - else_when), abs=0.03)


def priced(one: Market, num_users: int) -> tuple[Log, list[dict[str, Any]]]:
    """The events with a price of some users, and their records."""
    log = one.log(0, num_users)
    lines = [json.loads(record.line) for record in records(one, 0, num_users, DirtRates.of("none"), NO_BOTS)]
    return Log(*(column[log.kind != IMPRESSION] for column in log[:6]), *log[6:]), [
        line for line in lines if "price" in line
    ]


def test_an_event_bears_the_price_of_its_day() -> None:
    moving = market(price_changes=0.1)
    log, lines = priced(moving, 100)
    by_event = {(line["event_time"], line["user_id"]): line for line in lines}
    assert len(by_event) == len(log.user)
    level = on_day(moving.world.price_levels, log.time_ms // DAY_MS, log.item)
    expected = np.round(moving.attributes.price[log.item] * level, 2)
    paid = sorted((moving.user_id(user), price) for user, price in zip(log.user.tolist(), expected, strict=True))
    assert [price for _, price in paid] == pytest.approx(
        [price for _, price in sorted((line["user_id"], line["price"]) for line in lines)], abs=0.011
    )
    assert 0.1 < np.mean(level != 1) < 0.95
    assert (np.diff(moving.world.price_levels, axis=0) != 0).mean() == pytest.approx(0.1, abs=0.02)


def test_shoppers_buy_more_of_what_has_become_cheaper() -> None:
    moving = market(price_changes=0.1)
    log = moving.log()
    bought, viewed = (
        on_day(moving.world.price_levels, log.time_ms // DAY_MS, log.item)[log.kind == kind]
        for kind in (PURCHASE, VIEW)
    )
    assert bought.mean() < viewed.mean() - 0.005


def test_prices_in_several_currencies_are_worth_what_the_mapping_says() -> None:
    mapping = load_mapping("market")
    assert {mapping.currency: 1.0, **{name: float(rate) for name, rate in mapping.rates.items()}} == RATES
    world = market(currencies=4)
    _, lines = priced(world, 100)
    _, in_euros = priced(market(), 100)
    assert [line | {"price": 0} for line in in_euros] == [
        {name: value for name, value in line.items() if name != "currency"} | {"price": 0} for line in lines
    ], "all but the prices is as before"
    of_user = {line["user_id"]: line["currency"] for line in lines}
    assert {of_user[line["user_id"]] for line in lines} == {*RATES}
    assert all(of_user[line["user_id"]] == line["currency"] for line in lines)
    worth = [line["price"] * RATES[line["currency"]] for line in lines]
    assert worth == pytest.approx([line["price"] for line in in_euros], abs=0.006)


def test_the_truth_knows_of_every_effect() -> None:
    full = Market.generate(3, effects=Effects.of("full"), num_users=500, num_items=60)
    decisions = full.decisions()
    earned = np.bincount(decisions.episodes, decisions.rewards * 0.9**decisions.steps)
    value = full.true_value(logging_itself, num_sessions=20_000)
    error = np.hypot(value.standard_error, earned.std() / np.sqrt(len(earned)))
    assert abs(value.value - earned.mean()) < 3 * error
    weights = np.eye(NUM_CANDIDATES)[decisions.actions] / decisions.propensities[:, None]
    assert (np.abs(weights.mean(axis=0) - 1) < 4 * weights.std(axis=0) / np.sqrt(len(weights))).all()


def test_a_full_world_has_every_effect() -> None:
    full = Effects.of("full")
    assert all(getattr(full, name) != getattr(NO_EFFECTS, name) for name in vars(NO_EFFECTS))
    assert Effects.of("plain") == NO_EFFECTS
