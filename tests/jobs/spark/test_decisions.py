"""The decisions job on small silver tables: whole rows worked by hand, logs without users, logs without propensities."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any

import polars as pl
import pytest

from lib.cli.jobs import load_job
from lib.features.days import item_days
from lib.pipeline import JOBS
from lib.runs import history
from lib.tables.gold import AS_OF_PROPERTY, REWARD_WEIGHTS
from tests.lakes import END, TEST_FROM, VALID_FROM, SmallLake

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
EVENT: dict[str, Any] = {"user_key": "u", "event_type": "impression", "event_time": NOON, "session_id": "s"}
SHOWN: dict[str, Any] = {"propensity": 0.25, "policy": "popular", "candidates": ["a", "b"]}
ITEMS: list[dict[str, Any]] = [
    {"item_id": "a", "category": ["toys"], "brand": "x", "price": 10},
    {"item_id": "b", "category": ["toys"], "brand": "y", "price": 20},
]
# A user of whom nothing is known at noon: no counts, rates at their prior of 1 in 10, the middle price level, never seen.
UNKNOWN_USER = [0.0] * 5 + [0.1, 0.1, 0.5, 1.0, 0.0, -1.0]


def flat(vectors: Sequence[Sequence[float]]) -> list[float]:
    return [number for vector in vectors for number in vector]


def put_log(small_lake: SmallLake, *events: dict[str, Any]) -> None:
    """Make these the events of the log, and their counts those of its items by day."""
    small_lake.put_events(*events)
    read = ["item_id", "event_type", "event_time", "event_date", "price", "request_id", "is_bot"]
    stored = pl.DataFrame(small_lake.lake.dataset("silver/events").to_table(columns=read)).filter(~pl.col("is_bot"))
    small_lake.put("gold/item_days", *item_days(stored.with_columns(part=pl.lit(0))).drop("part").to_dicts())


@pytest.fixture(scope="module")
def job() -> ModuleType:
    return load_job(JOBS["decisions"])


def test_a_session_becomes_rows_worked_by_hand(
    job: ModuleType, small_lake: SmallLake, capsys: pytest.CaptureFixture[str]
) -> None:
    second = NOON + timedelta(minutes=1)
    small_lake.put("silver/items", *ITEMS)
    events: list[dict[str, Any]] = [
        SHOWN | {"request_id": "r1", "position": 1},
        {"event_type": "view", "request_id": "r1", "event_time": NOON + timedelta(seconds=30)},
        SHOWN | {"request_id": "r2", "position": 2, "event_time": second, "item_id": "b", "propensity": 0.75},
        {
            "event_type": "purchase",
            "request_id": "r2",
            "item_id": "b",
            "event_time": second + timedelta(days=2),
            "session_id": "later",
        },
        SHOWN | {"user_key": "bot", "session_id": "of a bot", "is_bot": True},
        SHOWN | {"user_key": "v", "session_id": "broken", "propensity": None},
    ]
    put_log(small_lake, *(EVENT | event for event in events))
    job.main(job.DecisionsSettings(**small_lake.shared_settings))
    assert "left out 1 impressions: 1 without a propensity" in capsys.readouterr().out
    rows = small_lake.read("gold/decisions")
    weights = small_lake.lake.table_property("gold/decisions", REWARD_WEIGHTS)
    assert weights is not None
    assert small_lake.lake.table_property("gold/decisions", AS_OF_PROPERTY) == TEST_FROM.isoformat()
    assert json.loads(weights) == {"click": 1.0, "cart": 1.0, "purchase": 3.0}  # the rewards below are sums of these
    assert [(row["episode_id"], row["step"]) for row in rows] == [("s", 0), ("s", 1)]
    # Nothing is known of the items before this first day: each rate is the shop's prior, 1 in 10, times 2.
    rates = [0.2, 0.2, 0.2, 0.0]
    of_a, of_b = [0.0, 0.5], [0.5, 0.0]  # price position and gap: a is the cheaper of two toys
    first = {
        "episode_id": "s",
        "step": 0,
        "user_key": "u",
        "event_time": NOON,
        "split": "train",
        "state": [*UNKNOWN_USER, 0.0, 0.0, 0.0, 0.0, 0.0],
        "candidates": ["a", "b"],
        "candidate_features": [[0.0] * 3 + price + [0.0] * 2 + rates + [0.0] * 5 for price in (of_a, of_b)],
        "action": 0,
        "propensity": 0.25,
        "propensity_source": "logged",
        "policy": "popular",
        "reward": 1.0,
        "next_state": [*UNKNOWN_USER, 0.2, 0.2, 0.0, 0.0, 1.0],
        "is_last": False,
        "context": None,
    }
    hour = rows[1]["state"][9:11]  # a minute past noon
    assert hour == pytest.approx([-0.004363, -0.99999], abs=1e-5)
    shown = {"a": [1.0, 0.2, 0.2, 0.2, 1.0], "b": [0.0, 0.2, 0.2, 0.2, 1.0]}
    later = first | {
        "step": 1,
        "event_time": second,
        "state": [*UNKNOWN_USER[:9], *hour, 0.2, 0.2, 0.0, 0.0, 1.0],
        "candidate_features": [
            [0.0] * 3 + price + [0.0] * 2 + rates + shown[item] for price, item in ((of_a, "a"), (of_b, "b"))
        ],
        "action": 1,
        "propensity": 0.75,
        "reward": 3.0,
        "next_state": None,
        "is_last": True,
    }
    expected = [first | {"next_state": later["state"]}, later]
    for row, wanted in zip(rows, expected, strict=True):
        assert row.keys() == wanted.keys()
        for name, value in wanted.items():
            if name in ("state", "next_state") and value is not None:
                assert row[name] == pytest.approx(value, abs=1e-6), name
            elif name == "candidate_features":
                assert [len(vector) for vector in row[name]] == [16, 16]
                assert flat(row[name]) == pytest.approx(flat(value), abs=1e-6), name
            else:
                assert row[name] == value, name

    job.main(job.DecisionsSettings(**small_lake.shared_settings))
    assert small_lake.read("gold/decisions") == rows


@pytest.mark.slow
def test_in_a_log_without_users_each_impression_is_an_episode_with_its_context(
    job: ModuleType, small_lake: SmallLake
) -> None:
    small_lake.put("silver/items", *({"item_id": item} for item in ("0", "1", "2")))
    nobody = {"event_type": "impression", "policy": "random", "propensity": 1 / 3}
    context = [("user_feature_0", "cef3"), ("user-item_affinity_0", "0.0"), ("user-item_affinity_2", "4.0")]
    put_log(
        small_lake,
        nobody | {"item_id": "2", "request_id": "random-0", "position": 3, "context": context, "event_time": NOON},
        {"event_type": "view", "item_id": "2", "request_id": "random-0", "event_time": NOON},
        nobody | {"item_id": "0", "request_id": "random-1", "position": 1, "event_time": NOON + timedelta(days=10)},
    )
    settings = small_lake.shared_settings | {"log": {"format": "obd"}}
    job.main(job.DecisionsSettings(**settings, context_width=2, num_positions=3))
    clicked, other = small_lake.read("gold/decisions")
    for row, episode, reward, split in ((clicked, "e0", 1.0, "train"), (other, "e2", 0.0, "test")):
        assert (row["episode_id"], row["step"], row["user_key"], row["is_last"]) == (episode, 0, None, True)
        assert (row["candidates"], row["reward"], row["split"], row["policy"]) == (
            ["0", "1", "2"],
            reward,
            split,
            "random",
        )
    assert (clicked["action"], other["action"]) == (2, 0)
    # After the 16 features of every log: the hashed user feature, then the position.
    assert sum(clicked["state"][16:18]) == 1.0
    assert clicked["state"][18:] == [0.0, 0.0, 1.0]
    assert other["state"][16:] == [0.0, 0.0, 1.0, 0.0, 0.0]
    assert [features[16:] for features in clicked["candidate_features"]] == [[0.0], [0.0], [4.0]]
    assert clicked["context"] == context


def test_a_log_without_propensities_is_skipped_with_one_line(
    job: ModuleType, small_lake: SmallLake, capsys: pytest.CaptureFixture[str]
) -> None:
    put_log(small_lake, EVENT | {"event_type": "view"}, EVENT)
    job.main(job.DecisionsSettings(**small_lake.shared_settings))
    assert small_lake.read("gold/decisions") == []
    assert "skipped: no impressions with propensities in this log" in capsys.readouterr().out
    last = history.last_run(small_lake.lake, "decisions")
    assert last is not None
    assert last["status"] == "skipped"


@pytest.mark.slow
def test_splits_move_with_as_of_and_what_lies_behind_its_window_is_not_there(
    job: ModuleType, small_lake: SmallLake, capsys: pytest.CaptureFixture[str]
) -> None:
    visits = [(day, datetime(2026, 1, day, 12, tzinfo=UTC)) for day in (2, 12, 22)]
    put_log(
        small_lake,
        *(EVENT | SHOWN | {"session_id": f"s{day:02d}", "event_time": time} for day, time in visits),
        EVENT | {"event_type": "view", "event_time": END - timedelta(seconds=1), "session_id": "last"},
    )

    def splits(as_of: str) -> list[str]:
        job.main(job.DecisionsSettings(**small_lake.shared_settings, time={"as_of": as_of}))
        return [row["split"] for row in small_lake.read("gold/decisions")]

    assert splits("end") == ["train", "train", "valid"]
    assert small_lake.lake.table_property("gold/decisions", AS_OF_PROPERTY) == END.isoformat()
    assert splits("test_from") == ["train", "valid", "test"]
    capsys.readouterr()
    assert splits("valid_from") == ["valid", "test"]  # a test window of ten days from 11 January on
    told = capsys.readouterr().out
    assert "impressions  found=2 " in told
    assert "left out" not in told
    assert splits(VALID_FROM.replace(day=13).isoformat()) == ["train", "valid", "test"]


def test_where_no_decision_can_be_made_the_line_says_which_rule_is_broken(
    job: ModuleType, small_lake: SmallLake, capsys: pytest.CaptureFixture[str]
) -> None:
    put_log(small_lake, *(EVENT | SHOWN | {"position": 2, "event_time": NOON + timedelta(days=d)} for d in (0, 10)))
    job.main(job.DecisionsSettings(**small_lake.shared_settings))
    assert small_lake.read("gold/decisions") == []
    out = capsys.readouterr().out
    assert "skipped: none of 2 impressions is a decision: 2 whose positions do not count 1, 2, 3, ..." in out
    assert "impressions without a request earn nothing" in out
