"""Logged pages and candidate lists that are not tidy: the cases of ../shared/faults/14-slates-and-candidates, in one log."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.shops import Shop

CASES = "14-slates-and-candidates"


def of_case(record: dict[str, Any], case: str) -> dict[str, Any]:
    """The record with user, request and policy of its case."""
    own = {"user": f"{case}-{record['user']}", "request": f"{case}-{record['request']}"}
    return record | own | ({"policy": case} if record["event"] == "impression" else {})


@pytest.mark.slow
def test_pages_and_candidates_of_five_shops_become_decisions(faults: Path, tmp_path: Path) -> None:
    """The users and requests of each case bear its letter, and so do its policies, by which the decisions are told apart."""
    shop = Shop(tmp_path, (faults / CASES / "a" / "map.yaml").read_text())
    for case in "abcde":
        lines = (faults / CASES / case / "log" / "e.jsonl").read_text().splitlines()
        shop.put(f"{case}.jsonl", "\n".join(json.dumps(of_case(json.loads(line), case)) for line in lines))
    shop.run("--clean.max-reject-frac=1")
    shop.run(first="featurize", last="featurize")
    told = shop.run(first="decisions", last="decisions")
    assert told.code == 0, told.text

    rows = shop.read("gold/decisions", "policy", "candidates", "propensity", "reward", "episode_id")
    by_case = {case: [row for row in rows if row["policy"] == case] for case in "abcde"}
    assert {case: len(of) for case, of in by_case.items()} == {"a": 270, "b": 120, "c": 108, "d": 106, "e": 270}
    rewards = {case: [row["reward"] for row in of if row["reward"]] for case, of in by_case.items()}
    assert {case: len(of) for case, of in rewards.items()} == {"a": 44, "b": 45, "c": 38, "d": 42, "e": 30}
    assert {reward for of in rewards.values() for reward in of} == {1.0}
    assert all(len(set(row["candidates"])) == len(row["candidates"]) for row in rows)
    assert {item for row in rows for item in row["candidates"]} == {f"i{number}" for number in range(12)}
    assert sum(row["propensity"] == 1 for row in by_case["d"]) == 12
    assert "12 with a null or empty candidate" in told.text
    assert "12 of an item that is not among its candidates" in told.text
