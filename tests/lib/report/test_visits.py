"""The report's section about visits, from rows of gold/ranking_metrics."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest

from lib.lake.lake import Lake
from lib.report.facts import LakeFacts
from lib.report.page import summary_of
from lib.report.visits import next_item, next_line
from tests.lakes import TEST_FROM, put

VALUES = {"popularity": 0.1, "own_items": 0.3, "best": 0.5}
SHARED = {"as_of": TEST_FROM, "split": "test", "question": "next", "num_users": 40, "num_without_list": 2, "seed": 0}


def rows() -> list[dict[str, Any]]:
    """Each metric has its strategy's value, less in other segments; own_items was chosen by 0.45 against 0.2."""
    found = []
    for (name, value), segment, metric in product(
        VALUES.items(), ("all", "returning", "unseen", "other_item", "repeat"), ("hit_rate", "mrr", "ndcg")
    ):
        shown = value if segment == "all" else value / 2
        size = {"num_users": 40 if segment == "all" else 10}
        found.append({"strategy": name, "segment": segment, "metric": metric, "value": shown} | size)
        if name != "popularity":
            found.append(found[-1] | {"metric": f"{metric}_minus_popularity", "value": shown - 0.1})
    found += [
        {"strategy": name, "segment": "all", "metric": "choice", "value": value, "num_users": 30}
        for name, value in (("popularity", 0.2), ("own_items", 0.45), ("best", 0.45))
    ]
    k = {"ndcg": 10, "ndcg_minus_popularity": 10}
    return [
        SHARED | {"k": k.get(row["metric"], 20), "low": row["value"] - 0.01, "high": row["value"] + 0.01} | row
        for row in found
    ]


@pytest.fixture
def facts(tmp_path: Path) -> LakeFacts:
    lake = Lake(str(tmp_path))
    put(lake, "gold/ranking_metrics", *rows())
    return LakeFacts(lake)


def test_the_section_says_what_answers_best_with_and_without_repeats(facts: LakeFacts) -> None:
    section = next_item(facts)
    assert "among 20 items in 50.0 % of all cases where popular items hold it in 10.0 % (+0.400)" in section.text
    assert "best is own_items, chosen on the validation window" in section.text
    (table,) = section.tables
    assert "40 events after the first of their visit" in table.caption and "(25.0 %)" in table.caption
    assert [row[0] for row in table.rows] == ["best", "own_items", "popularity"]
    assert table.rows[0] == (
        *("best", "0.500 [0.490, 0.510]", "0.500 [0.490, 0.510]", "0.500"),
        *("0.250", "0.250", "0.250", "0.250", "0.250", "0.250", "2"),
    )


def test_the_summary_has_a_line_of_it_and_says_why_nobody_has_a_list(facts: LakeFacts) -> None:
    assert next_line(facts) == (
        "own_items 0.500 [0.490, 0.510] and 0.500 [0.490, 0.510]\npopularity 0.100 [0.090, 0.110] and 0.100 [0.090, 0.110]"
    )
    summary = dict(summary_of(facts))
    assert summary["HR and MRR, next in a visit"] == next_line(facts)
    assert summary["ranking"]


def test_where_nothing_was_asked_the_section_says_why(tmp_path: Path) -> None:
    facts = LakeFacts(Lake(str(tmp_path)))
    assert next_item(facts).missing
    assert next_line(facts) == ""
