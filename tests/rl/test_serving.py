"""A policy in a server observes what the decisions job reads from the log of the same events, and values it as the network does."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch

from lib.candidates.catalogue import Catalogue as Items
from lib.candidates.catalogue import catalogue_of
from lib.candidates.known import ITEM_SUMS
from lib.engines.arrow_tasks import InProcess, packed, unpacked
from lib.online.state import Decision, LiveEvent
from lib.serving.request import Request
from lib.serving.users import numbers_of
from rl import serving
from rl.dataset.logged import Events
from rl.learning import qnet, qnet_weights
from rl.market.market import Market, as_events
from rl.observation import (
    CANDIDATE_FEATURES,
    CART,
    DAY_US,
    IMPRESSION,
    KINDS,
    PURCHASE,
    STATE_FEATURES,
    VIEW,
    Catalogue,
)
from rl.serving import LivePolicy, Past, PastEvents, ShopNow, counts_before, pack_past, past_of, shop_now

GAP = timedelta(minutes=30)
NOW = datetime(2026, 3, 2, tzinfo=UTC)


def key_of(user: int) -> str:
    return f"{user + 1:032x}"


def items_of(ids: list[str]) -> Items:
    columns = {name: ids if name == "item_id" else [1] * len(ids) for name in ITEM_SUMS}
    return catalogue_of(pl.DataFrame(columns, schema=ITEM_SUMS), None)


def network() -> qnet.CandidateQNet:
    torch.manual_seed(0)
    made = qnet.CandidateQNet(len(STATE_FEATURES), len(CANDIDATE_FEATURES), (16, 8))
    made.fit_scaling(np.random.default_rng(0).normal(size=(9, 16)), np.ones((9, 2, 16)), np.ones((9, 2), bool))
    return made


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> qnet_weights.QWeights:
    file = tmp_path_factory.mktemp("policy") / "qnet.safetensors"
    qnet.save(network(), file, tables={"gold/decisions": 3}, temperature=0.5, epsilon=0.1)
    return qnet_weights.load(file)


def past_before(events: Events, moment_us: int) -> Past:
    before = events.time_us < moment_us
    users, counts = np.unique(events.user[before], return_counts=True)
    keys = np.array([numbers_of(key_of(int(user))) for user in users], np.uint64)
    own = (getattr(events, name)[before] for name in ("item", "time_us", "kind", "request"))
    return Past(keys, np.concatenate([[0], np.cumsum(counts)]), PastEvents(*own))


def moment_of(time_us: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(time_us))


def test_what_a_policy_observes_in_a_server_is_what_the_decisions_job_reads_from_the_log(
    weights: qnet_weights.QWeights,
) -> None:
    market = Market.generate(3, num_items=60, num_users=400, days=12)
    log = market._whole_log
    events, catalogue = as_events(log, market.start_ms), market.world.catalogue
    decisions, _ = market.logged_decisions()
    as_of_us = market.end_ms * 1000 - DAY_US  # midnight: counts of items are those before the day of the decisions
    category, group, brand = (np.append(codes, codes.max() + 1) for codes in catalogue[:3])
    unknown = Catalogue(category, group, brand, np.append(catalogue.price_position, 0.5))
    days = market.item_days
    counts = np.zeros((61, 5))
    np.add.at(counts, days.item[days.day < as_of_us // DAY_US], days.counts[days.day < as_of_us // DAY_US])
    items = items_of([f"i{item:02d}" for item in range(60)])
    shop = ShopNow(unknown, counts, counts[:60].mean(axis=0))
    policy = LivePolicy("v", weights, shop, past_before(events, as_of_us), GAP, items)
    first_us = {int(s): int(t) for s, t in zip(events.session[::-1], events.time_us[::-1], strict=True)}
    asked = [at for at, row in enumerate(decisions.row) if first_us[int(events.session[row])] >= as_of_us]
    assert len(asked) > 100 and decisions.step[asked].max() == 4
    for at in asked:
        row = int(decisions.row[at])
        rows = np.flatnonzero((events.user == events.user[row]) & (events.time_us >= as_of_us))
        rows = rows[rows < row].tolist()
        live = [
            LiveEvent(
                moment_of(events.time_us[r]),
                KINDS[events.kind[r]],
                f"i{events.item[r]:02d}",
                1,
                name_of(events.request[r]),
            )
            for r in rows
            if events.kind[r] != IMPRESSION
        ]
        shown = [decision_of(events, r) for r in rows if events.kind[r] == IMPRESSION]
        request = Request(moment_of(events.time_us[row]), key_of(int(events.user[row])), live, shown)
        states, features = policy.observed(request, decisions.candidates[at])
        np.testing.assert_allclose(states[0], decisions.states[at], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(features[0], decisions.candidate_features[at], rtol=1e-6, atol=1e-6)


def name_of(request: int) -> str | None:
    return None if request < 0 else f"r{request}"


def decision_of(events: Events, row: int) -> Decision:
    time, item, request = moment_of(events.time_us[row]), f"i{events.item[row]:02d}", name_of(events.request[row])
    assert request is not None
    return Decision(request, key_of(int(events.user[row])), time, "dqn", "r", (item,), (1.0,), (item,))


def test_its_values_are_those_of_the_network(weights: qnet_weights.QWeights) -> None:
    draw = np.random.default_rng(1)
    state, candidates = (draw.normal(size=shape).astype(np.float32) for shape in ((1, 16), (1, 7, 16)))
    expected = network().action_values(state, candidates, np.ones((1, 7), bool))
    np.testing.assert_allclose(weights.values(state[0], candidates[0]), expected[0], rtol=1e-5, atol=1e-6)


def test_of_somebody_nobody_knows_and_of_items_the_release_lacks_it_still_says_something(
    weights: qnet_weights.QWeights,
) -> None:
    policy = small(weights)
    request = Request(NOW, None, visit=("a", "something else"))
    state, features = (
        dict(zip(names, rows[0].T, strict=True))
        for names, rows in zip(
            (STATE_FEATURES, CANDIDATE_FEATURES), policy.observed(request, np.array([0, 1])), strict=True
        )
    )
    assert round(float(np.expm1(5 * state["past_views"]))) == 2
    assert features["item_viewed"].tolist() == pytest.approx([np.log(2), 0])
    assert np.isfinite(policy.values(request, np.array([1, 0]))).all()


def test_a_click_is_a_view_of_what_was_shown_under_its_request_and_changes_the_values(
    weights: qnet_weights.QWeights,
) -> None:
    policy, ago = small(weights), NOW - timedelta(minutes=1)
    shown = Decision("one", key_of(0), ago - timedelta(minutes=1), "dqn", "r", ("a",), (1.0,), ("a",))
    answers = []
    for request_id in ("one", "another", None):
        request = Request(NOW, key_of(0), [LiveEvent(ago, "view", "a", 1, request_id)], [shown])
        state, _ = policy.observed(request, np.array([0, 1]))
        answers.append(dict(zip(STATE_FEATURES, state[0], strict=True)))
    assert [answer["last_clicked"] for answer in answers] == [1, 0, 0]
    assert [answer["session_clicks"] > 0 for answer in answers] == [True, True, False]


def test_a_policy_that_was_written_and_read_says_the_same(weights: qnet_weights.QWeights, tmp_path: Path) -> None:
    policy = small(weights)
    policy.save(tmp_path / "policy")
    again = serving.read(tmp_path / "policy", policy.items)
    request = Request(NOW, key_of(0), [LiveEvent(NOW, "cart", "b")])
    np.testing.assert_array_equal(again.values(request, np.array([0, 1])), policy.values(request, np.array([0, 1])))
    assert (again.name, again.version, again.gap) == ("dqn", "v", GAP)


def small(weights: qnet_weights.QWeights) -> LivePolicy:
    described = pl.DataFrame(
        {
            "item_id": ["a", "b", "c"],
            "category": [["x"], ["x"], ["y"]],
            "brand": ["k", None, "k"],
            "price": [1.0, 2.0, 3.0],
        }
    )
    days = pl.DataFrame(
        {
            "item_id": ["a", "a", "c"],
            "event_date": [NOW.date() - timedelta(days=1), NOW.date(), NOW.date() - timedelta(days=9)],
        }
    )
    days = days.with_columns(
        **{
            f"num_{name}": pl.lit(count)
            for name, count in zip(
                ("impressions", "clicks", "views", "carts", "purchases"), (8, 4, 5, 2, 1), strict=True
            )
        }
    )
    items = items_of(["a", "b"])
    shop = shop_now(described, counts_before(days, NOW), items)
    assert shop.item_counts.tolist() == [[8, 4, 5, 2, 1], [0] * 5, [0] * 5]
    assert shop.mean_counts.tolist() == pytest.approx([16 / 3, 8 / 3, 10 / 3, 4 / 3, 2 / 3])
    assert shop.catalogue.price_position.tolist() == [0, 0.5, 0.5]
    assert shop.catalogue.category[0] == shop.catalogue.category[1] != shop.catalogue.category[2]
    return LivePolicy("v", weights, shop, past_of([]), GAP, items)


def test_tasks_bring_what_each_user_did_together_by_time(weights: qnet_weights.QWeights) -> None:
    rows = [
        ("2", "b", "purchase", 3, "q", None),
        ("1", "a", "impression", 2, "q", 2),
        ("1", "gone", "impression", 2, "q", 1),
        ("1", "b", "view", 1, None, None),
        ("1", "a", "view", 4, "q", None),
        ("1", "a", "cart", 5, "later", None),
    ]
    events = pl.DataFrame(
        rows, schema=["user_key", "item_id", "event_type", "minute", "request_id", "position"], orient="row"
    )
    events = events.with_columns(
        pl.col("user_key").str.zfill(32), event_time=pl.lit(NOW) + pl.duration(minutes=pl.col("minute"))
    )
    parts = pack_past(packed(events, serving.PAST), item_ids=InProcess(pa.array(["a", "b"])))
    past = past_of(unpacked(parts).values())
    of_first, of_second, of_nobody = (past.of(key) for key in (key_of(0), key_of(1), None))
    assert of_first.item.tolist() == [1, 2, 0, 0, 0]
    assert of_first.kind.tolist() == [VIEW, IMPRESSION, IMPRESSION, VIEW, CART]
    assert (
        of_first.request[0] == -1 and len({*of_first.request[1:4]}) == 1 and of_first.request[4] != of_first.request[3]
    )
    assert (of_second.kind.tolist(), of_second.item.tolist(), len(of_nobody.item)) == ([PURCHASE], [1], 0)
    assert np.diff(of_first.time_us).tolist() == [60_000_000, 0, 120_000_000, 60_000_000]
