"""A shard of the log as rows of gold/decisions, worked by hand, and against the market's own decisions."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from lib.tables import contract
from rl.dataset.context import ContextCode
from rl.dataset.decisions import Decisions
from rl.dataset.episodes import EVENT_COLUMNS, Shop, episodes, left_out
from rl.dataset.logged import ItemDays, ShopDays
from rl.market.market import Market
from rl.observation import CANDIDATE_FEATURES, KINDS, STATE_FEATURES, Catalogue

START = datetime(2026, 1, 1, 12, tzinfo=UTC)
ITEMS = ["a", "b", "c"]
EVENTS_SCHEMA = pa.schema(
    [pa.field("owner", pa.string())] + [contract("silver/events").schema.field(c) for c in EVENT_COLUMNS]
)
BASE: dict[str, Any] = {
    "owner": "u",
    "user_key": "u",
    "item_id": "a",
    "event_type": "impression",
    "event_time": START,
    "session_id": "s",
    "propensity": 0.5,
    "policy": "popular",
    "candidates": ["a", "b"],
}


def shop(**overrides: Any) -> Shop:
    no_days = ItemDays(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros((0, 5)))
    given: dict[str, Any] = {
        "item_ids": pa.array(ITEMS),
        "catalogue": Catalogue.of([None] * 3, [None] * 3, [None] * 3),
        "item_days": lambda _: no_days,
        "shop_days": ShopDays.of(no_days),
        "context": ContextCode(),
        "default_candidates": [],
        "valid_from": START + timedelta(days=10),
        "as_of": START + timedelta(days=20),
        "end": START + timedelta(days=30),
        "session_gap": timedelta(minutes=30),
    }
    return Shop(**(given | overrides))


def rows(events: Sequence[dict[str, Any]], given: Shop) -> list[dict[str, Any]]:
    named = [BASE | {"event_id": f"e{i}"} | event for i, event in enumerate(events)]
    table = pa.Table.from_pylist(named, schema=EVENTS_SCHEMA)
    out = list(episodes(table.to_batches(max_chunksize=2), shop=given))
    return pa.Table.from_batches(out, schema=contract("gold/decisions").schema).to_pylist() if out else []


def rules(events: Sequence[dict[str, Any]], given: Shop) -> dict[str, int]:
    """How many impressions are left out, by rule."""
    named = [BASE | {"event_id": f"e{i}"} | event for i, event in enumerate(events)]
    found = left_out(pa.Table.from_pylist(named, schema=EVENTS_SCHEMA).to_batches(), shop=given)
    return {row["rule"]: row["num_impressions"] for batch in found for row in batch.to_pylist()}


def after(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def test_a_session_becomes_an_episode_with_rewards_by_request() -> None:
    decisions = rows(
        [
            {"event_time": after(3), "item_id": "b", "request_id": "r1", "position": 2, "propensity": 0.2},
            {"event_time": after(0), "request_id": "r0", "position": 1},
            {"event_time": after(1), "event_type": "view", "request_id": "r0"},
            {"event_time": after(2), "event_type": "cart", "request_id": "r0"},
            {"event_time": after(9), "event_type": "purchase", "request_id": "r1", "item_id": "b"},
            {"event_time": after(10), "event_type": "view", "request_id": None},
        ],
        shop(),
    )
    first, second = decisions
    assert {k: first[k] for k in ("episode_id", "step", "user_key", "event_time", "split", "policy", "is_last")} == {
        "episode_id": "s",
        "step": 0,
        "user_key": "u",
        "event_time": after(0),
        "split": "train",
        "policy": "popular",
        "is_last": False,
    }
    assert (first["candidates"], first["action"], first["propensity"], first["reward"]) == (["a", "b"], 0, 0.5, 2.0)
    assert (second["step"], second["action"], second["propensity"], second["reward"]) == (1, 1, 0.2, 3.0)
    assert second["is_last"]
    assert second["next_state"] is None
    assert first["next_state"] == second["state"]
    state = dict(zip(STATE_FEATURES, second["state"], strict=True))
    assert [state[name] for name in ("step", "session_clicks", "session_carts", "last_clicked")] == [
        np.float32(0.2), np.float32(0.2), np.float32(0.2), 1.0
    ]  # fmt: skip
    shown = [dict(zip(CANDIDATE_FEATURES, c, strict=True))["shown_item"] for c in second["candidate_features"]]
    assert shown == [1.0, 0.0]


def test_a_session_that_lost_a_decision_gives_none_but_stays_the_users_past() -> None:
    later = {"session_id": "t", "event_time": after(600), "request_id": "r9", "position": 1}
    for broken in (
        {"position": 2},
        {"propensity": None},
        {"candidates": None},
        {"item_id": "c"},
    ):
        decisions = rows([{"position": 1} | broken, {"event_type": "view", "event_time": after(1)}, later], shop())
        assert [d["episode_id"] for d in decisions] == ["t"], broken
        state = dict(zip(STATE_FEATURES, decisions[0]["state"], strict=True))
        assert state["past_impressions"] == state["past_views"] == np.float32(np.log1p(1) / 5)


def test_positions_are_asked_only_where_the_log_has_them() -> None:
    assert len(rows([{}, {"event_time": after(1)}], shop())) == 2


def test_a_session_that_was_open_at_the_logs_end_is_truncated() -> None:
    decisions = rows([{}, {"event_time": after(1), "event_type": "view"}], shop(end=after(31)))
    assert [(d["is_last"], d["next_state"]) for d in decisions] == [(False, None)]
    assert [d["is_last"] for d in rows([{}], shop(end=after(31)))] == [True]


def test_splits_go_by_the_episodes_first_decision() -> None:
    across = [{"event_time": after(-1)}, {"event_time": after(1)}, {"session_id": "t", "event_time": after(100)}]
    assert [d["split"] for d in rows(across, shop(valid_from=START))] == ["train", "train", "valid"]
    assert [d["split"] for d in rows([{}], shop(valid_from=after(-1), as_of=START))] == ["test"]


def test_impressions_without_a_user_are_one_step_episodes_with_their_context() -> None:
    code = ContextCode(numbers=("age",), per_item=("affinity_",), num_positions=2)
    nobody = {"user_key": None, "session_id": None, "candidates": None}
    decisions = rows(
        [
            nobody | {"owner": "r0", "request_id": "r0", "position": 2, "context": [("age", "7"), ("affinity_c", "3")]},
            nobody | {"owner": "r0", "request_id": "r0", "event_type": "view"},
            nobody | {"owner": "r1", "request_id": "r1", "position": 3, "item_id": "c", "policy": None},
        ],
        shop(context=code, default_candidates=ITEMS, end=after(1)),
    )
    assert [d["episode_id"] for d in decisions] == ["e0", "e2"]
    assert [(d["user_key"], d["step"], d["is_last"], d["reward"]) for d in decisions] == [
        (None, 0, True, 1.0),
        (None, 0, True, 0.0),
    ]
    assert [d["policy"] for d in decisions] == ["popular", "unknown"]
    assert [d["candidates"] for d in decisions] == [ITEMS, ITEMS]
    assert [d["action"] for d in decisions] == [0, 2]
    assert [d["state"][-3:] for d in decisions] == [[7.0, 0.0, 1.0], [0.0, 0.0, 1.0]]
    assert [c[-1] for c in decisions[0]["candidate_features"]] == [0.0, 0.0, 3.0]
    assert decisions[0]["context"] == [("age", "7"), ("affinity_c", "3")]


def test_candidates_may_differ_in_number() -> None:
    decisions = rows([{"candidates": ["c", "b", "a"]}, {"event_time": after(1), "candidates": ["a"]}], shop())
    assert [d["candidates"] for d in decisions] == [["c", "b", "a"], ["a"]]
    assert [len(d["candidate_features"]) for d in decisions] == [3, 1]
    assert [d["action"] for d in decisions] == [2, 0]


def test_a_shard_without_impressions_gives_nothing() -> None:
    assert rows([{"event_type": "view"}], shop()) == []
    assert list(episodes([], shop=shop())) == []


def test_a_page_of_one_moment_is_ordered_by_request_and_position_and_earns_by_item() -> None:
    page = [("r1", 2, "c"), ("r0", 2, "b"), ("r1", 1, "b"), ("r0", 1, "a")]
    impressions = [{"request_id": r, "position": p, "item_id": i, "candidates": ITEMS} for r, p, i in page]
    click = {"event_type": "view", "request_id": "r0", "item_id": "b", "event_time": after(1)}
    decisions = rows([*impressions, click, click, {**click, "item_id": "c"}], shop())
    assert [ITEMS[d["action"]] for d in decisions] == ["a", "b", "b", "c"]
    assert [d["step"] for d in decisions] == [0, 1, 2, 3]
    assert [d["reward"] for d in decisions] == [0.0, 1.0, 0.0, 0.0]


def test_positions_that_go_on_through_requests_of_one_moment_order_them() -> None:
    impressions = [{"request_id": r, "position": p} for r, p in (("x", 3), ("z", 1), ("y", 2))]
    assert [d["event_time"] for d in rows(impressions, shop())] == [START] * 3
    given = [{**row, "item_id": item, "candidates": ITEMS} for row, item in zip(impressions, "cab", strict=True)]
    assert [ITEMS[d["action"]] for d in rows(given, shop())] == ["a", "b", "c"]


def test_a_page_without_requests_is_what_is_shown_at_one_time() -> None:
    pages = [{"event_time": after(minute), "position": position} for minute in (0, 2) for position in (1, 2)]
    assert len(rows(pages, shop())) == 4


def test_requests_that_are_counted_by_user_are_not_mixed() -> None:
    other = {"owner": "v", "user_key": "v", "session_id": "t", "request_id": "1"}
    decisions = rows([{"request_id": "1"}, other, other | {"event_type": "view", "event_time": after(1)}], shop())
    assert [(d["user_key"], d["reward"]) for d in decisions] == [("u", 0.0), ("v", 1.0)]


def test_a_candidate_counts_once_and_a_null_or_blank_one_sets_the_session_aside() -> None:
    decisions = rows([{"candidates": ["b", "a", "b", "a"]}], shop())
    assert [(d["candidates"], d["action"], len(d["candidate_features"])) for d in decisions] == [(["b", "a"], 1, 2)]
    others = {"session_id": "t", "event_time": after(600)}
    for empty in (None, "", "  "):
        given = [{"candidates": ["a", empty]}, {"event_time": after(1)}, others]
        assert [d["episode_id"] for d in rows(given, shop())] == ["t"]
        found = rules(given, shop())
        assert list(found.values()) == [1, 1]
        assert "empty candidate" in next(iter(found))


def test_a_page_without_a_user_is_an_episode_per_impression() -> None:
    nobody = {"owner": "r", "user_key": None, "session_id": None, "request_id": "r", "candidates": ITEMS}
    page = [nobody | {"item_id": item, "position": place} for place, item in enumerate(ITEMS, 1)]
    click = nobody | {"event_type": "view", "item_id": "b", "event_time": after(1)}
    decisions = rows([*page, click], shop())
    assert [(d["episode_id"], d["step"], d["reward"]) for d in decisions] == [("e0", 0, 0), ("e1", 0, 1), ("e2", 0, 0)]
    assert Decisions.from_arrow(pa.Table.from_pylist(decisions, schema=contract("gold/decisions").schema)).horizon == 1


def test_what_is_left_out_is_counted_by_rule() -> None:
    assert rules([{"position": 2}, {"position": 3, "event_time": after(1)}], shop()) == {
        "whose positions do not count 1, 2, 3, ... over the session or over the page, which is a request": 2
    }
    assert rules([{}], shop()) == {}


def test_nothing_from_as_of_on_reaches_a_decision_before_it() -> None:
    """A session over as_of: its later decision is left out, the earlier ones are truncated and earn what came before."""
    known = [
        {"request_id": "r0", "position": 1},
        {"event_time": after(1), "request_id": "r1", "position": 2, "item_id": "b"},
        {"event_time": after(2), "event_type": "view", "request_id": "r1", "item_id": "b"},
    ]
    future = [
        {"event_time": after(10), "event_type": "purchase", "request_id": "r1", "item_id": "b"},
        {"event_time": after(11), "request_id": "r2", "position": 3},
        {"event_time": after(900), "session_id": "t", "request_id": "r3", "position": 1},
        {"event_time": after(901), "session_id": "t", "event_type": "purchase", "request_id": "r3"},
    ]
    at = shop(valid_from=START, as_of=after(10))
    before, both = rows(known, at), rows([*known, *future], at)
    assert both[:2] == before
    assert [(d["reward"], d["is_last"], d["split"]) for d in both] == [
        (0.0, False, "valid"),
        (1.0, False, "valid"),
        (3.0, True, "test"),
    ]


def test_the_markets_log_gives_the_markets_own_decisions() -> None:
    """The rows of silver/events, read back, are what `Market.decisions` finds without any table."""
    market = Market.generate(num_users=60, num_items=40, days=20)
    logged, log = market.logged_decisions()
    item_ids = np.array([f"i{i:03d}" for i in range(40)])
    request = [f"{u}-{s}-{t}" if t >= 0 else None for u, s, t in zip(log.user, log.session, log.step, strict=True)]
    is_shown = log.kind == 0
    offered = iter(log.candidates)
    propensity = np.full(len(log.user), np.nan)
    propensity[is_shown] = log.propensities
    users = pa.array([f"u{u:04d}" for u in log.user])
    table = pa.table(
        {
            "owner": users,
            "event_id": [f"{i:08d}" for i in range(len(users))],
            "user_key": users,
            "item_id": item_ids[log.item],
            "event_type": pa.array(KINDS).take(pa.array(log.kind)),
            "event_time": pa.array((market.start_ms + log.time_ms) * 1000).cast(pa.timestamp("us", tz="UTC")),
            "session_id": [f"u{u:04d}-{s:02d}" for u, s in zip(log.user, log.session, strict=True)],
            "request_id": request,
            "position": pa.array(np.where(is_shown, log.step + 1, 0), mask=~is_shown).cast(pa.int32()),
            "propensity": pa.array(propensity, from_pandas=True),
            "policy": ["any"] * len(users),
            "candidates": [item_ids[next(offered)].tolist() if shown else None for shown in is_shown],
            "context": pa.nulls(len(users), pa.map_(pa.string(), pa.string())),
        },
        schema=EVENTS_SCHEMA,
    )
    given = shop(
        item_ids=pa.array(item_ids), catalogue=market.world.catalogue,
        item_days=lambda _: market.item_days, shop_days=ShopDays.of(market.item_days),
        end=datetime.fromtimestamp(market.end_ms / 1000, UTC),
    )  # fmt: skip
    out = pa.Table.from_batches(list(episodes(table.to_batches(), shop=given)))
    read, expected = Decisions.from_arrow(out), market.decisions()
    assert len(read) == len(logged.row) > 500
    for name in ("steps", "states", "candidates", "mask", "actions", "propensities", "rewards", "is_last"):
        np.testing.assert_array_equal(getattr(read, name), getattr(expected, name), err_msg=name)


def test_the_future_changes_rewards_and_nothing_that_is_observed() -> None:
    past = [{"event_type": "view", "event_time": after(-600), "session_id": "before"}]
    session = [
        {"event_time": after(0), "request_id": "r0", "position": 1},
        {"event_time": after(5), "request_id": "r1", "position": 2, "item_id": "b"},
    ]
    future = [
        {"event_type": "purchase", "event_time": after(6), "request_id": "r0"},
        {"event_type": "view", "event_time": after(900), "session_id": "t", "item_id": "b"},
        {"event_type": "purchase", "event_time": after(901), "session_id": "t", "item_id": "b"},
    ]
    day = int(after(0).timestamp() // 86_400)
    of_today = ItemDays(np.array([0, 1]), np.array([day, day + 1]), np.array([[9.0, 5, 5, 3, 2], [9, 5, 5, 3, 2]]))
    before, later = (
        rows([*past, *session], shop()),
        rows([*past, *session, *future], shop(item_days=lambda _: of_today, shop_days=ShopDays.of(of_today))),
    )
    for name in ("state", "candidate_features", "next_state", "action", "propensity", "split"):
        assert [row[name] for row in before] == [row[name] for row in later], name
    assert [row["reward"] for row in later] == [3.0, 0.0]
