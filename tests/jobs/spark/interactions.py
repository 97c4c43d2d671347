"""Rows of gold/interactions: one user and one item, seen once at the log's start unless a test says otherwise."""

from typing import Any

from tests.lakes import START, TEST_FROM

PAIR = {"split": "train", "weight": 1.0, "count": 1, "num_relevant": 1, "first_time": START, "last_time": START}
LATER: dict[str, Any] = {"split": "test", "first_time": TEST_FROM, "last_time": TEST_FROM}


def pair(user: str, item: str, **overrides: Any) -> dict[str, Any]:
    return PAIR | {"user_key": user, "item_id": item} | overrides
