"""A person who signs in late is one user in silver, before and after; and is erased as one."""

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from lib.formats.mapping import parse_mapping
from tests.shops import Shop

MAPPING = """
name: own
sources:
  clicks:
    files: "*.jsonl"
    reader: {type: json_lines}
    names: {user_id: user, item_id: item, event_time: at}
    optional: [user_id]
    visitor_id: browser
    events: [{type: view}]
"""


def clicks(*rows: tuple[str | None, str | None, str]) -> str:
    """Records of (user, visitor, item), a minute apart."""
    return "".join(
        json.dumps({"user": user, "browser": visitor, "item": item, "at": f"2024-01-01T10:{minute:02d}:00"}) + "\n"
        for minute, (user, visitor, item) in enumerate(rows)
    )


def people(shop: Shop) -> list[set[str]]:
    """The items of each user and of nobody, which is the last."""
    rows = shop.read("silver/events", "user_key", "item_id", "session_id")
    users: Iterable[str | None] = [*sorted({row["user_key"] for row in rows if row["user_key"]}), None]
    found = [{row["item_id"] for row in rows if row["user_key"] == user} for user in users]
    return [*sorted(found[:-1], key=sorted), found[-1]]


def test_who_signs_in_late_is_one_user_whenever_the_records_come(tmp_path: Path) -> None:
    shop = Shop(tmp_path, MAPPING)
    shop.put("1.jsonl", clicks((None, "b1", "a1"), (None, "b2", "a2"), (None, None, "a3"), (None, "b3", "a4")))
    assert shop.run().code == 0
    assert people(shop) == [{"a1", "a2", "a3", "a4"}], "nobody has signed in"
    shop.put("2.jsonl", clicks(("eva", "b1", "c1"), ("eva", "b4", "c2"), ("ann", "b3", "c3"), ("bob", "b3", "c4")))
    assert shop.run().code == 0
    assert people(shop) == [{"a1", "c1", "c2"}, {"c3"}, {"c4"}, {"a2", "a3", "a4"}], "b3 is of two users: nobody's"
    assert len({row["session_id"] for row in shop.read("silver/events") if row["item_id"] in ("a1", "c1", "c2")}) == 1

    shop.run_job("erase", users=("eva",))
    assert {row["item"] for row in shop.read("bronze/clicks")} == {"a2", "a3", "a4", "c3", "c4"}
    assert shop.run().code == 0
    assert people(shop) == [{"c3"}, {"c4"}, {"a2", "a3", "a4"}]


def test_a_visitor_needs_a_user() -> None:
    without_user = MAPPING.replace("user_id: user, ", "").replace("    optional: [user_id]\n", "")
    with pytest.raises(ValueError, match="a visitor_id needs a column for 'user_id'"):
        parse_mapping(without_user, "own.yaml")
    with pytest.raises(ValueError, match="goes with neither record_key nor explode"):
        parse_mapping(MAPPING + "    record_key: [at]\n", "own.yaml")
