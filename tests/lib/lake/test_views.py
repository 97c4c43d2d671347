from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from lib.lake.lake import Lake
from lib.lake.query import query
from tests.lakes import EVENT, put


def event(name: str, kind: str, day: int, quantity: int, **others: Any) -> dict[str, Any]:
    moment = {"event_time": datetime(2026, 1, day, tzinfo=UTC)}
    return {**EVENT, "event_id": name, "event_type": kind, "user_key": "u", "quantity": quantity, **moment, **others}


def matched(lake: Lake, *events: dict[str, Any]) -> dict[str, tuple[str | None, int]]:
    """The purchase that each return undoes, and how many it might."""
    put(lake, "silver/events", *events)
    _, rows = query(lake, "SELECT event_id, purchase_id, num_candidates FROM silver.matched_returns", limit=None)
    return {name: (purchase, number) for name, purchase, number in rows}


def test_a_return_undoes_the_like_purchase_before_it(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    bought = (
        event("p1", "purchase", 1, 6, price=Decimal(2)),
        event("p2", "purchase", 2, 9, price=Decimal(2)),
        event("p3", "purchase", 3, 9, price=Decimal(3)),
        event("p4", "purchase", 20, 6, price=Decimal(2)),
        event("other item", "purchase", 3, 6, item_id="b"),
        event("other user", "purchase", 3, 6, user_key="w"),
        event("nobody", "purchase", 3, 6, user_key=None),
    )
    assert matched(
        lake,
        *bought,
        event("same quantity", "return", 9, 6),
        event("same price", "return", 9, 5, price=Decimal(2)),
        event("latest", "return", 10, 5),
        event("too many", "return", 9, 10),
        event("before all", "return", 1, 1, user_key="w"),
        event("of nobody", "return", 9, 6, user_key=None),
    ) == {
        "same quantity": ("p1", 3),
        "same price": ("p2", 3),
        "latest": ("p3", 3),
        "too many": (None, 0),
        "before all": (None, 0),
    }


def test_no_purchase_is_undone_beyond_its_quantity(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    returns = (event(f"r{day}", "return", day, quantity) for day, quantity in ((2, 3), (3, 3), (4, 1)))
    assert matched(lake, event("p", "purchase", 1, 6), *returns) == {"r2": ("p", 1), "r3": ("p", 1), "r4": (None, 0)}
