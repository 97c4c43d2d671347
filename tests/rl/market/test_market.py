import csv
import json
from pathlib import Path

import numpy as np
import pytest

from rl.market.market import CATALOGUE_FILE, MANIFEST, Market
from rl.market.memory import Journal, Log
from rl.market.products import COLUMNS
from rl.market.sessions import NUM_CANDIDATES, decide, draws_of
from rl.market.shoppers import DAY_MS
from rl.observation import CANDIDATE_FEATURES, IMPRESSION, MAX_STEPS, VIEW, Floats

SECOND_MS, MINUTE_MS = 1000, 60_000


@pytest.fixture(scope="module")
def market() -> Market:
    return Market.generate(3, num_users=600, num_items=200)


@pytest.fixture(scope="module")
def log(market: Market) -> Log:
    return market.log()


def logging(states: Floats, candidates: Floats, probabilities: Floats) -> Floats:
    return probabilities


def evenly(states: Floats, candidates: Floats, probabilities: Floats) -> Floats:
    return np.full(probabilities.shape, 1 / probabilities.shape[1])


def match(states: Floats, candidates: Floats, probabilities: Floats) -> Floats:
    """What the user liked, of good quality, and not the same kind again: all of it observable."""
    named = dict(zip(CANDIDATE_FEATURES, np.moveaxis(candidates, 2, 0), strict=True))
    score = 8 * named["category_share"] + 4 * named["item_cart_rate"] - 8 * named["shown_category"]
    return np.eye(probabilities.shape[1])[score.argmax(axis=1)]


def assert_same(some: Log, others: Log) -> None:
    for name, column, other in zip(Log._fields, some, others, strict=True):
        np.testing.assert_array_equal(column, other, err_msg=name)


def test_a_users_log_is_the_same_however_users_are_split(market: Market, log: Log) -> None:
    parts = [market.log(first, last) for first, last in ((0, 1), (1, 300), (300, 512), (512, 600))]
    assert_same(log, Log(*(np.concatenate(columns) for columns in zip(*parts, strict=True))))


def test_a_users_log_is_the_same_however_many_users_the_market_has(market: Market, log: Log) -> None:
    assert_same(Market(market.attributes, market.seed, num_users=300).log(250), market.log(250, 300))


def test_another_seed_is_another_market(market: Market, log: Log) -> None:
    other = Market(market.attributes, market.seed + 1, num_users=market.num_users).log()
    assert len(other.item) != len(log.item)


def test_a_session_shows_one_to_five_products_each_of_ten_distinct_candidates(log: Log) -> None:
    shown = log.kind == IMPRESSION
    assert log.candidates.shape == (shown.sum(), NUM_CANDIDATES)
    assert (np.diff(log.candidates, axis=1) > 0).all()
    assert (log.candidates == log.item[shown][:, None]).any(axis=1).all()
    session = log.user[shown] * 64 + log.session[shown]
    _, counts = np.unique(session, return_counts=True)
    assert counts.min() == 1
    assert counts.max() == MAX_STEPS
    assert len(counts) == len(np.unique(log.user * 64 + log.session))
    np.testing.assert_array_equal(log.step[shown], np.concatenate([np.arange(count) for count in counts]))


def test_sessions_are_apart_and_nothing_in_them_is_hasty_or_after_the_end(market: Market, log: Log) -> None:
    same_user = np.diff(log.user) == 0
    same_session = same_user & (np.diff(log.session) == 0)
    gaps = np.diff(log.time_ms)
    assert gaps[same_session].min() >= 5 * SECOND_MS
    assert gaps[same_session].max() < 30 * MINUTE_MS
    assert gaps[same_user & ~same_session].min() > 30 * MINUTE_MS
    assert log.time_ms.min() >= 0
    assert log.time_ms.max() < market.days * DAY_MS


