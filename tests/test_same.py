"""Whether two lakes hold the same tables: what counts as a difference and what does not."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lib.lake.lake import Lake
from tests.lakes import put
from tests.same import differences, digest

AS_OF = datetime(2026, 1, 21, tzinfo=UTC)
SCALED = {"feature": "recency_days", "as_of": AS_OF, "position": 0, "min": 0.0, "max": 9.0, "num_clipped": 1}
FACTOR = {"model": "als", "version": "als-000001", "kind": "user", "id": "u", "values": [1.0, 2.0], "as_of": AS_OF}
REJECT = {
    "stage": "clean",
    "source": "lines",
    "source_file": "a.csv",
    "source_record": "a.csv:1",
    "reason": "duplicate",
    "day": "2026-01-01",
}
ARRIVED = {"batch_id": "ingest-000001", "arrived_at": AS_OF}
AUC = {"model": "encoder", "version": "train_encoder-000001", "split": "valid", "metric": "auc", "value": 0.8, "n": 9}

PROPENSITY = {"user_key": "u", "as_of": AS_OF, "probability": 0.5, "decile": 1, "model": "encoder", "version": "v"}
LISTED = {"as_of": AS_OF, "question": "all", "user_key": "u", "score": 1.0, "reason": "bought often"}


class Lakes:
    """Two lakes; `put` makes rows the content of a table of one of them."""

    def __init__(self, folder: Path) -> None:
        self.paths = folder / "one", folder / "other"

    def put(self, number: int, name: str, *rows: dict[str, Any]) -> None:
        put(Lake(str(self.paths[number])), name, *rows)

    def differences(self) -> list[str]:
        return differences(*self.paths)


@pytest.fixture
def lakes(tmp_path: Path) -> Lakes:
    made = Lakes(tmp_path)
    for number in range(2):
        made.put(number, "gold/scaling", SCALED)
    return made


def test_equal_content_in_another_order_and_another_batch_is_the_same(lakes: Lakes) -> None:
    second = REJECT | {"source_record": "a.csv:2"}
    lakes.put(0, "bronze/rejects", REJECT | ARRIVED, second | ARRIVED)
    lakes.put(1, "bronze/rejects", second | ARRIVED | {"batch_id": "ingest-000002"}, REJECT | ARRIVED)
    assert lakes.differences() == []


def test_a_changed_value_a_missing_row_and_a_missing_table_are_told(lakes: Lakes) -> None:
    lakes.put(1, "gold/scaling", SCALED | {"max": 9.5})
    lakes.put(0, "bronze/rejects", REJECT | ARRIVED, REJECT | ARRIVED)
    lakes.put(1, "bronze/rejects", REJECT | ARRIVED)
    lakes.put(1, "gold/model_metrics", AUC)
    assert lakes.differences() == [
        "gold/model_metrics: in one lake only",
        "bronze/rejects: 1 rows only in the first, 0 only in the second",
        "gold/scaling: 1 rows only in the first, 1 only in the second",
    ]


@pytest.mark.parametrize(("moved", "told"), [(1.0009, []), (1.002, ["gold/vectors: ALS factors differ by 0.002"])])
def test_factors_of_another_version_may_differ_by_a_thousandth(lakes: Lakes, moved: float, told: list[str]) -> None:
    lakes.put(0, "gold/vectors", FACTOR)
    lakes.put(1, "gold/vectors", FACTOR | {"version": "als-000002", "values": [moved, 2.0]})
    assert lakes.differences() == told


@pytest.mark.parametrize(
    ("value", "told"), [(0.807, []), (0.82, ["gold/model_metrics: validation metrics differ by 2.4%"])]
)
def test_metrics_of_networks_may_differ_by_one_percent(lakes: Lakes, value: float, told: list[str]) -> None:
    lakes.put(0, "gold/model_metrics", AUC)
    lakes.put(1, "gold/model_metrics", AUC | {"version": "train_encoder-000002", "value": value})
    assert lakes.differences() == told


@pytest.mark.parametrize(
    ("strategy", "told"),
    [
        ("als", ["gold/recommendations: lists of als overlap by 0.750"]),
        ("two_tower", []),
    ],
)
def test_lists_overlap_but_for_those_of_networks_whatever_their_order(
    lakes: Lakes, strategy: str, told: list[str]
) -> None:
    def rows(*items: str) -> list[dict[str, Any]]:
        return [LISTED | {"strategy": strategy, "rank": rank, "item_id": item} for rank, item in enumerate(items, 1)]

    lakes.put(0, "gold/recommendations", *rows("a", "b", "c", "d"))
    lakes.put(1, "gold/recommendations", *rows("b", "a", "c", "d"))
    assert lakes.differences() == []
    lakes.put(1, "gold/recommendations", *rows("b", "a", "c", "e"))
    assert lakes.differences() == told


def test_the_digest_moves_with_every_commit(lakes: Lakes) -> None:
    before = digest(lakes.paths[0])
    lakes.put(0, "gold/scaling", SCALED)
    assert list(before) == ["gold/scaling"]
    assert digest(lakes.paths[0])["gold/scaling"] > before["gold/scaling"]


def test_propensities_are_of_the_same_users_whatever_the_network_says(lakes: Lakes) -> None:
    lakes.put(0, "gold/propensity_to_buy", PROPENSITY)
    lakes.put(1, "gold/propensity_to_buy", PROPENSITY | {"probability": 0.4, "version": "w"})
    for number, value in enumerate((0.01, 0.02)):
        lakes.put(number, "gold/model_metrics", AUC, AUC | {"metric": "ece", "value": value})
    assert lakes.differences() == []
    lakes.put(1, "gold/propensity_to_buy", PROPENSITY, PROPENSITY | {"user_key": "v"})
    assert lakes.differences() == ["gold/propensity_to_buy: 1 keys in one lake only"]
