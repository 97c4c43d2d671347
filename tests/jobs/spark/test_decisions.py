"""The decisions job on small silver tables: whole rows worked by hand, logs without users, logs without propensities."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pytest

from lib import ops
from lib.lake import Lake, commit_files, conform, write_files
from lib.tables import contract

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
EVENT: dict[str, Any] = {
    "user_key": "u",
    "item_id": "a",
    "event_type": "impression",
    "event_time": NOON,
    "session_id": "s",
    "is_bot": False,
    "source_record": "events:part-0:1",
}
SHOWN: dict[str, Any] = {"propensity": 0.25, "policy": "popular", "candidates": ["a", "b"]}
ITEMS: list[dict[str, Any]] = [
    {"item_id": "a", "category": ["toys"], "brand": "x", "price": 10},
    {"item_id": "b", "category": ["toys"], "brand": "y", "price": 20},
]
# A user of whom nothing is known at noon: no counts, rates at their prior of 1 in 10, the middle price level, never seen.
UNKNOWN_USER = [0.0] * 5 + [0.1, 0.1, 0.5, 1.0, 0.0, -1.0]


def put(lake: Lake, name: str, rows: Sequence[dict[str, Any]]) -> None:
    table = contract(name)
    whole = [dict.fromkeys(table.schema.names) | row for row in rows]
    files = write_files(lake, table, [conform(table, pa.Table.from_pylist(whole, schema=table.schema))])
    commit_files(lake, table, files, transaction="test", number=1)


def events(*overrides: dict[str, Any]) -> list[dict[str, Any]]:
    rows = [EVENT | {"event_id": f"e{i}"} | override for i, override in enumerate(overrides)]
    return [row | {"event_date": row["event_time"].date()} for row in rows]


def flat(vectors: Sequence[Sequence[float]]) -> list[float]:
    return [number for vector in vectors for number in vector]


@pytest.fixture(scope="module")
def job(load_job: Callable[[str], ModuleType]) -> ModuleType:
    return load_job("spark/decisions")


def run(job: ModuleType, path: Path, **settings: Any) -> list[dict[str, Any]]:
    job.main(job.DecisionsSettings(lake={"path": str(path)}, cluster={"driver_memory": "1g"}, **settings))
    lake = Lake(str(path))
    if not lake.exists("gold/decisions"):
        return []
    rows = lake.dataset("gold/decisions").to_table().sort_by([("episode_id", "ascending"), ("step", "ascending")])
    return rows.to_pylist()


def test_a_session_becomes_rows_worked_by_hand(job: ModuleType, tmp_path: Path) -> None:
    lake, second = Lake(str(tmp_path)), NOON + timedelta(minutes=1)
    put(lake, "silver/items", ITEMS)
    put(
        lake,
        "silver/events",
        events(
            SHOWN | {"request_id": "r1", "position": 1},
            {"event_type": "view", "request_id": "r1", "event_time": NOON + timedelta(seconds=30)},
            SHOWN | {"request_id": "r2", "position": 2, "event_time": second, "item_id": "b", "propensity": 0.75},
            {"event_type": "purchase", "request_id": "r2", "event_time": second + timedelta(days=2), "item_id": "b",
             "session_id": "later"},
            SHOWN | {"user_key": "bot", "session_id": "of a bot", "is_bot": True},
            SHOWN | {"user_key": "v", "session_id": "broken", "propensity": None},
            {"user_key": "w", "session_id": "last", "event_type": "view", "event_time": NOON + timedelta(days=20)},
        ),
    )  # fmt: skip
    rows = run(job, tmp_path)
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

    job.main(job.DecisionsSettings(lake={"path": str(tmp_path)}))
    assert lake.num_rows("gold/decisions") == 2


def test_in_a_log_without_users_each_impression_is_an_episode_with_its_context(job: ModuleType, tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    put(lake, "silver/items", [{"item_id": item} for item in ("0", "1", "2")])
    nobody = EVENT | {"user_key": None, "session_id": None, "policy": "random", "propensity": 1 / 3}
    context = [("user_feature_0", "cef3"), ("user-item_affinity_0", "0.0"), ("user-item_affinity_2", "4.0")]
    impressions = [
        nobody | {"item_id": "2", "request_id": "random-0", "position": 3, "context": context},
        nobody | {"item_id": "2", "request_id": "random-0", "event_type": "view", "propensity": None, "policy": None},
        nobody | {"item_id": "0", "request_id": "random-1", "position": 1, "event_time": NOON + timedelta(days=10)},
    ]
    put(lake, "silver/events", events(*impressions))
    clicked, other = run(job, tmp_path, log={"format": "obd"}, context_width=2, num_positions=3)
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
    job: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = Lake(str(tmp_path))
    put(lake, "silver/events", events({"event_type": "view"}, {}, {"event_time": NOON + timedelta(days=10)}))
    assert run(job, tmp_path) == []
    assert "skipped: no impressions with propensities in this log" in capsys.readouterr().out
    assert ops.last_run(lake, "decisions")["status"] == "skipped"  # type: ignore[index]