def test_a_shoppers_day_stays_far_below_a_bots(log: Log) -> None:
    _, counts = np.unique(log.user * 1000 + log.time_ms // DAY_MS, return_counts=True)
    assert counts.max() < 120


def test_propensities_are_true(market: Market, log: Log) -> None:
    # E[1{a = k} / p(a)] = 1 for every k that has a chance, and so the mean of 1 / p(a) is the number of candidates.
    decisions = market.decisions()
    assert decisions.propensities.min() >= 0.01
    weights = np.eye(NUM_CANDIDATES)[decisions.actions] / decisions.propensities[:, None]
    error = weights.std(axis=0) / np.sqrt(len(weights))
    assert (np.abs(weights.mean(axis=0) - 1) < 4 * error).all()


def test_a_policy_sees_in_the_market_what_is_read_from_the_log(market: Market) -> None:
    block, seen = 0, []

    def spy(states: Floats, candidates: Floats, probabilities: Floats) -> Floats:
        seen.append((users[: len(states)], states, candidates))
        return probabilities

    for shoppers, memory, visits in market.simulate(block, Journal(NUM_CANDIDATES)):
        users = visits.users
        draws = draws_of(shoppers, users, visits.number)[1]
        course = visits.take(np.arange(len(users)))
        decide(market.world, shoppers, memory, course, draws, policy=spy, history=market._item_history)

    logged, log = market.logged_decisions()
    rows = log.user[logged.row] < 256
    states = np.concatenate([states for _, states, _ in seen])
    candidates = np.concatenate([candidates for _, _, candidates in seen])
    assert len(states) == rows.sum()

    def in_order(states: Floats, candidates: Floats) -> Floats:
        table = np.round(np.concatenate([states, candidates.reshape(len(states), -1)], axis=1).astype(float), 4)
        return table[np.lexsort(table.T)]

    simulated = in_order(states, candidates)
    read = in_order(logged.states[rows], logged.candidate_features[rows])
    np.testing.assert_allclose(simulated, read, atol=2e-4)


def test_the_true_value_of_the_logging_strategies_is_what_they_earned(market: Market) -> None:
    decisions = market.decisions()
    returns = np.bincount(decisions.episodes, decisions.rewards * 0.9**decisions.steps)
    value = market.true_value(logging, num_sessions=30_000)
    error = np.hypot(value.standard_error, returns.std() / np.sqrt(len(returns)))
    assert value.num_sessions >= 30_000
    assert abs(value.value - returns.mean()) < 3 * error


def test_a_policy_that_follows_taste_is_worth_more_than_the_logging_strategies_and_these_more_than_chance(
    market: Market,
) -> None:
    values = {policy: market.true_value(policy, num_sessions=10_000) for policy in (evenly, logging, match)}
    assert values[logging].value > values[evenly].value + 3 * values[evenly].standard_error
    assert values[match].value > 1.3 * values[logging].value


def test_the_personal_arm_earns_more(market: Market) -> None:
    decisions = market.decisions()
    returns = np.bincount(decisions.episodes, decisions.rewards * 0.9**decisions.steps)
    is_personal = decisions.policies[decisions.steps == 0] == "personal"
    assert 0.4 < is_personal.mean() < 0.6
    arm, control = returns[is_personal], returns[~is_personal]
    error = np.hypot(arm.std() / np.sqrt(len(arm)), control.std() / np.sqrt(len(control)))
    assert arm.mean() - control.mean() > 3 * error


def test_a_true_value_may_be_of_a_part_of_the_log_only(market: Market) -> None:
    test_from = market.end_ms - 5 * DAY_MS
    late = market.true_value(logging, num_sessions=500, since_ms=test_from)
    assert late.num_sessions >= 500
    assert late.value != market.true_value(logging, num_sessions=500, until_ms=test_from).value
    with pytest.raises(ValueError, match="no session of the market starts"):
        market.true_value(logging, since_ms=market.end_ms)


def test_the_same_seed_gives_the_same_true_value(market: Market) -> None:
    assert market.true_value(match, num_sessions=300, seed=5) == market.true_value(match, num_sessions=300, seed=5)


def test_users_view_what_they_bought_with_its_companions(market: Market, log: Log) -> None:
    # What goes with a purchase is looked at in the same session more often than anything is by chance.
    companions = market.world.hidden.companions
    bought = np.flatnonzero(log.kind == 3)[:-1]
    follows = bought[(log.user[bought + 1] == log.user[bought]) & (log.kind[bought + 1] == VIEW)]
    is_companion = (companions[log.item[follows]] == log.item[follows + 1][:, None]).any(axis=1)
    assert is_companion.mean() > 0.2


def test_a_market_is_read_back_from_its_manifest_and_catalogue(market: Market, tmp_path: Path) -> None:
    (tmp_path / CATALOGUE_FILE).parent.mkdir()
    with (tmp_path / CATALOGUE_FILE).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *market.attributes.rows()])
    (tmp_path / MANIFEST).write_text(json.dumps({"market": market.settings}))
    assert_same(Market.read(tmp_path).log(0, 50), market.log(0, 50))


def test_a_market_whose_log_is_not_finished_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no finished log of the simulator"):
        Market.read(tmp_path)
