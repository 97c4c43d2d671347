"""The report's section about drift: only of a lake with a table of it, what drifted first, with the numbers of the table."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lib.lake.lake import Lake
from lib.report import write_report
from lib.report.drift import drift
from lib.report.facts import LakeFacts
from tests.lakes import put

ROW: dict[str, Any] = {
    "release": "publish-000001", "released_as_of": datetime(2026, 3, 1, tzinfo=UTC), "as_of": datetime(2026, 3, 8, tzinfo=UTC),
    "kind": "feature", "is_drifted": False, "num_reference": 300, "num_now": 290, "psi_by_chance": 0.01, "p_adjusted": 0.4,
    "missing_reference_frac": 0.0, "missing_now_frac": 0.5, "statistic": 0.02, "reason": "no more than chance: PSI 0.020",
}  # fmt: skip
REWARD = {**ROW, "kind": "reward", "psi_by_chance": None, "missing_reference_frac": None, "missing_now_frac": None}


def fill(lake: Lake) -> None:
    put(
        lake,
        "gold/drift",
        {**ROW, "name": "als", "psi": 0.02, "reference": 1.5, "now": 1.25},
        {**ROW, "name": "item_trend", "psi": 0.4, "is_drifted": True, "reason": "at least PSI 0.2 beyond chance: PSI 0.4"},
        {**REWARD, "name": "click", "statistic": 1.0, "reference": 0.2, "now": 0.1, "effect": -0.1, "is_drifted": True,
         "reason": "ADWIN finds a change, by 2026-03-02 12:00, of at least 10%: 0.2 before"},
        {**REWARD, "name": "click/<b>", "reference": 0.2, "now": 0.1, "effect": -0.1, "low": -0.15, "high": -0.05},
    )  # fmt: skip


def test_the_section_tells_what_drifted_first_and_rewards_as_shares_of_before(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    fill(lake)
    section = drift(LakeFacts(lake))
    assert "2 of 4 measures have drifted: item trend and click." in section.text
    measures, rewards = section.tables
    assert measures.rows[0][:2] == ("item trend", "drifted: at least PSI 0.2 beyond chance")
    assert measures.rows[1] == (
        "als",
        "no more than chance",
        "1.500",
        "1.250",
        "0.00",
        "0.50",
        "0.020",
        "0.020",
        "0.400",
        "300",
        "290",
    )
    assert rewards.rows[0][:5] == (
        "click", "drifted: ADWIN finds a change, by 2026-03-02 12:00, of at least 10%", "0.2000", "0.1000", "−0.1000",
    )  # fmt: skip
    assert rewards.rows[1][0] == "click/<b>" and rewards.rows[1][5] == "[−0.1500, −0.0500]"
    assert "click/<b> -50.0 % [-75.0, -25.0]" in section.charts[1].alt


def test_a_lake_without_a_table_of_drift_has_no_section_of_it(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    put(lake, "silver/items", {"item_id": "a"})
    assert 'id="drift"' not in Path(write_report(lake)).read_text()
    fill(lake)
    page = Path(write_report(lake)).read_text()
    assert 'id="drift"' in page and "click/<b>" not in page
