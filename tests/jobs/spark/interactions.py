"""Rows of gold/interactions: one user and one item, seen once at the log's start unless a test says otherwise."""

from typing import Any

from tests.lakes import START, TEST_FROM

PAIR = {"event_time": START, "split": "train", "weight": 1.0, "count": 1, "num_relevant": 1}
LATER: dict[str, Any] = {"event_time": TEST_FROM, "split": "test"}


def pair(user: str, item: str, **overrides: Any) -> dict[str, Any]:
    return PAIR | {"user_key": user, "item_id": item} | overrides
